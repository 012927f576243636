"""The figures that a run can have a budget for: key, unit, and how each is printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..units import GIGA, KILO, TERA, format_bytes, format_flops, format_seconds
from .result import Estimate

__all__ = ["FIGURES", "Figure", "figures_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure in seconds, bytes or FLOPs, and its limit in the ``budgets:`` of a run file.

    Attributes
    ----------
    key
        Of the limit.
    times, over
        The key's value is the figure times `times` over `over`.
    label, shown
        How it is printed.
    """

    key: str
    times: float = 1.0
    over: float = 1.0
    label: str
    shown: Callable[[float], str]

    def in_unit(self, value: float) -> float:
        """A figure in the key's unit."""
        return value * self.times / self.over

    def from_unit(self, value: float) -> float:
        """A value of the key in seconds, bytes or FLOPs."""
        return value * self.over / self.times


FIGURES = {
    "ttft": Figure(key="max_ttft_ms", times=KILO, label="TTFT", shown=format_seconds),
    "tpot": Figure(key="max_tpot_ms", times=KILO, label="TPOT", shown=format_seconds),
    "kv": Figure(key="max_kv_gb", over=GIGA, label="KV cache", shown=format_bytes),
    "peak": Figure(key="max_memory_gb", over=GIGA, label="peak memory", shown=format_bytes),
    "flops": Figure(key="max_tflops", over=TERA, label="FLOPs", shown=format_flops),
}


def figures_of(estimate: Estimate) -> dict[str, float]:
    """What is predicted, by the names of `FIGURES`: seconds, bytes, FLOPs."""
    return {
        "ttft": estimate.ttft_s,
        "tpot": estimate.stages["decode"].tpot_s,
        "kv": estimate.memory.kv_bytes,
        "peak": estimate.memory.peak_bytes,
        "flops": estimate.totals.flops,
    }
