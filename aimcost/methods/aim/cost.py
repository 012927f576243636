"""What AIM's merging and its importance cost. Source: arXiv 2412.03248."""

from __future__ import annotations

import numpy as np

from ...ops.attention import SOFTMAX_FLOPS_PER_PAIR, causal_pairs
from ...ops.cost import Array, Cost
from ...ops.reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops, select
from ...types.formats import Widths
from ..registry import Launches, Scorer, register

__all__ = [
    "BIPARTITE",
    "PAGERANK",
    "PAGERANK_ITERATIONS",
    "PAGERANK_TEMPERATURE",
    "bipartite_merge_flops",
    "pagerank_eager_flops",
    "pagerank_fused",
]

# of the sharpened softmax, and products with it (arXiv 2412.03248, as its released code executes them)
PAGERANK_TEMPERATURE, PAGERANK_ITERATIONS = 0.1, 5


def pagerank_fused(
    *,
    batch: float,
    heads: float,
    kv_heads: float,
    head_dim: float,
    tokens: Array,
    widths: Widths,
    cached: Array = 0.0,
    passes: float = 1 + PAGERANK_ITERATIONS,
) -> Cost:
    """AIM's importance without an n x n matrix: row logsumexp, then transposed passes.

    Every pass recomputes q·kᵀ over the causal pairs (2·d a pair), scales, and takes an exponential (2);
    the five steps also multiply by the vector and add (2). Each pass reads q and k; of `cached` tokens before
    the others there are keys alone. Two `passes` are those of the wavefront kernel, which takes all steps in one and
    which the runtime launches on Hopper; estimates price the steps on every card (1668 tokens of 28 heads on an H100:
    priced 214 µs, measured 288 by steps and 176 by the wavefront).
    """
    pairs = batch * heads * causal_pairs(tokens, tokens + cached)
    vectors = batch * heads * tokens * SCORE_BYTES
    return Cost(
        kind="score",
        dims={"tokens": tokens},
        flops=pairs * (passes * (2.0 * head_dim + 2.0) + PAGERANK_ITERATIONS * 2.0),
        read_activations=passes * batch * tokens * (heads + kv_heads) * head_dim * widths.activations
        + passes * batch * cached * kv_heads * head_dim * widths.activations
        + 2.0 * PAGERANK_ITERATIONS * vectors,
        write_activations=(1 + PAGERANK_ITERATIONS) * vectors + batch * tokens * SCORE_BYTES,
    )


def pagerank_eager_flops(heads: float, tokens: Array, cached: Array = 0.0) -> Array:
    """FLOPs of AIM's importance as released, given the attention logits of a square layer.

    Temperature and softmax over the square (1 + 5 an entry), five vector-matrix products (2 an
    entry each), square and mean over heads (2·H·n), root (n). Source: the overhead table of
    arXiv 2412.03248, whose 4.18 GFLOP this reproduces.
    """
    square = heads * tokens * (tokens + cached)
    return square * (1.0 + SOFTMAX_FLOPS_PER_PAIR) + 2.0 * square * PAGERANK_ITERATIONS + 2.0 * heads * tokens + tokens


def pagerank_eager(*, batch: float, heads: float, tokens: Array, widths: Widths, cached: Array = 0.0) -> Cost:
    """AIM's importance as released: from the layer's n x n logits, in fp32.

    The logits are read as attention wrote them, softmax at the temperature writes the fp32 matrix,
    and each of the five vector products reads it.
    """
    square = batch * heads * tokens * (tokens + cached)
    vectors = batch * heads * tokens * SCORE_BYTES
    return Cost(
        kind="score",
        dims={"tokens": tokens},
        flops=batch * pagerank_eager_flops(heads, tokens, cached),
        read_activations=square * (widths.activations + PAGERANK_ITERATIONS * SCORE_BYTES)
        + PAGERANK_ITERATIONS * vectors,
        write_activations=square * SCORE_BYTES + PAGERANK_ITERATIONS * vectors + batch * tokens * SCORE_BYTES,
    )


def pagerank(cut: Cut, context: ScoreContext) -> NamedCosts:
    """AIM: PageRank over the attention of the layer that is cut."""
    decoder, n = context.model.decoder, cut.tokens_in
    if context.materialised:
        score = pagerank_eager(
            batch=context.batch, heads=decoder.heads, tokens=n, widths=context.widths, cached=cut.cached
        )
    else:
        score = pagerank_fused(
            batch=context.batch,
            heads=decoder.heads,
            kv_heads=decoder.kv_heads,
            head_dim=decoder.head_dim,
            tokens=n,
            widths=context.widths,
            cached=cut.cached,
        )
    return (("score", score), *cut_ops(cut, context, ranked=True))


def bipartite_merge_flops(tokens: Array, width: float) -> Array:
    """FLOPs of one whole merge step on ONE group of `tokens` tokens, averaging included: the A x B products, and
    4 an element for the norms, the scaling and the means. Source: the overhead table of arXiv 2412.03248."""
    return 2.0 * np.ceil(tokens / 2) * np.floor(tokens / 2) * width + 4.0 * tokens * width


def bipartite(cut: Cut, context: ScoreContext) -> NamedCosts:
    """AIM's merging step: cosine of every even token with every odd one, in each group."""
    width, n = context.model.decoder.hidden, cut.tokens_in
    groups = context.batch * cut.groups
    evens = np.ceil(n / 2)
    elements = groups * n * width
    size = context.widths.activations
    score = Cost(
        kind="score",
        dims={"tokens": n},
        # the means, 1 an element, are the merge's
        flops=groups * bipartite_merge_flops(n, width) - elements,
        read_activations=elements * size,
        write_activations=groups * evens * (SCORE_BYTES + INDEX_BYTES),
    )
    merge = Cost(
        kind="merge",
        dims={"rows": groups * n, "width": width},
        flops=elements,
        read_activations=elements * size,
        write_activations=groups * cut.tokens_out * width * size,
    )
    return (
        ("score", score),
        ("select", select(groups, float(evens), n - cut.tokens_out)),
        ("merge", merge),
    )


PAGERANK = register(
    Scorer(
        name="pagerank",
        cost=pagerank,
        reads="layer",
        launches=Launches(score=PAGERANK_ITERATIONS + 2.0),
        # dropping is not released: the importance as the masked code computes it (23, and a vector made on the host),
        # then what FastV's code takes to drop
        eager_launches=Launches(total=36.0, syncs=1.0),
        # get_importance 23; dead and protected scores, sort, mask, a new causal mask. Waits: two tensors made on the
        # host, and nonzero
        masked_launches=Launches(total=43.0, syncs=3.0, counted="LaVi-Lab/AIM at edc24e9"),
        exposes="layer",
        masks_every_layer=True,
        square_scores=True,
    )
)
BIPARTITE = register(
    Scorer(
        name="bipartite_cosine",
        cost=bipartite,
        reads="embeddings",
        launches=Launches(score=2.0),
        # bipartite_soft_matching_merge: norm, quotient, product, maximum, sort, three gathers, scatter, join
        eager_launches=Launches(total=10.0, counted="LaVi-Lab/AIM at edc24e9"),
        merges=True,
    )
)
