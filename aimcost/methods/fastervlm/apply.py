"""FasterVLM's score: the attention that a token receives in the vision tower."""

from __future__ import annotations

from ..visionzip.apply import by_tower_attention
from .cost import CLASS_ATTENTION_TOP

__all__ = ["VISUAL_SCORERS"]

VISUAL_SCORERS = {CLASS_ATTENTION_TOP.name: by_tower_attention}
