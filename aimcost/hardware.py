"""What a machine offers for a number format."""

from __future__ import annotations

from .errors import InvalidValueError
from .ops.cost import BITS
from .types import HardwareSpec, Precision

__all__ = ["compute_dtypes", "peak_flops_per_s", "require_hardware"]

# The formats that a product may fall back to, in order: the next wider one first.
_WIDER = {
    "int4": ("int8", "bf16", "fp16", "fp32"),
    "fp4": ("fp8", "bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "fp32": ("fp64",),
}


def require_hardware(hardware: HardwareSpec | None) -> HardwareSpec:
    """The hardware, or a readable error where a run names none."""
    if hardware is None:
        raise InvalidValueError("hardware", "given (`aimcost list hardware` shows the profiles)", None)
    return hardware


def compute_dtypes(precision: Precision) -> tuple[str, str]:
    """Formats that products with weights, and attention, compute in: the wider operand's."""
    return (
        _wider(precision.weights, precision.activations),
        _wider(precision.activations, precision.kv),
    )


def _wider(first: str, second: str) -> str:
    if BITS[first] == BITS[second] and first != second:
        # fp8 with int8, or bf16 with fp16: neither unit takes both
        return "bf16" if BITS[first] <= 16 else first
    return first if BITS[first] >= BITS[second] else second


def peak_flops_per_s(hardware: HardwareSpec, dtype: str) -> tuple[float, str | None]:
    """Dense peak for `dtype`, or that of the next wider format and a note that says so.

    Raises
    ------
    InvalidValueError
        The profile has a peak for neither.
    """
    peaks = hardware.dense_flops_per_s
    if dtype in peaks:
        return peaks[dtype], None
    for other in _WIDER[dtype]:
        if other in peaks:
            if BITS.get(other, 64) == BITS[dtype]:
                return peaks[other], None  # bf16 and fp16 share their units
            return peaks[other], f"{hardware.name} has no {dtype} peak: computed at {other}"
    raise InvalidValueError(
        "dense_tflops", f"one with a peak for {dtype} or wider", ", ".join(peaks), where=hardware.name
    )
