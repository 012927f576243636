"""PruMerge+: outliers of the class token's attention and a uniform grid.

Source: 42Shawn/LLaVA-PruMerge. The real share follows from each image; here it is a parameter.
"""

from __future__ import annotations

from ...types import ModelSpec, Schedule, Workload
from ..base import KeptParams, Released, reduce_before
from .cost import CLASS_ATTENTION_GRID

SUMMARY = "PruMerge+: pre-LLM, int(N·ratio) tokens per image: ratio | keep_tokens"

RELEASED = Released(
    code="42Shawn/LLaVA-PruMerge at 097c041",
    overlap=1.0,
    differs=(
        "the schedule says how many stay, not the outliers of each image; a grid that is longer is laid wider",
        "where tokens are pooled after the projector, that is what is merged, without a class token",
    ),
)

# 144 of 576 tokens, the share of the tables of arXiv 2412.03248
DEFAULT_RATIO = 0.25


class Params(KeptParams):
    """Share of each image's tokens that stays, or the number of visual tokens in all."""


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """int(N·ratio) tokens of each image, constant over the layers."""
    ratio = params.ratio if params.ratio is not None else DEFAULT_RATIO
    note = f"the share of tokens that PruMerge+ keeps depends on the image: assuming {ratio:g}"
    return reduce_before(
        model,
        workload,
        params,
        method="prumerge_plus",
        scorer=CLASS_ATTENTION_GRID,
        per_group=lambda n: max(1, int(n * ratio)),
        keep_tokens=params.keep_tokens,
        crops=True,
        notes=() if params.keep_tokens is not None else (note,),
    )
