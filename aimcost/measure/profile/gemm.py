"""Products with weights: the ceiling of each number format, and a grid of m, n, k with cold weights."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F

from ..records import HELD_OUT
from .bench import DTYPES, Bench, Prepared, Task, Tasks, WeightPool, rotating
from .plan import Plan

__all__ = ["ceiling_tasks", "grid_tasks"]


def ceiling_tasks(bench: Bench, plan: Plan) -> Tasks:
    """One large product a format."""
    m, n, k = plan.ceiling
    for dtype in plan.dtypes:
        pool = WeightPool(bench, elements=2 * n * k, dtype=dtype)
        dims = {"m": float(m), "n": float(n), "k": float(k)}
        make = partial(_product, bench, pool, m, n, k, dtype)
        yield Task(op="ceiling", name="gemm", dims=dims, dtype=dtype, make=make, rows=m)


def grid_tasks(bench: Bench, plan: Plan) -> Tasks:
    """Every m, n, k of the plan, and the probes between them."""
    grid = [(m, n, k) for n in plan.outs for k in plan.ins for m in plan.rows]
    for dtype in plan.dtypes:
        pool = WeightPool(bench, elements=plan.pool_bytes // DTYPES[dtype].itemsize, dtype=dtype)
        for shapes, labels in ((grid, {}), (plan.probes, {"role": HELD_OUT})):
            for m, n, k in shapes:
                yield Task(
                    op="gemm",
                    name="linear",
                    dims={"m": float(m), "n": float(n), "k": float(k)},
                    dtype=dtype,
                    make=partial(_product, bench, pool, m, n, k, dtype),
                    rows=m,
                    labels=labels,
                )


def _product(bench: Bench, pool: WeightPool, m: int, n: int, k: int, dtype: str) -> Prepared:
    x = bench.randn(m, k, dtype=dtype)
    return Prepared(rotating(pool.views(n, k), lambda weight: F.linear(x, weight)), [x])
