"""The settings that an explorer offers, and the schedule of every combination of them.

Schedules are planned here, by the method itself: the page looks them up and knows no rule of any method.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AimcostError, ScheduleError
from ...inputs.run import Run, plan_schedule
from ...inputs.strict_json import canonical
from ...methods.aim.plan import DEFAULT_MERGE_RATIO, left_of, reachable_ratios, shares
from ...methods.aim.plan import Params as AimParams
from ...methods.base import RATIOS
from ...methods.implementation import eager_layers
from ...methods.registry import find_scorer, plan_module, reduction_ops
from ...ops.reduction import Cut, ScoreContext
from ...types import ReductionEvent, Schedule, Workload
from ...types.formats import Widths
from ..layers import WIDE

__all__ = ["Dial", "Load", "Preset", "Schedules", "Settings", "exposes", "schedules_of", "settings_of"]

# Schedules that are planned for one convention: thinned dials keep a page small and quick to write.
MOST_SCHEDULES = 36_000
# A page holds a price for every token count up to the longest prompt.
MOST_TOKENS = 8_192
FRAMES = (1, 2, 4, 8, 16, 32, 64, 128)
IMAGES = (1, 2, 4, 8)
BATCHES = (1, 2, 4, 8)
TEXT = (16, 32, 64, 100, 128, 256, 512)
MOST_NEW_TOKENS = 256
# Merging further than the papers do is not offered.
_LEAST_RATIO = 1 / 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """One parameter of the method and the values that it takes (None: the method's default); `start` is the run's."""

    key: str
    values: tuple[Any, ...]
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One number of frames or images; `workloads` by convention, for one request."""

    count: int | None
    workloads: Mapping[str, Workload]

    @property
    def template_tokens(self) -> int:
        """Text that the processor writes around this many frames or images."""
        return self.workloads["executed"].template_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be set, and where the run stands.

    Attributes
    ----------
    loads_key
        ``frames`` or ``images``; empty where the run states visual tokens or has none.
    texts
        Text tokens as a run states them, without those that the processor writes.
    fixed
        Parameters of the method that no dial varies.
    """

    run: Run
    loads_key: str
    loads: tuple[Load, ...]
    load_start: int
    batches: tuple[int, ...]
    texts: tuple[int, ...]
    most_new_tokens: int
    dials: tuple[Dial, ...]
    fixed: Mapping[str, Any]

    @property
    def text(self) -> int:
        """The run's own of `texts`."""
        return self.run.workload.text_tokens - self.run.workload.template_tokens

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Text tokens of a prompt at any setting, those that the processor writes included."""
        return tuple(sorted({text + load.template_tokens for text in self.texts for load in self.loads}))

    def method(self, position: Sequence[int], convention: str) -> dict[str, Any]:
        """The ``method:`` mapping at a position of the dials; a value of None leaves the method's default."""
        values = {dial.key: dial.values[at] for dial, at in zip(self.dials, position, strict=True)}
        chosen = {key: value for key, value in values.items() if value is not None}
        stated = {"convention": convention} if convention != "executed" else {}
        return {**self.fixed, **chosen, **stated}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One row of a paper's tables; `position` of the dials where they reach it, else None.

    Attributes
    ----------
    load, tokens, before
        As in `Schedules`.
    text
        Text tokens.
    printed
        TFLOP and milliseconds of the language model's prefill, as printed.
    """

    id: str
    table: str
    load: int
    text: int
    tokens: int
    before: int
    position: tuple[int, ...] | None
    method: Mapping[str, Any]
    printed: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedules:
    """Schedules of all settings under one convention; text tokens are left out of the counts.

    Attributes
    ----------
    tokens
        Distinct visual tokens by layer, shape (distinct, layers).
    counts, before
        By load and dial position: an entry of `tokens` (−1: cannot be planned), and one of `reductions`.
    by_text
        By text length, other than the run's: positions in `counts`, flat, whose entry is another one there (a count
        is rounded with its text), and that entry.
    dense
        By load: the entry of `tokens` without reduction.
    reductions
        By load: what happens ahead of the language model, as a schedule that does only that; entry 0 does nothing.
    scorer
        What ranks tokens inside the language model; empty where nothing is cut or selection is free.
    example
        A schedule with a cut inside the language model, if there is one.
    presets
        Rows of a paper that can be set.
    """

    convention: str
    tokens: NDArray[np.int32]
    counts: NDArray[np.int32]
    before: NDArray[np.int32]
    by_text: Mapping[int, Mapping[int, int]]
    dense: tuple[int, ...]
    reductions: tuple[tuple[Schedule, ...], ...]
    scorer: str
    example: Schedule | None
    presets: tuple[Preset, ...] = ()


def settings_of(run: Run) -> Settings:
    """The settings around a run.

    Raises
    ------
    ScheduleError
        Cross attention, hidden tokens, or layers that are partly quantized: cost then follows from more than token
        counts.
    """
    decoder = run.model.decoder
    if decoder.cross_layers:
        raise ScheduleError(
            f"the explorer needs visual tokens in the sequence: {run.model.name} has cross-attention layers, which no "
            "method shortens; aimcost compare shows it on several machines and stacks"
        )
    if run.implementation == "masked":
        raise ScheduleError(
            "the explorer needs an implementation that removes tokens: masked hides them; implementation eager "
            "explores the same schedule, with tokens removed"
        )
    if run.precision.wide:
        raise ScheduleError(f"the explorer needs uniform decoder layers: {run.model.name} has {WIDE}")
    key, loads = _loads(run)
    own = run.workload.frames or run.workload.images
    start = next((i for i, load in enumerate(loads) if load.count == own), 0) if key else 0
    dials, fixed = _dials(run, len(loads))
    return Settings(
        run=run,
        loads_key=key,
        loads=loads,
        load_start=start,
        batches=_with(BATCHES, run.workload.batch),
        texts=_texts(run),
        most_new_tokens=max(MOST_NEW_TOKENS, run.workload.new_tokens),
        dials=dials,
        fixed=fixed,
    )


def _with(values: Sequence[int], own: int) -> tuple[int, ...]:
    return tuple(sorted({*values, own}))


def _loads(run: Run) -> tuple[str, tuple[Load, ...]]:
    """Numbers of frames or images that the model can be given, the run's own among them."""
    load = run.workload
    key = "frames" if load.frames and not load.images else "images" if load.images and not load.frames else ""
    own = load.frames or load.images
    sized = run.document().get("workload", {}).get("image_size")
    several_sizes = isinstance(sized, list) and sized and isinstance(sized[0], list)
    # with visual tokens in the cache queries are what is left of one prompt
    if not key or several_sizes or load.caches_visuals:
        return "", (Load(count=None, workloads=_conventions(run)),)
    found = []
    for count in _with(FRAMES if key == "frames" else IMAGES, own):
        try:
            workloads = _conventions(run.with_({f"workload.{key}": count}))
        except AimcostError:
            if count == own:
                raise
            continue
        if count == own or workloads["executed"].prompt_tokens <= MOST_TOKENS:
            found.append(Load(count=count, workloads=workloads))
    return key, tuple(found)


