"""How well published scores are predicted that were left out: cells, sources, or models at a time.

All points but one block are known. With the inverse covariance of all of them a block's prediction needs the inverse
of its own part alone (leave-out residuals of a Gaussian process), so hundreds of blocks cost one inversion. Which
scores are stray is decided with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidValueError, UnknownNameError
from .fitting import fitted
from .points import Point, model_family
from .surrogate import ENOUGH, HALF_80, REACH, Query, Surrogate, covariance, depth_of, score_variance

__all__ = ["KINDS", "REFITTED", "HeldOut", "blocks_of", "leave_out", "leave_out_refitted"]

KINDS = ("cell", "source", "model")
# Kinds of few enough blocks to estimate the parameters anew without each.
REFITTED = ("source", "model")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Predictions of scores that were left out, in per cent of the unreduced score; one entry a score and source.

    Attributes
    ----------
    points
        What was left out.
    expected, half
        The prediction, and half its 80 % interval.
    answered
        Where the surrogate is not silent.
    refitted
        Whether variances and task scales were estimated without the block.
    family_mean, method_mean
        The mean of the known points of the task, and of the method's other budgets (on the model, else on all).
    """

    kind: str
    points: tuple[Point, ...]
    expected: Floats
    half: Floats
    answered: NDArray[np.bool_]
    family_mean: Floats
    method_mean: Floats
    refitted: bool

    @property
    def measured(self) -> Floats:
        """The published scores."""
        return np.array([100.0 * (point.relative or 0.0) for point in self.points])

    @property
    def share_answered(self) -> float:
        """Share of the scores that are answered."""
        return float(self.answered.mean())

    @property
    def error(self) -> float:
        """Mean absolute error of the answered ones, in points."""
        return _mean_error(self.expected - self.measured, self.answered)

    @property
    def error_of_all(self) -> float:
        """The same over all, with the family's mean where the surrogate is silent."""
        return float(np.abs(np.where(self.answered, self.expected, self.family_mean) - self.measured).mean())

    @property
    def error_of_method_mean(self) -> float:
        """The same over all for the mean of the method's other budgets."""
        return float(np.abs(self.method_mean - self.measured).mean())

    @property
    def coverage(self) -> float:
        """Share of the answered scores in their 80 % interval."""
        inside = np.abs(self.expected - self.measured) <= self.half
        return float(inside[self.answered].mean()) if self.answered.any() else float("nan")


def _mean_error(errors: Floats, where: NDArray[np.bool_]) -> float:
    return float(np.abs(errors[where]).mean()) if where.any() else float("nan")


def leave_out(surrogate: Surrogate, kind: str) -> HeldOut:
    """Leave out every block of a kind in turn and predict it from the rest.

    A cell is a model, method and budget, in all sources. With a source go the figures that others repeat of it. A model
    is left out where another one of its family has scores.

    Raises
    ------
    UnknownNameError
        Not one of `KINDS`.
    InvalidValueError
        No block leaves scores to predict it from.
    """
    if kind not in KINDS:
        raise UnknownNameError("block to leave out", kind, KINDS)
    prior = surrogate.prior_variance(surrogate.rows)
    reached = 100.0 - surrogate.loss
    columns = []
    for block in _with_a_rest(surrogate, kind):
        variance = np.asarray(np.linalg.inv(surrogate.inverse[np.ix_(block, block)]), dtype=np.float64)
        expected = reached[block] + variance @ surrogate.weights[block]
        rest = np.ones(len(surrogate.points), dtype=bool)
        rest[block] = False
        points = [surrogate.points[i] for i in block]
        explained_by = partial(_explained_without, surrogate, block, variance)
        explained = _explained(surrogate, points, 1 - np.diag(variance) / prior[block], explained_by, rest)
        columns.append((block, expected, np.diag(variance), explained, *_apart_and_reached(surrogate, points, rest)))
    return _held_out(surrogate, kind, columns, refitted=False)


def leave_out_refitted(
    surrogate: Surrogate, kind: str, progress: Callable[[int, int, str], None] | None = None
) -> HeldOut:
    """`leave_out` with variances, task scales, weights and disagreement estimated anew without each block.

    Some tens of seconds a block. What is left of choices made with all points in view: the shape of k, `HALF_80` and
    `ENOUGH`.
    """
    if kind not in REFITTED:
        raise UnknownNameError("block to leave out", kind, REFITTED)
    columns = []
    blocks = _with_a_rest(surrogate, kind)
    for number, block in enumerate(blocks):
        if progress is not None:
            progress(number, len(blocks), f"{kind} {number + 1} of {len(blocks)}")
        left_out = set(block.tolist())
        rest = [p for i, group in enumerate(surrogate.groups) if i not in left_out for p in group]
        known = Surrogate(rest, parameters=fitted(rest))
        points = [surrogate.points[i] for i in block]
        rows = known.rows_of([Query.of(p) for p in points], [p.share_kept or 0.0 for p in points])
        onto = covariance(rows, known.rows, known.parameters)
        own = np.diag(covariance(rows, rows, known.parameters)) + score_variance(rows, known.parameters)
        variance = own - np.einsum("ij,ij->i", onto @ known.inverse, onto)

        def explained_by(onto: Floats, known: Surrogate = known) -> Floats:
            return np.asarray(np.einsum("ij,ij->i", onto @ known.inverse, onto))

        explained = _explained(known, points, 1 - variance / known.prior_variance(rows), explained_by)
        found = _apart_and_reached(known, points)
        columns.append((block, 100.0 - onto @ known.weights, variance, explained, *found))
    return _held_out(surrogate, kind, columns, refitted=True)


