"""Limits that a schedule has to stay under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidValueError, argument
from ...inputs.run import Run
from ...units import GIGA, KILO, TERA, format_bytes, format_flops, format_seconds
from .evaluate import Figures

__all__ = ["Budgets", "no_budget"]

# name of the figure: key in a run file, units of the key per unit of the figure, how it is printed
_KEYS = {
    "ttft": ("max_ttft_ms", KILO, "TTFT", format_seconds),
    "tpot": ("max_tpot_ms", KILO, "TPOT", format_seconds),
    "kv": ("max_kv_gb", 1 / GIGA, "KV cache", format_bytes),
    "peak": ("max_memory_gb", 1 / GIGA, "peak memory", format_bytes),
    "flops": ("max_tflops", 1 / TERA, "FLOPs", format_flops),
}


def no_budget() -> InvalidValueError:
    """The error of a search without any limit."""
    *keys, last = (argument(key) for key, *_ in _KEYS.values())
    return InvalidValueError(argument("budgets"), f"given: {', '.join(keys)} or {last}", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Largest values in seconds, bytes and FLOPs; None where there is no limit.

    Attributes
    ----------
    ttft, tpot
        Time to first token, and of a mean decode step.
    kv, peak
        The cache after the last token, and the fullest moment on the card.
    flops
        FLOPs of the stages that the run includes.
    """

    ttft: float | None = None
    tpot: float | None = None
    kv: float | None = None
    peak: float | None = None
    flops: float | None = None

    def items(self) -> Iterator[tuple[str, float]]:
        """The limits there are, by name."""
        for name in _KEYS:
            limit = getattr(self, name)
            if limit is not None:
                yield name, limit

    def excess(self, figures: Figures, card_bytes: float | None) -> NDArray[np.float64]:
        """Largest ratio of a figure to its limit, by candidate; at most 1 where all are kept."""
        ratio = np.zeros(len(figures.ttft))
        for name, limit in self.items():
            ratio = np.maximum(ratio, getattr(figures, name) / limit)
        if card_bytes is not None:
            ratio = np.maximum(ratio, figures.peak / card_bytes)
        return ratio

    def shortfalls(self, found: Mapping[str, float], card_bytes: float | None) -> list[dict[str, Any]]:
        """Which limits `found` (values by name) misses, and by how much, in words as well."""
        missed = []
        limits = dict(self.items())
        if card_bytes is not None and card_bytes < limits.get("peak", np.inf):
            limits["peak"] = card_bytes
        for name, limit in limits.items():
            if found[name] > limit:
                _, _, label, shown = _KEYS[name]
                missed.append(
                    {
                        "budget": name,
                        "limit": limit,
                        "found": found[name],
                        "text": f"{label} {shown(found[name])} is {shown(found[name] - limit)} over {shown(limit)}",
                    }
                )
        return missed

    def describe(self) -> str:
        """``TTFT ≤ 80.00 ms, KV cache ≤ 1.000 GB``."""
        return ", ".join(f"{_KEYS[name][2]} ≤ {_KEYS[name][3](limit)}" for name, limit in self.items())

    def to_file(self) -> dict[str, float]:
        """The ``budgets:`` mapping of a run file."""
        return {_KEYS[name][0]: float(f"{limit * _KEYS[name][1]:.12g}") for name, limit in self.items()}

    @classmethod
    def of(cls, run: Run, given: Mapping[str, float | None]) -> Budgets:
        """Limits given in the units of a run file's keys, over those of the run itself."""
        values = {}
        for name, (key, factor, _, _) in _KEYS.items():
            value = given.get(key) if given.get(key) is not None else run.budgets.get(key)
            values[name] = None if value is None else value / factor
        return cls(**values)
