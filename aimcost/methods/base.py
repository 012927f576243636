"""What the methods' plans share: parameters, events, and the Schedule built from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated, Any, Literal

from ..errors import InvalidValueError, ScheduleError
from ..frozen import dataclass
from ..types import ModelSpec, ReductionEvent, Schedule, Workload
from ..types.strict import Bounds, Strict
from .registry import Scorer

__all__ = [
    "RATIOS",
    "RENUMBERED",
    "CropParams",
    "DroppedParams",
    "KeptParams",
    "MethodParams",
    "Released",
    "at_most_one",
    "build_schedule",
    "check_schedule",
    "cuts_by_ratio",
    "drop_after",
    "event_before",
    "in_llm_event",
    "reduce_before",
    "reduce_crops",
    "require_between",
    "scaled_layer",
    "scaled_layers",
    "scored_groups",
    "side_by_side",
    "video_alone",
]


# Of `positions`: the tokens that a cut leaves are counted from 0 again.
RENUMBERED = "renumbered"
# Shares that a planner's grid over a method's own parameters tries.
RATIOS = (0.9, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.1, 0.05, 0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The code that a method's authors released, and how near `aimcost.apply` comes to it.

    Attributes
    ----------
    code
        Repository and commit.
    overlap
        Of what its functions keep or merge on seeded tensors, the least share over the cases that ours keep or merge
        as well (``tests/golden/released``; a test measures it). None: not recorded.
    differs
        What is done otherwise, and what cannot be done.
    """

    code: str
    overlap: float | None = None
    differs: tuple[str, ...] = ()

    def under(self, params: object) -> Released:
        """What holds with `params`: nothing was compared where they leave positions that the code counts anew."""
        if getattr(params, "positions", RENUMBERED) == RENUMBERED:
            return self
        kept = "after a cut positions stay, where that code counts them from 0 again"
        others = (what for what in self.differs if "positions stay" not in what)
        return replace(self, overlap=None, differs=(kept, *others))

    def __str__(self) -> str:
        share = "not recorded" if self.overlap is None else f"{self.overlap:.2f}"
        parts = (f"overlap with the released code ({self.code}): {share}", *self.differs)
        return "; ".join(parts)


class MethodParams(Strict):
    """Base of a method's parameters, as they stand under ``method:`` in a run file.

    Attributes
    ----------
    name
        The method.
    convention
        How tokens are counted: as released code does (executed), or as AIM's paper charges them (paper).
    """

    name: str
    convention: Literal["executed", "paper"] = "executed"


class KeptParams(MethodParams):
    """Share of the visual tokens that stays, or their number.

    Attributes
    ----------
    ratio
        Share of the visual tokens that stays.
    keep_tokens
        Visual tokens that stay, of all images together.
    """

    ratio: Annotated[float, Bounds(gt=0, le=1)] | None = None
    keep_tokens: Annotated[int, Bounds(ge=0)] | None = None


class CropParams(KeptParams):
    """Tokens of each crop (image, or frame) that stay, the share of them, or visual tokens in all.

    Attributes
    ----------
    visual_token_num
        Tokens of each crop that stay.
    """

    visual_token_num: Annotated[int, Bounds(ge=1)] | None = None


class DroppedParams(MethodParams):
    """`k` full layers, then a share (`ratio`) of the visual tokens dropped, or all but `keep_tokens`.

    Attributes
    ----------
    k
        Layers at the start that compute on every token.
    ratio
        Share of the visual tokens that is dropped.
    keep_tokens
        Visual tokens that stay, in place of a share.
    """

    k: Annotated[int, Bounds(ge=1)] = 2
    ratio: Annotated[float, Bounds(ge=0, lt=1)] | None = None
    keep_tokens: Annotated[int, Bounds(ge=0)] | None = None


def at_most_one(params: MethodParams, *keys: str) -> None:
    """Raise where two of these parameters are given: each says how many tokens stay. The later one is to blame."""
    for first, second in combinations(keys, 2):
        if getattr(params, first) is not None and getattr(params, second) is not None:
            raise InvalidValueError(f"method.{second}", f"omitted when {first} is given", getattr(params, second))


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
        template_tokens=workload.template_tokens,
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
    at_most_one(params, "ratio", "keep_tokens")
    visual = workload.visual_tokens
    if params.keep_tokens is not None:
        require_between("keep_tokens", params.keep_tokens, 0, visual, "visual tokens")
        kept = params.keep_tokens
    else:
        kept = round(visual * (1 - (default_ratio if params.ratio is None else params.ratio)))
    return build_schedule(
        model=model,
        workload=workload,
        params=params.dump(),
        method=method,
        visual_tokens=visual,
        cuts=[(params.k, kept + workload.text_tokens)],
        scorer=scorer,
    )


def cuts_by_ratio(layers: int) -> list[dict[str, Any]]:
    """A planner's grid over `DroppedParams`."""
    return [{"k": k, "ratio": ratio} for k in range(1, layers + 1) for ratio in RATIOS]


