"""Matrix products with weights."""

from __future__ import annotations

from ..types.formats import Widths
from .cost import Array, Cost
from .op import divided

__all__ = ["distinct_experts", "grouped_linear", "linear", "product_flops"]


def product_flops(m: Array, n: Array, k: Array) -> Array:
    """FLOPs of (m, k) x (k, n): one multiply-add for each of m·n·k, and 2 each."""
    return 2.0 * m * n * k


@divided(column=("out_features",), kv_column=("out_features",), row=("in_features",), vocabulary=("out_features",))
def linear(
    m: Array,
    in_features: Array,
    out_features: Array,
    widths: Widths,
    *,
    bias: bool = False,
    to_kv: bool = False,
    packed: bool = True,
) -> Cost:
    """y[m, out] = x[m, in] @ W[in, out] (+ bias).

    FLOPs: 2·m·in·out. A bias is added in the product's epilogue: its bytes count, its m·out
    additions do not, as in `torch.utils.flop_counter`.

    Parameters
    ----------
    m
        Rows: tokens times batch.
    to_kv
        The result goes straight to the KV cache (v_proj), in the cache's format.
    packed
        Whether quantisation packs its matrix; a router, a gate or a convolution stays as it is.
    """
    matrix, vector = in_features * out_features, out_features if bias else 0.0
    out = m * out_features
    return Cost(
        kind="gemm",
        dims={"m": m, "n": out_features, "k": in_features},
        flops=product_flops(m, out_features, in_features),
        read_weights=matrix * (widths.weights if packed else widths.unpacked) + vector * widths.unpacked,
        read_activations=m * in_features * widths.activations,
        write_activations=0.0 if to_kv else out * widths.activations,
        write_kv=out * widths.kv if to_kv else 0.0,
        parameters=matrix + vector,
        packed=matrix if packed else 0.0,
        weights_format=widths.weights_format if packed else widths.plain_format,
    )


def distinct_experts(tokens: Array, *, experts: float, active: float) -> Array:
    """Experts that at least one of `tokens` tokens chooses, in expectation: E·(1 − (1 − k/E)^n).

    For a router that spreads its choices evenly; a skewed one loads fewer.
    """
    loaded: Array = experts * (1.0 - (1.0 - active / experts) ** tokens)
    return loaded


@divided(column=("out_features",), row=("in_features",))
def grouped_linear(
    tokens: Array,
    in_features: float,
    out_features: float,
    widths: Widths,
    *,
    experts: float,
    active: float,
) -> Cost:
    """`active` of `experts` matrices for each of `tokens` tokens, as one grouped product.

    FLOPs are those of the active experts; weights are read once for every distinct expert.
    """
    rows = tokens * active
    loaded = distinct_experts(tokens, experts=experts, active=active)
    return Cost(
        kind="gemm",
        dims={"m": rows, "n": out_features, "k": in_features, "experts": experts},
        flops=product_flops(rows, out_features, in_features),
        read_weights=loaded
        * in_features
        * out_features
        * (widths.weights if widths.experts is None else widths.experts),
        read_activations=rows * in_features * widths.activations,
        write_activations=rows * out_features * widths.activations,
        parameters=experts * in_features * out_features,
        packed=experts * in_features * out_features,
        weights_format=widths.experts_format or widths.weights_format,
    )
