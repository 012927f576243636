"""What it costs that tensors are stored in a narrower format than products are computed in.

Kernels that fuse it unpack weights on their way to the product: no wide copy is written. What is
left is the scales' traffic and the arithmetic, two operations an element (subtract, multiply).
"""

from __future__ import annotations

from ..types.formats import BITS
from .cost import Array, Cost

__all__ = ["SCALE_GROUP", "dequantise", "kv_scale_bytes", "narrower", "scale_bytes"]

# A 16-bit scale and a 4-bit zero point a group of 128 weights, as AWQ (arXiv 2306.00978) and GPTQ
# (arXiv 2210.17323) checkpoints store them; MXFP4 has an 8-bit scale a block of 32 (OCP Microscaling 1.0).
# 8-bit formats keep a scale a channel or tensor: left out.
SCALE_GROUP = 128.0
_SCALE_BYTES = 2.0
_USUAL = {"int4": (_SCALE_BYTES + 0.5) / SCALE_GROUP, "fp4": 1.0 / 32.0}
_OPS_PER_ELEMENT = 2.0


def narrower(stored: str, computed: str) -> bool:
    """Whether `stored` has to be converted before a product in `computed`."""
    return BITS[stored] <= 8 and stored != computed


def scale_bytes(stored: str, elements: Array, each: float | None = None) -> Array:
    """Bytes of the scales and zero points of `elements` weights: `each` an element, by default the format's usual."""
    return elements * (_USUAL.get(stored, 0.0) if each is None else each)


def dequantise(elements: Array, *, scales: Array, kv: bool = False) -> Cost:
    """Unpack `elements` on the way to a product, and read their `scales` (bytes)."""
    return Cost(
        kind="dequant",
        dims={"elements": elements},
        flops=_OPS_PER_ELEMENT * elements,
        read_weights=0.0 if kv else scales,
        read_kv=scales if kv else 0.0,
    )


def kv_scale_bytes(stored: str, elements: Array, head_dim: float) -> Array:
    """Bytes of the scales of `elements` of a cache stored in `stored`.

    Integers: one 16-bit scale a token, head, and each of K and V. fp8: one a tensor, as vLLM, SGLang and
    TensorRT-LLM keep it, which is nothing.
    """
    return elements / head_dim * _SCALE_BYTES if stored.startswith("int") else elements * 0.0
