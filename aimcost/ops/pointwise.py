"""Elementwise and row-wise operations: norms, RoPE, activations, residuals, look-ups, pooling.

All are bound by memory; the FLOPs are the arithmetic of the textbook formula, one for each
addition, multiplication, division, exponential or root.
"""

from __future__ import annotations

from dataclasses import replace

from ..types.formats import Widths
from .cost import Array, Cost
from .op import divided

__all__ = [
    "add",
    "embed",
    "gated_silu",
    "gelu",
    "layer_norm",
    "pool",
    "rms_norm",
    "rope",
    "scale",
    "weighted_sum",
]


@divided(heads=("rows",), kv_heads=("rows",))
def rms_norm(rows: Array, width: float, widths: Widths) -> Cost:
    """x / rms(x) · w by row: square, sum, scale, multiply: 4 FLOPs an element."""
    return _norm("rms_norm", rows, width, 4.0, 1.0, widths)


def layer_norm(rows: Array, width: float, widths: Widths) -> Cost:
    """(x − mean) / std · w + b by row: sum, subtract, square, sum, scale, multiply, add: 7 an element."""
    return _norm("layer_norm", rows, width, 7.0, 2.0, widths)


def _norm(kind: str, rows: Array, width: float, flops: float, vectors: float, widths: Widths) -> Cost:
    moved = rows * width * widths.activations
    return Cost(
        kind=kind,
        dims={"rows": rows, "width": width},
        flops=flops * rows * width,
        read_weights=vectors * width * widths.unpacked,
        read_activations=moved,
        write_activations=moved,
        parameters=vectors * width,
    )


@divided(heads=("heads", "kv_heads"))
def rope(*, batch: float, q_len: Array, heads: float, kv_heads: float, head_dim: float, widths: Widths) -> Cost:
    """Rotate q and k: two multiplications and an addition an element; k goes to the cache."""
    queries = batch * q_len * heads * head_dim
    keys = batch * q_len * kv_heads * head_dim
    return Cost(
        kind="rope",
        dims={"elements": queries + keys, "width": (heads + kv_heads) * head_dim},
        flops=3.0 * (queries + keys),
        # cos and sin are shared by the heads and by the batch
        read_activations=(queries + keys + 2.0 * q_len * head_dim) * widths.activations,
        write_activations=queries * widths.activations,
        write_kv=keys * widths.kv,
    )


def add(elements: Array, widths: Widths) -> Cost:
    """Residual: read two, write one."""
    return _pointwise(elements, 1.0, 2.0, widths)


@divided(column=("elements",))
def gated_silu(elements: Array, widths: Widths) -> Cost:
    """silu(gate) · up: negate, exp, add, divide, multiply: 5 FLOPs; read two, write one."""
    return replace(_pointwise(elements, 5.0, 2.0, widths), kind="gated_act")


@divided(column=("elements",))
def gelu(elements: Array, widths: Widths) -> Cost:
    """GELU by its tanh form: x + 0.044715·x³ scaled, tanh, and the outer product: 8 FLOPs."""
    return _pointwise(elements, 8.0, 1.0, widths)


def scale(elements: Array, widths: Widths) -> Cost:
    """Multiply by a factor or a shared vector: read one, write one."""
    return _pointwise(elements, 1.0, 1.0, widths)


def weighted_sum(rows: Array, terms: float, width: float, widths: Widths) -> Cost:
    """Sum of `terms` weighted rows for each of `rows` rows (the outputs of a token's experts)."""
    return Cost(
        kind="pointwise",
        dims={"elements": rows * terms * width},
        flops=2.0 * rows * terms * width,
        read_activations=rows * terms * width * widths.activations,
        write_activations=rows * width * widths.activations,
    )


def pool(elements_in: Array, elements_out: Array, widths: Widths, *, planes: Array | None = None) -> Cost:
    """Bilinear interpolation or averaging of token grids: four weighted inputs an output, 8 FLOPs.

    `planes` are grids times channels, of an interpolation: PyTorch gives each output position one thread, which walks
    along all of them. Averages have a thread for every output.
    """
    walked = {} if planes is None else {"width": planes}
    return Cost(
        kind="pointwise" if planes is None else "interpolate",
        dims={"elements": elements_in, **walked},
        flops=8.0 * elements_out,
        read_activations=elements_in * widths.activations,
        write_activations=elements_out * widths.activations,
    )


@divided(row=("vocab",))
def embed(rows: Array, width: float, widths: Widths, *, vocab: float = 0.0) -> Cost:
    """Look up one row a token of an embedding table; `vocab` of its rows are stored."""
    return Cost(
        kind="embed",
        dims={"rows": rows, "width": width},
        read_weights=rows * width * widths.weights,
        write_activations=rows * width * widths.activations,
        parameters=vocab * width,
        packed=vocab * width,
    )


def _pointwise(elements: Array, flops: float, inputs: float, widths: Widths) -> Cost:
    return Cost(
        kind="pointwise",
        dims={"elements": elements},
        flops=flops * elements,
        read_activations=inputs * elements * widths.activations,
        write_activations=elements * widths.activations,
    )
