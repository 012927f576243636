"""What a reduced model is expected to score: published scores, pooled by method, benchmark, model and source.

The loss of a score, in per cent of the unreduced one, grows with the depth t of the reduction: t = log2(1 / share of
the visual tokens kept) / 3, so that t is 0 without reduction and 1 at an eighth. A loss is a Gaussian process over t
for all methods, benchmarks and models, plus one for each of them, for pairs of them, and for their families: a sum of
covariances, each a variance times "the two points share this" times k(t, t'). So a method with few points borrows
from the others, a benchmark from its task and a model from its siblings, each as far as the variances say. Sources, the
rows of their tables and single scores deviate too; the interval of a score that nobody published holds all that.
The error of a table's unreduced score offsets a column of it: noise that the points have in common, and no part of
what is expected. A method of a trusted source that differs from what the others let expect does so in that source's
hands first: the surprise is a variance of that method in that source, so that it moves little else. Losses are counted
in units of their task (`TASK_SCALE`). The mean is made monotone in the share from 100 without reduction on, so that it
is never above that; the interval may be.

The variances were found by maximum likelihood over all points (docs/adr/0018).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...isotonic import non_decreasing
from .points import Point, benchmark_named, family_of, load_points, model_family

__all__ = [
    "PARAMETERS",
    "Expected",
    "Parameters",
    "Query",
    "Rows",
    "Surrogate",
    "covariance",
    "depth_of",
    "kernel",
    "own_covariance",
    "pooled_points",
    "score_variance",
    "shipped_surrogate",
]

Floats = NDArray[np.float64]

# Variances in squared points of the score at t = 1, in the unit of the task: what points share that differ in the rest.
VARIANCES: Mapping[tuple[str, ...], float] = {
    (): 80.5,
    ("task",): 21.8,
    ("benchmark",): 18.0,
    ("family",): 23.0,
    ("model",): 5.0,
    ("family", "task"): 6.1,
    ("family", "benchmark"): 9.8,
    ("model", "benchmark"): 4.7,
    ("method",): 5.8,
    ("lineage",): 4.1,
    ("method", "task"): 14.3,
    ("method", "benchmark"): 6.9,
    ("method", "family"): 3.7,
    ("method", "model"): 2.2,
    ("own",): 3.6,
    ("own", "task"): 2.4,
}
# What sources deviate by: as a whole, on a method, and on a method of a model.
SOURCE_VARIANCES: Mapping[tuple[str, ...], float] = {
    ("source",): 1.8,
    ("source", "method"): 3.8,
    ("source", "method", "model"): 1.6,
}
# A row of a table, growing with t; a column of a table, whose unreduced score has an error too; a single score.
ROW, COLUMN, SCORE = 2.1, 2.8, (2.6, 3.6, 4.1)
# Degrees of freedom of the errors of single scores, and the least and the most that one of them may weigh.
TAILS, WEIGHTS = 4.0, (0.2, 2.0)
# Variance of single scores that are trusted (a user's own), over that of published ones.
TRUSTED = 0.05
# Typical loss of a task's benchmarks over that of all, at one depth.
TASK_SCALE = {"general": 0.94, "ocr": 1.6, "chart": 4.5, "hallucination": 1.0, "knowledge": 0.3, "video": 0.93}
# k(t, t') = (1 − SMOOTH) t t' + SMOOTH √(t t') exp(−(t − t')² / 2 LENGTH²)
SMOOTH, LENGTH = 0.3, 0.5
# Half an 80 % interval over the standard deviation: 1.28 for normal errors; those of published scores have longer
# tails and a narrower middle.
HALF_80 = 1.04
# Share of the variance that the points must explain for an answer.
ENOUGH = 0.6
# Depth beyond the deepest score of a method up to which there is an answer: half the tokens of that one.
REACH = 1 / 3
# Depths that count as one share (11 % and 11.1 %), and how far from it its sources' spread holds in full; at twice that
# it has faded.
SAME_SHARE, NEAR = 0.02, 0.1

# Rows of a covariance that are worked on at a time: few enough for their masks to stay in a processor's cache.
STRIP = 64

# What a trusted source's surprises are of.
_IN_HANDS = ("source", "method", "model")
FACTORS = ("method", "lineage", "benchmark", "task", "model", "family", "source", "own", "row")
# Shares at which the mean is made monotone.
_GRID = np.concatenate([[0.0], np.linspace(0.05, 2.4, 48)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What is fitted to the points: variances in squared points of the score, and the scales of the tasks.

    Attributes
    ----------
    shared, sources
        By the factors that two points share: of what is expected, and of what sources deviate by.
    row, column, score
        Of a row of a table, a column of one, and a single score: constant, by t, and by its square.
    task_scale
        `TASK_SCALE`; 1 for a task that has none.
    """

    shared: Mapping[tuple[str, ...], float] = field(default_factory=lambda: VARIANCES)
    sources: Mapping[tuple[str, ...], float] = field(default_factory=lambda: SOURCE_VARIANCES)
    row: float = ROW
    column: float = COLUMN
    score: tuple[float, float, float] = SCORE
    task_scale: Mapping[str, float] = field(default_factory=lambda: TASK_SCALE)


