"""PruMerge+'s merging as PruMerge's: the grid is not laid, the most attended tokens stay instead."""

from __future__ import annotations

from ..prumerge.apply import by_class_attention, merge_by_class_attention
from .cost import CLASS_ATTENTION_GRID

__all__ = ["VISUAL_MERGERS", "VISUAL_SCORERS"]

VISUAL_SCORERS = {CLASS_ATTENTION_GRID.name: by_class_attention}
VISUAL_MERGERS = {CLASS_ATTENTION_GRID.name: merge_by_class_attention}
