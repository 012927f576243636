"""What PyramidDrop's score costs: one row of the next layer's attention."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import Cut, NamedCosts, ScoreContext, cut_ops
from ..fastv.cost import row_score
from ..registry import Launches, Scorer, register

__all__ = ["LAST_QUERY"]


def next_layer_row(cut: Cut, context: ScoreContext) -> NamedCosts:
    """PyramidDrop: the next layer's norm, q, k and v for every token, then one attention row."""
    decoder, widths = context.model.decoder, context.widths
    rows = context.batch * cut.tokens_in
    out = (decoder.heads + 2.0 * decoder.kv_heads) * decoder.head_dim
    row = row_score(cut, context)
    moved = rows * decoder.hidden * widths.activations
    score = Cost(
        kind="score",
        dims={"tokens": cut.tokens_in},
        flops=row.flops + 2.0 * rows * decoder.hidden * out + 4.0 * rows * decoder.hidden,
        read_weights=decoder.hidden * out * widths.weights,
        read_activations=2.0 * moved,
        read_kv=row.read_kv,
        write_activations=row.write_activations + moved + rows * out * widths.activations,
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


LAST_QUERY = register(
    Scorer(
        name="last_query",
        cost=next_layer_row,
        reads="next_layer",
        launches=Launches(score=7.0),
        # pdrop_rank_drop on one request: norm (6), q, k, v, rope (11), a causal mask, a row, top-k, sort, and inputs,
        # labels and mask rebuilt; three boolean indices and .item() wait
        eager_launches=Launches(total=75.0, syncs=4.0, counted="Cooperx521/PyramidDrop at 6444f30"),
    )
)
