"""Scaled dot-product attention: fused (IO-aware) and eager, causal and full, grouped queries.

FLOPs count the two matrix products, 2·d each a (query, key) pair. The softmax of a fused kernel
runs on other units beside them (5 of 4·d + 5 operations a pair, 1 % at d = 128) and is left out,
as in `torch.utils.flop_counter`; the eager softmax is a separate op and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..frozen import dataclass
from ..types.formats import Widths
from .cost import Array, Cost
from .op import ONE, Op, OpCost, Ranks

__all__ = [
    "ALL_KEYS",
    "ATTENTION_KINDS",
    "EXPOSED",
    "SOFTMAX_FLOPS_PER_PAIR",
    "AttentionShape",
    "causal_pairs",
    "chunked_pairs",
    "core",
    "core_of_several",
    "eager_products",
    "eager_softmax",
    "flops_per_pair",
    "fused",
    "output_of",
    "single_pass",
    "visible_pairs",
    "windows",
]

# exp, subtract, scale, divide, and the running maximum and sum taken as one.
SOFTMAX_FLOPS_PER_PAIR = 5.0
# Eager attention computes its softmax in fp32 whatever the model's format.
SOFTMAX_BYTES = 4.0
# The window of a layer that has none.
ALL_KEYS = math.inf
# What eager attention leaves in memory for a scorer: logits and probabilities.
EXPOSED = ("qk_matmul", "softmax")
# What attention runs as: one kernel, or products and a softmax between them.
ATTENTION_KINDS = ("attention", "bmm", "softmax")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """Dimensions of one attention.

    Attributes
    ----------
    batch, heads, kv_heads, head_dim
        `batch` sequences, `heads` query heads of width `head_dim` sharing `kv_heads` key/value heads.
    q_len, kv_len
        `q_len` queries at the end of `kv_len` keys.
    causal
        Whether a query sees only the keys before it.
    window
        Keys that a causal query sees at the most, itself included; infinite where it sees all.
    visible
        (query, key) pairs of another mask (`chunked_pairs`); None: those that `causal` and `window` let through.
    """

    batch: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    q_len: Array
    kv_len: Array
    causal: bool
    window: Array = ALL_KEYS
    visible: Array | None = None

    @property
    def square(self) -> Array:
        """(query, key) pairs, masked ones included."""
        return self.q_len * self.kv_len

    @property
    def pairs(self) -> Array:
        """(query, key) pairs that the mask lets through."""
        if self.visible is not None:
            return self.visible
        return visible_pairs(self.q_len, self.kv_len, self.causal, self.window)

    def over(self, ranks: Ranks) -> AttentionShape:
        """One rank's heads."""
        if ranks.count == 1:
            return self
        return replace(self, heads=ranks.share(self.heads), kv_heads=ranks.kv_share(self.kv_heads))


def causal_pairs(q_len: Array, kv_len: Array) -> Array:
    """(query, key) pairs that a causal mask lets through: n(n+1)/2 where q_len = kv_len = n."""
    return q_len * (kv_len - q_len) + q_len * (q_len + 1.0) / 2.0


def visible_pairs(q_len: Array, kv_len: Array, causal: bool, window: Array = ALL_KEYS) -> Array:
    """(query, key) pairs that a mask lets through.

    A sliding window hides p − w keys from the query at position p > w: over the queries at the end of
    `kv_len` keys that sums to T(kv − w) − T(kv − q − w), with T(x) = x(x+1)/2 for x > 0, else 0.
    """
    if not causal:
        return q_len * kv_len
    pairs = causal_pairs(q_len, kv_len)
    if window is ALL_KEYS:
        return pairs
    last = np.maximum(0.0, kv_len - window)
    before = np.maximum(0.0, kv_len - q_len - window)
    return pairs - (last * (last + 1.0) - before * (before + 1.0)) / 2.0


def chunked_pairs(q_len: Array, kv_len: Array, chunk: float) -> Array:
    """Pairs where a query sees the keys of its own block of `chunk` up to itself."""

    def up_to(n: Array) -> Array:
        whole, rest = np.floor_divide(n, chunk), np.mod(n, chunk)
        return (whole * chunk * (chunk + 1.0) + rest * (rest + 1.0)) / 2.0

    return up_to(kv_len) - up_to(kv_len - q_len)


