"""What the methods' plans share: parameters, and cuts turned into a Schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..errors import InvalidValueError, ScheduleError
from ..types import ModelSpec, ReductionEvent, Schedule, Workload

__all__ = [
    "MethodParams",
    "build_schedule",
    "check_schedule",
    "in_llm_event",
    "keep_per_group",
    "scaled_layer",
]


class MethodParams(BaseModel):
    """Base of a method's parameters, as they stand under ``method:`` in a run file."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    name: str
    convention: Literal["executed", "paper"] = "executed"


def in_llm_event(scorer: str, first_reduced_layer: int, tokens_in: int, tokens_out: int) -> ReductionEvent:
    """A cut whose effect starts at `first_reduced_layer`."""
    return ReductionEvent(
        action="prune",
        scorer=scorer,
        after_layer=first_reduced_layer - 1,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
    )


def keep_per_group(workload: Workload, kept: int, *, action: str, scorer: str) -> ReductionEvent | None:
    """An event before the language model that keeps `kept` of each group's tokens, if that is fewer."""
    if kept >= workload.tokens_per_group:
        return None
    return ReductionEvent(
        action="merge" if action == "merge" else "prune",
        scorer=scorer,
        after_layer=None,
        groups=workload.groups,
        tokens_in=workload.tokens_per_group,
        tokens_out=kept,
    )


def build_schedule(
    *,
    model: ModelSpec,
    workload: Workload,
    params: Mapping[str, Any],
    method: str,
    visual_tokens: int,
    pre_llm: Sequence[ReductionEvent] = (),
    cuts: Iterable[tuple[int, int]] = (),
    scorer: str = "none",
    notes: Sequence[str] = (),
) -> Schedule:
    """A Schedule from its cuts.

    Parameters
    ----------
    visual_tokens
        Visual tokens that reach the language model.
    cuts
        (first layer that computes on less, tokens from there on: visual + text), in any order.
        Cuts at or past the last layer are no events.
    """
    alive = visual_tokens + workload.text_tokens
    tokens: list[int] = []
    events = list(pre_llm)
    at = dict(cuts)
    for layer in range(model.decoder.layers):
        wanted = at.get(layer, alive)
        if wanted != alive:
            events.append(in_llm_event(scorer, layer, alive, wanted))
            alive = wanted
        tokens.append(alive)
    schedule = Schedule(
        method=method,
        tokens=tuple(tokens),
        visual_tokens=visual_tokens,
        newline_tokens=workload.newline_tokens,
        text_before=workload.text_before,
        text_after=workload.text_after,
        events=tuple(events),
        params=dict(params),
        notes=tuple(notes),
    )
    return check_schedule(schedule, model)


def check_schedule(schedule: Schedule, model: ModelSpec) -> Schedule:
    """The schedule itself, if a model could run it.

    Raises
    ------
    ScheduleError
        Wrong number of layers, a layer without tokens, or more tokens in a later layer.
    """
    tokens, layers = schedule.tokens, model.decoder.layers
    if len(tokens) != layers:
        raise ScheduleError(f"the schedule has {len(tokens)} layers, {model.name} has {layers}")
    for index, count in enumerate(tokens):
        if count < 1:
            raise ScheduleError(f"layer {index} has {count} tokens; every layer needs at least one")
        if index and count > tokens[index - 1]:
            raise ScheduleError(
                f"layer {index} has {count} tokens, more than layer {index - 1} ({tokens[index - 1]}); "
                "tokens that were dropped cannot come back"
            )
    return schedule


def scaled_layers(numerators: Sequence[int], layers: int, of: int = 32, *, clip: bool = True) -> list[int]:
    """Published layer indices at the same depths of this model, each at least one after the last.

    In a shallow model those past its last layer are left out, unless `clip` is false.
    """
    depths: list[int] = []
    for numerator in numerators:
        depths.append(max(scaled_layer(numerator, layers, of), depths[-1] + 1 if depths else 1))
    return [depth for depth in depths if depth <= layers or not clip]


def scaled_layer(numerator: int, layers: int, of: int = 32) -> int:
    """A layer index published for a model of `of` layers, at the same depth of this one."""
    return max(1, round(numerator * layers / of))


def require_between(key: str, value: int, low: int, high: int, what: str) -> None:
    """Raise unless low ≤ value ≤ high."""
    if not low <= value <= high:
        raise InvalidValueError(f"method.{key}", f"from {low} to {high} ({what})", value)
