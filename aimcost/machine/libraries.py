"""GEMM libraries of other years than the calibration tables': time of a 16-bit product over the tables', by its rows.

The tables are cuBLAS 12.8 and later (vLLM 0.14, SGLang 0.5.10). ``2023`` is cuBLAS 12.1 and 12.2, as PyTorch
wheels of 2023 and 2024 hold it: the bias of the calibrations against microsoft/vidur's profiles of Llama-2 products on
A100 and H100 (commit 7d47513, MIT; measurements/reference/external_gemm_timings.csv). Other architectures: 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["library_factor"]

Floats = NDArray[np.float64]

# library → architecture → (up to so many rows, factor)
_FACTORS: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "2023": {
        "ampere": (
            (16, 1 / 1.11),
            (64, 1 / 1.07),
            (255, 1 / 1.03),
            (1024, 1 / 1.01),
            (2400, 1 / 0.94),
            (np.inf, 1 / 0.92),
        ),
        "hopper": (
            (16, 1 / 0.96),
            (64, 1 / 0.94),
            (255, 1 / 0.88),
            (1024, 1 / 0.80),
            (2400, 1 / 0.90),
            (np.inf, 1 / 0.93),
        ),
    }
}


def library_factor(library: str, architecture: str, rows: Floats) -> Floats | None:
    """Time over the tables' of products with so many rows, shape (products,); None where it is 1."""
    steps = _FACTORS.get(library, {}).get(architecture)
    if steps is None:
        return None
    limits, factors = zip(*steps, strict=True)
    return np.asarray(factors)[np.searchsorted(limits, rows)]
