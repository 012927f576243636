"""How fast the planner goes through schedules, and that its work does not grow with layers.

The bar on one chunk of candidates (time to first token, memory, cache, FLOPs and the front) is a number of
element-wise passes over as many, in thread CPU time of the same run: no machine's speed decides it.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from aimcost.inputs.run import load_run
from aimcost.search.plan import evaluate
from aimcost.search.plan.budgets import Budgets
from aimcost.search.plan.grids import LEVELS, FreeGrid, compositions, grids
from aimcost.search.plan.search import Aim, search

CHUNK = 16_384
# A million candidates a second, where the passes of `reference` took 8.6 ms.
BAR = 1.9


@pytest.fixture(scope="module")
def grid() -> FreeGrid:
    found = grids(load_run("llava_onevision_aim_a100"), ["aim"], ["free"], first=7, levels=LEVELS)[2]
    assert isinstance(found, FreeGrid)
    assert len(found) > 1e6
    found.prepare(band=False)
    compositions(21, 8)
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
    aim = Aim(budgets=Budgets(ttft=0.25, kv=1e9))

    def go() -> None:
        search([grid], aim)

    benchmark.pedantic(go, rounds=2)
    start = time.thread_time()
    go()
    spent = time.thread_time() - start
    passes = spent / (len(grid) / CHUNK) / reference()
    benchmark.extra_info.update(candidates_per_s=len(grid) / spent, passes=passes)
    assert passes <= BAR


def test_work_goes_with_levels_and_not_with_layers(grid: FreeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls a chunk: one step a level for a run of equal layers, however many they are."""
    calls = []
    one_run = evaluate._run
    monkeypatch.setattr(evaluate, "_run", lambda *given: calls.append(1) or one_run(*given))
    chunks = sum(1 for _ in grid.chunks())
    assert chunks == -(-len(grid) // CHUNK)
    assert len(calls) == chunks * len(LEVELS)
    # and the estimator runs once for all of them: pairs of levels, not schedules
    assert len(grid.prepare(band=False).pairs) == len(LEVELS) * (len(LEVELS) + 1) // 2
