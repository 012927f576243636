"""DivPrune: a diverse subset of all visual tokens, each the farthest from those before it.

Source: vbdi/divprune; a share of 0.098 of the visual tokens stays, rounded.
"""

from __future__ import annotations

from typing import Any

from ...types import ModelSpec, Schedule, Workload
from ..base import RATIOS, KeptParams, Released, reduce_before
from .cost import MAX_MIN_COSINE

SUMMARY = "DivPrune: pre-LLM, max-min diverse subset of all visual tokens: ratio | keep_tokens"

RELEASED = Released(
    code="vbdi/divprune at 799e2d9",
    overlap=1.0,
    differs=("no token is chosen twice, as it may be in released code where rounding makes a distance negative",),
)

DEFAULT_RATIO = 0.098


class Params(KeptParams):
    """Share of the visual tokens that stays, or their number."""


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """round(V·ratio) visual tokens, constant over the layers; frames compete with each other."""
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
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"ratio": ratio} for ratio in RATIOS]