def flops_per_pair(head_dim: Array) -> Array:
    """FLOPs of a (query, key) pair of one head: q·kᵀ and p·v, 2·d each."""
    return 4.0 * head_dim


def fused(shape: AttentionShape, *, widths: Widths, onchip_bytes: float, kv_cached: bool = True) -> Cost:
    """One FlashAttention-like kernel: scores never leave the chip.

    Traffic (after Dao et al. 2022, arXiv 2205.14135, theorem 2, with the chip's registers as the
    fast memory): queries and outputs once; keys and values once for every batch of queries of
    their group that fits on the chip, which under a sliding window are those of that batch's window.
    """
    batch, heads, kv_heads, head_dim = shape.batch, shape.heads, shape.kv_heads, shape.head_dim
    per_pair = batch * heads * flops_per_pair(head_dim)
    queries = batch * shape.q_len * heads * head_dim * widths.activations
    group_queries = shape.q_len * (heads / kv_heads) * head_dim * widths.activations
    passes: Array = np.maximum(1.0, np.ceil(group_queries / onchip_bytes)) if onchip_bytes > 0 else 1.0
    kv_width = widths.kv if kv_cached else widths.activations
    keys = shape.kv_len if shape.window is ALL_KEYS else np.minimum(shape.kv_len, shape.window + shape.q_len / passes)
    kv = 2.0 * batch * keys * kv_heads * head_dim * kv_width * passes
    return Cost(
        kind="attention",
        dims={
            "batch": batch,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "q_len": shape.q_len,
            "kv_len": shape.kv_len,
            "causal": float(shape.causal),
        },
        flops=per_pair * shape.pairs,
        flops_full_square=per_pair * shape.square,
        read_activations=queries if kv_cached else queries + kv,
        read_kv=kv if kv_cached else 0.0,
        write_activations=queries,
    )


def single_pass(dims: Mapping[str, Array], *, causal: bool, widths: Widths) -> Cost:
    """`fused` by the sizes of a measurement, keys and values read once: there is room for a group's queries.

    Parameters
    ----------
    dims
        ``batch``, ``heads``, ``kv_heads``, ``head_dim``, ``q_len`` and ``kv_len``; others are ignored.
    """
    shape = AttentionShape(
        batch=dims["batch"],
        heads=dims["heads"],
        kv_heads=dims["kv_heads"],
        head_dim=dims["head_dim"],
        q_len=dims["q_len"],
        kv_len=dims["kv_len"],
        causal=causal,
    )
    return fused(shape, widths=widths, onchip_bytes=0.0)


def eager_products(shape: AttentionShape, *, widths: Widths) -> tuple[Cost, Cost]:
    """q·kᵀ and p·v as two kernels, the q x kv matrix written and read in between.

    FLOPs are the causal ones, as everywhere; eager kernels compute the whole square, which is
    `flops_full_square` and what their traffic is counted on.
    """
    batch, heads, head_dim, square = shape.batch, shape.heads, shape.head_dim, shape.square
    per_product = batch * heads * flops_per_pair(head_dim) / 2.0
    scores = batch * heads * square * widths.activations
    queries = batch * shape.q_len * heads * head_dim * widths.activations
    keys = batch * shape.kv_len * shape.kv_heads * head_dim * widths.kv
    flops = per_product * shape.pairs
    groups = batch * heads
    qk = Cost(
        kind="bmm",
        dims={"batch": batch, "groups": groups, "m": shape.q_len, "n": shape.kv_len, "k": head_dim},
        flops=flops,
        flops_full_square=per_product * square,
        read_activations=queries,
        read_kv=keys,
        write_activations=scores,
    )
    sv = Cost(
        kind="bmm",
        dims={"batch": batch, "groups": groups, "m": shape.q_len, "n": head_dim, "k": shape.kv_len},
        flops=flops,
        flops_full_square=per_product * square,
        read_activations=scores,
        read_kv=keys,
        write_activations=queries,
    )
    return qk, sv


def eager_softmax(shape: AttentionShape, *, widths: Widths) -> Cost:
    """Row softmax over the whole square, read and written once."""
    batch, heads = shape.batch, shape.heads
    scores = batch * heads * shape.q_len * shape.kv_len * widths.activations
    return Cost(
        kind="softmax",
        dims={"batch": batch, "rows": batch * heads * shape.q_len, "width": shape.kv_len},
        flops=SOFTMAX_FLOPS_PER_PAIR * batch * heads * shape.pairs,
        flops_full_square=0.0,
        read_activations=scores,
        write_activations=scores,
    )


