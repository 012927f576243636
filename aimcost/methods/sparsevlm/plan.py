"""SparseVLM: cuts at three depths, rated by text tokens; part of what goes is merged into a few.

Source: Gumpest/SparseVLMs; cuts after layers 2, 6 and 15 to 300, 200 and 110 of 576 visual tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from ...errors import InvalidValueError
from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import RATIOS, MethodParams, Released, build_schedule, require_between, scaled_layers
from .cost import PER_CLUSTER, RECYCLED_SHARE, TEXT_RATERS

SUMMARY = "SparseVLM: visual tokens cut to keep[i] (+ merged ones) after layer layers[i]: layers, keep"

RELEASED = Released(
    code="Gumpest/SparseVLMs at 26a5f48, its first version",
    overlap=1.0,
    differs=(
        "no noise is added to the density of clusters",
        "under mRoPE positions stay, and a merged token takes the place of its cluster's centre",
    ),
)

# The "192" setting for the 576 tokens of LLaVA-1.5; other counts take it in proportion.
_LAYERS, _KEEP, _OF = (2, 6, 15), (300, 200, 110), 576


class Params(MethodParams):
    """``keep[i]`` visual tokens stay after layer ``layers[i]``, and some of the others as means.

    Released code counts positions from 0 after each cut in its first version, ``renumbered``, and not in its second.

    Attributes
    ----------
    layers
        Layers after which tokens are dropped.
    keep
        Visual tokens left by each of them.
    positions
        Whether positions are counted anew after a cut.
    """

    layers: Annotated[list[Annotated[int, Bounds(ge=0)]], Bounds(min_length=1)] | None = None
    keep: Annotated[list[Annotated[int, Bounds(ge=0)]], Bounds(min_length=1)] | None = None
    positions: Literal["renumbered", "kept"] = "renumbered"


def recycled(pruned: int) -> int:
    """Tokens that `pruned` ones are merged into: a tenth of the best-rated 30 %."""
    return int((int(RECYCLED_SHARE * pruned) + 1) / PER_CLUSTER) + 1 if pruned > 0 else 0


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """keep[i] + recycled(pruned) visual tokens from layer ``layers[i] + 1`` on."""
    depth, visual, text = model.decoder.layers, workload.visual_tokens, workload.text_tokens
    # past the last layer a cut has no effect, so shallow models keep the published number of them
    layers = params.layers or scaled_layers(_LAYERS, depth, clip=False)
    keep = params.keep if params.keep is not None else [round(visual * count / _OF) for count in _KEEP]
    if len(keep) != len(layers):
        raise InvalidValueError("method.keep", f"as many as layers ({len(layers)})", keep)
    if sorted(set(layers)) != layers:
        raise InvalidValueError("method.layers", "rising", layers)
    if sorted(keep, reverse=True) != keep:
        raise InvalidValueError("method.keep", "falling", keep)
    require_between("keep", max(keep), 0, visual, "visual tokens")
    cuts, alive, merged = [], visual, {}
    for layer, count in zip(layers, keep, strict=True):
        if params.layers:
            require_between("layers", layer, 0, depth - 1, f"the model has {depth} layers")
        added = recycled(alive - count)
        alive, merged[layer] = min(alive, count + added), added
        cuts.append((layer + 1, alive + text))
    schedule = build_schedule(
        model=model,
        workload=workload,
        params={**params.dump(), "layers": layers, "keep": keep},
        method="sparsevlm",
        visual_tokens=visual,
        cuts=cuts,
        scorer=TEXT_RATERS,
    )
    counts = {layer: (("recycled", count),) for layer, count in merged.items()}
    events = (replace(event, counts=counts[event.after_layer or 0]) for event in schedule.events)
    return replace(schedule, events=tuple(events))


def counted_candidates(layers: int, visual: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries for so many visual tokens: the published cuts, keeping more or less."""
    most = _KEEP[0] / _OF
    return [{"keep": [max(1, round(visual * share / most * count / _OF)) for count in _KEEP]} for share in RATIOS]