PARAMETERS = Parameters()


def depth_of(share: ArrayLike) -> Floats:
    """t of a share of the visual tokens."""
    return np.asarray(-np.log2(np.maximum(np.asarray(share, dtype=np.float64), 2.0**-7.2)) / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A score that is asked for; names as printed. Without a source, that of a third party that is not among them."""

    model: str
    method: str
    benchmark: str
    source: str = ""
    own: bool = False
    budget: str = ""

    @classmethod
    def of(cls, point: Point) -> Query:
        """What a point answers."""
        return cls(
            model=point.model,
            method=point.method,
            benchmark=point.benchmark,
            source=point.source_id,
            own=point.measured_by.startswith("own"),
            budget=point.budget,
        )

    def labels(self) -> dict[str, Any]:
        """What it shares with others, by factor."""
        return {
            "method": self.method,
            "lineage": re.sub(r"( \+ ours| \(.*\)|\+)$", "", self.method),
            "benchmark": benchmark_named(self.benchmark),
            "task": family_of(self.benchmark),
            "model": self.model,
            "family": model_family(self.model),
            "source": self.source,
            "own": self.own,
            "row": (self.model, self.method, self.budget, self.source),
        }


@dataclass(frozen=True, slots=True)
class Rows:
    """Scores as arrays: a code per factor (equal codes: the same), depth, and the unit of the task."""

    codes: Mapping[str, NDArray[np.int64]]
    depth: Floats
    unit: Floats

    def __len__(self) -> int:
        return len(self.depth)

    def __getitem__(self, where: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Rows:
        codes = {name: code[where] for name, code in self.codes.items()}
        return Rows(codes=codes, depth=self.depth[where], unit=self.unit[where])


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected relative scores (1 is the unreduced one) and their 80 % interval, one entry a share.

    Attributes
    ----------
    known
        Whether the points explain at least `ENOUGH` of the variance, there or at the method's mildest
        score if that is deeper, at a share within `REACH` of its deepest; there is no answer elsewhere.
    """

    mean: Floats
    low: Floats
    high: Floats
    known: NDArray[np.bool_]


def kernel(x: Rows, y: Rows) -> Floats:
    """k(t, t') of two sets of rows."""
    smooth = np.sqrt(np.outer(x.depth, y.depth))
    near = np.exp(-0.5 * (np.subtract.outer(x.depth, y.depth) / LENGTH) ** 2)
    return np.asarray((1 - SMOOTH) * np.outer(x.depth, y.depth) + SMOOTH * smooth * near)


def covariance(x: Rows, y: Rows, parameters: Parameters = PARAMETERS, *, columns: bool = True) -> Floats:
    """Covariance of the losses of two sets of rows, without that of single scores; with or without columns' offsets."""
    total = np.empty((len(x), len(y)))
    for some in _strips(len(x)):
        total[some] = _strip(x[some], y, parameters, columns=columns)
    return total


def own_covariance(rows: Rows, parameters: Parameters = PARAMETERS) -> Floats:
    """`covariance` of rows with themselves, from one half of it: it is symmetric to the last bit."""
    total = np.empty((len(rows), len(rows)))
    for some in _strips(len(rows)):
        before = slice(some.stop)
        total[some, before] = _strip(rows[some], rows[before], parameters, columns=True)
        total[before, some] = total[some, before].T
    return total


def _strips(count: int) -> Iterator[slice]:
    """Rows of a matrix, `STRIP` at a time."""
    for start in range(0, count, STRIP):
        yield slice(start, min(start + STRIP, count))


def _strip(x: Rows, y: Rows, parameters: Parameters, *, columns: bool) -> Floats:
    same = {name: np.equal.outer(x.codes[name], y.codes[name]) for name in FACTORS}
    total = np.full((len(x), len(y)), parameters.shared.get((), 0.0))
    for names, variance in (*parameters.shared.items(), *parameters.sources.items()):
        if names:
            np.add(total, variance, out=total, where=_all(same, names))
    total *= kernel(x, y)
    np.add(total, parameters.row * np.sqrt(np.outer(x.depth, y.depth)), out=total, where=same["row"])
    if columns:
        np.add(total, parameters.column, out=total, where=_all(same, ("source", "model", "benchmark")))
    total *= np.outer(x.unit, y.unit)
    return total


def _all(same: Mapping[str, NDArray[np.bool_]], names: Sequence[str]) -> NDArray[np.bool_]:
    """Where two rows share all of some factors."""
    found = same[names[0]]
    for name in names[1:]:
        found = found & same[name]
    return found


def score_variance(rows: Rows, parameters: Parameters = PARAMETERS) -> Floats:
    """Variance of single scores around their row."""
    constant, linear, square = parameters.score
    return np.asarray((constant + linear * rows.depth + square * rows.depth**2) * rows.unit**2)


def _factor(total: Floats) -> Floats:
    """L of a covariance L Lᵀ."""
    return np.asarray(np.linalg.cholesky(total), dtype=np.float64)


def solve_lower(factor: Floats, right: Floats) -> Floats:
    """X of L X = B, for a lower triangular L: forward substitution, `STRIP` rows at a time."""
    found = np.array(right)
    for some in _strips(len(factor)):
        found[some] -= factor[some, : some.start] @ found[: some.start]
        found[some] = np.linalg.solve(factor[some, some], found[some])
    return found


def solve_factored(factor: Floats, right: Floats) -> Floats:
    """X of L Lᵀ X = B: Lᵀ is lower triangular when read backwards."""
    return solve_lower(factor.T[::-1, ::-1], solve_lower(factor, right)[::-1])[::-1]


def pooled_points(points: Iterable[Point]) -> list[list[Point]]:
    """The points with a relative score and a share, those of one figure that several sources print together.

    The first of each is its own paper's, where that is among them.
    """
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        if point.relative is not None and point.share_kept is not None:
            key = (*point.cell, benchmark_named(point.benchmark), point.score)
            groups.setdefault(key, []).append(point)
    return [sorted(group, key=lambda point: not point.measured_by.startswith("own")) for group in groups.values()]


class Surrogate:
    """Published points, ready to answer for others.

    Parameters
    ----------
    points
        What is known.
    trusted
        Sources whose scores are never stray, and deviate by `TRUSTED` of the variance of others'.
    parameters
        Variances and task scales.
    """

    def __init__(
        self, points: Iterable[Point], trusted: Iterable[str] = (), parameters: Parameters = PARAMETERS
    ) -> None:
        self._trusted = frozenset(trusted)
        self.parameters = parameters
        self.groups = pooled_points(points)
        self.points = [group[0] for group in self.groups]
        self.sources = [frozenset(point.source_id for point in group) for group in self.groups]
        self._codes: dict[str, dict[Any, int]] = {name: {} for name in FACTORS}
        self._curves: dict[tuple[Query, tuple[str, ...]], tuple[Floats, Floats, Floats]] = {}
        self.rows = self.rows_of([Query.of(point) for point in self.points], self._shares)
        self.loss = np.array([100.0 - 100.0 * (point.relative or 0.0) for point in self.points])

    @property
    def _shares(self) -> Floats:
        return np.array([point.share_kept for point in self.points], dtype=np.float64)

    def rows_of(self, queries: Sequence[Query], shares: ArrayLike) -> Rows:
        """Queries as rows, one share each."""
        labels = [query.labels() for query in queries]
        codes = {}
        for name in FACTORS:
            known = self._codes[name]
            codes[name] = np.array([known.setdefault(each[name], len(known)) for each in labels], dtype=np.int64)
        unit = np.array([self.parameters.task_scale.get(each["task"], 1.0) for each in labels])
        return Rows(codes=codes, depth=depth_of(shares), unit=unit)

    @cached_property
    def score_variance(self) -> Floats:
        """Variance of each point around its row: errors have a Student distribution, so that a stray one's is larger.

        One step of its EM algorithm, from the residuals under normal errors.
        """
        normal = score_variance(self.rows, self.parameters)
        factor = _factor(self._covariance + np.diag(normal))
        residual = normal * solve_factored(factor, self.loss)
        weight = (TAILS + 1) / (TAILS + residual**2 / normal)
        own = np.array([point.source_id in self._trusted for point in self.points])
        return np.where(own, TRUSTED * normal, normal / np.clip(weight, *WEIGHTS))

    def labels(self, factor: str) -> NDArray[np.str_]:
        """What each point is under a factor."""
        return np.array([str(Query.of(point).labels()[factor]) for point in self.points])

    @property
    def total(self) -> Floats:
        """Covariance of the points, single scores included."""
        return np.asarray(self._covariance + np.diag(self.score_variance))

    @cached_property
    def _covariance(self) -> Floats:
        total = own_covariance(self.rows, self.parameters)
        self._add_surprises(total, self.rows, self.rows)
        return total

    @cached_property
    def _surprises(self) -> list[tuple[dict[str, int], float]]:
        """Codes of trusted sources' methods, and the variance by which each exceeds what the rest lets expect of it."""
        own = np.array([point.source_id in self._trusted for point in self.points], dtype=bool)
        if not own.any() or own.all():
            return []
        mine, rest = self.rows[own], self.rows[~own]
        onto = covariance(mine, rest, self.parameters)
        total = own_covariance(rest, self.parameters) + np.diag(score_variance(rest, self.parameters))
        half = solve_lower(_factor(total), np.column_stack([self.loss[~own], onto.T]))
        surprise = self.loss[own] - half[:, 0] @ half[:, 1:]
        variance = self.prior_variance(mine) - (half[:, 1:] ** 2).sum(axis=0)
        excess = (surprise**2 - variance) / (np.diag(kernel(mine, mine)) * mine.unit**2 + 1e-9)
        groups: dict[tuple[int, ...], list[float]] = {}
        for i, each in enumerate(excess.tolist()):
            if mine.depth[i] > 0:
                groups.setdefault(tuple(int(mine.codes[name][i]) for name in _IN_HANDS), []).append(each)
        means = {key: float(np.mean(some)) for key, some in groups.items()}
        return [(dict(zip(_IN_HANDS, key, strict=True)), mean) for key, mean in means.items() if mean > 0]

    def _add_surprises(self, total: Floats, left: Rows, right: Rows) -> None:
        """Adds surprises to a covariance: half of each shared by all benchmarks, half on each benchmark."""
        for codes, variance in self._surprises:
            at, onto = (
                np.flatnonzero(np.all([some.codes[name] == code for name, code in codes.items()], axis=0))
                for some in (left, right)
            )
            if len(at) and len(onto):
                x, y = left[at], right[onto]
                alike = (1 + np.equal.outer(x.codes["benchmark"], y.codes["benchmark"])) / 2
                total[np.ix_(at, onto)] += variance * alike * kernel(x, y) * np.outer(x.unit, y.unit)

    @cached_property
    def factor(self) -> Floats:
        """L of the points' covariance L Lᵀ: all that an answer needs, at a sixth of the inverse's operations."""
        return _factor(self.total)

    @cached_property
    def _half_solved(self) -> Floats:
        """L⁻¹ times the losses."""
        return solve_lower(self.factor, self.loss)

    @cached_property
    def inverse(self) -> Floats:
        """Inverse covariance of the points, for whoever leaves some of them out."""
        return np.asarray(np.linalg.inv(self.total), dtype=np.float64)

    @cached_property
    def weights(self) -> Floats:
        """The inverse times the losses."""
        return np.asarray(self.inverse @ self.loss)

    @cached_property
    def disagreement(self) -> Mapping[str, float]:
        """By method: mean spread (largest less smallest, in points) of the cells that several sources print.

        Where a trusted source repeats a cell, by how far its own scores of such cells lie apart, if that is more.
        """
        cells: dict[tuple[str, ...], list[float]] = {}
        copies: dict[tuple[str, ...], int] = {}
        trusted: set[tuple[str, ...]] = set()
        for point, sources, loss in zip(self.points, self.sources, self.loss.tolist(), strict=True):
            key: tuple[str, ...] = (*point.cell, benchmark_named(point.benchmark))
            cells.setdefault(key, []).append(loss)
            if sources & self._trusted:
                trusted.add(key)
            copies[key] = copies.get(key, 0) + len(sources)
        spreads: dict[str, list[float]] = {}
        for key, losses in cells.items():
            if copies[key] > 1:
                spreads.setdefault(key[1], []).append(max(losses) - min(losses))
        found = {method: float(np.mean(some)) for method, some in spreads.items()}
        repeated: dict[str, list[float]] = {}
        for key, losses in cells.items():
            if key in trusted and len(losses) > 1:
                repeated.setdefault(key[1], []).append(max(losses) - min(losses))
        return {**found, **{name: max(found.get(name, 0.0), float(np.mean(some))) for name, some in repeated.items()}}

    def deepest(self, query: Query, known: NDArray[np.bool_] | None = None) -> float:
        """Depth of the deepest score of a method on the model's family, else on any model; no bound without one.

        Parameters
        ----------
        known
            Points to look at; all by default.
        """
        found = self._depths(query, known)
        return float(found.max()) if len(found) else float("inf")

    def mildest(self, query: Query, known: NDArray[np.bool_] | None = None) -> float:
        """Depth of a method's mildest score on the model's family, else on any model; 0 without one.

        A milder reduction lies between that score and the unreduced one. It costs less than single scores scatter by:
        little of its variance is left to explain, and its interval is narrower. It is answered where that score is.
        `known` as in `deepest`.
        """
        found = self._depths(query, known)
        return float(found.min()) if len(found) else 0.0

    def _depths(self, query: Query, known: NDArray[np.bool_] | None) -> Floats:
        """Depths of the scores of a method on the model's family, else on any model."""
        asked = query.labels()
        same = self._is("method", asked["method"])
        same = same if known is None else same & known
        related = same & self._is("family", asked["family"])
        return np.asarray(self.rows.depth[related if related.any() else same])

    def _is(self, factor: str, value: Any) -> NDArray[np.bool_]:
        return np.asarray(self.rows.codes[factor] == self._codes[factor].get(value, -1))

    def apart(
        self, query: Query, benchmarks: Sequence[str], depth: Floats, known: NDArray[np.bool_] | None = None
    ) -> Floats:
        """By how much sources differ about a method on a model near some depths: the mean over benchmarks, in points.

        0 where no two sources have a score; `known` as in `deepest`.
        """
        same = self._is("method", query.method) & self._is("model", query.model)
        same = same if known is None else same & known
        total = np.zeros(len(depth))
        for name in benchmarks:
            at = np.flatnonzero(same & self._is("benchmark", benchmark_named(name)))
            spread = np.zeros(len(depth))
            for some in self._shares_of(at):
                sources = frozenset().union(*(self.sources[i] for i in some))
                if len(sources) > 1 or sources & self._trusted:  # a trusted source's repeats are a spread too
                    near = np.clip(2 - np.abs(depth - self.rows.depth[some].mean()) / NEAR, 0, 1)
                    spread = np.maximum(spread, near * np.ptp(self.loss[some]))
            total += spread
        return total / max(1, len(benchmarks))

    def _shares_of(self, at: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Points, grouped by share."""
        order = at[np.argsort(self.rows.depth[at], kind="stable")]
        return np.split(order, np.flatnonzero(np.diff(self.rows.depth[order]) > SAME_SHARE) + 1) if len(order) else []

    def prior_variance(self, rows: Rows) -> Floats:
        """Variance of scores of which nothing is known; that of the left-out ones over it is what is not explained."""
        first, known = np.zeros(len(rows)), self.parameters
        total = sum(known.shared.values()) + sum(known.sources.values())
        first += total * ((1 - SMOOTH) * rows.depth**2 + SMOOTH * rows.depth) + known.row * rows.depth + known.column
        return np.asarray(first * rows.unit**2 + score_variance(rows, known))

    def expect(self, query: Query, benchmarks: Sequence[str], shares: ArrayLike, *, extra: float = 0.0) -> Expected:
        """The mean score over benchmarks at some shares of the visual tokens.

        Parameters
        ----------
        query
            Model, method and who measures; its benchmark is not read.
        extra
            Standard deviation, in points of 100, of what is known beyond a published score's own deviations.
        """
        wanted = np.atleast_1d(depth_of(shares))
        mean, deviation, explained = (
            np.interp(wanted, _GRID, curve) for curve in self._curve(query, tuple(benchmarks))
        )
        mildest = self.mildest(query)
        there = np.interp(mildest, _GRID, self._curve(query, tuple(benchmarks))[2])
        enough = (explained >= ENOUGH) | ((wanted < mildest) & (there >= ENOUGH))
        apart = np.maximum(self.disagreement.get(query.method, 0.0), self.apart(query, benchmarks, wanted))
        half = np.hypot(np.maximum(HALF_80 * deviation, apart / 2), HALF_80 * extra)
        whole = wanted <= 0  # no reduction is no question
        half = np.where(whole, 0.0, half)
        return Expected(
            mean=np.maximum(0.0, 1 - mean / 100),
            low=np.maximum(0.0, 1 - (mean + half) / 100),
            high=np.maximum(0.0, 1 - (mean - half) / 100),
            known=whole | (enough & (wanted <= self.deepest(query) + REACH)),
        )

    def _curve(self, query: Query, benchmarks: tuple[str, ...]) -> tuple[Floats, Floats, Floats]:
        """Over the grid: the loss, its standard deviation, and the share of the variance that the points explain."""
        key = (query, benchmarks)
        if key not in self._curves:
            count, size = len(benchmarks), len(_GRID)
            asked = [replace(query, benchmark=name) for name in benchmarks for _ in _GRID]
            rows = self.rows_of(asked, np.tile(2.0 ** (-3 * _GRID), count))
            onto = covariance(rows, self.rows, self.parameters, columns=False)
            self._add_surprises(onto, rows, self.rows)
            onto = onto.reshape(count, size, -1).mean(axis=0)
            own = covariance(rows, rows, self.parameters)
            self._add_surprises(own, rows, rows)
            own = own.reshape(count, size, count, size)
            own = np.einsum("aibi->i", own) / count**2
            single = score_variance(rows, self.parameters).reshape(count, size).sum(axis=0) / count**2
            half = solve_lower(self.factor, onto.T)
            left = np.maximum(own - (half**2).sum(axis=0), 0.0) + single
            loss = self._half_solved @ half
            # the nearest that starts at 0 without reduction
            mean = np.concatenate([[0.0], np.maximum(0.0, non_decreasing(loss[1:]))])
            self._curves[key] = (mean, np.sqrt(left), 1 - left / (own + single))
        return self._curves[key]


@lru_cache(maxsize=4)
def shipped_surrogate() -> Surrogate:
    """The surrogate of all points in ``configs/accuracy/``."""
    return Surrogate(load_points())
