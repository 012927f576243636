"""HoloV: an image in strips of consecutive tokens, each with a share of the tokens by its attention and variety.

Source: obananas/HoloV and arXiv 2510.02912; 64 tokens in 16 strips ("patches"), as its LLaVA code has it.
"""

from __future__ import annotations

from typing import Annotated, Any

from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import RATIOS, KeptParams, Released, at_most_one, reduce_before, require_between
from .cost import HOLISTIC, NUM_PATCHES

SUMMARY = (
    "HoloV: pre-LLM, most attended tokens of each strip of an image: new_image_token_num | ratio | keep_tokens, "
    "num_patches"
)

RELEASED = Released(
    code="obananas/HoloV at 1d2e65e",
    overlap=1.0,
    differs=(
        "tokens stay in the image's order, where released code orders each strip by attention",
        "a share above a strip's size is filled elsewhere, where released code pads with zeros",
    ),
)

DEFAULT_TOKENS, OF = 64, 576


class Params(KeptParams):
    """Tokens of each image that stay (number, share, or visual tokens in all), and its strips.

    Attributes
    ----------
    new_image_token_num
        Tokens of each image that stay.
    num_patches
        Strips of an image, each with its share of the tokens.
    """

    new_image_token_num: Annotated[int, Bounds(ge=1)] | None = None
    num_patches: Annotated[int, Bounds(ge=1)] = NUM_PATCHES


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """`new_image_token_num` tokens of each image, constant over the layers; the crops of a tiled image compete.

    A share is cut (int). The released code adds no newline tokens to an image.
    """
    largest = max(n for _, n in workload.group_sizes)
    at_most_one(params, "ratio", "new_image_token_num", "keep_tokens")
    given, ratio = params.new_image_token_num, params.ratio
    if given is not None:
        require_between("new_image_token_num", given, 1, max(1, largest), "tokens of an image")

    smallest = min(n for _, n in workload.group_sizes)
    if smallest:
        require_between("num_patches", params.num_patches, 1, smallest, "tokens of an image, one a strip at least")

    def kept(n: int) -> int:
        if given is not None:
            return given
        return max(1, n * DEFAULT_TOKENS // OF if ratio is None else int(n * ratio))

    return reduce_before(
        model,
        workload,
        params,
        method="holov",
        scorer=HOLISTIC,
        per_group=kept,
        keep_tokens=params.keep_tokens,
        counts=lambda _n, _left: {"patches": params.num_patches},
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"ratio": ratio} for ratio in RATIOS]
