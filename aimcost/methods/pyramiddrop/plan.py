"""PyramidDrop: cuts at a few depths, ranked by the last instruction token's attention.

Source: Cooperx521/PyramidDrop; layers 8, 16, 24 of 32 and shares 1/2, 1/4, 1/8 as published.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ...errors import InvalidValueError
from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds, made
from ..base import RATIOS, MethodParams, Released, build_schedule, require_between, scaled_layers
from .cost import LAST_QUERY

SUMMARY = "PyramidDrop: visual tokens cut to ratios[i] before layer layers[i]: layers, ratios"

RELEASED = Released(
    code="Cooperx521/PyramidDrop at 6444f30",
    overlap=1.0,
    differs=("under mRoPE positions stay as they are",),
)


class Params(MethodParams):
    """`ratios[i]` of the original visual tokens stay from layer ``layers[i]`` on.

    After each cut released code counts positions from 0 again, ``renumbered``.

    Attributes
    ----------
    layers
        Layers before which tokens are dropped.
    ratios
        Share of the original visual tokens left by each of them.
    positions
        Whether positions are counted anew after a cut.
    """

    layers: Annotated[list[Annotated[int, Bounds(ge=1)]], Bounds(min_length=1)] | None = None
    ratios: Annotated[list[Annotated[float, Bounds(ge=0, le=1)]], Bounds(min_length=1)] = made(
        lambda: [0.5, 0.25, 0.125]
    )
    positions: Literal["renumbered", "kept"] = "renumbered"


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """int(V · ratio) visual tokens from each of `layers` on."""
    depth = model.decoder.layers
    layers, ratios = params.layers, params.ratios
    if layers is None:
        layers = scaled_layers((8, 16, 24), depth)
        ratios = ratios[: len(layers)]
    if len(layers) != len(ratios):
        raise InvalidValueError("method.ratios", f"as many as layers ({len(layers)})", params.ratios)
    if sorted(set(layers)) != layers:
        raise InvalidValueError("method.layers", "rising", layers)
    for layer in layers:
        require_between("layers", layer, 1, depth, f"the model has {depth} layers")
    visual, text = workload.visual_tokens, workload.text_tokens
    cuts = [(layer, int(visual * ratio) + text) for layer, ratio in zip(layers, ratios, strict=True)]
    return build_schedule(
        model=model,
        workload=workload,
        params={**params.dump(), "layers": layers},
        method="pyramiddrop",
        visual_tokens=visual,
        cuts=cuts,
        scorer=LAST_QUERY,
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries in a model of that many layers: the published cuts, and others."""
    powers = [[ratio, ratio * ratio, ratio * ratio * ratio] for ratio in RATIOS]
    found: list[dict[str, Any]] = [{"ratios": ratios} for ratios in powers]
    for first, step in ((4, 4), (4, 8), (8, 4), (12, 4), (12, 8), (16, 4)):
        depths = scaled_layers((first, first + step, first + 2 * step), layers)
        found += [{"layers": depths, "ratios": ratios[: len(depths)]} for ratios in powers]
    return found
