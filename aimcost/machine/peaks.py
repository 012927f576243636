"""What a machine offers for a number format."""

from __future__ import annotations

from ..errors import InvalidValueError
from ..ops.quantised import narrower, scale_bytes
from ..types import HardwareSpec, ModelSpec, Precision
from ..types.formats import BITS, PARTS, part_format

__all__ = [
    "compute_dtypes",
    "link_bytes_per_s",
    "peak_flops_per_s",
    "precision_notes",
    "require_hardware",
]

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


def compute_dtypes(precision: Precision, weights: str = "") -> tuple[str, str]:
    """Formats that products with weights, and attention, compute in: the wider operand's.

    Parameters
    ----------
    weights
        The weights' format, where it is not that of the language model's linear layers.
    """
    return (
        _wider(weights or precision.weights, precision.inputs or precision.activations),
        _wider(precision.activations, precision.kv),
    )


def _wider(first: str, second: str) -> str:
    if BITS[first] == BITS[second] and first != second:
        # fp8 with int8, or bf16 with fp16: neither unit takes both
        return "bf16" if BITS[first] <= 16 else first
    return first if BITS[first] >= BITS[second] else second


def computed_in(hardware: HardwareSpec, dtype: str) -> str:
    """`dtype`, or the next wider format that the machine has a peak for.

    Raises
    ------
    InvalidValueError
        The profile has a peak for neither.
    """
    peaks = hardware.dense_flops_per_s
    for other in (dtype, *_WIDER[dtype]):
        if other in peaks:
            # bf16 and fp16 share their units
            return dtype if BITS.get(other, 64) == BITS[dtype] else other
    raise InvalidValueError(
        "dense_tflops", f"one with a peak for {dtype} or wider", ", ".join(peaks), where=hardware.name
    )


def peak_flops_per_s(hardware: HardwareSpec, dtype: str) -> tuple[float, str | None]:
    """Dense peak for `dtype`, or that of the next wider format and a note that says so; raises as `computed_in`."""
    other, peaks = computed_in(hardware, dtype), hardware.dense_flops_per_s
    if other != dtype:
        return peaks[other], f"{hardware.name} has no {dtype} peak: computed at {other}"
    found = dtype if dtype in peaks else next(wide for wide in _WIDER[dtype] if wide in peaks)
    return peaks[found], None


def link_bytes_per_s(hardware: HardwareSpec) -> float:
    """What one device sends its peers: one direction of the link, half of what datasheets print.

    Raises
    ------
    InvalidValueError
        The profile names no interconnect.
    """
    if not hardware.interconnect_bytes_per_s:
        raise InvalidValueError("interconnect_gb_per_s", "given to price several devices", None, where=hardware.name)
    return hardware.interconnect_bytes_per_s / 2.0


def precision_notes(precision: Precision, model: ModelSpec) -> tuple[str, ...]:
    """What mixed formats mean for the parts of a model, in words; nothing where one is used throughout."""
    gemm, attention = compute_dtypes(precision)
    notes = []
    # a text model has neither tower nor projector
    parts = PARTS if model.vision is not None else tuple(part for part in PARTS if part not in ("tower", "projector"))
    formats: dict[str, str] = {part: part_format(precision, part) for part in parts}
    if narrower(precision.weights, gemm):
        each = 8.0 * float(scale_bytes(precision.weights, 1.0, precision.scale_bytes))
        scales = f", with {each:.2g} bits a weight of scales and zero points" if each else ""
        notes.append(
            f"the decoder's linear layers are read in {precision.weights}{scales} "
            f"and dequantized to {gemm} inside each GEMM"
        )
    if precision.experts is not None:
        formats = {"experts": precision.experts, **formats}
    if len(set(formats.values())) > 1:
        by_format = {name: [part for part in formats if formats[part] == name] for name in formats.values()}
        named = "; ".join(f"{name}: {', '.join(parts)}" for name, parts in by_format.items())
        notes.append(f"weights by part: {named}")
    if narrower(precision.kv, attention):
        notes.append(f"the KV cache is read in {precision.kv} and dequantized to {attention} inside attention")
    if BITS[precision.activations] < 16:
        notes.append(
            f"all activations are {precision.activations}, including norms, residuals and attention; stacks that "
            "keep those in 16 bit move twice the bytes there"
        )
    return tuple(notes)
