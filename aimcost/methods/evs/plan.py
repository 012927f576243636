"""EVS: of a video, the tokens that differ most from the same place in the frame before.

Source: vLLM ``multimodal/evs.py``: max(tokens a frame, int(F · tokens · (1 − q))) tokens stay.
vLLM has no default for the share q that goes; half of it is taken here.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...types import ModelSpec, Schedule, Workload
from ..base import MethodParams
from ..pre_llm.plan import reduce_before

SUMMARY = "EVS: pre-LLM, tokens that changed since the frame before: q (share dropped)"


class Params(MethodParams):
    """`q`: share of the video's tokens that goes."""

    q: Annotated[float, Field(ge=0, lt=1)] = 0.5


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """At least one frame's tokens stay, constant over the layers."""
    n, frames = workload.tokens_per_group, workload.groups
    kept = max(n, int(frames * n * (1 - params.q)))
    notes = []
    if frames == 1 and workload.visual_tokens:
        notes.append("nothing comes before a single image or frame: EVS keeps all of its tokens")
    elif workload.images:
        notes.append("EVS compares the images as if they were frames of one video")
    return reduce_before(
        model,
        workload,
        params,
        method="evs",
        scorer="evs",
        per_group=None,
        keep_tokens=kept + workload.newline_tokens,
        across_groups=True,
        notes=tuple(notes),
        extra={"frames": frames},
    )
