"""Scores of predictions against published times: errors, coverage, and their means over sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .joining import Joined, Speedup

__all__ = ["Interval", "Score", "bootstrap", "by", "mean_of", "score_of"]

_DRAWS = 2000
_Row = TypeVar("_Row", Joined, Speedup)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over groups with its 80 % bootstrap interval: groups are drawn with replacement."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well one group of rows is predicted.

    Attributes
    ----------
    mape, bias
        Means of |predicted / published − 1| and of predicted / published − 1.
    coverage
        Share of the rows inside their 80 % band.
    low, high
        Mean width of the band: its two bounds over the prediction.
    """

    name: str
    rows: int
    mape: float
    bias: float
    coverage: float
    low: float
    high: float


def score_of(name: str, rows: Sequence[_Row]) -> Score:
    """The score of some rows."""
    errors = np.array([row.error for row in rows])
    return Score(
        name=name,
        rows=len(rows),
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        coverage=float(np.mean([row.inside for row in rows])),
        low=float(np.mean([row.low / row.predicted for row in rows])),
        high=float(np.mean([row.high / row.predicted for row in rows])),
    )


def by(rows: Iterable[_Row], key: Callable[[_Row], str]) -> tuple[Score, ...]:
    """One score a group, in the order of their names."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return tuple(score_of(name, groups[name]) for name in sorted(groups))


def mean_of(scores: Sequence[Score], figure: str) -> Interval:
    """Mean of a figure over groups that weigh the same, with its bootstrap interval."""
    return bootstrap([getattr(score, figure) for score in scores])


def bootstrap(values: Sequence[float]) -> Interval:
    """Mean of `values`, and the 10th and 90th percentile of the means of resamples."""
    array = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).integers(0, len(array), (_DRAWS, len(array)))
    low, high = np.quantile(array[drawn].mean(axis=1), (0.1, 0.9))
    return Interval(float(array.mean()), float(low), float(high))
