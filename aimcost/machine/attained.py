"""What a card attains of its datasheet: of bandwidth, of the tensor peak, of the CUDA cores' peak.

Measured cards state it from their timings. The rest follow two rules:

- a card of a measured design (one chip family): its relative's share times √(watts per peak FLOP/s over the
  relative's), at most `FREE`. That lies between a clock at its lowest voltage (rate ∝ power) and one that scales
  its voltage (rate ∝ power^⅓). From B200 and H100 it gives B300, GB200, GB300 and H200 within 4 % of their tables.
- a card of a design without tables: `FREE`, less where its watts per SM and GHz are fewer than those that hold the
  boost clock on cards known to be bound by power.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..errors import InvalidValueError
from ..frozen import dataclass
from ..types import HardwareSpec

__all__ = [
    "FP32_WATTS",
    "FREE",
    "FREE_BEFORE_8",
    "TENSOR_WATTS",
    "Attained",
    "Share",
    "attained_of",
    "design_share",
    "fp32_share",
    "sibling_share",
    "watts_per_cycle",
    "watts_per_flop",
]

# Mean share of the cards with 1.2 W and more per dense TFLOP/s (A100 0.78, RTX PRO 6000 0.83, Arc Pro B60 0.91).
FREE = 0.84
# Before compute capability 8.0: one published prefill, InfoMerge's 6,332 tokens of a 7B on a V100 (1.51 s).
FREE_BEFORE_8 = 0.58
# Watts per SM and GHz that hold the boost clock: tensor units (L40S: 0.57 at 0.98 W), CUDA cores (L4: 0.35 of what an
# A100 reaches, at 0.61 W).
TENSOR_WATTS, FP32_WATTS = 1.43, 1.74

Basis = Literal["measured", "timed", "inherited", "rule", "assumed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of a datasheet figure, and what it rests on."""

    share: float
    basis: str
    source: str

    @classmethod
    def of(cls, data: Mapping[str, Any], *, where: str) -> Share:
        """From a profile's mapping."""
        share, source = data.get("share"), str(data.get("source", ""))
        if not isinstance(share, int | float) or not 0.01 <= share <= 1.05:
            raise InvalidValueError(f"{where}.share", "from 0.01 to 1.05", share)
        if not source:
            raise InvalidValueError(f"{where}.source", "given", None)
        return cls(share=float(share), basis=str(data.get("basis", "")), source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attained:
    """Shares of a card: DRAM bandwidth, 16-bit tensor peak, peak of the CUDA cores (None: not known)."""

    memory: Share | None = None
    tensor: Share | None = None
    fp32: Share | None = None


def attained_of(hardware: HardwareSpec) -> Attained:
    """What a profile states; nothing where it states nothing."""
    block = hardware.attained or {}
    return Attained(
        **{
            name: Share.of(block[name], where=f"{hardware.name}: attained.{name}")
            for name in ("memory", "tensor", "fp32")
            if name in block
        }
    )


def watts_per_flop(hardware: HardwareSpec) -> float:
    """Board power over the dense 16-bit peak, W per FLOP/s."""
    peaks = hardware.dense_flops_per_s
    return hardware.tdp_w / peaks.get("bf16", peaks.get("fp16", max(peaks.values())))


def watts_per_cycle(hardware: HardwareSpec, clock_hz: float) -> float:
    """Board power over multiprocessors and boost clock, W per SM and GHz."""
    return hardware.tdp_w / (hardware.sm_count * clock_hz / 1e9)


def sibling_share(hardware: HardwareSpec, parent: HardwareSpec, share: float) -> float:
    """Tensor share of a card of its parent's design."""
    watts = watts_per_flop(hardware) / watts_per_flop(parent)
    return float(min(max(FREE, share), share * watts**0.5))


def design_share(hardware: HardwareSpec, clock_hz: float) -> float:
    """Tensor share of a card of a design that was not measured."""
    free = FREE_BEFORE_8 if hardware.compute_capability.startswith("7.") else FREE
    return free * min(1.0, watts_per_cycle(hardware, clock_hz) / TENSOR_WATTS)


def fp32_share(hardware: HardwareSpec, clock_hz: float, free: float) -> float:
    """Share of the CUDA cores' peak; `free`: that of a card whose power holds its clock."""
    return free * min(1.0, watts_per_cycle(hardware, clock_hz) / FP32_WATTS)
