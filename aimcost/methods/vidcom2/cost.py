"""What VidCom2's Gaussian similarities to frame and video cost."""

from __future__ import annotations

from ...ops.cost import Array, Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, cut_ops, required_count
from ...types import Workload
from ..registry import Launches, Scorer, register

__all__ = ["CHANNEL_SHARE", "SCALES", "TEMPERATURE", "UNIQUENESS"]

NAME = "frame_uniqueness"
# xuyang-liu16/VidCom2: the half of the channels that varies least; Gaussians of 2·α for α = 1/8 … 2; a softmax over
# frames at 0.01
CHANNEL_SHARE, SCALES, TEMPERATURE = 0.5, (0.125, 0.25, 0.5, 1.0, 2.0), 0.01


def uniqueness(cut: Cut, context: ScoreContext) -> NamedCosts:
    """VidCom2: the channels that vary least, normalised; distances to the means of frame and video; Gaussians.

    The variance of every channel (4 an element); of half of the channels the norms (3), two means (2), and two squared
    distances (6); for each token and centre five scales, exponentials and sums (15).
    """
    width, size = float(context.model.decoder.hidden), context.widths.activations
    tokens = context.batch * cut.groups * cut.tokens_in
    chosen = tokens * width * CHANNEL_SHARE
    # fused: one pass for the variance, one for the centres, one for the distances; eager: also the gather, norm,
    # quotient, second mean, and difference, square and sum for each centre
    score = Cost(
        kind="score",
        dims={"tokens": cut.tokens_in},
        flops=tokens * width * 4.0 + chosen * 11.0 + tokens * 2.0 * len(SCALES) * 3.0,
        read_activations=size * (tokens * width + chosen * (11.0 if context.materialised else 2.0)),
        write_activations=tokens * SCORE_BYTES + (size * chosen * 6.0 if context.materialised else 0.0),
    )
    return (("score", score), *cut_ops(cut, context, ranked=True))


def _counts(workload: Workload, kept: int) -> dict[str, int]:
    return {"frames": workload.groups}


def _frames(cut: Cut, context: ScoreContext) -> Array:
    """Frames of all requests, one after another."""
    return float(context.batch * required_count(cut.counts, "frames", scorer=NAME))


UNIQUENESS = register(
    Scorer(
        name=NAME,
        cost=uniqueness,
        reads="embeddings",
        # fused: variance, top-k, gather, norm, two means, two similarities, budgets, and the rank within frames
        launches=Launches(score=10.0),
        # vidcom2_compression; a frame takes a top-k, a sort and an offset. One tolist()
        eager_launches=Launches(
            total=74.0, syncs=1.0, steps=_frames, per_step=3.0, counted="xuyang-liu16/VidCom2 at 944a17d"
        ),
        counts=_counts,
        across_groups=True,
    )
)
