"""No reduction: every layer computes on every token."""

from __future__ import annotations

from typing import Any

from ...types import ModelSpec, Schedule, Workload
from ..base import MethodParams, build_schedule

SUMMARY = "no reduction: every layer computes on every token"


class Params(MethodParams):
    """No parameters."""


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """The unreduced schedule."""
    return build_schedule(
        model=model,
        workload=workload,
        params=params.dump(),
        method="none",
        visual_tokens=workload.visual_tokens,
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries in a model of that many layers."""
    return [{}]
