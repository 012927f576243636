"""DART: after K full layers, drop what resembles a few pivots. Needs no attention scores.

Source: ZichenWen1/DART; K = 2, and a share of 77.8 % dropped (128 of 576 tokens stay).
"""

from __future__ import annotations

from typing import Any

from ...types import ModelSpec, Schedule, Workload
from ..base import DroppedParams, Released, cuts_by_ratio, drop_after
from .cost import PIVOT_COSINE

SUMMARY = "DART: layers 0 … k−1 full, then tokens unlike the pivots: k, ratio (dropped) | keep_tokens"

RELEASED = Released(
    code="ZichenWen1/DART, as ported to ModelTC/LightCompress at 9701d03",
    overlap=0.88,
    differs=(
        "pivots are visited by their place modulo 32, which is the order of a hash table in released code "
        "unless two share a slot",
        "the schedule says how many stay, where released code keeps 4 and a multiple of 8",
    ),
)

DEFAULT_RATIO = 0.778


class Params(DroppedParams):
    """`k` full layers, then `ratio` of the visual tokens dropped, or all but `keep_tokens`."""


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """Layers 0 … k−1 on all tokens, the others on round(V·(1−ratio)) + T."""
    return drop_after(model, workload, params, method="dart", scorer=PIVOT_COSINE, default_ratio=DEFAULT_RATIO)


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries in a model of that many layers."""
    return cuts_by_ratio(layers)
