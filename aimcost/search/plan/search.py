"""Going through the grids: the best candidate under every budget, the front, and the nearest miss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...types import Workload
from .accuracy import Surrogate
from .budgets import Budgets
from .evaluate import Figures, upper_seconds
from .grids import Grid, Prices, chunks

__all__ = ["Found", "Group", "Objective", "search"]

Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
# Candidates whose band is worked out at once, the most promising first.
_BATCH = 1024
# Points of the front that a chunk is held against before it is searched.
_PIVOTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is asked: budgets, what to keep most of, and how sure to be.

    Attributes
    ----------
    maximize
        ``tokens``: visual tokens, summed over layers. ``accuracy``: the expected score, then tokens.
    spread
        Times the band's upper half that the time to first token is held to; None: its middle.
    extrapolate
        Whether an accuracy beyond the measured points counts.
    """

    budgets: Budgets
    maximize: str = "tokens"
    surrogate: Surrogate | None = None
    spread: float | None = None
    extrapolate: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One candidate: its grid, its place there, and what ranks it (higher is better)."""

    grid: Grid
    position: int
    rank: tuple[float, float, float]
    ttft: float
    kept: float
    score: float | None


@dataclass(slots=True)
class Group:
    """The outcome of one grid."""

    grid: Grid
    candidates: int = 0
    beyond: int = 0
    best: Found | None = None
    miss: Found | None = None
    miss_excess: float = np.inf


@dataclass(slots=True)
class Front:
    """Candidates that no other beats in both time and value; times rise, values rise.

    Attributes
    ----------
    within
        Which keep every budget, as the search judges it.
    """

    times: Floats = field(default_factory=lambda: np.empty(0))
    values: Floats = field(default_factory=lambda: np.empty(0))
    grids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    within: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, dtype=bool))

    def add(self, times: Floats, values: Floats, within: NDArray[np.bool_], grid: int, start: int) -> None:
        """Take in a chunk of candidates."""
        # a schedule that is known from another grid is no better for its rounding
        late = times * (1 + 1e-12)
        new = self._unbeaten(late, values)
        known = np.searchsorted(self.times, late[new], side="right") - 1
        new = new[values[new] > np.concatenate([self.values, [-np.inf]])[known]]
        if not len(new):
            return
        self.times = np.concatenate([self.times, times[new]])
        self.values = np.concatenate([self.values, values[new]])
        self.grids = np.concatenate([self.grids, np.full(len(new), grid)])
        self.positions = np.concatenate([self.positions, new + start])
        self.within = np.concatenate([self.within, within[new]])
        order = np.lexsort((-self.values, self.times))
        ahead = np.maximum.accumulate(np.concatenate([[-np.inf], self.values[order][:-1]]))
        keep = order[self.values[order] > ahead]
        self.times, self.values = self.times[keep], self.values[keep]
        self.grids, self.positions, self.within = self.grids[keep], self.positions[keep], self.within[keep]

    def _unbeaten(self, times: Floats, values: Floats) -> NDArray[np.int64]:
        """Candidates that none of a few points of the front beats: most fail this, which costs less than a search."""
        left = values > -np.inf
        for at in np.linspace(0, len(self.times) - 1, _PIVOTS).astype(int) if len(self.times) else ():
            left &= (times < self.times[at]) | (values > self.values[at])
        return np.flatnonzero(left)

    def rows(self) -> list[tuple[float, float, int, int, bool]]:
        """(seconds, value, grid, position, within); of times that differ by rounding alone, the best value."""
        real = self.values > -np.inf
        times = self.times[real]
        apart = np.append(times[1:] > times[:-1] * (1 + 1e-12), True)[: len(times)]
        every = (self.times, self.values, self.grids, self.positions, self.within)
        return list(zip(*(column[real][apart].tolist() for column in every), strict=True))


@dataclass(slots=True)
class Outcome:
    """All groups, and the fronts of time against tokens and against expected accuracy."""

    groups: list[Group]
    tokens: Front
    accuracy: Front
    candidates: int = 0


def search(grids: Sequence[Grid], goal: Objective, progress: Progress | None = None) -> Outcome:
    """Evaluate every candidate of every grid."""
    outcome = Outcome([], Front(), Front())
    total = sum(len(grid) for grid in grids)
    best: Found | None = None
    priced = []
    for number, grid in enumerate(grids):
        group = Group(grid)
        outcome.groups.append(group)
        prices = grid.prices(band=goal.spread is not None)
        priced.append(prices)
        for start, figures in chunks(prices):
            _chunk(outcome, group, number, start, figures, prices, goal)
            group.candidates += len(figures.ttft)
            if progress is not None:
                progress(outcome.candidates + group.candidates, total, f"{grid.label}, {grid.shape}")
        outcome.candidates += group.candidates
        _hold_upper_end_of_miss(group, prices, goal)
        if group.best is not None and (best is None or group.best.rank > best.rank):
            best = group.best
    for front in (outcome.tokens, outcome.accuracy):
        _hold_upper_ends(front, priced, goal)
    return outcome


def _hold_upper_end_of_miss(group: Group, prices: Prices, goal: Objective) -> None:
    """Say by how much a group's nearest miss is over at the confidence asked for."""
    limit = goal.budgets.ttft
    if goal.spread is None or limit is None or prices.tables.rows is None:
        return
    if group.best is None and group.miss is not None:
        upper = upper_seconds(prices.tables, prices.blocks(np.array([group.miss.position])), goal.spread)
        group.miss_excess = max(group.miss_excess, float(upper[0]) / limit)


