"""How a reduction is implemented: what a schedule then computes on, and where attention runs eager.

``fused`` removes tokens and scores them with kernels that hold no n x n matrix. ``eager`` removes
them too, but reads the matrix that eager attention leaves in memory, as published code does.
``masked`` hides tokens and removes none: AIM's released code (LaVi-Lab/AIM, commit edc24e9).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..types import Schedule, VisionSpec, Workload
from .registry import find_scorer

__all__ = [
    "cached_by_layer",
    "computed_schedule",
    "decode_kernel",
    "eager_layers",
    "implementation_notes",
    "tower_kernel",
    "tower_tokens",
]


def computed_schedule(schedule: Schedule, implementation: str) -> Schedule:
    """The schedule with the counts that layers really compute on.

    Under ``masked`` every decoder layer computes on what reaches the first one, every score is
    taken over all of it, and AIM's is taken in every layer, as its released code does.
    """
    if implementation != "masked" or not schedule.layer_events:
        return schedule
    count, layers = schedule.tokens[0], len(schedule.tokens)
    events = [replace(event, tokens_in=count) for event in schedule.layer_events]
    if find_scorer(events[0].scorer).masks_every_layer:
        counts = (*schedule.tokens[1:], schedule.tokens[-1])
        events = [
            replace(events[0], after_layer=layer, tokens_in=count, tokens_out=counts[layer]) for layer in range(layers)
        ]
    return replace(schedule, tokens=(count,) * layers, events=(*schedule.pre_llm_events, *events))


def cached_by_layer(workload: Workload, schedule: Schedule) -> NDArray[np.float64]:
    """Tokens that each decoder layer finds in the cache, of a prompt whose first tokens an earlier request computed.

    Where visual tokens are among them, the layer's are those that the reduction left.
    """
    cached = np.full(len(schedule.tokens), float(workload.cached_tokens))
    if workload.caches_visuals:
        cached -= workload.prompt_tokens - np.array(schedule.tokens, dtype=float)
    return cached


def eager_layers(schedule: Schedule, implementation: str, attention: str) -> NDArray[np.bool_]:
    """Which decoder layers run eager attention in prefill."""
    layers = len(schedule.tokens)
    if attention == "eager":
        return np.ones(layers, dtype=bool)
    eager = np.zeros(layers, dtype=bool)
    if implementation == "fused":
        return eager
    for event in schedule.layer_events:
        where = find_scorer(event.scorer).exposes
        if where == "decoder" or implementation == "masked":
            eager[:] = True
        elif where == "layer":
            eager[event.charged_layer] = True
    return eager


def decode_kernel(schedule: Schedule, implementation: str, attention: str) -> str:
    """The attention of decode steps: a model loaded for eager attention in every layer decodes with it too."""
    return "eager" if eager_layers(schedule, implementation, attention).all() else attention


def tower_kernel(schedule: Schedule, implementation: str, attention: str) -> str:
    """``eager`` where the tower must expose its attention in every layer, else the run's own."""
    exposed = any(find_scorer(event.scorer).exposes == "tower" for event in schedule.pre_llm_events)
    return "eager" if exposed and implementation != "fused" else attention


def tower_tokens(schedule: Schedule, vision: VisionSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tokens of one image that each tower layer's attention, and its MLP, computes on."""
    events = {event.tower_layer: event for event in schedule.tower_events}
    attend, after, count = [], [], float(vision.tokens)
    for layer in range(vision.layers):
        attend.append(count)
        count = float(events[layer].tokens_out) if layer in events else count
        after.append(count)
    return np.array(attend), np.array(after)


def implementation_notes(
    schedule: Schedule, implementation: str, attention: str, tower_attention: str
) -> tuple[str, ...]:
    """What the implementation costs beside the fused one, in words; nothing for ``fused``."""
    if implementation == "fused" or not schedule.events:
        return ()
    eager = int(eager_layers(schedule, implementation, attention).sum())
    where = "every layer" if eager == len(schedule.tokens) else f"{eager} of {len(schedule.tokens)} layers"
    notes = [f"implementation {implementation}: eager attention in {where}"] if eager else []
    if tower_kernel(schedule, implementation, tower_attention) == "eager":
        notes.append(f"implementation {implementation}: eager attention in the vision tower")
    if implementation == "masked" and schedule.layer_events:
        notes.append(
            f"implementation masked: tokens are hidden, not removed; every layer computes on {schedule.tokens[0]}"
        )
    return tuple(notes)
