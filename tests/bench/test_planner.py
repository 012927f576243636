"""How fast the planner goes through schedules, and that its work does not grow with layers.

The bar on one chunk of candidates (time to first token, memory, cache, FLOPs and the front) is a number of
element-wise passes over as many, in thread CPU time of the same run: no machine's speed decides it.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from aimcost.inputs.run import load_run
from aimcost.search import layers
from aimcost.search.plan import levels
from aimcost.search.plan.budgets import Budgets
from aimcost.search.plan.grids import LEVELS, FreeGrid, chunks, grids
from aimcost.search.plan.search import Objective, search

CHUNK = 16_384
# A million candidates a second, where the passes of `reference` took 8.6 ms.
BAR = 1.9


@pytest.fixture(scope="module")
def grid() -> FreeGrid:
    found = grids(load_run("llava_onevision_aim_a100"), ["aim"], ["free"], first=7, levels=LEVELS)[2]
    assert isinstance(found, FreeGrid)
    assert len(found) > 1e6
    return found


def reference() -> float:
    """Element-wise passes over a hundred rows of a chunk, seconds."""
    values = np.random.default_rng(0).random((200, CHUNK))
    times = []
    for _ in range(5):
        start = time.thread_time()
        np.maximum(values[:100] + values[100:], values[:100] * 2.0).sum()
        times.append(time.thread_time() - start)
    return min(times)


def test_candidates_cost_a_few_passes_over_them(benchmark, grid: FreeGrid) -> None:
    goal = Objective(budgets=Budgets(ttft=0.25, kv=1e9))

    def go() -> None:
        search([grid], goal)

    benchmark.pedantic(go, rounds=2)
    start = time.thread_time()
    go()
    spent = time.thread_time() - start
    passes = spent / (len(grid) / CHUNK) / reference()
    benchmark.extra_info.update(candidates_per_s=len(grid) / spent, passes=passes)
    assert passes <= BAR


def test_work_goes_with_levels_and_not_with_layers(grid: FreeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """One estimate prices all schedules; every half is one step a level and one for its cut, and a candidate two."""
    estimates, steps = [], []
    estimate, repeated = layers.estimate_run, levels._repeated
    monkeypatch.setattr(layers, "estimate_run", lambda *given: estimates.append(1) or estimate(*given))
    monkeypatch.setattr(levels, "_repeated", lambda *given: steps.append(1) or repeated(*given))
    prices = grid.prices(band=False)
    # pairs of levels, not schedules
    assert len(estimates) == 1
    assert len(prices.tables.pairs) == len(LEVELS) * (len(LEVELS) + 1) // 2
    # and what leaves the last level, and what follows the last layer
    assert len(steps) == 2 * len(LEVELS) + 2
    assert len(prices.upper.kept) + len(prices.lower.kept) < 0.1 * len(grid)
    steps.clear()
    assert sum(1 for _ in chunks(prices)) == -(-len(grid) // 16_384)
    assert not steps
