"""CDPruner: of each crop, a subset that is diverse given the question (a conditional DPP).

Source: Theia-4869/CDPruner and arXiv 2506.10967. Its code takes no default; 128 of 576 tokens is the first example
of its README. It ranks with CLIP's text tower, which no model here brings along: `aimcost.apply` takes one beside it.
"""

from __future__ import annotations

from typing import Any

from ...types import ModelSpec, Schedule, Workload
from ..base import RATIOS, CropParams, Released, reduce_crops
from .cost import CONDITIONAL_DPP

SUMMARY = "CDPruner: pre-LLM, tokens of each crop diverse given the question: visual_token_num | ratio | keep_tokens"

RELEASED = Released(
    code="Theia-4869/CDPruner at 9541616",
    overlap=1.0,
    differs=("it runs where aimcost.apply is given CLIP's text tower (question=), which no model here brings along",),
)

DEFAULT_SHARE = 128 / 576


class Params(CropParams):
    """Tokens of each crop that stay, the share of them, or visual tokens in all."""


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """`visual_token_num` tokens of each crop, constant over the layers.

    A tiled image is reduced crop by crop, without removing padding and without newline tokens.
    """
    return reduce_crops(model, workload, params, method="cdpruner", scorer=CONDITIONAL_DPP, default_share=DEFAULT_SHARE)


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"ratio": ratio} for ratio in RATIOS]
