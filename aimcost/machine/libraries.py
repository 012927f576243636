"""GEMM libraries of other years than the calibration tables': time of a 16-bit product over the tables', by its rows.

The tables are cuBLAS 12.8 and later (vLLM 0.14, SGLang 0.5.10). ``2023`` is cuBLAS 12.1 and 12.2, as PyTorch
wheels of 2023 and 2024 hold it: the bias of the calibrations against microsoft/vidur's profiles of Llama-2 products on
A100 and H100 (commit 7d47513, MIT; measurements/reference/external_gemm_timings.csv). Other architectures: 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["library_factor"]

Floats = NDArray[np.float64]

# library → architecture → (rows, factor): the bias of a range of rows, at its middle, linear in the logarithm of the
# rows between two of them.
_FACTORS: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "2023": {
        "ampere": (
            (8, 1 / 1.11),
            (32, 1 / 1.07),
            (128, 1 / 1.03),
            (512, 1 / 1.01),
            (1600, 1 / 0.94),
            (3600, 1 / 0.92),
        ),
        "hopper": (
            (8, 1 / 0.96),
            (32, 1 / 0.94),
            (128, 1 / 0.88),
            (512, 1 / 0.80),
            (1600, 1 / 0.90),
            (3600, 1 / 0.93),
        ),
    }
}


@lru_cache
def library_factor(library: str, architecture: str) -> Callable[[Floats], Floats] | None:
    """Of products with so many rows, shape (products,): time over the tables'; None where it is 1."""
    nodes = _FACTORS.get(library, {}).get(architecture)
    if nodes is None:
        return None
    counts, factors = zip(*nodes, strict=True)
    return lambda rows: np.asarray(np.interp(np.log(rows), np.log(counts), factors))
