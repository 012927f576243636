"""DivPrune: a diverse subset of all visual tokens, each the farthest from those before it.

Source: vbdi/divprune; a share of 0.098 of the visual tokens stays, rounded.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...errors import InvalidValueError
from ...types import ModelSpec, Schedule, Workload
from ..base import MethodParams, reduce_before
from .price import MAX_MIN_COSINE

SUMMARY = "DivPrune: pre-LLM, max-min diverse subset of all visual tokens: ratio | keep_tokens"

DEFAULT_RATIO = 0.098


class Params(MethodParams):
    """Share of the visual tokens that stays, or their number."""

    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """round(V·ratio) visual tokens, constant over the layers; frames compete with each other."""
    if params.ratio is not None and params.keep_tokens is not None:
        raise InvalidValueError("method.keep_tokens", "absent where ratio is given", params.keep_tokens)
    grouped = workload.groups * workload.tokens_per_group
    ratio = params.ratio if params.ratio is not None else DEFAULT_RATIO
    keep = params.keep_tokens
    if keep is None:
        keep = min(grouped, max(1, round(grouped * ratio))) + workload.newline_tokens if grouped else 0
    return reduce_before(
        model,
        workload,
        params,
        method="divprune",
        scorer=MAX_MIN_COSINE,
        per_group=None,
        keep_tokens=keep,
        across_groups=True,
    )
