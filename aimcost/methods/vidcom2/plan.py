"""VidCom2: of each frame of a video, the tokens that are least like the frame and the video; unlike frames keep more.

Source: xuyang-liu16/VidCom2 and arXiv 2505.14454; a retention ratio of 0.25 (R_RATIO), its default.
"""

from __future__ import annotations

from typing import Annotated, Any

from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import RATIOS, MethodParams, Released, reduce_before, video_alone
from .cost import UNIQUENESS

SUMMARY = "VidCom2: pre-LLM, tokens unlike their frame and the video, more of unlike frames: ratio"

RELEASED = Released(
    code="xuyang-liu16/VidCom2 at 944a17d",
    overlap=0.99,
    differs=("as many tokens stay as planned, where budgets rounded frame by frame may add up to a few more or fewer",),
)


class Params(MethodParams):
    """Share of the video's tokens that stays (R_RATIO).

    Attributes
    ----------
    ratio
        Share of the video's tokens that stays.
    """

    ratio: Annotated[float, Bounds(gt=0, le=1)] = 0.25


def frame_budget(tokens: int, ratio: float, frames: int, share: float) -> int:
    """Tokens that a frame keeps whose softmaxed uniqueness is `share`: at least one, and at most all."""
    return max(1, round(min(1.0, ratio * (1 + share - 1 / frames)) * tokens))


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """max(1, round(ratio · tokens)) tokens of each frame, constant over the layers: frames of equal uniqueness.

    The budgets follow from the video: a frame's is ratio · (1 + p − 1/F), p its share of a softmax over the F frames.
    Newline tokens of rows and frames (LLaVA-Video) stay. Images are left alone.
    """
    workload, untouched = video_alone(workload)
    frames, n = workload.groups if workload.frames else 0, workload.tokens_per_group
    # a tower that takes any grid states no count for a frame (0), and writes no newlines
    bare = model.projector.tokens_per_frame if model.projector is not None else 0
    newlines = n - bare if frames and 0 < bare < n else 0
    notes: list[str] = []
    if not frames:
        kept = workload.groups * n
        if kept:
            notes.append("VidCom2 reduces video alone: all tokens of images stay")
    else:
        tokens = n - newlines
        equal, alone, others = (frame_budget(tokens, params.ratio, frames, p) for p in (1 / frames, 1.0, 0.0))
        kept = frames * (equal + newlines)
        one = alone + (frames - 1) * others + frames * newlines
        if one != kept:
            notes.append(
                f"a frame's budget depends on the video: frames of equal uniqueness are assumed "
                f"({kept} tokens in all; {one} where one frame stands out)"
            )
    return reduce_before(
        model,
        workload,
        params,
        method="vidcom2",
        scorer=UNIQUENESS,
        per_group=None,
        keep_tokens=kept + workload.newline_tokens,
        notes=tuple(notes),
        untouched=untouched,
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"ratio": ratio} for ratio in RATIOS]
