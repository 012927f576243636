"""Scaled dot-product attention: fused (IO-aware) and eager, causal and full, grouped queries.

Dimensions of one operation: `batch` sequences, `heads` query heads of width `head_dim` sharing
`kv_heads` key/value heads, `q_len` queries at the end of `kv_len` keys.

FLOPs count the two matrix products, 2·d each a (query, key) pair. The softmax of a fused kernel
runs on other units beside them (5 of 4·d + 5 operations a pair, 1 % at d = 128) and is left out,
as in `torch.utils.flop_counter`; the eager softmax is an operation of its own and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..types.formats import Widths
from .cost import Array, Cost

__all__ = [
    "causal_pairs",
    "core",
    "eager_products",
    "eager_softmax",
    "flops_per_pair",
    "fused",
    "single_pass",
    "visible_pairs",
]

# exp, subtract, scale, divide, and the running maximum and sum taken as one.
SOFTMAX_FLOPS_PER_PAIR = 5.0


def causal_pairs(q_len: Array, kv_len: Array) -> Array:
    """(query, key) pairs that a causal mask lets through: n(n+1)/2 where q_len = kv_len = n."""
    return q_len * (kv_len - q_len) + q_len * (q_len + 1.0) / 2.0


def visible_pairs(q_len: Array, kv_len: Array, causal: bool) -> Array:
    """(query, key) pairs that a mask lets through."""
    return causal_pairs(q_len, kv_len) if causal else q_len * kv_len


def flops_per_pair(head_dim: Array) -> Array:
    """FLOPs of a (query, key) pair of one head: q·kᵀ and p·v, 2·d each."""
    return 4.0 * head_dim


def fused(
    *,
    batch: Array,
    heads: Array,
    kv_heads: Array,
    head_dim: Array,
    q_len: Array,
    kv_len: Array,
    causal: bool,
    widths: Widths,
    onchip_bytes: float,
    kv_cached: bool = True,
) -> Cost:
    """One FlashAttention-like kernel: scores never leave the chip.

    Traffic (after Dao et al. 2022, arXiv 2205.14135, theorem 2, with the chip's registers as the
    fast memory): queries and outputs once; keys and values once for every batch of queries of
    their group that fits on the chip.
    """
    square = q_len * kv_len
    per_pair = batch * heads * flops_per_pair(head_dim)
    queries = batch * q_len * heads * head_dim * widths.activations
    group_queries = q_len * (heads / kv_heads) * head_dim * widths.activations
    passes: Array = np.maximum(1.0, np.ceil(group_queries / onchip_bytes)) if onchip_bytes > 0 else 1.0
    kv_width = widths.kv if kv_cached else widths.activations
    kv = 2.0 * batch * kv_len * kv_heads * head_dim * kv_width * passes
    return Cost(
        kind="attention",
        dims={
            "batch": batch,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "q_len": q_len,
            "kv_len": kv_len,
            "causal": float(causal),
        },
        flops=per_pair * visible_pairs(q_len, kv_len, causal),
        flops_full_square=per_pair * square,
        read_activations=queries if kv_cached else queries + kv,
        read_kv=kv if kv_cached else 0.0,
        write_activations=queries,
    )


def single_pass(dims: Mapping[str, Array], *, causal: bool, widths: Widths) -> Cost:
    """`fused` by the sizes of a measurement, keys and values read once: there is room for a group's queries.

    Parameters
    ----------
    dims
        ``batch``, ``heads``, ``kv_heads``, ``head_dim``, ``q_len`` and ``kv_len``; others are not looked at.
    """
    return fused(
        batch=dims["batch"],
        heads=dims["heads"],
        kv_heads=dims["kv_heads"],
        head_dim=dims["head_dim"],
        q_len=dims["q_len"],
        kv_len=dims["kv_len"],
        causal=causal,
        widths=widths,
        onchip_bytes=0.0,
    )


def eager_products(
    *,
    batch: float,
    heads: float,
    kv_heads: float,
    head_dim: float,
    q_len: Array,
    kv_len: Array,
    causal: bool,
    widths: Widths,
) -> tuple[Cost, Cost]:
    """q·kᵀ and p·v as two kernels, the q x kv matrix written and read in between.

    FLOPs are the causal ones, as everywhere; eager kernels compute the whole square, which is
    `flops_full_square` and what their traffic is counted on.
    """
    square = q_len * kv_len
    per_product = batch * heads * flops_per_pair(head_dim) / 2.0
    scores = batch * heads * square * widths.activations
    queries = batch * q_len * heads * head_dim * widths.activations
    keys = batch * kv_len * kv_heads * head_dim * widths.kv
    flops = per_product * visible_pairs(q_len, kv_len, causal)
    groups = batch * heads
    qk = Cost(
        kind="bmm",
        dims={"groups": groups, "m": q_len, "n": kv_len, "k": head_dim},
        flops=flops,
        flops_full_square=per_product * square,
        read_activations=queries,
        read_kv=keys,
        write_activations=scores,
    )
    sv = Cost(
        kind="bmm",
        dims={"groups": groups, "m": q_len, "n": head_dim, "k": kv_len},
        flops=flops,
        flops_full_square=per_product * square,
        read_activations=scores,
        read_kv=keys,
        write_activations=queries,
    )
    return qk, sv


def eager_softmax(*, batch: float, heads: float, q_len: Array, kv_len: Array, causal: bool, widths: Widths) -> Cost:
    """Row softmax over the whole square, read and written once."""
    scores = batch * heads * q_len * kv_len * widths.activations
    return Cost(
        kind="softmax",
        dims={"rows": batch * heads * q_len, "width": kv_len},
        flops=SOFTMAX_FLOPS_PER_PAIR * batch * heads * visible_pairs(q_len, kv_len, causal),
        flops_full_square=0.0,
        read_activations=scores,
        write_activations=scores,
    )


def core(
    kernel: str,
    *,
    batch: float,
    heads: float,
    kv_heads: float,
    head_dim: float,
    q_len: Array,
    kv_len: Array,
    causal: bool,
    widths: Widths,
    onchip_bytes: float,
    kv_cached: bool = True,
) -> Iterator[tuple[str, Cost]]:
    """Attention between its projections: one fused operation, or the three of the eager path.

    Parameters
    ----------
    kernel
        ``flash`` or ``eager``.
    """
    shape: dict[str, Any] = {
        "batch": batch,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "q_len": q_len,
        "kv_len": kv_len,
        "causal": causal,
        "widths": widths,
    }
    if kernel == "flash":
        yield "fused_attention", fused(**shape, onchip_bytes=onchip_bytes, kv_cached=kv_cached)
        return
    qk, sv = eager_products(**shape)
    yield "qk_matmul", qk
    yield (
        "softmax",
        eager_softmax(batch=batch, heads=heads, q_len=q_len, kv_len=kv_len, causal=causal, widths=widths),
    )
    yield "sv_matmul", sv
