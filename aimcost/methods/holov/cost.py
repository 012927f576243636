"""What HoloV's scores within strips, its allocation, and its choice cost."""

from __future__ import annotations

from ...ops.cost import Array, Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops, required_count
from ...types import Workload
from ..registry import Launches, Scorer, register
from ..visionzip.cost import received_attention

__all__ = ["HOLISTIC", "NUM_PATCHES", "VARIETY_WEIGHT"]

NAME = "holistic_strips"
# obananas/HoloV, llava/model: 16 strips an image; the variance of similarity counts 0.09 of the attention
NUM_PATCHES, VARIETY_WEIGHT = 16, 0.09


def _counts(workload: Workload, kept: int) -> dict[str, int]:
    return {"patches": NUM_PATCHES}


def _strips(cut: Cut, context: ScoreContext) -> Array:
    """Strips of all images, one after another."""
    return context.batch * cut.groups * required_count(cut.counts, "patches", scorer=NAME)


def holistic(cut: Cut, context: ScoreContext) -> NamedCosts:
    """HoloV: attention of the tower, and how much a token's similarity to the others of its strip varies.

    Cosine within P strips of n/P projected tokens (2·n²·h/P, 3·n·h for the norms); the diagonal hidden, mean, and
    variance (5·n²/P); scaling, and the score of token and strip (8·n).
    """
    width, n = float(context.model.decoder.hidden), cut.tokens_in
    rows, size = context.batch * cut.groups, context.widths.activations
    attention = received_attention(cut, context)
    pairs = n * n / required_count(cut.counts, "patches", scorer=NAME)
    # eager: normalised tokens are written and read, and five operators pass over the similarities
    score = Cost(
        kind="score",
        dims={"tokens": n},
        flops=attention.flops + rows * (2.0 * pairs * width + 3.0 * n * width + 5.0 * pairs + 8.0 * n),
        read_activations=attention.read_activations
        + rows * (n * width * size * (3.0 if context.materialised else 1.0))
        + (rows * 5.0 * pairs * SCORE_BYTES if context.materialised else 0.0),
        write_activations=attention.write_activations
        + (rows * (n * width * size + 3.0 * pairs * SCORE_BYTES) if context.materialised else 0.0),
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


HOLISTIC = register(
    Scorer(
        name=NAME,
        cost=holistic,
        reads="tower",
        # fused: the attention row (2), norms and products, mean and variance, both scales and the token's score, the
        # strips' means, shares and what is left over, ranks within strips, and the mask
        launches=Launches(score=12.0),
        # HoloV() and the mean over heads: a strip takes 24 operators to score and 4 to cut (two comparisons, top-k,
        # gather), and half of them, on average, one token more of what the floors leave over (2 operators, 2 waits).
        # Three waits a strip: both comparisons and .item()
        eager_launches=Launches(
            total=16.0,
            syncs=3.0,
            steps=_strips,
            per_step=29.0,
            syncs_per_step=4.0,
            counted="obananas/HoloV at 1d2e65e",
        ),
        exposes="tower",
        counts=_counts,
    )
)
