"""Candidates: the grids that the planner searches, one base at a time.

A base is a run up to layer 0: machine, batch, frames, and the reduction before the language model. All candidates of
a base are priced from one set of tables.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import AimcostError, InvalidValueError, argument
from ...inputs import discover
from ...inputs.run import Run, plan_schedule
from ...methods.aim.cost import PAGERANK
from ...methods.aim.plan import Params as AimParams
from ...methods.aim.plan import pruned, reachable_ratios
from ...methods.registry import find_scorer, plan_module
from ...types import ReductionEvent, Schedule, runs_of
from ..compositions import Compositions, compositions
from ..layers import Pair
from .blocks import Tables, tables
from .evaluate import Figures, evaluate
from .levels import LevelTables, level_tables

__all__ = ["LEVELS", "FreeGrid", "Grid", "earliest_cut_matters", "grids", "of_method", "pairs_of", "require_visuals"]

# Shares of the visual tokens that reach the language model: the free form's eight levels.
LEVELS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125, 0.0625, 0.0)
# The free form is enumerated: where single layers give more candidates than this, cuts fall every few layers.
MOST_FREE = 6_800_000
CHUNK = 16_384
Indices = NDArray[np.int64]
# The ``method:`` mapping, and tokens by layer.
Candidate = tuple[Mapping[str, Any], tuple[int, ...]]


def require_visuals(run: Run) -> None:
    """Raise unless the run has visual tokens that a method may still reduce."""
    workload = run.workload
    if not workload.visual_tokens:
        raise InvalidValueError("workload", "one with visual tokens to reduce", 0)
    if workload.caches_visuals:
        what = f"at most {workload.text_before} to plan: the visual tokens behind them are in the cache already"
        raise InvalidValueError("workload.cached_tokens", what, workload.cached_tokens)


def pairs_of(tokens: Sequence[int]) -> list[Pair]:
    """(tokens, tokens after) layer by layer."""
    return [*pairwise(tokens), (tokens[-1], tokens[-1])]


@dataclass(frozen=True, kw_only=True)
class Grid(ABC):
    """Candidates of one base and one shape. `run` is the base; `family` the method whose selection it is."""

    run: Run
    shape: str
    label: str
    family: str = "aim"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def prices(self, *, band: bool) -> Prices:
        """The grid with its base priced."""

    @abstractmethod
    def method(self, position: int) -> dict[str, Any]:
        """The ``method:`` mapping of a candidate."""

    @property
    def text(self) -> int:
        """Text tokens a request."""
        return self.run.schedule.text_tokens


class Prices(Protocol):
    """A grid whose base is priced."""

    @property
    def tables(self) -> Tables:
        """Prices of the base's blocks."""

    def __len__(self) -> int: ...

    def figures(self, start: int, stop: int) -> Figures:
        """Figures of the candidates from `start` up to `stop`."""

    def blocks(self, positions: Indices) -> Indices:
        """Blocks layer by layer of some candidates."""


def chunks(prices: Prices) -> Iterator[tuple[int, Figures]]:
    """(position of the first, figures) of all candidates, in order."""
    for start in range(0, len(prices), CHUNK):
        yield start, prices.figures(start, start + CHUNK)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPrices:
    """Candidates written out, as blocks layer by layer."""

    tables: Tables
    text: int
    layers: Indices

    def __len__(self) -> int:
        return len(self.layers)

    def figures(self, start: int, stop: int) -> Figures:
        """Figures of the candidates from `start` up to `stop`."""
        return evaluate(self.tables, self.text, self.layers[start:stop])

    def blocks(self, positions: Indices) -> Indices:
        """Blocks layer by layer of some candidates."""
        return self.layers[positions]


@dataclass(frozen=True, kw_only=True)
class ListGrid(Grid):
    """Candidates written out: a method's own parameters, the tokens by layer that it plans, and what ranks tokens."""

    methods: Sequence[Mapping[str, Any]]
    tokens: Sequence[tuple[int, ...]]
    scorer: str

    def __len__(self) -> int:
        return len(self.methods)

    def prices(self, *, band: bool) -> ListPrices:
        """The grid with its base priced."""
        every = [pairs_of(tokens) for tokens in self.tokens]
        t = tables(self.run, {pair for pairs in every for pair in pairs}, self.scorer, band=band)
        index = t.index
        layers = np.array([[index[pair] for pair in pairs] for pairs in every])
        return ListPrices(tables=t, text=self.text, layers=layers)

    def method(self, position: int) -> dict[str, Any]:
        """The ``method:`` mapping of a candidate."""
        return dict(self.methods[position])


