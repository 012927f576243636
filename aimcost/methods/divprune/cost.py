"""What DivPrune's max-min selection costs."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, gather
from ..registry import Launches, Scorer, kept_tokens, register

__all__ = ["MAX_MIN_COSINE"]


def max_min_cosine(cut: Cut, context: ScoreContext) -> NamedCosts:
    """DivPrune: one token after another, always the one farthest from those chosen.

    Cosine of every pair once (2·n²·h). The fused selection keeps a running minimum: a row of the
    matrix a step, T·n. The released one takes the minimum over all chosen rows at each step,
    T²·n / 2. Steps depend on each other: their kernels run one after another.
    """
    width, n, kept = float(context.model.decoder.hidden), cut.tokens_in, cut.tokens_out
    rows, size = context.batch * cut.groups, context.widths.activations
    score = Cost(
        kind="score",
        dims={"tokens": n},
        flops=rows * (2.0 * n * n * width + 3.0 * n * width),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * n * n * SCORE_BYTES,
    )
    compared = rows * n * (kept * (kept + 1.0) / 2.0 if context.materialised else 3.0 * kept)
    minima = 0.0 if context.materialised else kept * n
    choose = Cost(
        kind="select",
        dims={"rows": rows, "candidates": n, "kept": kept},
        flops=compared,
        read_activations=compared * SCORE_BYTES,
        write_activations=rows * (kept * INDEX_BYTES + minima * SCORE_BYTES),
    )
    keep = gather(rows * kept, width, context.widths)
    return (("score", score), ("select", choose), ("gather", keep))


MAX_MIN_COSINE = register(
    Scorer(
        name="max_min_cosine",
        cost=max_min_cosine,
        reads="embeddings",
        # a step of the loop hides the chosen, takes the farthest, reads its row and lowers the minima
        launches=Launches(score=2.0, steps=kept_tokens, per_step=6.0),
        # cosine 4, and sort, ranges, join and gather beside the loop; a step but the first lists the chosen, gathers
        # their rows, takes minima and the farthest
        eager_launches=Launches(total=7.0, steps=kept_tokens, per_step=6.0, counted="vbdi/divprune at 799e2d9"),
        across_groups=True,
    )
)