def _hold_upper_ends(front: Front, priced: Sequence[Prices], goal: Objective) -> None:
    """Remove from `within` the points whose upper band exceeds the time budget; bands are too costly for all points."""
    limit = goal.budgets.ttft
    if goal.spread is None or limit is None:
        return
    for number in np.unique(front.grids[front.within]):
        prices = priced[number]
        if prices.tables.rows is not None:
            own = np.flatnonzero(front.within & (front.grids == number))
            blocks = prices.blocks(front.positions[own])
            front.within[own] = upper_seconds(prices.tables, blocks, goal.spread) <= limit


def _chunk(
    outcome: Outcome, group: Group, number: int, start: int, figures: Figures, prices: Prices, goal: Objective
) -> None:
    grid, surrogate = group.grid, goal.surrogate
    layers, hardware = len(grid.run.schedule.tokens), grid.run.hardware
    score, known = None, np.ones(len(figures.ttft), dtype=bool)
    excess = goal.budgets.excess(figures, hardware.usable_memory_bytes if hardware else None)
    kept = excess <= 1.0
    if surrogate is not None:
        x1, x2 = _merged(grid.run.workload, grid.run.schedule.visual_tokens), figures.depth / layers
        score = surrogate.score(x1, x2)
        known = surrogate.known(x1, x2, grid.run.workload) & surrogate.measured(grid.family)
        group.beyond += int((~known).sum())
        worth = score if goal.extrapolate else np.where(known, score, -np.inf)
        outcome.accuracy.add(figures.ttft, worth, kept, number, start)
    outcome.tokens.add(figures.ttft, figures.kept, kept, number, start)
    eligible = known if goal.maximize == "accuracy" and not goal.extrapolate else np.ones(len(known), dtype=bool)
    first = score if goal.maximize == "accuracy" and score is not None else figures.kept

    def found(index: int) -> Found:
        own = None if score is None or not (known[index] or goal.extrapolate) else float(score[index])
        # eleven digits: the same schedule of another grid is no better for its rounding
        rank = (float(first[index]), float(figures.kept[index]), -float(f"{figures.ttft[index]:.10e}"))
        return Found(grid, start + index, rank, float(figures.ttft[index]), float(figures.kept[index]), own)

    within = eligible & kept
    if group.best is not None:
        within &= (first > group.best.rank[0]) | ((first == group.best.rank[0]) & (figures.kept >= group.best.rank[1]))
    chosen = _first_feasible(np.flatnonzero(within), first, figures, start, prices, goal)
    if chosen is not None and (group.best is None or found(chosen).rank > group.best.rank):
        group.best = found(chosen)
    if group.best is None and eligible.any():
        nearest = int(np.where(eligible, excess, np.inf).argmin())
        if excess[nearest] < group.miss_excess:
            group.miss, group.miss_excess = found(nearest), float(excess[nearest])


def _merged(workload: Workload, visual: int) -> float:
    """Feature x1 of a base."""
    return float(np.log2(visual / workload.visual_tokens)) if visual and workload.visual_tokens else -np.inf


def _first_feasible(
    within: NDArray[np.int64], first: Floats, figures: Figures, start: int, prices: Prices, goal: Objective
) -> int | None:
    """The best ranked of the candidates `within` that holds the time at the upper end of its band too."""
    if not len(within):
        return None
    limit = goal.budgets.ttft
    if goal.spread is None or limit is None or prices.tables.rows is None:
        top = within[first[within] == first[within].max()]
        top = top[figures.kept[top] == figures.kept[top].max()]
        return int(top[figures.ttft[top].argmin()])
    order = within[np.lexsort((figures.ttft[within], -figures.kept[within], -first[within]))]
    for at in range(0, len(order), _BATCH):
        some = order[at : at + _BATCH]
        upper = upper_seconds(prices.tables, prices.blocks(some + start), goal.spread)
        if (upper <= limit).any():
            return int(some[int(np.argmax(upper <= limit))])
    return None
