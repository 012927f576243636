"""VTW: all visual tokens are withdrawn after K layers. Source: lzhxmu/VTW; K = 15 of 32."""

from __future__ import annotations

from typing import Annotated, Any

from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import MethodParams, Released, build_schedule, require_between, scaled_layer
from .cost import WITHDRAW

SUMMARY = "VTW: layers 0 … k−1 full, then text alone: k"

RELEASED = Released(
    code="lzhxmu/VTW at a3d8cfc",
    overlap=1.0,
)


class Params(MethodParams):
    """Layers 0 … k−1 see everything, the others text alone.

    Attributes
    ----------
    k
        Layers at the start that see visual tokens.
    """

    k: Annotated[int, Bounds(ge=1)] | None = None


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """K full layers, then T tokens."""
    depth = model.decoder.layers
    k = params.k if params.k is not None else scaled_layer(15, depth)
    require_between("k", k, 1, depth, f"the model has {depth} layers")
    return build_schedule(
        model=model,
        workload=workload,
        params={**params.dump(), "k": k},
        method="vtw",
        visual_tokens=workload.visual_tokens,
        cuts=[(k, workload.text_tokens)],
        scorer=WITHDRAW,
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries in a model of that many layers."""
    return [{"k": k} for k in range(1, layers + 1)]
