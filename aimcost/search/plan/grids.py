"""Candidates: the grids that the planner searches, one stem at a time.

A stem is everything up to layer 0: machine, batch, frames, and what reduces before the language
model. All candidates of a stem are priced from one set of tables.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AimcostError, InvalidValueError, argument
from ...inputs import discover
from ...inputs.run import Run, plan_schedule
from ...methods.aim.plan import reachable_ratios
from ...methods.registry import plan_module
from ...types import Schedule, runs_of
from .blocks import Pair, Tables, tables
from .evaluate import Figures, LevelTables, evaluate, evaluate_levels, level_blocks

__all__ = ["LEVELS", "FreeGrid", "Grid", "grids", "pairs_of"]

# Shares of the visual tokens that reach the language model: the free form's eight levels.
LEVELS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125, 0.0625, 0.0)
# The free form is enumerated: where single layers give more candidates than this, cuts fall every few layers.
MOST_FREE = 6_800_000
CHUNK = 16_384
Indices = NDArray[np.int64]


def pairs_of(tokens: Sequence[int]) -> list[Pair]:
    """(tokens, tokens after) layer by layer."""
    return [*pairwise(tokens), (tokens[-1], tokens[-1])]


@dataclass(frozen=True, kw_only=True)
class Grid(ABC):
    """Candidates of one stem and one shape. `run` is the stem; `family` the method whose selection it is."""

    run: Run
    shape: str
    label: str
    family: str = "aim"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def prepare(self, *, band: bool) -> Tables:
        """Price the stem; called once, before the others."""

    @abstractmethod
    def chunks(self) -> Iterator[tuple[int, Figures]]:
        """(position of the first, figures) of all candidates, in order."""

    @abstractmethod
    def blocks(self, positions: Indices) -> Indices:
        """Blocks layer by layer of some candidates."""

    @abstractmethod
    def method(self, position: int) -> dict[str, Any]:
        """The ``method:`` mapping of a candidate."""

    @property
    def text(self) -> int:
        """Text tokens a request."""
        return self.run.schedule.text_tokens


@dataclass(frozen=True, kw_only=True)
class ListGrid(Grid):
    """Candidates written out: a method's own parameters, and the schedules that it plans."""

    methods: Sequence[Mapping[str, Any]]
    schedules: Sequence[Schedule]
    _made: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.methods)

    def prepare(self, *, band: bool) -> Tables:
        events = [event for s in self.schedules for event in s.layer_events]
        every = [pairs_of(schedule.tokens) for schedule in self.schedules]
        scorer = events[0].scorer if events else "none"
        t = tables(self.run, {p for pairs in every for p in pairs}, scorer, band=band)
        index = t.index
        self._made["blocks"] = np.array([[index[pair] for pair in pairs] for pairs in every])
        self._made["tables"] = t
        return t

    def chunks(self) -> Iterator[tuple[int, Figures]]:
        blocks = self._made["blocks"]
        for start in range(0, len(blocks), CHUNK):
            yield start, evaluate(self._made["tables"], self.text, blocks[start : start + CHUNK])

    def blocks(self, positions: Indices) -> Indices:
        chosen: Indices = self._made["blocks"][positions]
        return chosen

    def method(self, position: int) -> dict[str, Any]:
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
    _made: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        free = (len(self.run.schedule.tokens) - self.first) // self.stride
        return math.comb(free + len(self.levels) - 1, free)

    def prepare(self, *, band: bool) -> Tables:
        numbers = self.levels
        pairs = {(a, b) for i, a in enumerate(numbers) for b in numbers[i:]}
        t = tables(self.run, pairs, "pagerank", band=band)
        self._made["levels"] = level_blocks(t, numbers, self.text)
        return t

    def _counts(self, rows: slice | Indices) -> NDArray[np.float64]:
        free = (len(self.run.schedule.tokens) - self.first) // self.stride
        counts = compositions(free, len(self.levels))[rows].astype(np.float64) * self.stride
        counts[:, 0] += self.first
        return counts

    def chunks(self) -> Iterator[tuple[int, Figures]]:
        for start in range(0, len(self), CHUNK):
            yield start, evaluate_levels(self._made["levels"], self._counts(slice(start, start + CHUNK)))

    def tokens(self, position: int) -> list[int]:
        """Token counts layer by layer of one candidate."""
        counts = self._counts(np.array([position]))[0].astype(int)
        return [int(count) for count in np.repeat(self.levels, counts)]

    def blocks(self, positions: Indices) -> Indices:
        made: LevelTables = self._made["levels"]
        layers = len(self.run.schedule.tokens)
        counts = self._counts(positions).astype(np.int64)
        flat = np.repeat(np.tile(np.arange(len(self.levels)), len(positions)), counts.ravel())
        level = flat.reshape(len(positions), layers)
        after = np.concatenate([level[:, 1:], np.full((len(level), 1), len(self.levels))], axis=1)
        return np.asarray(made.cut[level, np.where(after == level, len(self.levels), after)])

    def method(self, position: int) -> dict[str, Any]:
        return {
            "name": "explicit",
            "tokens_per_layer": [list(run) for run in runs_of(self.tokens(position))],
            "select": "aim",
            **self.merge,
        }


