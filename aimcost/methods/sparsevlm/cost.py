"""What SparseVLM's rating by text tokens and its recycling cost."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops, select
from ..registry import Launches, Scorer, register

__all__ = ["PER_CLUSTER", "RECYCLED_SHARE", "TEXT_RATERS"]

# Gumpest/SparseVLMs: 30 % of what it prunes is clustered, ten tokens to one.
RECYCLED_SHARE, PER_CLUSTER = 0.3, 10.0


def text_raters(cut: Cut, context: ScoreContext) -> NamedCosts:
    """SparseVLM: the rows of the text tokens rate the visual ones; part of the rest is clustered.

    Raters are chosen by the similarity of text and visual tokens (2·V·T·h). Of p pruned tokens 0.3·p
    are recycled into a tenth as many means, after distances of every pair (2·m²·h for m tokens).
    p follows from the counts: in − out = p · (1 − 0.03). The matrix of attention comes from eager
    attention in every layer; the fused form computes the text rows alone.
    """
    decoder, widths, batch = context.model.decoder, context.widths, context.batch
    n, text, hidden = cut.tokens_in, float(context.text_tokens), float(decoder.hidden)
    size, entries = widths.activations, batch * decoder.heads * context.text_tokens * cut.keys
    recycled = RECYCLED_SHARE * (n - cut.tokens_out) / (1 - RECYCLED_SHARE / PER_CLUSTER)
    clusters = recycled / PER_CLUSTER
    per_entry = 1.0 if context.materialised else 2.0 * decoder.head_dim + 5.0 + 1.0
    rows_read = entries * size if context.materialised else 0.0
    keys = 0.0 if context.materialised else batch * cut.keys * decoder.kv_heads * decoder.head_dim * widths.kv
    score = Cost(
        kind="score",
        dims={"tokens": n},
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


TEXT_RATERS = register(
    Scorer(
        name="text_raters",
        cost=text_raters,
        reads="layer",
        launches=Launches(score=4.0),
        # the first of three cuts takes 82 and waits 8 times (four where, two slices, two ranges made on the host), the
        # others 86 and 12; choosing raters once, 6 and 2 of a prompt, is a third of it a cut
        eager_launches=Launches(total=87.0, syncs=11.0, counted="Gumpest/SparseVLMs at 26a5f48"),
        exposes="decoder",
    )
)
