"""What FastV's score costs: the last token's attention row."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops
from ..registry import Launches, Scorer, register

__all__ = ["LAST_ROW", "row_score"]


def attention_row(cut: Cut, context: ScoreContext) -> NamedCosts:
    """FastV: the last token's attention row, averaged over heads."""
    score = _row_of_matrix(cut, context) if context.materialised else row_score(cut, context)
    return (("score", score), *cut_ops(cut, context, ranked=True))


def row_score(cut: Cut, context: ScoreContext) -> Cost:
    decoder, n = context.model.decoder, cut.keys
    entries = context.batch * decoder.heads * n
    keys = context.batch * n * decoder.kv_heads * decoder.head_dim * context.widths.kv
    return Cost(
        kind="score",
        dims={"tokens": n},
        flops=entries * (2.0 * decoder.head_dim + 5.0 + 1.0),
        read_kv=keys,
        write_activations=context.batch * n * SCORE_BYTES,
    )


def _row_of_matrix(cut: Cut, context: ScoreContext) -> Cost:
    """One row a head of the attention that the layer left in memory, averaged over heads."""
    n = cut.keys
    entries = context.batch * context.model.decoder.heads * n
    return Cost(
        kind="score",
        dims={"tokens": n},
        flops=entries,
        read_activations=entries * context.widths.activations,
        write_activations=context.batch * n * SCORE_BYTES,
    )


LAST_ROW = register(
    Scorer(
        name="last_row",
        cost=attention_row,
        reads="layer",
        launches=Launches(score=3.0),
        # head mean, top-k, offset, two ranges, join, sort, gather, a new causal mask (6); masked: two fills and the
        # padding mask in place of the gather. Neither reads a value on the host
        eager_launches=Launches(total=14.0, counted="pkunlp-icler/FastV at d165972"),
        masked_launches=Launches(total=17.0, counted="pkunlp-icler/FastV at d165972"),
        exposes="layer",
    )
)
