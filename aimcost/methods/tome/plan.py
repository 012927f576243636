"""ToMe: every layer of the vision tower merges r tokens, between its attention and its MLP.

Source: facebookresearch/ToMe (Bolya et al. 2023, arXiv 2210.09461); r = 16 is its ViT-B setting.
"""

from __future__ import annotations

from typing import Annotated, Any

from ...errors import InvalidValueError, UnsupportedModelError
from ...types import ModelSpec, ReductionEvent, Schedule, VisionSpec, Workload
from ...types.strict import Bounds
from ..base import MethodParams, Released, build_schedule
from .cost import MEAN_KEY_BIPARTITE

SUMMARY = "ToMe: −r tokens per layer inside the vision tower: r"

RELEASED = Released(
    code="facebookresearch/ToMe at af95e4b",
    overlap=0.98,
    differs=(
        "of equal similarities, which bf16 makes, the earlier token's counts, where that code sorts them in no order",
    ),
)


class Params(MethodParams):
    """`r` tokens merge in each tower layer, at most half of those that are not protected.

    Attributes
    ----------
    r
        Tokens merged in each tower layer.
    """

    r: Annotated[int, Bounds(ge=1, le=1_000_000)] = 16


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """Tower layer i removes min(r, (n − class token) // 2) tokens; the rest reach the language model.

    Raises
    ------
    InvalidValueError
        Nothing passes the tower.
    UnsupportedModelError
        The projector needs the grid of patches that merging dissolves.
    """
    vision = model.vision
    if vision is None or not (workload.frames or workload.images):
        found = "visual_tokens" if workload.visual_tokens else "text alone"
        raise InvalidValueError("workload.images", "given, or frames: ToMe merges in the vision tower", found)
    if vision.traced is not None:
        raise UnsupportedModelError(f"{model.name}: ToMe merges inside the tower, whose ops are traced on whole images")
    if workload.tokens_per_group != vision.patches:
        # the patches of such a tower follow from the image's size
        patches = str(vision.patches) if vision.patches else "as many patches as the image's size gives"
        raise UnsupportedModelError(
            f"{model.name}: ToMe needs a projector that makes one token of each patch, since merging dissolves the "
            f"grid (got {workload.tokens_per_group} tokens per image of {patches})"
        )
    events = _events(vision, params.r)
    left = (events[-1].tokens_out if events else vision.tokens) - int(vision.class_token)
    return build_schedule(
        model=model,
        workload=workload,
        params=params.dump(),
        method="tome",
        visual_tokens=workload.groups * left + workload.newline_tokens,
        pre_llm=events,
    )


def _events(vision: VisionSpec, r: int) -> list[ReductionEvent]:
    events, count, protected = [], vision.tokens, int(vision.class_token)
    for layer in range(vision.layers):
        removed = min(r, (count - protected) // 2)
        if removed < 1:
            break
        events.append(
            ReductionEvent(
                action="merge",
                scorer=MEAN_KEY_BIPARTITE.name,
                after_layer=None,
                tower_layer=layer,
                tokens_in=count,
                tokens_out=count - removed,
            )
        )
        count -= removed
    return events


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"r": r} for r in (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24)]
