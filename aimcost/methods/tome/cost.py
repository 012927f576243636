"""What one of ToMe's merging steps inside the tower costs."""

from __future__ import annotations

import numpy as np

from ...ops.cost import Cost
from ...ops.reduction import INDEX_BYTES, SCORE_BYTES, Cut, NamedCosts, ScoreContext, select
from ..registry import Launches, Scorer, register

__all__ = ["MEAN_KEY_BIPARTITE"]


def mean_key_bipartite(cut: Cut, context: ScoreContext) -> NamedCosts:
    """ToMe in one tower layer: even tokens against odd ones by their keys' mean over heads.

    The mean (1 an element of the keys), cosine (2 a pair and key element, 3 for the norms), and
    size-weighted means of the hidden states that merge.
    """
    vision = context.model.vision
    width = float(vision.hidden if vision else context.model.decoder.hidden)
    heads = float(vision.heads if vision else context.model.decoder.heads)
    rows, n, removed = context.batch * cut.groups, cut.tokens_in, cut.tokens_in - cut.tokens_out
    size = context.widths.activations
    evens, odds = np.ceil(n / 2), np.floor(n / 2)
    score = Cost(
        kind="score",
        dims={"tokens": n},
        flops=rows * (n * width + (2.0 * evens * odds + 3.0 * n) * width / heads),
        read_activations=rows * n * width * size,
        write_activations=rows * evens * (SCORE_BYTES + INDEX_BYTES),
    )
    merge = Cost(
        kind="merge",
        dims={"rows": rows * n, "width": width},
        flops=rows * width * (2.0 * removed + n),
        read_activations=rows * n * width * size,
        write_activations=rows * cut.tokens_out * width * size,
    )
    return (("score", score), ("select", select(rows, evens, removed)), ("merge", merge))


MEAN_KEY_BIPARTITE = register(
    Scorer(
        name="mean_key_bipartite",
        cost=mean_key_bipartite,
        reads="inside_tower",
        launches=Launches(score=3.0),
        # mean key, bipartite_soft_matching, merge_wavg of tokens and sizes (19), and the sizes' logarithm on attention
        eager_launches=Launches(total=21.0, counted="facebookresearch/ToMe at af95e4b"),
        merges=True,
    )
)
