"""What PruMerge+ costs: PruMerge's work, and a grid that is checked for duplicates on the host."""

from __future__ import annotations

from ..prumerge.cost import class_attention, image_by_image
from ..registry import Launches, Scorer, register

__all__ = ["CLASS_ATTENTION_GRID"]


CLASS_ATTENTION_GRID = register(
    Scorer(
        name="cls_attention_grid",
        cost=class_attention,
        reads="tower",
        launches=Launches(score=4.0),
        # token_prune_merge_advanced_plus: a step as PruMerge's; about three of four tokens come from the grid, each
        # compared with the outliers (2) and read on the host, and read again to make a tensor of what is new
        eager_launches=Launches(
            total=26.0,
            syncs=2.0,
            steps=image_by_image,
            per_step=12.5,
            syncs_per_step=1.5,
            counted="42Shawn/LLaVA-PruMerge at 097c041",
        ),
        merges=True,
        last_tower_layer=True,
    )
)
