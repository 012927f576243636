"""What the methods' plans share: parameters, events, and the Schedule built from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import InvalidValueError, ScheduleError
from ..models.visual_tokens import tower_load
from ..types import ModelSpec, ReductionEvent, Schedule, Workload
from .registry import Scorer

__all__ = [
    "RATIOS",
    "CropParams",
    "DroppedParams",
    "KeptParams",
    "MethodParams",
    "build_schedule",
    "check_schedule",
    "crop_by_crop",
    "cuts_by_ratio",
    "drop_after",
    "event_before",
    "in_llm_event",
    "reduce_before",
    "reduce_crops",
    "require_absent",
    "require_between",
    "scaled_layer",
    "scaled_layers",
]


# Shares that a planner's grid over a method's own parameters tries.
RATIOS = (0.9, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.1, 0.05, 0.02)


class MethodParams(BaseModel):
    """Base of a method's parameters, as they stand under ``method:`` in a run file."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    name: str
    convention: Literal["executed", "paper"] = "executed"


class KeptParams(MethodParams):
    """Share of the visual tokens that stays, or their number."""

    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None


class CropParams(KeptParams):
    """Tokens of each crop (image, or frame) that stay, the share of them, or visual tokens in all."""

    visual_token_num: Annotated[int, Field(ge=1)] | None = None


class DroppedParams(MethodParams):
    """`k` full layers, then a share (`ratio`) of the visual tokens dropped, or all but `keep_tokens`."""

    k: Annotated[int, Field(ge=1)] = 2
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None


def require_absent(key: str, value: object, other: str, given: object) -> None:
    """Raise where a parameter is given beside another that says the same."""
    if value is not None and given is not None:
        raise InvalidValueError(f"method.{key}", f"omitted when {other} is given", value)


def in_llm_event(scorer: Scorer, first_reduced_layer: int, tokens_in: int, tokens_out: int) -> ReductionEvent:
    """A cut whose effect starts at `first_reduced_layer`."""
    return ReductionEvent(
        action="prune",
        scorer=scorer.name,
        after_layer=first_reduced_layer - 1,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
    )


def event_before(
    scorer: Scorer, tokens_in: int, tokens_out: int, *, groups: int = 1, counts: Mapping[str, int] | None = None
) -> ReductionEvent:
    """A reduction between the tower and the language model, of each of `groups` groups."""
    return ReductionEvent(
        action="merge" if scorer.merges else "prune",
        scorer=scorer.name,
        after_layer=None,
        groups=groups,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        counts=tuple((counts or {}).items()),
    )


def tokens_by_layer(whole: int, cuts: Iterable[tuple[int, int]], layers: int) -> tuple[int, ...]:
    """What each layer computes on: `whole` up to the first cut (first layer that computes on less, tokens there)."""
    at, alive = dict(cuts), whole
    tokens = []
    for layer in range(layers):
        alive = at.get(layer, alive)
        tokens.append(alive)
    return tuple(tokens)


