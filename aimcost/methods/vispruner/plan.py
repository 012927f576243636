"""VisPruner: of each crop, the most attended tokens, and of the others those that resemble each other least.

Source: Theia-4869/VisPruner and arXiv 2412.01818. Half of the tokens that stay are important ones, its default;
128 of 576 tokens is the first example of its README.
"""

from __future__ import annotations

from typing import Annotated, Any

from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import RATIOS, CropParams, Released, reduce_crops
from .cost import IMPORTANT_AND_DIVERSE, IMPORTANT_RATIO

SUMMARY = (
    "VisPruner: pre-LLM, attended and diverse tokens of each crop: visual_token_num | ratio | keep_tokens, "
    "important_ratio"
)

RELEASED = Released(
    code="Theia-4869/VisPruner at aefa01a",
    overlap=1.0,
)

DEFAULT_SHARE = 128 / 576


class Params(CropParams):
    """Tokens of each crop that stay (number, share, or visual tokens in all), and how many of them by attention.

    Attributes
    ----------
    important_ratio
        Share of them that attention chooses; the others are diverse.
    """

    important_ratio: Annotated[float, Bounds(ge=0, le=1)] = IMPORTANT_RATIO


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """`visual_token_num` tokens of each crop, int(important_ratio · visual_token_num) of them by attention.

    A tiled image is reduced crop by crop, without removing padding and without newline tokens.
    """
    return reduce_crops(
        model,
        workload,
        params,
        method="vispruner",
        scorer=IMPORTANT_AND_DIVERSE,
        default_share=DEFAULT_SHARE,
        counts=lambda kept: {"important": int(kept * params.important_ratio)},
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"ratio": ratio} for ratio in RATIOS]
