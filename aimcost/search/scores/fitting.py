"""Variances and task scales of the surrogate by maximum likelihood.

Average-information REML (Gilmour, Thompson and Cullis 1995) without fixed effects: with a = K⁻¹ y, the score of a
parameter is (aᵀ D a − tr K⁻¹ D) / 2 for D = ∂K / ∂θ, and the information that steps are taken by (D a)ᵀ K⁻¹ (D′ a) / 2.
Parameters are logarithms, so that variances stay positive. Weights of single scores are those of the step before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from .points import Point
from .surrogate import PARAMETERS, Parameters, Surrogate, kernel, score_variance

__all__ = ["NEUTRAL", "fitted"]

Floats = NDArray[np.float64]
# Longest step of a logarithm, the gain in log likelihood a step promises below which the fit has converged, and the
# least variance.
STEP, ENOUGH, LEAST = 0.7, 0.05, 0.01
# The task whose scale is fixed: a common factor of all scales is a factor of all variances.
UNIT_TASK = "hallucination"
# A start that knows nothing of the points.
NEUTRAL = Parameters(
    shared=dict.fromkeys(PARAMETERS.shared, 10.0),
    sources=dict.fromkeys(PARAMETERS.sources, 3.0),
    row=3.0,
    column=3.0,
    score=(3.0, 3.0, 3.0),
    task_scale=dict.fromkeys(PARAMETERS.task_scale, 1.0),
)


def fitted(points: Iterable[Point], start: Parameters = NEUTRAL, *, steps: int = 16) -> Parameters:
    """Parameters under which the points are likeliest."""
    points, found = list(points), start
    for _ in range(steps):
        found, promised = _step(Surrogate(points, parameters=found), found)
        if promised < ENOUGH:
            break
    return found


def _step(surrogate: Surrogate, now: Parameters) -> tuple[Parameters, float]:
    """One damped Newton step, and the gain in log likelihood that it promises."""
    inverse, a = surrogate.inverse, surrogate.weights
    names, gradient, directions = [], [], []
    for name, trace, onto in _derivatives(surrogate, now):
        names.append(name)
        gradient.append((a @ onto - trace) / 2)
        directions.append(onto)
    f, score = np.array(directions), np.array(gradient)
    information = (f @ inverse @ f.T) / 2
    step = np.linalg.solve(information + 0.3 * np.eye(len(score)), score)
    longest = float(np.abs(step).max())
    step *= min(1.0, STEP / longest)
    return _moved(now, dict(zip(names, step.tolist(), strict=True))), float(score @ step) / 2


def _derivatives(surrogate: Surrogate, now: Parameters) -> Iterator[tuple[object, float, Floats]]:
    """(parameter, tr K⁻¹ D, D a) of every parameter."""
    rows, inverse, a = surrogate.rows, surrogate.inverse, surrogate.weights
    units = np.outer(rows.unit, rows.unit)
    growing = kernel(rows, rows) * units
    parts: list[tuple[object, float, tuple[str, ...], Floats]] = [
        *((("shared", names), value, names, growing) for names, value in now.shared.items()),
        *((("sources", names), value, names, growing) for names, value in now.sources.items()),
        ("row", now.row, ("row",), np.sqrt(np.outer(rows.depth, rows.depth)) * units),
        ("column", now.column, ("source", "model", "benchmark"), units),
    ]
    for name, value, factors, shape in parts:
        trace, onto = 0.0, np.zeros(len(rows))
        for group in _groups(surrogate, factors):
            at = np.ix_(group, group)
            part = shape[at]
            trace += float((inverse[at] * part).sum())
            onto[group] = part @ a[group]
        yield name, value * trace, value * onto
    weight = surrogate.score_variance / score_variance(rows, now)
    for power, value in enumerate(now.score):
        diagonal = value * weight * rows.depth**power * rows.unit**2
        yield ("score", power), float(np.diag(inverse) @ diagonal), diagonal * a
    tasks = surrogate.labels("task")
    for task in now.task_scale:
        of_task = (tasks == task).astype(float)
        if task != UNIT_TASK and of_task.any():
            onto = of_task * surrogate.loss + surrogate.total @ (of_task * a)
            yield ("task_scale", task), 2 * float(of_task.sum()), onto


def _groups(surrogate: Surrogate, factors: tuple[str, ...]) -> Iterator[NDArray[np.int64]]:
    """Rows that share all of some factors."""
    codes = np.stack([surrogate.rows.codes[name] for name in factors] or [np.zeros(len(surrogate.rows), np.int64)])
    _, group = np.unique(codes, axis=1, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    yield from np.split(order, np.cumsum(np.bincount(group.ravel()))[:-1])


def _moved(now: Parameters, step: dict[object, float]) -> Parameters:
    def of(name: object, value: float) -> float:
        return max(LEAST, value * float(np.exp(step.get(name, 0.0))))

    constant, linear, square = (of(("score", power), value) for power, value in enumerate(now.score))
    return Parameters(
        shared={names: of(("shared", names), value) for names, value in now.shared.items()},
        sources={names: of(("sources", names), value) for names, value in now.sources.items()},
        row=of("row", now.row),
        column=of("column", now.column),
        score=(constant, linear, square),
        task_scale={task: of(("task_scale", task), value) for task, value in now.task_scale.items()},
    )
