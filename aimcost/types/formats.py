"""Number formats: bits of a name, bytes per element of each tensor class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from ..errors import InvalidValueError
from ..frozen import dataclass
from .request import Precision

__all__ = ["BITS", "PARTS", "Part", "Widths", "bytes_per_element", "part_format", "plain_format"]

# Parts of a model whose weights have a format of their own.
Part = Literal["decoder", "embedding", "lm_head", "tower", "projector"]
PARTS: tuple[Part, ...] = get_args(Part)

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


def plain_format(precision: Precision) -> str:
    """The format of what no quantisation touches: norms, biases, gates, and parts that are not named."""
    for dtype in (precision.weights, precision.activations):
        if BITS[dtype] >= 16:
            return dtype
    return "bf16"


def part_format(precision: Precision, part: Part) -> str:
    """The format of a part's linear layers, or of its table."""
    given: str | None = precision.weights if part == "decoder" else getattr(precision, part)
    return plain_format(precision) if given is None else given


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Bytes per element of each tensor class.

    Attributes
    ----------
    weights
        Matrices of linear layers, and tables.
    plain
        Norms, biases, gates and convolutions, which no quantisation touches; None: as `weights`.
    weights_format, plain_format
        Their number formats; empty where nobody asks.
    experts, experts_format
        Matrices of experts; None and empty: as `weights`.
    """

    weights: float
    activations: float
    kv: float
    plain: float | None = None
    weights_format: str = ""
    plain_format: str = ""
    experts: float | None = None
    experts_format: str = ""

    @classmethod
    def of(cls, precision: Precision, part: Part = "decoder") -> Widths:
        """The widths of a `Precision`, in one part of a model."""
        weights, plain = part_format(precision, part), plain_format(precision)
        return cls(
            weights=bytes_per_element(weights),
            activations=bytes_per_element(precision.activations),
            kv=bytes_per_element(precision.kv),
            plain=bytes_per_element(plain),
            weights_format=weights,
            plain_format=plain,
            experts=None if precision.experts is None else bytes_per_element(precision.experts),
            experts_format=precision.experts or "",
        )

    @property
    def unpacked(self) -> float:
        """Bytes of an element that no quantisation touches."""
        return self.weights if self.plain is None else self.plain
