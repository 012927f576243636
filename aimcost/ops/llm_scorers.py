"""What it costs to choose tokens inside the language model, after a decoder layer.

Each scorer has two prices (`ScoreContext.implementation`): fused, from queries and keys alone, and
from a matrix that the layer's eager attention left in memory.
"""

from __future__ import annotations

from ..types.formats import Widths
from .attention import causal_pairs
from .cost import Array, Cost
from .reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops, select

__all__ = [
    "PAGERANK_ITERATIONS",
    "attention_row",
    "next_layer_row",
    "pagerank",
    "pagerank_eager_flops",
    "pagerank_fused",
    "pivot_cosine",
    "positional",
    "text_raters",
]

PAGERANK_ITERATIONS = 5
# DART (ZichenWen1/DART): four visual and four text tokens are its pivots.
DART_PIVOTS = 8.0
# SparseVLM (Gumpest/SparseVLMs): 30 % of what it prunes is clustered, ten tokens to one.
SPARSEVLM_RECYCLED, SPARSEVLM_PER_CLUSTER = 0.3, 10.0


def pagerank_fused(
    *, batch: float, heads: float, kv_heads: float, head_dim: float, tokens: Array, widths: Widths
) -> Cost:
    """AIM's importance without an n x n matrix: row logsumexp, then transposed passes.

    Every pass recomputes q·kᵀ over the causal pairs (2·d a pair), scales, and takes an exponential (2);
    the five transposed passes also multiply by the vector and add (2). Each pass reads q and k.
    """
    pairs = batch * heads * causal_pairs(tokens, tokens)
    passes = 1 + PAGERANK_ITERATIONS
    vectors = batch * heads * tokens * SCORE_BYTES
    return Cost(
        kind="score",
        dims={"launches": passes + 1.0, "tokens": tokens},
        flops=pairs * (passes * (2.0 * head_dim + 2.0) + PAGERANK_ITERATIONS * 2.0),
        read_activations=passes * batch * tokens * (heads + kv_heads) * head_dim * widths.activations
        + 2.0 * PAGERANK_ITERATIONS * vectors,
        write_activations=passes * vectors + batch * tokens * SCORE_BYTES,
    )


def pagerank_eager_flops(heads: float, tokens: Array) -> Array:
    """FLOPs of AIM's importance as released, given the attention logits of a square layer.

    Temperature and softmax over the square (1 + 5 an entry), five vector-matrix products (2 an
    entry each), square and mean over heads (2·H·n), root (n). Source: the overhead table of
    arXiv 2412.03248, whose 4.18 GFLOP this reproduces.
    """
    square = heads * tokens * tokens
    return square * (1.0 + 5.0) + 2.0 * square * PAGERANK_ITERATIONS + 2.0 * heads * tokens + tokens


def pagerank_eager(*, batch: float, heads: float, tokens: Array, widths: Widths) -> Cost:
    """AIM's importance as released: from the layer's n x n logits, in fp32.

    The logits are read as attention wrote them, softmax at the temperature writes the fp32 matrix,
    and each of the five vector products reads it.
    """
    square = batch * heads * tokens * tokens
    vectors = batch * heads * tokens * SCORE_BYTES
    return Cost(
        kind="score",
        dims={"launches": PAGERANK_ITERATIONS + 5.0, "tokens": tokens},
        flops=batch * pagerank_eager_flops(heads, tokens),
        read_activations=square * (widths.activations + PAGERANK_ITERATIONS * SCORE_BYTES)
        + PAGERANK_ITERATIONS * vectors,
        write_activations=square * SCORE_BYTES + PAGERANK_ITERATIONS * vectors + batch * tokens * SCORE_BYTES,
    )


def pagerank(cut: Cut, context: ScoreContext) -> NamedCosts:
    """AIM: PageRank over the attention of the layer that is cut."""
    decoder, n = context.model.decoder, cut.tokens_in
    if context.materialised:
        score = pagerank_eager(batch=context.batch, heads=decoder.heads, tokens=n, widths=context.widths)
    else:
        score = pagerank_fused(
            batch=context.batch,
            heads=decoder.heads,
            kv_heads=decoder.kv_heads,
            head_dim=decoder.head_dim,
            tokens=n,
            widths=context.widths,
        )
    return (("score", score), *cut_ops(cut, context, ranked=True))


def attention_row(cut: Cut, context: ScoreContext) -> NamedCosts:
    """FastV: the last token's attention row, averaged over heads."""
    score = _row_of_matrix(cut, context) if context.materialised else _row_score(cut, context)
    return (("score", score), *cut_ops(cut, context, ranked=True))


def _row_score(cut: Cut, context: ScoreContext) -> Cost:
    decoder, n = context.model.decoder, cut.tokens_in
    entries = context.batch * decoder.heads * n
    keys = context.batch * n * decoder.kv_heads * decoder.head_dim * context.widths.kv
    return Cost(
        kind="score",
        dims={"launches": 3.0, "tokens": n},
        flops=entries * (2.0 * decoder.head_dim + 5.0 + 1.0),
        read_kv=keys,
        write_activations=context.batch * n * SCORE_BYTES,
    )


