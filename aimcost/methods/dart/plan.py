"""DART: after K full layers, drop what resembles a few pivots. No attention is looked at.

Source: ZichenWen1/DART; K = 2, and a share of 77.8 % dropped (128 of 576 tokens stay).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...errors import InvalidValueError
from ...types import ModelSpec, Schedule, Workload
from ..base import MethodParams, build_schedule, require_between
from .price import PIVOT_COSINE

SUMMARY = "DART: layers 0 … k−1 full, then tokens unlike the pivots: k, ratio (dropped) | keep_tokens"

DEFAULT_DROPPED = 0.778


class Params(MethodParams):
    """K full layers, then `ratio` of the visual tokens dropped, or `keep_tokens` kept."""

    k: Annotated[int, Field(ge=1)] = 2
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """Layers 0 … K−1 on all tokens, the others on round(V·(1−ratio)) + T."""
    require_between("k", params.k, 1, model.decoder.layers, f"the model has {model.decoder.layers} layers")
    visual = workload.visual_tokens
    if params.ratio is not None and params.keep_tokens is not None:
        raise InvalidValueError("method.keep_tokens", "absent where ratio is given", params.keep_tokens)
    if params.keep_tokens is not None:
        require_between("keep_tokens", params.keep_tokens, 0, visual, "visual tokens")
        kept = params.keep_tokens
    else:
        kept = round(visual * (1 - (DEFAULT_DROPPED if params.ratio is None else params.ratio)))
    return build_schedule(
        model=model,
        workload=workload,
        params=params.model_dump(),
        method="dart",
        visual_tokens=visual,
        cuts=[(params.k, kept + workload.text_tokens)],
        scorer=PIVOT_COSINE,
    )
