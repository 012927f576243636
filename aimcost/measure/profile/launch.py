"""What an operation costs before it computes: the launch on the device, the framework on the host."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from .bench import Bench, Prepared, Step, Task, Tasks
from .plan import Plan

__all__ = ["launch_tasks"]

HOST_RUNS = 200


def launch_tasks(bench: Bench, plan: Plan) -> Tasks:
    """Tiny operations: device time of one launch, and host time of queueing one."""
    dtype = plan.dtypes[0]
    for name in ("add", "linear", "attention"):
        make = partial(_tiny, bench, name, dtype)
        yield Task(op="host", name=name, dims={}, dtype=dtype, make=make, runs=HOST_RUNS, host=True)
        if bench.cuda:
            yield Task(op="launch", name=name, dims={}, dtype=dtype, make=make)


def _tiny(bench: Bench, name: str, dtype: str) -> Prepared:
    x = bench.randn(1, 8, 64, dtype=dtype)
    weight = bench.randn(64, 64, dtype=dtype)
    heads = bench.randn(1, 1, 8, 64, dtype=dtype)
    steps: dict[str, Step] = {
        "add": lambda turn: torch.add(x, x),
        "linear": lambda turn: F.linear(x, weight),
        "attention": lambda turn: F.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
    }
    return Prepared(steps[name])
