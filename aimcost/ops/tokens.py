"""What choosing tokens costs: scoring, selecting, gathering, merging.

`reduction_ops` turns a `Cut` into named operations (score, select, gather, merge).
A scorer is one entry of `SCORERS`; the runtime's policies carry the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..types import ModelSpec
from .attention import causal_pairs
from .cost import Array, Cost, Widths

__all__ = [
    "PAGERANK_ITERATIONS",
    "REDUCTION_OPS",
    "SCORERS",
    "Cut",
    "ScoreContext",
    "bipartite_similarity_flops",
    "gather",
    "pagerank_eager_flops",
    "pagerank_fused",
    "reduction_ops",
    "select",
]

PAGERANK_ITERATIONS = 5
REDUCTION_OPS = ("score", "select", "gather", "merge")
SCORE_BYTES = 4.0  # scores and PageRank vectors are fp32 whatever the model's format
INDEX_BYTES = 8.0

NamedCosts = tuple[tuple[str, Cost], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Tokens before and after one reduction, or arrays of them for many.

    Before the language model the counts are those of one of `groups` groups, inside it all live
    tokens of a request.
    """

    tokens_in: Array
    tokens_out: Array
    groups: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreContext:
    """What a scorer may look at besides its cut."""

    model: ModelSpec
    batch: int
    widths: Widths


def select(rows: Array, candidates: Array, kept: Array) -> Cost:
    """Rank `candidates` fp32 scores in each row and list the `kept` best: no FLOPs, only traffic."""
    return Cost(
        kind="select",
        dims={"rows": rows, "candidates": candidates, "kept": kept},
        read_activations=rows * candidates * SCORE_BYTES,
        write_activations=rows * kept * INDEX_BYTES,
    )


def gather(rows: Array, width: float, widths: Widths) -> Cost:
    """Copy `rows` rows of `width` elements to where they are contiguous."""
    moved = rows * width * widths.activations
    return Cost(
        kind="gather",
        dims={"rows": rows, "width": width},
        read_activations=moved + rows * INDEX_BYTES,
        write_activations=moved,
    )


def pagerank_fused(
    *, batch: float, heads: float, kv_heads: float, head_dim: float, tokens: Array, widths: Widths
) -> Cost:
    """AIM's importance without an n x n matrix: row logsumexp, then transposed passes.

    Every pass recomputes q·kᵀ over the causal pairs (2·d a pair) and takes an exponential; the
    five transposed passes also multiply by the vector and add (3 a pair). Each pass reads q and k.
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


def bipartite_similarity_flops(tokens: Array, width: float) -> Array:
    """FLOPs of one merge step over `tokens` tokens: the A x B products, and 4 an element for the
    norms, the scaling and the means. Source: the overhead table of arXiv 2412.03248."""
    return 2.0 * np.ceil(tokens / 2) * np.floor(tokens / 2) * width + 4.0 * tokens * width


def _pagerank(cut: Cut, context: ScoreContext) -> NamedCosts:
    decoder = context.model.decoder
    score = pagerank_fused(
        batch=context.batch,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        tokens=cut.tokens_in,
        widths=context.widths,
    )
    return (("score", score), *_cut(cut, context, ranked=True))


def _attention_row(cut: Cut, context: ScoreContext) -> NamedCosts:
    """FastV: the last token's attention row, averaged over heads."""
    return (("score", _row_score(cut, context)), *_cut(cut, context, ranked=True))


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


def _next_layer_row(cut: Cut, context: ScoreContext) -> NamedCosts:
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
    return (("score", score), *_cut(cut, context, ranked=True))


def _positional(cut: Cut, context: ScoreContext) -> NamedCosts:
    """Nothing is scored: which tokens stay follows from their positions alone."""
    return _cut(cut, context, ranked=False)


def _cut(cut: Cut, context: ScoreContext, *, ranked: bool) -> NamedCosts:
    """Rank (if anything was scored) and gather, inside the language model or before it."""
    rows = context.batch * cut.groups
    keep = gather(rows * cut.tokens_out, context.model.decoder.hidden, context.widths)
    if not ranked:
        return (("gather", keep),)
    return (("select", select(rows, cut.tokens_in, cut.tokens_out)), ("gather", keep))


def _bipartite(cut: Cut, context: ScoreContext) -> NamedCosts:
    """AIM's merging step: cosine of every even token with every odd one, in each group."""
    width, n = context.model.decoder.hidden, cut.tokens_in
    groups = context.batch * cut.groups
    evens = np.ceil(n / 2)
    elements = groups * n * width
    size = context.widths.activations
    score = Cost(
        kind="score",
        dims={"launches": 2.0, "tokens": n},
        flops=groups * bipartite_similarity_flops(n, width) - elements,
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


def _class_attention(cut: Cut, context: ScoreContext) -> NamedCosts:
    """PruMerge: one extra q·kᵀ in the tower's last layer, then each kept token takes in others.

    Kept keys against all keys (2·d an entry) and a weighted mean of 32 neighbours, after
    LLaVA-PruMerge (42Shawn/LLaVA-PruMerge).
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    rows, n, kept = context.batch * cut.groups, cut.tokens_in, cut.tokens_out
    size = context.widths.activations
    score = Cost(
        kind="score",
        dims={"launches": 4.0, "tokens": n},
        flops=rows * (2.0 * n * n * width + 5.0 * n * n),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * n * SCORE_BYTES,
    )
    merge = Cost(
        kind="merge",
        dims={"rows": rows * n, "width": width},
        flops=rows * kept * width * (2.0 * n + 2.0 * 32),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * kept * width * size,
    )
    return (("score", score), ("select", select(rows, n, kept)), ("merge", merge))


SCORERS: Mapping[str, Callable[[Cut, ScoreContext], NamedCosts]] = {
    "pagerank": _pagerank,
    "last_row": _attention_row,
    "last_query": _next_layer_row,
    "bipartite_cosine": _bipartite,
    "cls_attention": _class_attention,
    "none": _positional,
    "uniform": _positional,
    "random": _positional,
}


def reduction_ops(scorer: str, cut: Cut, context: ScoreContext) -> NamedCosts:
    """The operations of a cut, in execution order."""
    return SCORERS[scorer](cut, context)
