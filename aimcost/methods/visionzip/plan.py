"""VisionZip: the tower's most attended tokens stay, the rest is averaged into a few contextual ones.

Source: dvlab-research/VisionZip; by default 191 dominant (class token counted) and 30 contextual of 576.
"""

from __future__ import annotations

from typing import Annotated, Any

from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import RATIOS, MethodParams, Released, at_most_one, reduce_before
from .cost import CLASS_ATTENTION_CONTEXTUAL, CONTEXTUAL, DOMINANT, OF

SUMMARY = "VisionZip: pre-LLM, dominant + contextual tokens per image: dominant, contextual | keep_tokens"

RELEASED = Released(
    code="dvlab-research/VisionZip at 3151f6d",
    overlap=1.0,
    differs=("where tokens are pooled after the projector, that is what is merged, without a class token",),
)


class Params(MethodParams):
    """Tokens an image or tile that stay, and that the others are averaged into; or visual tokens in all.

    Attributes
    ----------
    dominant
        Tokens of an image or tile that stay, by attention.
    contextual
        Tokens that the others are averaged into.
    keep_tokens
        Visual tokens in all, in place of both.
    """

    dominant: Annotated[int, Bounds(ge=1)] | None = None
    contextual: Annotated[int, Bounds(ge=0)] | None = None
    keep_tokens: Annotated[int, Bounds(ge=0)] | None = None


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """dominant + contextual tokens of each image or tile, constant over the layers; other sizes than
    576 take the default counts in proportion. `keep_tokens` splits as published budgets do: 27 to 5."""
    for key in ("dominant", "contextual"):
        at_most_one(params, key, "keep_tokens")

    def counts(n: int) -> dict[str, int]:
        dominant = params.dominant if params.dominant is not None else max(1, round(n * DOMINANT / OF))
        contextual = params.contextual if params.contextual is not None else round(n * CONTEXTUAL / OF)
        return {"dominant": dominant, "contextual": contextual}

    return reduce_before(
        model,
        workload,
        params,
        method="visionzip",
        scorer=CLASS_ATTENTION_CONTEXTUAL,
        per_group=lambda n: sum(counts(n).values()),
        keep_tokens=params.keep_tokens,
        counts=None if params.keep_tokens is not None else lambda n, _: counts(n),
        crops=True,
    )


def counted_candidates(layers: int, visual: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries: dominant and contextual tokens of an image of 576, less and more of both."""
    return [
        {"dominant": max(1, round(OF * ratio)), "contextual": round(OF * ratio * CONTEXTUAL / DOMINANT)}
        for ratio in RATIOS
    ]
