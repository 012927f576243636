"""FastV: after K full layers, keep the visual tokens that the last token attends to most.

Source: pkunlp-icler/FastV; K and R as published.
"""

from __future__ import annotations

from typing import Any

from ...types import ModelSpec, Schedule, Workload
from ..base import DroppedParams, Released, cuts_by_ratio, drop_after
from .cost import LAST_ROW

SUMMARY = "FastV: layers 0 … k−1 full, then a share (ratio) of visual tokens dropped: k, ratio | keep_tokens"

RELEASED = Released(
    code="pkunlp-icler/FastV at d165972",
    overlap=1.0,
)

DEFAULT_RATIO = 0.5


class Params(DroppedParams):
    """`k` full layers, then `ratio` of the visual tokens dropped, or all but `keep_tokens`."""


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """Layers 0 … k−1 on all tokens, the others on round(V·(1−ratio)) + T."""
    return drop_after(model, workload, params, method="fastv", scorer=LAST_ROW, default_ratio=DEFAULT_RATIO)


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries in a model of that many layers."""
    return cuts_by_ratio(layers)