def scored_groups(model: ModelSpec, workload: Workload) -> tuple[tuple[int, int], ...]:
    """(groups, tokens of each) as code sees them that reduces every crop of an image before putting them together.

    A tiled image is its crops, padding included, and has no newline tokens; other images and frames are
    as they are.
    """
    load, projector = workload.tower, model.projector
    # its groups are its crops, or no method's code has seen its crops
    resized = model.resolution is not None and model.resolution.kind in ("split", "hd", "candidates", "masked")
    if load is None or projector is None or workload.frames or resized:
        return workload.group_sizes
    traced = None if model.vision is None else model.vision.traced
    patches = [(grid.sequences, grid.rows * grid.columns) for grid in load.grids]
    if traced is not None:
        # its projector may pool as well as merge
        return tuple((inputs, traced.tokens_of(each)) for inputs, each in patches)
    return tuple((inputs, each // projector.merge**2) for inputs, each in patches)


def reduce_before(
    model: ModelSpec,
    workload: Workload,
    params: MethodParams,
    *,
    method: str,
    scorer: Scorer,
    per_group: Callable[[int], int] | None,
    keep_tokens: int | None,
    notes: tuple[str, ...] = (),
    counts: Callable[[int, int], Mapping[str, int]] | None = None,
    crops: bool = False,
    untouched: int = 0,
) -> Schedule:
    """A reduction before the language model, constant over the layers.

    Parameters
    ----------
    per_group
        Tokens that stay of a group of so many; or `keep_tokens` in all. Tokens of all groups compete
        where the scorer compares across groups, or where `keep_tokens` does not divide by the groups.
    counts
        Of a group of so many tokens, and of those that stay, in place of the scorer's own.
    crops
        Every crop of a tiled image is a group, rather than the image.
    untouched
        Visual tokens beside those of `workload`, which stay.
    """
    if isinstance(params, KeptParams):
        at_most_one(params, "ratio", "keep_tokens")
    sizes = scored_groups(model, workload) if crops else workload.group_sizes
    total = sum(groups * n for groups, n in sizes)
    if keep_tokens is not None:
        require_between("keep_tokens", keep_tokens, 0, workload.visual_tokens, "visual tokens")
        kept = min(total, max(0, keep_tokens - workload.newline_tokens))
    else:
        kept = sum(groups * min(n, per_group(n) if per_group else 0) for groups, n in sizes)
    if crops and total > kept >= workload.visual_tokens - workload.newline_tokens:
        raise ScheduleError(
            f"method {method} keeps {kept} of {total} tokens of the crops, padding among them: not fewer than the "
            f"{workload.visual_tokens} that the model has without it"
        )
    if scorer.across_groups or (keep_tokens is not None and (len(sizes) > 1 or (sizes[0][0] and kept % sizes[0][0]))):
        sizes = ((1, total),)
    parts = []
    for groups, n in sizes:
        # of one size, all that stays is shared evenly; of several, each size has its own count
        left = kept // max(1, groups) if len(sizes) == 1 else min(n, per_group(n) if per_group else 0)
        parts.append((groups, n, left, dict(scorer.counts(workload, left) if counts is None else counts(n, left))))
    events = [
        [event_before(scorer, n, left, groups=groups, counts=found)] if left < n else []
        for groups, n, left, found in parts
    ]
    return build_schedule(
        model=model,
        workload=workload,
        params={**params.dump(), **parts[0][3]},
        method=method,
        visual_tokens=untouched + (kept + workload.newline_tokens if kept < total else workload.visual_tokens),
        pre_llm=side_by_side(events, sizes, untouched=untouched),
        notes=notes,
    )


def side_by_side(
    events: Sequence[Sequence[ReductionEvent]], sizes: Sequence[tuple[int, int]], *, untouched: int = 0
) -> list[ReductionEvent]:
    """The events of groups of each size one after the other, each leaving the others' tokens untouched."""
    done, alive = [], [groups * n for groups, n in sizes]
    for position, some in enumerate(events):
        for event in some:
            done.append(replace(event, untouched=untouched + sum(alive) - alive[position]))
            alive[position] = event.groups * event.tokens_out
    return done


def video_alone(workload: Workload) -> tuple[Workload, int]:
    """The request without the images that come before its video, and how many visual tokens those are."""
    if not workload.frames or not workload.sizes:
        return workload, 0
    groups, n = workload.sizes[-1]
    untouched = sum(count * tokens for count, tokens in workload.sizes[:-1])
    return replace(workload, groups=groups, tokens_per_group=n, sizes=()), untouched


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
    at_most_one(params, "ratio", "visual_token_num", "keep_tokens")
    given = params.visual_token_num
    largest = max(n for _, n in scored_groups(model, workload))
    if given is not None and largest:
        require_between("visual_token_num", given, 1, largest, "tokens of a crop")
    return reduce_before(
        model,
        workload,
        params,
        method=method,
        scorer=scorer,
        per_group=lambda n: given if given is not None else max(1, round(n * (params.ratio or default_share))),
        keep_tokens=params.keep_tokens,
        counts=lambda _, left: counts(left),
        crops=True,
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
