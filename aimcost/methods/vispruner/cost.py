"""What VisPruner's attention ranking and its rounds of pairwise comparison cost."""

from __future__ import annotations

import numpy as np

from ...ops.cost import Array, Cost
from ...ops.reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, gather, required_count
from ...types import Workload
from ..registry import Launches, Scorer, register
from ..visionzip.cost import received_attention

__all__ = ["IMPORTANT_AND_DIVERSE", "IMPORTANT_RATIO", "REMOVED_A_ROUND"]

NAME = "cls_attention_diverse"
# Theia-4869/VisPruner: half of the tokens that stay are chosen by attention; a round removes at most eight
IMPORTANT_RATIO, REMOVED_A_ROUND = 0.5, 8


def _counts(workload: Workload, kept: int) -> dict[str, int]:
    return {"important": int(kept * IMPORTANT_RATIO)}


def _rounds(cut: Cut, context: ScoreContext) -> Array:
    """Rounds until only the diverse tokens are left, of all crops together; none where no diverse one is wanted."""
    diverse = cut.tokens_out - required_count(cut.counts, "important", scorer=NAME)
    return np.where(diverse > 0, np.ceil((cut.tokens_in - cut.tokens_out) / REMOVED_A_ROUND), 0.0)


def important_and_diverse(cut: Cut, context: ScoreContext) -> NamedCosts:
    """VisPruner: attention ranks the tokens; what is left loses eight a round, those most like another.

    A round with R tokens left compares the even ones with the odd ones: 2·⌈R/2⌉·⌊R/2⌋·C multiply-adds' FLOPs, over
    the C elements that the tower yields, after one normalisation (3 an element). R falls by eight from n − important.
    Eager rounds also copy the R tokens, and write and read the products.
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    rows, n, kept = context.batch * cut.groups, cut.tokens_in, cut.tokens_out
    size = context.widths.activations
    rounds, first = _rounds(cut, context), n - required_count(cut.counts, "important", scorer=NAME)
    # over R = first, first − 8, …: the sum of R, and of R² less one where R is odd
    left = rounds * first - REMOVED_A_ROUND * rounds * (rounds - 1) / 2
    squares = (
        rounds * first**2
        - REMOVED_A_ROUND * first * rounds * (rounds - 1)
        + REMOVED_A_ROUND**2 * (rounds - 1) * rounds * (2 * rounds - 1) / 6
        - rounds * np.mod(first, 2)
    )
    copied = 2.0 if context.materialised else 1.0
    products = squares / 4 if context.materialised else 0.0
    compare = Cost(
        kind="select",
        dims={"rows": rows, "candidates": n, "kept": kept},
        flops=rows * (squares / 2 * width + 3.0 * n * width),
        read_activations=rows * (size * (width * (n + copied * left) + products) + n * SCORE_BYTES),
        write_activations=rows * (size * (width * (n + (copied - 1) * left) + products) + kept * INDEX_BYTES),
    )
    keep = gather(rows * kept, float(context.model.decoder.hidden), context.widths)
    return (("score", received_attention(cut, context)), ("select", compare), ("gather", keep))


# encode_images: mean, argsort, norm, division, the masks and their boolean index; a round gathers, multiplies, takes
# the largest, sorts, gathers again and joins, with two indices made on the host, each copied to the device
_RELEASED = Launches(
    total=10.0,
    syncs=1.0,
    steps=_rounds,
    per_step=8.0,
    syncs_per_step=2.0,
    counted="Theia-4869/VisPruner at aefa01a",
)
IMPORTANT_AND_DIVERSE = register(
    Scorer(
        name=NAME,
        cost=important_and_diverse,
        reads="tower",
        # a round: gather, product, row maxima, sort, gather, join
        launches=Launches(score=2.0, steps=_rounds, per_step=6.0),
        eager_launches=_RELEASED,
        exposes="tower",
        counts=_counts,
    )
)
