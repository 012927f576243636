"""FasterVLM: of each crop, the tokens that the class token attends to most.

Source: Theia-4869/FasterVLM and arXiv 2412.01818v1. Its code takes no default; 144 of 576 tokens (75 % reduced)
is the first example of its README.
"""

from __future__ import annotations

from typing import Any

from ...types import ModelSpec, Schedule, Workload
from ..base import RATIOS, CropParams, Released, reduce_crops
from .cost import CLASS_ATTENTION_TOP

SUMMARY = "FasterVLM: pre-LLM, most attended tokens of each crop: visual_token_num | ratio | keep_tokens"

RELEASED = Released(
    code="Theia-4869/FasterVLM at f5d5f12",
    overlap=1.0,
)

DEFAULT_SHARE = 144 / 576


class Params(CropParams):
    """Tokens of each crop that stay, the share of them, or visual tokens in all."""


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """`visual_token_num` tokens of each crop, constant over the layers; a share rounds (58 of 576 at 0.1).

    A tiled image is reduced crop by crop, 29 tokens of each of five crops being 145, without removing padding
    and without newline tokens.
    """
    return reduce_crops(
        model, workload, params, method="fastervlm", scorer=CLASS_ATTENTION_TOP, default_share=DEFAULT_SHARE
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"ratio": ratio} for ratio in RATIOS]