def _explained(
    surrogate: Surrogate,
    points: Sequence[Point],
    explained: Floats,
    explained_by: Callable[[Floats], Floats],
    known: NDArray[np.bool_] | None = None,
) -> Floats:
    """Share of the variance that is explained at each point, or at its method's mildest score.

    `explained_by` takes covariances of rows with the surrogate's points to the variance that the known ones explain.
    """
    mildest = np.array([surrogate.mildest(Query.of(point), known) for point in points])
    depth = depth_of([point.share_kept or 0.0 for point in points])
    ask = np.flatnonzero((explained < ENOUGH) & (depth < mildest))
    if not len(ask):
        return explained
    rows = surrogate.rows_of([Query.of(points[i]) for i in ask.tolist()], 2.0 ** (-3 * mildest[ask]))
    onto = covariance(rows, surrogate.rows, surrogate.parameters)
    found = np.array(explained)
    found[ask] = np.maximum(explained[ask], explained_by(onto) / surrogate.prior_variance(rows))
    return found


def _explained_without(surrogate: Surrogate, block: NDArray[np.int64], variance: Floats, onto: Floats) -> Floats:
    """What the points beside a block explain of rows with these covariances; `variance` is the block's own."""
    others = np.array(onto)
    others[:, block] = 0.0
    solved = others @ surrogate.inverse
    of_block = solved[:, block]
    return np.asarray((solved * others).sum(axis=1) - ((of_block @ variance) * of_block).sum(axis=1))


def _apart_and_reached(
    surrogate: Surrogate, points: Sequence[Point], known: NDArray[np.bool_] | None = None
) -> tuple[Floats, Floats]:
    """By how much sources differ about each point's method, and whether that was scored near its share (1, else 0)."""
    apart, within = np.zeros(len(points)), np.zeros(len(points))
    for i, point in enumerate(points):
        query, depth = Query.of(point), np.atleast_1d(depth_of(point.share_kept or 0.0))
        near = surrogate.apart(query, [point.benchmark], depth, known)
        apart[i] = max(surrogate.disagreement.get(point.method, 0.0), near[0])
        within[i] = depth[0] <= surrogate.deepest(query, known) + REACH
    return apart, within


def _held_out(
    surrogate: Surrogate,
    kind: str,
    columns: Sequence[tuple[NDArray[np.int64], Floats, Floats, Floats, Floats, Floats]],
    *,
    refitted: bool,
) -> HeldOut:
    """From each block: rows, expected score, its variance, what is explained of it, and `_apart_and_reached`'s two."""
    reached = 100.0 - surrogate.loss
    means = [_means(surrogate, reached, each[0]) for each in columns]
    where = np.concatenate([each[0] for each in columns])
    expected, variance, explained, apart, within = (np.concatenate([each[i] for each in columns]) for i in range(1, 6))
    family, method = (np.concatenate([each[i] for each in means]) for i in range(2))
    # a figure that several sources print is one left-out score for each of them, unless sources are left out in turn
    times = np.ones(len(where), dtype=int) if kind == "source" else np.array([len(surrogate.sources[i]) for i in where])
    every = np.repeat(np.arange(len(where)), times)
    return HeldOut(
        kind=kind,
        points=tuple(surrogate.points[where[i]] for i in every),
        expected=expected[every],
        half=np.maximum(HALF_80 * np.sqrt(variance), apart / 2)[every],
        answered=((explained >= ENOUGH) & (within > 0))[every],
        family_mean=family[every],
        method_mean=method[every],
        refitted=refitted,
    )


def _with_a_rest(surrogate: Surrogate, kind: str) -> list[NDArray[np.int64]]:
    """The blocks; refused where one is all there is."""
    blocks = list(blocks_of(surrogate, kind))
    if not blocks or any(len(block) == len(surrogate.points) for block in blocks):
        needed = {"cell": "two budgets or methods", "source": "two sources", "model": "two models of a family"}
        found = ", ".join(sorted({p.source_id if kind == "source" else p.model for p in surrogate.points}))
        raise InvalidValueError("scores", f"of {needed[kind]} at least, to leave a {kind} out", found)
    return blocks


def blocks_of(surrogate: Surrogate, kind: str) -> Iterator[NDArray[np.int64]]:
    """What is left out together, as positions among the surrogate's points."""
    points = surrogate.points
    if kind == "source":
        for name in sorted(frozenset().union(*surrogate.sources)):
            yield np.array([i for i, sources in enumerate(surrogate.sources) if name in sources])
        return
    groups: dict[object, list[int]] = {}
    for i, point in enumerate(points):
        groups.setdefault(point.cell if kind == "cell" else point.model, []).append(i)
    families = [model_family(model) for model in {point.model for point in points}]
    for block in groups.values():
        if kind == "cell" or families.count(model_family(points[block[0]].model)) > 1:
            yield np.array(block)


def _means(surrogate: Surrogate, reached: Floats, block: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Means of the known points of each left-out one's task, and of its method."""
    codes = surrogate.rows.codes
    known = np.ones(len(reached), dtype=bool)
    known[block] = False
    family, method = np.empty(len(block)), np.empty(len(block))
    for position, i in enumerate(block):
        task = known & (codes["task"] == codes["task"][i])
        same = known & (codes["method"] == codes["method"][i])
        on_model = same & (codes["model"] == codes["model"][i])
        family[position] = reached[task if task.any() else known].mean()
        method[position] = reached[next((m for m in (on_model, same) if m.any()), known)].mean()
    return family, method
