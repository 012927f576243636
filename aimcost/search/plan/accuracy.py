"""Expected accuracy from measured points: a monotone surrogate, never a measurement.

Two features describe a schedule: x1 = log2 of the share of visual tokens that reach layer 0, and
x2 = mean over layers of the square root of the share of those that are left. The root makes the
first token left in a layer worth more than the last one, as the measured l1, l2 table shows: no
visual tokens from layer 14 on costs more accuracy than fewer of them from layer 7 on.
Score = a(x1) + b(x2), both non-decreasing and fitted by least squares (isotonic regression,
alternating), linear between measured values. Nothing is predicted outside the convex hull of the
measured (x1, x2) unless asked for.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import AimcostError, FileFormatError, InvalidValueError
from ...inputs.files import parse_value
from ...inputs.run import Run, plan_schedule
from ...inputs.schema import WorkloadFile
from ...inputs.workload import resolve_workload
from ...isotonic import non_decreasing
from ...types import Schedule, Workload
from ..scores.points import Point, load_points, models_named, settings_of

__all__ = ["Surrogate", "features", "fit", "surrogate_for"]

Floats = NDArray[np.float64]
_SWEEPS = 500
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A fitted pair of monotone functions.

    Attributes
    ----------
    points
        (x1, x2, score) of every measured point.
    methods
        Methods that were measured: what one method's schedule scores says nothing of another's.
    frames, images
        What the points were measured on; zero where the table does not say.
    left_out
        Absolute leave-one-out errors of the points inside the hull of the others.
    """

    source: str
    metric: str
    points: Floats
    a: tuple[Floats, Floats]
    b: tuple[Floats, Floats]
    lower: tuple[Floats, Floats]
    upper: tuple[Floats, Floats]
    methods: frozenset[str] = frozenset({"aim"})
    frames: int = 0
    images: int = 0
    left_out: tuple[float, ...] = ()

    def score(self, x1: float, x2: ArrayLike) -> Floats:
        """Expected score; outside the measured values each function is constant."""
        merged = float(np.interp(x1, *self.a))
        return np.asarray(merged + np.interp(np.asarray(x2, dtype=np.float64), *self.b), dtype=np.float64)

    def known(self, x1: float, x2: ArrayLike, workload: Workload | None = None) -> NDArray[np.bool_]:
        """Which of `x2` lie among the measured points at `x1`; none on another number of frames."""
        depth = np.asarray(x2, dtype=np.float64)
        other = (
            workload is not None
            and (self.frames or self.images)
            and ((workload.frames, workload.images) != (self.frames, self.images))
        )
        low, high = self.lower[0][0] - _TOLERANCE, self.lower[0][-1] + _TOLERANCE
        if other or not low <= x1 <= high:
            return np.zeros(depth.shape, dtype=bool)
        bottom, top = np.interp(x1, *self.lower), np.interp(x1, *self.upper)
        return np.asarray((depth >= bottom - _TOLERANCE) & (depth <= top + _TOLERANCE))

    def measured(self, family: str) -> bool:
        """Whether the points cover a method: those measured, and none, which every method starts from."""
        return family == "none" or family in self.methods

    def describe(self) -> str:
        """One line: the points it is fitted to and its leave-one-out error."""
        head = f"surrogate of {self.metric}, fitted to {len(self.points)} measured points ({self.source})"
        if not self.left_out:
            return head + "; too few points for a leave-one-out error"
        errors = np.array(self.left_out)
        return (
            f"{head}; leave-one-out error {errors.mean():.2f} on average, {errors.max():.2f} at most, over the "
            f"{len(errors)} points inside the range of the others"
        )


def features(schedule: Schedule, workload: Workload) -> tuple[float, float]:
    """(x1, x2) of a schedule; see the module."""
    start = schedule.visual_tokens
    if not start or not workload.visual_tokens:
        raise InvalidValueError(
            "workload", "one with visual tokens: accuracy is a function of them", workload.visual_tokens
        )
    left = np.maximum(np.array(schedule.tokens, dtype=float) - schedule.text_tokens, 0.0) / start
    return float(np.log2(start / workload.visual_tokens)), float(np.sqrt(left).mean())


def fit(points: Floats, **labels: Any) -> Surrogate:
    """The surrogate of measured points [n, (x1, x2, score)], leave-one-out errors included."""
    errors = []
    for index in range(len(points)):
        others = np.delete(points, index, axis=0)
        rest = _fit(others, source="", metric="")
        if len(others) > 2 and rest.known(points[index, 0], points[index, 1]):
            errors.append(abs(float(rest.score(points[index, 0], points[index, 1])) - float(points[index, 2])))
    return _fit(points, left_out=tuple(errors), **labels)


def _fit(points: Floats, **labels: Any) -> Surrogate:
    first, second, score = points.T
    a, b = np.full(len(points), score.mean()), np.zeros(len(points))
    of_first, of_second = (np.unique(x, return_inverse=True)[1] for x in (first, second))
    for _ in range(_SWEEPS):
        before = a + b
        a = _isotonic(of_first, score - b)
        b = _isotonic(of_second, score - a)
        if np.abs(a + b - before).max() < 1e-12:
            break
    return Surrogate(
        points=points,
        a=_knots(first, a),
        b=_knots(second, b),
        lower=_chain(first, second, -1.0),
        upper=_chain(first, second, 1.0),
        **labels,
    )


