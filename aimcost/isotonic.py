"""Least squares under an order: pool adjacent violators (Ayer et al. 1955)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["non_decreasing"]

Floats = NDArray[np.float64]


def non_decreasing(values: Floats, weights: Floats | None = None) -> Floats:
    """The non-decreasing sequence nearest to `values` in least squares, of each row alike.

    Parameters
    ----------
    values
        Shape (..., length).
    weights
        Of the same shape; 1 by default.
    """
    row = np.repeat(np.arange(values.size // max(values.shape[-1], 1)), values.shape[-1])
    weight = np.ones(values.size) if weights is None else weights.ravel().astype(float)
    total, length = values.ravel() * weight, np.ones(values.size, dtype=np.int64)
    while True:
        mean = total / weight
        falls = (mean[1:] < mean[:-1]) & (row[1:] == row[:-1])
        if not falls.any():
            return np.asarray(np.repeat(mean, length).reshape(values.shape))
        # a falling run is one block of the answer
        first = np.flatnonzero(np.concatenate([[True], ~falls]))
        total, weight, length = (np.add.reduceat(each, first) for each in (total, weight, length))
        row = row[first]
