"""What DART's comparison with pivots costs."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops
from ..registry import Launches, Scorer, register

__all__ = ["PIVOTS_A_SIDE", "PIVOT_COSINE"]

# ZichenWen1/DART: four visual and four text tokens are its pivots.
PIVOTS_A_SIDE = 4


def pivot_cosine(cut: Cut, context: ScoreContext) -> NamedCosts:
    """DART: pivots by the norm of their keys, the other tokens by cosine with each pivot.

    Key norms (2 an element), norms of the hidden states (3), and one product a pivot: no attention
    scores are read, so nothing needs to run eager.
    """
    decoder, widths, n = context.model.decoder, context.widths, cut.tokens_in
    rows, pivots = context.batch * n, 2.0 * PIVOTS_A_SIDE
    keys = rows * decoder.kv_heads * decoder.head_dim
    score = Cost(
        kind="score",
        dims={"tokens": n},
        flops=2.0 * keys + rows * decoder.hidden * (3.0 + 2.0 * pivots),
        read_activations=rows * decoder.hidden * widths.activations,
        read_kv=keys * widths.kv,
        write_activations=rows * pivots * SCORE_BYTES + context.batch * pivots * INDEX_BYTES,
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


PIVOT_COSINE = register(
    Scorer(
        name="pivot_cosine",
        cost=pivot_cosine,
        reads="layer",
        launches=Launches(score=4.0),
        # estimated: key norms, pivots, cosine and top-k for each of 8 pivots, set difference
        eager_launches=Launches(total=90.0, syncs=9.0),
    )
)