def _isotonic(where: NDArray[np.int64], y: Floats) -> Floats:
    """Non-decreasing least squares of y (pool adjacent violators), at the points; `where` ranks their x."""
    weights = np.bincount(where).astype(float)
    means = np.bincount(where, y) / weights
    fitted = non_decreasing(means, weights)
    return np.asarray(fitted[where])


def _knots(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    levels, first = np.unique(x, return_index=True)
    return levels, y[first]


def _chain(x: Floats, y: Floats, side: float) -> tuple[Floats, Floats]:
    """Lower (side −1) or upper (side 1) hull of the points as a function of x."""
    levels = np.unique(x)
    extreme = [side * float((side * y[x == level]).max()) for level in levels]
    hull: list[tuple[float, float]] = []
    for point in zip(levels.tolist(), extreme, strict=True):
        while len(hull) > 1 and side * _turn(hull[-2], hull[-1], point) >= 0:
            hull.pop()
        hull.append(point)
    return np.array([p[0] for p in hull]), np.array([p[1] for p in hull])


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def surrogate_for(run: Run, table: str | Path | None = None) -> Surrogate | None:
    """The surrogate of the user's own table, else of the measured points of the run's model; None without.

    Parameters
    ----------
    table
        A CSV with the columns schedule and score. A schedule is a ``method:`` mapping as it stands
        in a run file, or counts layer by layer (``[[1669, 14], [101, 14]]``), on the run's workload.

    Raises
    ------
    FileFormatError, InvalidValueError
        A table that cannot be read, or a schedule that the model cannot run.
    """
    if table is not None:
        return _from_csv(run, Path(table))
    scored = _scored(run.model.name)
    if not scored:
        return None
    convention = run.method.get("convention", "executed")
    first = scored[0][0]
    found = re.search(r"(\d+) frames", f"{first.table} {first.note}")
    # the published tables price 100 tokens of text; the features do not depend on them
    workload, _ = resolve_workload(
        WorkloadFile(frames=int(found[1]) if found else None, images=None if found else 1, text_tokens=100),
        run.model,
        without_newline=convention == "paper",
    )
    methods = [({**method, "convention": convention}, point.score) for point, method in scored]
    return fit(
        _measured(run, workload, methods, first.source),
        source=first.source,
        metric=first.benchmark,
        methods=_names(methods),
        frames=workload.frames,
        images=workload.images,
    )


def _scored(model: str) -> list[tuple[Point, dict[str, Any]]]:
    """The points with stated AIM parameters, of the benchmark and source that has most of them; none of under three."""
    groups: dict[tuple[str, str], list[tuple[Point, dict[str, Any]]]] = {}
    points = load_points()
    named = models_named(points)
    for point in points:
        method = settings_of(point) if named.get(point.model) == model else None
        if method is not None and method["name"] == "aim":
            groups.setdefault((point.source_id, point.benchmark), []).append((point, method))
    most = max(groups.values(), key=len, default=[])
    return most if len(most) > 2 else []


def _from_csv(run: Run, path: Path) -> Surrogate:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileFormatError(f"{path}: not a readable CSV: {error}") from None
    if not rows or not {"schedule", "score"} <= set(rows[0]):
        found = ", ".join(str(key) for key in rows[0]) if rows else "no rows"
        raise FileFormatError(f"{path}: needs the columns schedule and score (found {found})")
    methods = []
    for number, row in enumerate(rows, start=2):
        try:
            schedule, score = parse_value(row["schedule"] or ""), float(row["score"])
        except (FileFormatError, ValueError, TypeError):
            raise FileFormatError(f"{path}: line {number}: needs a schedule and a number") from None
        method = {"name": "explicit", "tokens_per_layer": schedule} if isinstance(schedule, list) else schedule
        if not isinstance(method, Mapping) or not np.isfinite(score):
            raise FileFormatError(f"{path}: line {number}: needs a schedule and a number")
        methods.append((dict(method), score))
    if len(methods) < 2:
        raise FileFormatError(f"{path}: needs at least two schedules (found {len(methods)})")
    points = _measured(run, run.workload, methods, str(path))
    return fit(
        points,
        source=str(path),
        metric="score",
        methods=_names(methods),
        frames=run.workload.frames,
        images=run.workload.images,
    )


def _names(methods: Sequence[tuple[dict[str, Any], float]]) -> frozenset[str]:
    """Methods that were measured; counts layer by layer are taken as AIM's, which the planner plans so."""
    return frozenset("aim" if method.get("name") == "explicit" else str(method.get("name")) for method, _ in methods)


def _measured(run: Run, workload: Workload, methods: Sequence[tuple[dict[str, Any], float]], where: str) -> Floats:
    points = []
    for method, score in methods:
        try:
            schedule = plan_schedule(run.model, workload, method, where=where)
        except AimcostError as error:
            raise InvalidValueError("schedule", f"a schedule that {run.model.name} can run ({error})", method) from None
        points.append((*features(schedule, workload), score))
    return np.array(points)