@dataclass(frozen=True, kw_only=True)
class FreeGrid(Grid):
    """Every non-increasing choice of levels over the layers, `first` of them at the fullest.

    `stride` layers go together where single ones would be too many.
    """

    merge: Mapping[str, Any]
    levels: tuple[int, ...]
    first: int
    stride: int

    @property
    def ways(self) -> Compositions:
        """How the layers behind the first ones, `stride` at a time, are shared out over the levels."""
        return compositions((len(self.run.schedule.tokens) - self.first) // self.stride, len(self.levels))

    def __len__(self) -> int:
        return len(self.ways)

    def prices(self, *, band: bool) -> LevelTables:
        """The grid with its base priced."""
        numbers = self.levels
        pairs = {(a, b) for i, a in enumerate(numbers) for b in numbers[i:]}
        t = tables(self.run, pairs, PAGERANK.name, band=band)
        layers = len(self.run.schedule.tokens)
        return level_tables(t, numbers, self.text, layers=layers, first=self.first, stride=self.stride)

    def tokens(self, position: int) -> list[int]:
        """Token counts layer by layer of one candidate."""
        counts = self.ways.rows([position])[0] * self.stride
        counts[0] += self.first
        return [int(count) for count in np.repeat(self.levels, counts)]

    def method(self, position: int) -> dict[str, Any]:
        """The ``method:`` mapping of a candidate."""
        return {
            "name": "explicit",
            "tokens_per_layer": [list(run) for run in runs_of(self.tokens(position))],
            "select": "aim",
            **self.merge,
        }


def grids(
    run: Run, methods: Sequence[str], shapes: Sequence[str], *, first: int, levels: Sequence[float]
) -> list[Grid]:
    """The grids of one machine, batch and number of frames.

    Parameters
    ----------
    methods
        ``aim`` has shapes; another method has a grid over its own parameters.
    shapes
        ``linear``: AIM's own, from l1 to l2. ``step``: one cut to one level. ``free``: any
        non-increasing levels.
    first
        Layers at the start of the model that see every visual token they were given.

    Raises
    ------
    InvalidValueError
        No candidate keeps the first layers whole.
    """
    found: list[Grid] = []
    for name in methods:
        found += _aim(run, shapes, first, levels) if name == "aim" else of_method(run, name, first, _offered(run, name))
    if not found:
        raise InvalidValueError(
            argument("earliest_cut"),
            f"lower: every candidate of {', '.join(methods)} cuts within the first {first} layers",
            first,
        )
    return found


def _aim(run: Run, shapes: Sequence[str], first: int, levels: Sequence[float]) -> Iterator[Grid]:
    own = run.method
    convention = {"convention": own["convention"]} if own.get("convention", "executed") != "executed" else {}
    layers = run.model.decoder.layers
    for ratio in reachable_ratios(run.workload):
        merge = {"merge_ratio": ratio, **convention}
        try:
            whole = plan_schedule(run.model, run.workload, {"name": "aim", **merge, "l1": layers, "l2": layers + 1})
        except AimcostError:  # the paper's floor leaves nothing of a group
            continue
        base, label = replace(run, schedule=whole), f"aim, merge {ratio:g}"
        if "linear" in shapes:
            yield from _listed(base, _linear(whole, merge), PAGERANK.name, "linear", label, first)
        numbers = _level_counts(whole, levels)
        if "step" in shapes and len(numbers) > 1:
            yield from _listed(base, _steps(numbers, merge, layers, first), PAGERANK.name, "step", label, first)
        if "free" in shapes and len(numbers) > 1:
            start, stride = _stride(layers, first, len(numbers))
            yield FreeGrid(run=base, shape="free", label=label, merge=merge, levels=numbers, first=start, stride=stride)


def _linear(whole: Schedule, merge: Mapping[str, Any]) -> Iterator[Candidate]:
    """AIM's own shape at all boundaries; of equal schedules the latest ones are named."""
    layers = len(whole.tokens)
    params = AimParams(name="aim", **merge)
    for l1 in range(layers, -1, -1):
        for l2 in range(layers + 1, l1, -1):
            method = {"name": "aim", **merge, "l1": l1, "l2": l2}
            try:
                tokens = pruned(whole.visual_tokens, whole.text_tokens, layers, params.changed(l1=l1, l2=l2))
            except AimcostError:  # no text, and every visual token gone: no model could run it
                continue
            yield method, tokens


def _steps(numbers: Sequence[int], merge: Mapping[str, Any], layers: int, first: int) -> Iterator[Candidate]:
    """One cut from the fullest level to another."""
    for cut in range(max(1, first), layers):
        for left in numbers[1:]:
            runs = [[numbers[0], cut], [left, layers - cut]]
            method = {"name": "explicit", "tokens_per_layer": runs, "select": "aim", **merge}
            yield method, (numbers[0],) * cut + (left,) * (layers - cut)


def _level_counts(schedule: Schedule, levels: Sequence[float]) -> tuple[int, ...]:
    """Distinct token counts of the levels, the fullest first."""
    visual, text = schedule.visual_tokens, schedule.text_tokens
    counts = {text + math.floor(visual * level) for level in levels} | {schedule.tokens[0]}
    return tuple(sorted((count for count in counts if count >= 1), reverse=True))


def _stride(layers: int, first: int, levels: int) -> tuple[int, int]:
    """Layers that stay whole, and how many go together, so that no more than `MOST_FREE` are left."""
    start = max(1, first)
    for stride in range(1, layers):
        free = (layers - start) // stride
        if math.comb(free + levels - 1, levels - 1) <= MOST_FREE:
            return layers - free * stride, stride
    return layers, 1


def _listed(
    base: Run, candidates: Iterable[Candidate], scorer: str, shape: str, label: str, first: int
) -> Iterator[ListGrid]:
    """The candidates that leave the first layers whole; of equal schedules, the first."""
    found: dict[tuple[int, ...], Mapping[str, Any]] = {}
    for method, tokens in candidates:
        if all(count == tokens[0] for count in tokens[: max(1, first)]):
            found.setdefault(tokens, method)
    if found:
        yield ListGrid(
            run=base,
            shape=shape,
            label=label,
            family=label if shape == "own" else "aim",
            methods=tuple(found.values()),
            tokens=tuple(found),
            scorer=scorer,
        )


def earliest_cut_matters(run: Run, name: str, first: int) -> bool:
    """Whether a method has candidates that cut before layer `first`; AIM's shapes always have."""
    if name == "aim":
        return first > 1
    offered = _offered(run, name)
    sizes = [sum(len(grid) for grid in of_method(run, name, layer, offered)) for layer in (0, first)]
    return sizes[0] != sizes[1]


def _candidates(name: str) -> Callable[[int], list[dict[str, Any]]] | None:
    """The parameters that a method's ``plan.py`` offers to a planner, by the model's layers; None: no grid."""
    return getattr(plan_module(name), "candidates", None) if name in discover.method_names() else None


def _offered(run: Run, name: str) -> list[dict[str, Any]]:
    """The parameters that a method's ``plan.py`` offers to a planner."""
    offered = _candidates(name)
    if offered is None:
        known = ", ".join(["aim", *(method for method in discover.method_names() if _candidates(method))])
        raise InvalidValueError(argument("methods"), f"a method that the planner can search: {known}", name)
    return offered(run.model.decoder.layers)


def of_method(run: Run, name: str, first: int, offered: Iterable[Mapping[str, Any]]) -> Iterator[ListGrid]:
    """A grid over another method's parameters, one base for each way of reducing before layer 0 and, where a cut
    has every layer run eager attention, apart from schedules without one."""
    bases: dict[tuple[tuple[ReductionEvent, ...], int, bool], list[Candidate]] = {}
    runs: dict[tuple[tuple[ReductionEvent, ...], int, bool], Run] = {}
    scorer = "none"
    for params in offered:
        method = {"name": name, **params}
        try:
            schedule = plan_schedule(run.model, run.workload, method)
        except AimcostError:
            continue
        exposing = any(find_scorer(event.scorer).exposes == "decoder" for event in schedule.layer_events)
        key = (schedule.pre_llm_events, schedule.visual_tokens, exposing)
        bases.setdefault(key, []).append((method, schedule.tokens))
        runs.setdefault(key, replace(run, schedule=schedule))
        scorer = next((event.scorer for event in schedule.layer_events), scorer)
    for key, candidates in bases.items():
        yield from _listed(runs[key], candidates, scorer, "own", name, first)