def build_schedule(
    *,
    model: ModelSpec,
    workload: Workload,
    params: Mapping[str, Any],
    method: str,
    visual_tokens: int,
    pre_llm: Sequence[ReductionEvent] = (),
    cuts: Iterable[tuple[int, int]] = (),
    scorer: Scorer | None = None,
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
    scorer
        What ranks the tokens of the cuts.
    """
    whole = visual_tokens + workload.text_tokens
    tokens = tokens_by_layer(whole, cuts, model.decoder.layers)
    events = list(pre_llm)
    for layer, (before, after) in enumerate(zip((whole, *tokens), tokens, strict=False)):
        if after != before:
            if scorer is None:
                raise ValueError(f"{method}: cuts need a scorer")
            events.append(in_llm_event(scorer, layer, before, after))
    schedule = Schedule(
        method=method,
        tokens=tokens,
        visual_tokens=visual_tokens,
        newline_tokens=workload.newline_tokens,
        text_before=workload.text_before,
        text_after=workload.text_after,
        events=tuple(events),
        params=dict(params),
        notes=tuple(notes),
    )
    return check_schedule(schedule, model)


def drop_after(
    model: ModelSpec, workload: Workload, params: DroppedParams, *, method: str, scorer: Scorer, default_ratio: float
) -> Schedule:
    """Layers 0 … k−1 on all tokens, the others on round(V·(1−ratio)) + T."""
    require_between("k", params.k, 1, model.decoder.layers, f"the model has {model.decoder.layers} layers")
    require_absent("keep_tokens", params.keep_tokens, "ratio", params.ratio)
    visual = workload.visual_tokens
    if params.keep_tokens is not None:
        require_between("keep_tokens", params.keep_tokens, 0, visual, "visual tokens")
        kept = params.keep_tokens
    else:
        kept = round(visual * (1 - (default_ratio if params.ratio is None else params.ratio)))
    return build_schedule(
        model=model,
        workload=workload,
        params=params.model_dump(),
        method=method,
        visual_tokens=visual,
        cuts=[(params.k, kept + workload.text_tokens)],
        scorer=scorer,
    )


def cuts_by_ratio(layers: int) -> list[dict[str, Any]]:
    """A planner's grid over `DroppedParams`."""
    return [{"k": k, "ratio": ratio} for k in range(1, layers + 1) for ratio in RATIOS]


def reduce_before(
    model: ModelSpec,
    workload: Workload,
    params: MethodParams,
    *,
    method: str,
    scorer: Scorer,
    per_group: int | None,
    keep_tokens: int | None,
    notes: tuple[str, ...] = (),
    counts: Mapping[str, int] | None = None,
) -> Schedule:
    """One event before the language model: `per_group` tokens of each group, or `keep_tokens` in all.

    Tokens of all groups compete where the scorer compares across groups, or where `keep_tokens` does not
    divide by the groups. `counts`: in place of the scorer's own.
    """
    n, groups = workload.tokens_per_group, workload.groups
    total = groups * n
    if keep_tokens is not None:
        require_between("keep_tokens", keep_tokens, 0, workload.visual_tokens, "visual tokens")
        kept = min(total, max(0, keep_tokens - workload.newline_tokens))
    else:
        kept = min(total, (per_group or 0) * groups)
    if scorer.across_groups or (groups and kept % groups):
        groups, n = 1, total
    left = kept // groups if groups else 0
    recorded = dict(scorer.counts(workload, left) if counts is None else counts)
    return build_schedule(
        model=model,
        workload=workload,
        params={**params.model_dump(), **recorded},
        method=method,
        visual_tokens=kept + workload.newline_tokens,
        pre_llm=[event_before(scorer, n, left, groups=groups, counts=recorded)] if kept < total else [],
        notes=notes,
    )


def crop_by_crop(model: ModelSpec, workload: Workload) -> Workload:
    """The visual tokens as code sees them that reduces every crop of an image before putting them together.

    A tiled image is its crops, padding included, and has no newline tokens; other images and frames are as they
    were.
    """
    load, projector = tower_load(model, workload), model.projector
    if not (workload.images and workload.groups) or load is None or projector is None:
        return workload
    if load.sequences == workload.groups:
        return workload
    return replace(workload, groups=load.sequences, tokens_per_group=projector.tokens_per_image, newline_tokens=0)


def reduce_crops(
    model: ModelSpec,
    workload: Workload,
    params: CropParams,
    *,
    method: str,
    scorer: Scorer,
    default_share: float,
    counts: Callable[[int], Mapping[str, int]] = lambda kept: {},
) -> Schedule:
    """`visual_token_num` tokens of each crop, or round(share · tokens of a crop) of them: one event before the
    language model. `counts`: what the scorer needs beside them, from the tokens that a crop keeps."""
    layout = crop_by_crop(model, workload)
    n = layout.tokens_per_group
    require_absent("visual_token_num", params.visual_token_num, "ratio", params.ratio)
    for key in ("ratio", "visual_token_num"):
        require_absent("keep_tokens", params.keep_tokens, key, getattr(params, key))
    kept = params.visual_token_num
    if kept is None:
        kept = min(n, max(1, round(n * (params.ratio or default_share))))
    elif n:
        require_between("visual_token_num", kept, 1, n, "tokens of a crop")
    if params.keep_tokens is not None and layout.groups:
        kept = max(0, params.keep_tokens - layout.newline_tokens) // layout.groups
    return reduce_before(
        model,
        layout,
        params,
        method=method,
        scorer=scorer,
        per_group=kept,
        keep_tokens=params.keep_tokens,
        counts=counts(kept),
    )


def check_schedule(schedule: Schedule, model: ModelSpec) -> Schedule:
    """Return the schedule if the model can run it.

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
