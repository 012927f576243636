"""What FasterVLM's ranking by the class token's attention costs."""

from __future__ import annotations

from ...ops.reduction import Cut, NamedCosts, ScoreContext, cut_ops
from ..registry import Launches, Scorer, register
from ..visionzip.cost import received_attention

__all__ = ["CLASS_ATTENTION_TOP"]


def class_attention_top(cut: Cut, context: ScoreContext) -> NamedCosts:
    """FasterVLM: the tower's attention averaged over heads, a top-k, and a gather of the projected tokens."""
    return (("score", received_attention(cut, context)), *cut_ops(cut, context, ranked=True))


CLASS_ATTENTION_TOP = register(
    Scorer(
        name="cls_attention_top",
        cost=class_attention_top,
        reads="tower",
        launches=Launches(score=2.0),
        # encode_images: mean, top-k, mask, scatter; then a boolean index (nonzero and gather) and a stack
        eager_launches=Launches(total=7.0, syncs=1.0, counted="Theia-4869/FasterVLM at f5d5f12"),
        exposes="tower",
    )
)
