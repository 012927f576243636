"""What PruMerge's scoring and merging cost."""

from __future__ import annotations

from ...ops.cost import Cost
from ...ops.reduction import SCORE_BYTES, Cut, NamedCosts, ScoreContext, select
from ..registry import Launches, Scorer, kept_tokens, register

__all__ = ["CLASS_ATTENTION", "NEIGHBOURS"]

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


CLASS_ATTENTION = register(
    Scorer(
        name="cls_attention",
        price=class_attention,
        reads="tower",
        launches=Launches(score=4.0),
        # outliers by quantile, one q·kᵀ, then a Python loop over kept tokens
        eager_launches=Launches(total=30.0, steps=kept_tokens, per_step=10.0, syncs=3.0),
        merges=True,
    )
)
