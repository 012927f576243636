"""Matrix products with weights."""

from __future__ import annotations

from .cost import Array, Cost, Widths

__all__ = ["linear"]


def linear(
    m: Array,
    in_features: float,
    out_features: float,
    widths: Widths,
    *,
    bias: bool = False,
    to_kv: bool = False,
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
    """
    weights = in_features * out_features + (out_features if bias else 0.0)
    out = m * out_features
    return Cost(
        kind="gemm",
        dims={"m": m, "n": out_features, "k": in_features},
        flops=2.0 * m * in_features * out_features,
        read_weights=weights * widths.weights,
        read_activations=m * in_features * widths.activations,
        write_activations=0.0 if to_kv else out * widths.activations,
        write_kv=out * widths.kv if to_kv else 0.0,
    )