def _row_of_matrix(cut: Cut, context: ScoreContext) -> Cost:
    """One row a head of the attention that the layer left in memory, averaged over heads."""
    n = cut.tokens_in
    entries = context.batch * context.model.decoder.heads * n
    return Cost(
        kind="score",
        dims={"launches": 1.0, "tokens": n},
        flops=entries,
        read_activations=entries * context.widths.activations,
        write_activations=context.batch * n * SCORE_BYTES,
    )


def next_layer_row(cut: Cut, context: ScoreContext) -> NamedCosts:
    """PyramidDrop: the next layer's norm, q, k and v for every token, then one attention row."""
    decoder, widths = context.model.decoder, context.widths
    rows = context.batch * cut.tokens_in
    out = (decoder.heads + 2.0 * decoder.kv_heads) * decoder.head_dim
    row = _row_score(cut, context)
    moved = rows * decoder.hidden * widths.activations
    score = Cost(
        kind="score",
        dims={"launches": 7.0, "tokens": cut.tokens_in},
        flops=row.flops + 2.0 * rows * decoder.hidden * out + 4.0 * rows * decoder.hidden,
        read_weights=decoder.hidden * out * widths.weights,
        read_activations=2.0 * moved,
        read_kv=row.read_kv,
        write_activations=row.write_activations + moved + rows * out * widths.activations,
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


def positional(cut: Cut, context: ScoreContext) -> NamedCosts:
    """Nothing is scored: which tokens stay follows from their positions alone."""
    return cut_ops(cut, context, ranked=False)


def text_raters(cut: Cut, context: ScoreContext) -> NamedCosts:
    """SparseVLM: the rows of the text tokens rate the visual ones; part of the rest is clustered.

    Raters are chosen by the similarity of text and visual tokens (2·V·T·h). Of p pruned tokens 0.3·p
    are recycled into a tenth as many means, after distances of every pair (2·m²·h for m tokens).
    p follows from the counts: in − out = p · (1 − 0.03). The matrix of attention comes from eager
    attention in every layer; the fused price computes the text rows alone.
    """
    decoder, widths, batch = context.model.decoder, context.widths, context.batch
    n, text, hidden = cut.tokens_in, float(context.text_tokens), float(decoder.hidden)
    size, entries = widths.activations, batch * decoder.heads * context.text_tokens * n
    recycled = SPARSEVLM_RECYCLED * (n - cut.tokens_out) / (1 - SPARSEVLM_RECYCLED / SPARSEVLM_PER_CLUSTER)
    clusters = recycled / SPARSEVLM_PER_CLUSTER
    per_entry = 1.0 if context.materialised else 2.0 * decoder.head_dim + 5.0 + 1.0
    rows_read = entries * size if context.materialised else 0.0
    keys = 0.0 if context.materialised else batch * n * decoder.kv_heads * decoder.head_dim * widths.kv
    score = Cost(
        kind="score",
        dims={"launches": 4.0, "tokens": n},
        flops=entries * per_entry + 2.0 * batch * text * (n - text) * hidden,
        read_activations=rows_read + batch * n * hidden * size,
        read_kv=keys,
        write_activations=batch * n * SCORE_BYTES,
    )
    if context.implementation == "masked":
        return (("score", score), ("select", select(batch, n, cut.tokens_out)))
    moved = batch * recycled * hidden * size
    merge = Cost(
        kind="merge",
        dims={"rows": batch * recycled, "width": hidden},
        flops=batch * (2.0 * recycled * recycled + recycled) * hidden,
        read_activations=2.0 * moved + batch * recycled * recycled * SCORE_BYTES,
        write_activations=batch * (clusters * hidden * size + recycled * recycled * SCORE_BYTES),
    )
    ranked = cut_ops(cut, context, ranked=True)
    return (("score", score), ranked[0], ("merge", merge), *ranked[1:])


def pivot_cosine(cut: Cut, context: ScoreContext) -> NamedCosts:
    """DART: pivots by the norm of their keys, the other tokens by cosine with each pivot.

    Key norms (2 an element), norms of the hidden states (3), and one product a pivot: no attention
    is looked at, so nothing needs to run eager.
    """
    decoder, widths, n = context.model.decoder, context.widths, cut.tokens_in
    rows = context.batch * n
    keys = rows * decoder.kv_heads * decoder.head_dim
    score = Cost(
        kind="score",
        dims={"launches": 4.0, "tokens": n},
        flops=2.0 * keys + rows * decoder.hidden * (3.0 + 2.0 * DART_PIVOTS),
        read_activations=rows * decoder.hidden * widths.activations,
        read_kv=keys * widths.kv,
        write_activations=rows * DART_PIVOTS * SCORE_BYTES + context.batch * DART_PIVOTS * INDEX_BYTES,
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))
