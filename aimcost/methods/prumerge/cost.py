"""What PruMerge's scoring and merging cost."""

from __future__ import annotations

import numpy as np

from ...ops.cost import Array, Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, select
from ..registry import Launches, Scorer, register

__all__ = ["CLASS_ATTENTION", "NEIGHBOURS", "class_attention", "image_by_image"]

# 42Shawn/LLaVA-PruMerge: a kept token takes in the 32 whose keys are nearest.
NEIGHBOURS = 32


def class_attention(cut: Cut, context: ScoreContext) -> NamedCosts:
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
        dims={"tokens": n},
        flops=rows * (2.0 * n * n * width + 5.0 * n * n),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * n * SCORE_BYTES,
    )
    merge = Cost(
        kind="merge",
        dims={"rows": rows * n, "width": width},
        flops=rows * kept * width * (2.0 * n + 2.0 * NEIGHBOURS),
        read_activations=rows * 2.0 * n * width * size,
        write_activations=rows * kept * width * size,
    )
    return (("score", score), ("select", select(rows, n, kept)), ("merge", merge))


def image_by_image(cut: Cut, context: ScoreContext) -> Array:
    """Tokens that take in others, image by image: all that stay but the one that is the sum of the rest."""
    return context.batch * cut.groups * np.maximum(0.0, cut.tokens_out - 1.0)


CLASS_ATTENTION = register(
    Scorer(
        name="cls_attention",
        cost=class_attention,
        reads="tower",
        launches=Launches(score=4.0),
        # token_prune_merge_advanced: q·kᵀ, top-k, gathers, norms, and the outliers on the host; a step joins the other
        # tokens, keys and weights, takes 32 by cosine and sums them
        eager_launches=Launches(
            total=24.0, steps=image_by_image, per_step=11.0, syncs=1.0, counted="42Shawn/LLaVA-PruMerge at 097c041"
        ),
        merges=True,
        last_tower_layer=True,
    )
)
