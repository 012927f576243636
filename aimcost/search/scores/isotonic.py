"""Least squares under an order: pool adjacent violators."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["non_decreasing"]

Floats = NDArray[np.float64]


def non_decreasing(values: Floats, weights: Floats | None = None) -> Floats:
    """The non-decreasing sequence nearest to `values` in least squares."""
    blocks: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values, np.ones(len(values)) if weights is None else weights, strict=True):
        blocks.append([float(value), float(weight), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            m2, w2, n2 = blocks.pop()
            m1, w1, n1 = blocks.pop()
            blocks.append([(m1 * w1 + m2 * w2) / (w1 + w2), w1 + w2, n1 + n2])
    return np.repeat([block[0] for block in blocks], [int(block[2]) for block in blocks])