@functools.lru_cache(maxsize=2)
def compositions(total: int, parts: int) -> NDArray[np.uint8]:
    """All ways to write `total` as `parts` whole numbers ≥ 0 in order: shape (ways, parts)."""
    left, columns = np.array([total]), list[NDArray[np.uint8]]()
    for _ in range(parts - 1):
        times = left + 1
        parent = np.repeat(np.arange(len(left)), times)
        taken = np.arange(len(parent)) - np.repeat(np.cumsum(times) - times, times)
        columns = [column[parent] for column in columns] + [taken.astype(np.uint8)]
        left = left[parent] - taken
    return np.stack([*columns, left.astype(np.uint8)], axis=1)


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
        found += _aim(run, shapes, first, levels) if name == "aim" else _of_method(run, name, first)
    if not found:
        raise InvalidValueError(
            argument("earliest_cut"), f"lower: no candidate of {', '.join(methods)} leaves {first} layers whole", first
        )
    return found


def _aim(run: Run, shapes: Sequence[str], first: int, levels: Sequence[float]) -> Iterator[Grid]:
    own = run.method
    convention = {"convention": own["convention"]} if own.get("convention", "executed") != "executed" else {}
    layers = run.model.decoder.layers
    for ratio in reachable_ratios(run.workload):
        merge = {"merge_ratio": ratio, **convention}
        every = []
        try:
            whole = plan_schedule(run.model, run.workload, {"name": "aim", **merge, "l1": layers, "l2": layers + 1})
        except AimcostError:  # the paper's floor leaves nothing of a group
            continue
        stem = replace(run, schedule=whole)
        if "linear" in shapes:
            # of equal schedules the latest boundaries are named
            for l1 in range(layers, -1, -1):
                for l2 in range(layers + 1, l1, -1):
                    every.append({"name": "aim", **merge, "l1": l1, "l2": l2})
            yield from _listed(stem, every, "linear", f"aim, merge {ratio:g}", first)
        numbers = _level_counts(whole, levels)
        if "step" in shapes and len(numbers) > 1:
            steps = [
                {
                    "name": "explicit",
                    "tokens_per_layer": [[numbers[0], cut], [left, layers - cut]],
                    "select": "aim",
                    **merge,
                }
                for cut in range(max(1, first), layers)
                for left in numbers[1:]
            ]
            yield from _listed(stem, steps, "step", f"aim, merge {ratio:g}", first)
        if "free" in shapes and len(numbers) > 1:
            start, stride = _stride(layers, first, len(numbers))
            yield FreeGrid(
                run=stem,
                shape="free",
                label=f"aim, merge {ratio:g}",
                merge=merge,
                levels=numbers,
                first=start,
                stride=stride,
            )


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


def _listed(stem: Run, methods: Sequence[Mapping[str, Any]], shape: str, label: str, first: int) -> Iterator[ListGrid]:
    """The candidates that leave the first layers whole; of equal schedules, the first."""
    kept: dict[tuple[int, ...], tuple[Mapping[str, Any], Schedule]] = {}
    for method in methods:
        try:
            schedule = plan_schedule(stem.model, stem.workload, method)
        except AimcostError:  # no text, and every visual token gone: no model could run it
            continue
        if all(count == schedule.tokens[0] for count in schedule.tokens[: max(1, first)]):
            kept.setdefault(schedule.tokens, (method, schedule))
    if kept:
        chosen, schedules = zip(*kept.values(), strict=True)
        family = label if shape == "own" else "aim"
        yield ListGrid(run=stem, shape=shape, label=label, family=family, methods=chosen, schedules=schedules)


def _candidates(name: str) -> Callable[[int], list[dict[str, Any]]] | None:
    """The parameters that a method's ``plan.py`` offers to a planner, by the model's layers; None: no grid."""
    return getattr(plan_module(name), "candidates", None) if name in discover.method_names() else None


def _of_method(run: Run, name: str, first: int) -> Iterator[Grid]:
    """A grid over another method's parameters, one stem for each way of reducing before layer 0."""
    layers = run.model.decoder.layers
    candidates = _candidates(name)
    if candidates is None:
        known = ", ".join(["aim", *(method for method in discover.method_names() if _candidates(method))])
        raise InvalidValueError(argument("methods"), f"one that the planner has a grid for: {known}", name)
    stems: dict[Any, list[dict[str, Any]]] = {}
    runs: dict[Any, Run] = {}
    for params in candidates(layers):
        method = {"name": name, **params}
        try:
            schedule = plan_schedule(run.model, run.workload, method)
        except AimcostError:
            continue
        key = (schedule.pre_llm_events, schedule.visual_tokens)
        stems.setdefault(key, []).append(method)
        runs.setdefault(key, replace(run, schedule=schedule))
    for key, methods in stems.items():
        yield from _listed(runs[key], methods, "own", name, first)