def _conventions(run: Run) -> dict[str, Workload]:
    """The workload of one request under either convention of counting."""
    return {
        convention: replace(run.with_method({"name": "none", "convention": convention}).workload, batch=1)
        for convention in ("executed", "paper")
    }


def _dials(run: Run, loads: int) -> tuple[tuple[Dial, ...], dict[str, Any]]:
    """Parameters that can be set, and those of the run that cannot."""
    own = {key: value for key, value in run.schedule.params.items() if value is not None}
    given = {key: value for key, value in run.method.items() if key != "convention"}
    layers = run.model.decoder.layers
    offered: list[tuple[str, list[Any]]] = []
    if given.get("name") == "aim":
        if "merge_r" not in given:
            ratios = [ratio for ratio in reachable_ratios(run.workload) if ratio >= _LEAST_RATIO]
            offered.append(("merge_ratio", sorted(ratios)))
            own.setdefault("merge_ratio", DEFAULT_MERGE_RATIO)
        offered += [("l1", list(range(layers + 1))), ("l2", list(range(1, layers + 2)))]
    else:
        offered += _offered(run, given)
    most = max(1, MOST_SCHEDULES // loads)
    values = {key: _with_own(choices, own.get(key)) for key, choices in offered}
    while math.prod(map(len, values.values())) > most:
        longest = max(values, key=lambda key: len(values[key]))
        values[longest] = _with_own(values[longest][::2], own.get(longest))
    dials = tuple(
        Dial(key=key, values=tuple(choices), start=choices.index(own.get(key)) if own.get(key) in choices else 0)
        for key, choices in values.items()
    )
    fixed = {key: value for key, value in given.items() if key not in values}
    return dials, fixed


# Parameters that state a number of tokens, in place of a share.
_NUMBERS = ("keep_tokens", "visual_token_num", "new_image_token_num")
_SHARES_OF_A_NUMBER = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


def _offered(run: Run, given: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """Parameters of a method and the values that the planner tries; the run's own numbers of tokens, less and more."""
    module, layers = plan_module(str(given["name"])), run.model.decoder.layers
    numbers = [key for key in _NUMBERS if given.get(key)]
    grids: list[dict[str, Any]] = []
    if candidates := getattr(module, "candidates", None):
        grids = candidates(layers)
    elif counted := getattr(module, "counted_candidates", None):
        grids = counted(layers, run.workload.visual_tokens)
    elif "ratio" in module.Params.names():
        grids = [{"ratio": ratio} for ratio in RATIOS]
    most = max(map(len, grids), default=0)
    every = {key: [each[key] for each in grids if len(each) == most] for key in (grids[-1] if grids else ())}
    if numbers:  # they stand in place of a share, of dominant and contextual tokens
        every = {key: choices for key, choices in every.items() if key == "k"}
        every |= {key: [max(1, round(given[key] * share)) for share in _SHARES_OF_A_NUMBER] for key in numbers}
    return [
        # what the method takes where nothing is given may follow from the workload, as no value does
        (key, [*([None] if run.schedule.params.get(key) is None else []), *_distinct(choices)])
        for key, choices in every.items()
    ]


def _distinct(values: list[Any]) -> list[Any]:
    found = list({canonical(value): value for value in values}.values())
    if found and found[0] is None:
        return [None, *_distinct(found[1:])]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    return sorted(found) if numbers else found


def _with_own(values: Sequence[Any], own: Any) -> list[Any]:
    return _distinct([*values, own]) if own is not None else list(values)


def _texts(run: Run) -> tuple[int, ...]:
    """Text lengths: the run's alone where text stands in several places, or where what a cut costs follows from it.

    Where visual tokens lie in the cache as well: queries are what is left of one prompt.
    """
    load = run.workload
    fixed = load.template_tokens or load.text_tokens < 1 or load.cross_tokens or load.caches_visuals
    if fixed or any(_reads_text(run, event) for event in run.schedule.layer_events):
        return (load.text_tokens - load.template_tokens,)
    least = max(load.text_before, load.cached_text)
    return _with([each for each in TEXT if each > least], load.text_tokens)


def _reads_text(run: Run, event: ReductionEvent) -> bool:
    """Whether the cost of a cut follows from the text beside the counts."""
    text, counts = run.workload.text_tokens, dict(event.counts)
    return _cost_of(run, event, counts, text) != _cost_of(run, event, counts, text + 1)


def _cost_of(run: Run, event: ReductionEvent, counts: Mapping[str, int], text: int = 1) -> str:
    """What a cut costs under either implementation, to compare."""
    cut = Cut(tokens_in=float(event.tokens_in), tokens_out=float(event.tokens_out), counts=counts)
    return repr(
        [
            reduction_ops(
                event.scorer,
                cut,
                ScoreContext(
                    model=run.model,
                    batch=1,
                    widths=Widths.of(run.precision),
                    text_tokens=text,
                    implementation=implementation,
                ),
            )
            for implementation in ("fused", "eager")
        ]
    )


def schedules_of(
    settings: Settings,
    convention: str,
    rows: Sequence[Mapping[str, Any]] = (),
    tables: Mapping[str, str] = MappingProxyType({}),
) -> Schedules:
    """Plan every combination of loads and dials under a convention.

    Parameters
    ----------
    rows, tables
        Rows of a paper's file that this run can show, and the titles of its tables.

    Raises
    ------
    ScheduleError
        More than one kind of selection, or a cut that does not follow from the counts of two neighbouring layers.
    """
    run = settings.run
    shape = tuple(len(dial.values) for dial in settings.dials)
    counts = np.full((len(settings.loads), *shape), -1, dtype=np.int32)
    before = np.zeros_like(counts)
    known: dict[tuple[int, ...], int] = {}
    dense: list[int] = []
    reductions: list[tuple[Schedule, ...]] = []
    scorers: set[str] = set()
    example = None
    presets: list[Preset] = []
    by_text: dict[int, dict[int, int]] = {text: {} for text in _other_texts(settings)}

    def number(visual: tuple[int, ...] | None) -> int:
        return -1 if visual is None else known.setdefault(visual, len(known))

    plans = _aim_plans if settings.fixed.get("name") == "aim" and _prunes_anywhere(run) else _plans
    for at, load in enumerate(settings.loads):
        workload = load.workloads[convention]
        whole = plan_schedule(run.model, workload, {"name": "none"})
        dense.append(number(_visual(whole)))
        heads: dict[tuple[ReductionEvent, ...], int] = {(): 0}
        found = [whole]
        for position, plan in plans(settings, workload, convention):
            place = (at, *position)
            counts[place] = number(plan.visual)
            flat = int(np.ravel_multi_index(place, counts.shape))
            for text, visual in plan.elsewhere.items():
                by_text[text][flat] = number(visual)
            pre = plan.schedule.pre_llm_events
            if pre not in heads:
                heads[pre] = len(found)
                found.append(replace(plan.schedule, events=pre))
            before[place] = heads[pre]
            cuts = plan.schedule.layer_events
            scorers |= {event.scorer for event in cuts if event.selects}
            if cuts and example is None:
                example = plan.schedule
                _require_plain(run, plan.schedule)
        for row in rows:
            asked = row["run"]["workload"]
            if load.count in (None, asked.get(settings.loads_key)):
                shown = replace(workload, text_after=asked["text_tokens"] - workload.text_before)
                method = row["run"]["method"]
                schedule = plan_schedule(run.model, shown, method)
                pre = schedule.pre_llm_events
                if pre not in heads:
                    heads[pre] = len(found)
                    found.append(replace(schedule, events=pre))
                presets.append(
                    Preset(
                        id=row["id"],
                        table=tables.get(row["table"], row["table"]),
                        load=at,
                        text=asked["text_tokens"],
                        tokens=number(_visual(schedule)),
                        before=heads[pre],
                        position=_position(settings, method),
                        method=method,
                        printed=row["printed"],
                    )
                )
        reductions.append(tuple(found))
    if len(scorers) > 1:
        raise ScheduleError("the explorer needs one kind of selection, found: " + ", ".join(sorted(scorers)))
    tokens = np.array(list(known), dtype=np.int32)
    return Schedules(
        convention=convention,
        tokens=tokens,
        counts=counts,
        before=before,
        by_text=by_text,
        dense=tuple(dense),
        reductions=tuple(reductions),
        scorer=next(iter(scorers), ""),
        example=example,
        presets=tuple(presets),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One position of the dials.

    Attributes
    ----------
    visual
        Visual tokens by layer.
    elsewhere
        Those at other text lengths, where they differ: a count is rounded with its text. None: cannot be planned.
    schedule
        A schedule with the same events before the language model, and the same kind of cut inside it.
    """

    visual: tuple[int, ...]
    elsewhere: Mapping[int, tuple[int, ...] | None]
    schedule: Schedule


# Positions of the dials, each with its plan; those that cannot be planned are left out.
_Plans = Iterator[tuple[tuple[int, ...], _Plan]]


def _prunes_anywhere(run: Run) -> bool:
    """Whether AIM may rank at every layer, of every prompt: each has attention, and no visual token is in the cache."""
    traced = run.model.decoder.traced
    kinds = () if traced is None else traced.kinds
    return not run.workload.caches_visuals and all(any(op.kind == "attention" for op in kind.ops) for kind in kinds)


def _other_texts(settings: Settings) -> list[int]:
    return [text for text in settings.texts if text != settings.text]


def _visual(schedule: Schedule) -> tuple[int, ...]:
    return tuple(tokens - schedule.text_tokens for tokens in schedule.tokens)


def _plans(settings: Settings, workload: Workload, convention: str) -> _Plans:
    """Every position, planned one by one."""
    model = settings.run.model

    def planned(load: Workload, method: Mapping[str, Any]) -> Schedule | None:
        try:
            schedule = plan_schedule(model, load, method)
        except AimcostError:
            return None
        return None if any(event.after_layer == -1 for event in schedule.layer_events) else schedule

    for position in itertools.product(*(range(len(dial.values)) for dial in settings.dials)):
        method = settings.method(position, convention)
        schedule = planned(workload, method)
        if schedule is None:
            continue
        visual, elsewhere = _visual(schedule), dict[int, tuple[int, ...] | None]()
        for text in _other_texts(settings):
            other = planned(replace(workload, text_after=text - workload.text_before), method)
            there = None if other is None else _visual(other)
            if there != visual:
                elsewhere[text] = there
        yield position, _Plan(visual=visual, elsewhere=elsewhere, schedule=schedule)


def _aim_plans(settings: Settings, workload: Workload, convention: str) -> _Plans:
    """Every position for AIM: merging follows from the ratio alone, and all boundaries are pruned at once."""
    model, own = settings.run.model, workload.text_tokens
    layers = model.decoder.layers
    inner = {dial.key: dial for dial in settings.dials if dial.key in ("l1", "l2")}
    outer = [range(len(dial.values)) for dial in settings.dials if dial.key not in inner]
    boundaries, rates = list[tuple[int, ...]](), list[NDArray[np.float64]]()
    for boundary in itertools.product(*(range(len(dial.values)) for dial in inner.values())):
        method = settings.method((*(0 for _ in outer), *boundary), convention)
        try:
            rates.append(shares(layers, AimParams(**method)))
        except AimcostError:
            continue
        boundaries.append(boundary)
    share = np.stack(rates)
    for merging in itertools.product(*outer):
        example: Schedule | None = None
        unpruned = {**settings.method((*merging, *boundaries[0]), convention), "l1": layers, "l2": layers + 1}
        try:
            merged = plan_schedule(model, workload, {**unpruned, "decay": None})
        except AimcostError:
            continue
        tokens = {text: left_of(merged.visual_tokens, text, share) for text in (own, *_other_texts(settings))}
        # every layer computes on a token that is not in the cache
        possible = {text: counts.min(axis=1) > workload.cached_tokens for text, counts in tokens.items()}
        visual = {text: counts[:, :layers] - text for text, counts in tokens.items()}
        # the paper's convention with l1 = 0 cuts before the first layer
        wanted = possible[own] & (visual[own][:, 0] == merged.visual_tokens)
        differs = {
            text: (visual[text] != visual[own]).any(axis=1) | (possible[text] != possible[own])
            for text in _other_texts(settings)
        }
        for i in np.flatnonzero(wanted).tolist():
            counts = visual[own][i]
            if example is None and counts[-1] < counts[0]:
                example = plan_schedule(model, workload, settings.method((*merging, *boundaries[i]), convention))
            elsewhere = {
                text: tuple(visual[text][i].tolist()) if possible[text][i] else None
                for text, other in differs.items()
                if other[i]
            }
            yield (
                (*merging, *boundaries[i]),
                _Plan(visual=tuple(counts.tolist()), elsewhere=elsewhere, schedule=example or merged),
            )


def _position(settings: Settings, method: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Where the dials stand for a method; None where they do not reach it."""
    others = {key: value for key, value in method.items() if key != "convention"}
    if any(dial.key not in others or others[dial.key] not in dial.values for dial in settings.dials):
        return None
    position = tuple(dial.values.index(others[dial.key]) for dial in settings.dials)
    return position if settings.method(position, "executed") == {**settings.fixed, **others} else None


def _require_plain(run: Run, schedule: Schedule) -> None:
    """Every cut lies between two layers whose counts differ, and costs what follows from these alone."""
    tokens = schedule.tokens
    steps = [(i, a, b) for i, (a, b) in enumerate(itertools.pairwise(tokens)) if a != b]
    events = [(event.after_layer, event.tokens_in, event.tokens_out) for event in schedule.layer_events]
    counted = any(
        _cost_of(run, event, {}) != _cost_of(run, event, dict(event.counts)) for event in schedule.layer_events
    )
    if steps != events or counted:
        raise ScheduleError(
            f"the explorer cannot tell the cuts of {schedule.method} from its token counts; aimcost estimate and "
            "aimcost compare price them"
        )


def exposes(schedule: Schedule | None, implementation: str) -> str:
    """Where cuts make layers run eager attention: ``layer`` (their own), ``decoder`` (all), or empty."""
    if schedule is None or implementation == "fused":
        return ""
    where = {find_scorer(event.scorer).exposes for event in schedule.layer_events}
    found = "decoder" if "decoder" in where else "layer" if "layer" in where else ""
    eager = set(np.flatnonzero(eager_layers(schedule, implementation, "flash")).tolist())
    cut = {event.charged_layer for event in schedule.layer_events}
    expected = set(range(len(schedule.tokens))) if found == "decoder" else cut if found else set()
    if eager != expected:
        raise ScheduleError("the explorer cannot tell which layers run eager attention")
    return found
