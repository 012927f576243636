"""Number formats: bits of a name, bytes per element of each tensor class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import InvalidValueError
from .request import Precision

__all__ = ["BITS", "Widths", "bytes_per_element"]

BITS: Mapping[str, float] = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "fp8": 8,
    "int8": 8,
    "int4": 4,
    "fp4": 4,
}


def bytes_per_element(dtype: str) -> float:
    """Bytes one element of `dtype` takes. Scales and zero points of quantised formats not counted."""
    if dtype not in BITS:
        raise InvalidValueError("dtype", "one of " + ", ".join(BITS), dtype)
    return BITS[dtype] / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Bytes per element of each tensor class."""

    weights: float
    activations: float
    kv: float

    @classmethod
    def of(cls, precision: Precision) -> Widths:
        """The widths of a `Precision`."""
        return cls(
            weights=bytes_per_element(precision.weights),
            activations=bytes_per_element(precision.activations),
            kv=bytes_per_element(precision.kv),
        )
