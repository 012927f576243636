"""EVS: of a video, the tokens that differ most from the same place in the frame before.

Source: vLLM ``multimodal/evs.py``: max(tokens a frame, int(F · tokens · (1 − q))) tokens stay.
vLLM has no default for the share q that goes; half of it is taken here.
"""

from __future__ import annotations

from typing import Annotated, Any

from ...errors import InvalidValueError
from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import RATIOS, MethodParams, Released, reduce_before, video_alone
from .cost import TEMPORAL_COSINE

SUMMARY = "EVS: pre-LLM, tokens that changed since the previous frame: q (share dropped)"

RELEASED = Released(
    code="vllm-project/vllm at 094f117, vllm/multimodal/evs.py",
    overlap=1.0,
)


class Params(MethodParams):
    """`q`: share of the video's tokens that goes.

    Attributes
    ----------
    q
        Share of the video's tokens that is dropped.
    """

    q: Annotated[float, Bounds(ge=0, lt=1)] = 0.5


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """At least one frame's tokens stay, constant over the layers.

    Raises
    ------
    InvalidValueError
        Visual tokens without a number of frames, or images of several sizes.
    """
    if workload.sizes and not workload.frames:
        raise InvalidValueError("workload.image_size", "one for all images: EVS compares them as frames", None)
    workload, untouched = video_alone(workload)
    n, groups = workload.tokens_per_group, workload.groups
    if workload.visual_tokens and not (workload.frames or workload.images):
        raise InvalidValueError("workload.frames", "given: EVS compares frames", f"{workload.visual_tokens} tokens")
    kept = max(n, int(groups * n * (1 - params.q)))
    notes = []
    if workload.images > 1 and not workload.frames:
        notes.append("EVS compares the images as if they were frames of one video")
    elif groups == 1 and workload.frames > 1:
        notes.append(f"the {workload.frames} frames share one temporal patch: EVS keeps all of their tokens")
    elif groups == 1 and workload.visual_tokens:
        notes.append("a single image or frame has no predecessor: EVS keeps all of its tokens")
    return reduce_before(
        model,
        workload,
        params,
        method="evs",
        scorer=TEMPORAL_COSINE,
        per_group=None,
        keep_tokens=kept + workload.newline_tokens,
        notes=tuple(notes),
        untouched=untouched,
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"q": round(1 - ratio, 4)} for ratio in RATIOS]