def output_of(kernel: str) -> str:
    """Name of the op of `core` whose output the projection after it reads."""
    return "fused_attention" if kernel == "flash" else "sv_matmul"


def core(
    kernel: str,
    shape: AttentionShape,
    *,
    widths: Widths,
    onchip_bytes: float,
    reads: tuple[str, ...],
    ranks: Ranks = ONE,
    kv_cached: bool = True,
) -> Iterator[OpCost]:
    """Attention between its projections: one fused op, or the three of the eager path.

    Parameters
    ----------
    kernel
        ``flash`` or ``eager``.
    reads
        Names of the ops that made its queries, and where nothing is cached its keys and values.
    """
    shape = shape.over(ranks)
    if kernel == "flash":
        op = Op(output_of(kernel), "attention", "heads", reads=reads)
        yield op, fused(shape, widths=widths, onchip_bytes=onchip_bytes, kv_cached=kv_cached)
        return
    qk, sv = eager_products(shape, widths=widths)
    # the products want keys and values for every query head: `repeat_kv` copies all of them, the cached ones too
    every_head = shape.batch * shape.kv_len * shape.heads * shape.head_dim * widths.activations
    repeated = 2.0 * every_head if shape.kv_heads < shape.heads else 0.0
    yield Op("qk_matmul", "attention", "heads", reads=reads, extra={"repeated_kv": repeated}), qk
    softmax = eager_softmax(shape, widths=widths)
    yield (
        Op(
            "softmax",
            "attention",
            "heads",
            reads=("qk_matmul",),
            extra={"softmax_fp32": _upcast_bytes(shape, widths)},
            returned=True,
        ),
        softmax,
    )
    yield Op(output_of(kernel), "attention", "heads", reads=(*reads, "softmax", "repeated_kv")), sv


def windows(rows: int, columns: int, side: int) -> list[tuple[float, float]]:
    """(windows, cells of each) of a grid in squares of `side` cells: whole ones, and those cut off at its edges."""
    edges = []
    for cells in (rows, columns):
        edges.append([(n, size) for n, size in ((cells // side, side), (1, cells % side)) if n * size])
    return [(float(m * n), float(height * width)) for m, height in edges[0] for n, width in edges[1]]


def core_of_several(
    kernel: str,
    shapes: Sequence[AttentionShape],
    *,
    widths: Widths,
    onchip_bytes: float,
    reads: tuple[str, ...],
    ranks: Ranks = ONE,
) -> Iterator[OpCost]:
    """`core` without a cache on windows or inputs of several sizes, each op one of all of them."""
    parts = [
        list(core(kernel, shape, widths=widths, onchip_bytes=onchip_bytes, reads=reads, ranks=ranks, kv_cached=False))
        for shape in shapes
    ]
    for same in zip(*parts, strict=True):
        ops, costs = zip(*same, strict=True)
        extra = {name: sum(op.extra[name] for op in ops) for name in ops[0].extra}
        yield replace(ops[0], extra=extra), _together(costs)


def _together(costs: Sequence[Cost]) -> Cost:
    """Windows or inputs of several sizes as one op.

    Its dimensions are those of the most costly size, its batch as large as gives all FLOPs.
    """
    if len(costs) == 1:
        return costs[0]
    main = max(costs, key=lambda cost: float(cost.flops))
    full = [cost.flops if cost.flops_full_square is None else cost.flops_full_square for cost in costs]
    flops = sum(cost.flops for cost in costs)
    dims = dict(main.dims)
    for key in ("batch", "groups", "rows"):
        if key in dims:
            dims[key] = dims[key] * flops / main.flops
    return replace(
        main,
        dims=dims,
        flops=flops,
        flops_full_square=sum(full),
        read_activations=sum(cost.read_activations for cost in costs),
        read_kv=sum(cost.read_kv for cost in costs),
        write_activations=sum(cost.write_activations for cost in costs),
    )


def _upcast_bytes(shape: AttentionShape, widths: Widths) -> Array:
    """Scratch of an fp32 softmax in a narrower model: its input cast up and its result, less the result cast back."""
    width = widths.activations
    scratch = 0.0 if width == SOFTMAX_BYTES else 2.0 * SOFTMAX_BYTES - width
    return shape.batch * shape.heads * shape.square * scratch
