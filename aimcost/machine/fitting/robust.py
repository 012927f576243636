"""Bounded least squares with a soft-L1 loss: a few figures from many relative errors, without SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["soft_l1"]

Floats = NDArray[np.float64]
_STEP = 1e-4  # of a forward difference, over the larger of the value and a hundredth of its range
_MAX_STEPS = 60
_TOLERANCE = 1e-9


def soft_l1(
    residuals: Callable[[Floats], Floats], start: Floats, bounds: tuple[Floats, Floats], scale: float
) -> Floats:
    """The x inside `bounds` that minimises Σ ρ(r(x)²), ρ(z) = 2·scale²·(√(1 + z / scale²) − 1).

    Levenberg-Marquardt on the reweighted squares; a figure at a bound whose gradient points outwards stays there.

    Parameters
    ----------
    residuals
        From x, shape (figures,), to residuals, shape (rows,).
    scale
        Residual from which the loss grows linearly instead of quadratically.
    """
    low, high = bounds
    x, damping = np.clip(start, low, high), 1e-3
    r = residuals(x)
    cost = _cost(r, scale)
    for _ in range(_MAX_STEPS):
        jacobian = _jacobian(residuals, x, r, bounds)
        weight = 1.0 / np.sqrt(1.0 + np.square(r / scale))
        gradient = jacobian.T @ (weight * r)
        free = ~(((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)))
        if not free.any():
            break
        normal = (jacobian[:, free].T * weight) @ jacobian[:, free]
        before = cost
        while damping < 1e12:
            matrix = normal + damping * np.diag(np.maximum(np.diag(normal), 1e-30))
            trial = x.copy()
            trial[free] = np.clip(x[free] - np.linalg.solve(matrix, gradient[free]), low[free], high[free])
            new = residuals(trial)
            new_cost = _cost(new, scale)
            if new_cost <= cost:
                x, r, cost, damping = trial, new, new_cost, max(damping / 5.0, 1e-9)
                break
            damping *= 4.0
        if before - cost <= _TOLERANCE * before:
            break
    return x


def _cost(residuals: Floats, scale: float) -> float:
    return float(np.sum(np.sqrt(1.0 + np.square(residuals / scale)) - 1.0))


def _jacobian(residuals: Callable[[Floats], Floats], x: Floats, at: Floats, bounds: tuple[Floats, Floats]) -> Floats:
    low, high = bounds
    columns = []
    for index in range(len(x)):
        step = _STEP * max(abs(x[index]), 0.01 * (high[index] - low[index]))
        if x[index] + step > high[index]:
            step = -step
        moved = x.copy()
        moved[index] += step
        columns.append((residuals(moved) - at) / step)
    return np.stack(columns, axis=1)
