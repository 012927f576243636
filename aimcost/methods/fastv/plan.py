"""FastV: after K full layers, keep the visual tokens that the last token attends to most.

Source: pkunlp-icler/FastV; K and R as published.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...errors import InvalidValueError
from ...types import ModelSpec, Schedule, Workload
from ..base import MethodParams, build_schedule, require_between
from .price import LAST_ROW

SUMMARY = "FastV: layers 0 … k−1 full, then a share (ratio) of visual tokens dropped: k, ratio | keep_tokens"


class Params(MethodParams):
    """K full layers, then R (`ratio`) of the visual tokens dropped, or `keep_tokens` kept."""

    k: Annotated[int, Field(ge=1)] = 2
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """Layers 0 … K−1 on all tokens, the others on round(V·(1−R)) + T."""
    require_between("k", params.k, 1, model.decoder.layers, f"the model has {model.decoder.layers} layers")
    visual = workload.visual_tokens
    if params.ratio is not None and params.keep_tokens is not None:
        raise InvalidValueError("method.keep_tokens", "absent where ratio is given", params.keep_tokens)
    if params.keep_tokens is not None:
        require_between("keep_tokens", params.keep_tokens, 0, visual, "visual tokens")
        kept = params.keep_tokens
    else:
        kept = round(visual * (1 - (0.5 if params.ratio is None else params.ratio)))
    return build_schedule(
        model=model,
        workload=workload,
        params=params.model_dump(),
        method="fastv",
        visual_tokens=visual,
        cuts=[(params.k, kept + workload.text_tokens)],
        scorer=LAST_ROW,
    )
