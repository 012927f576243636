"""Bulk evaluation: schedules a second on one core, and how near the memory limit that is.

The bar is on the ratio to a gather of the same shape in the same run, both the best thread CPU time of
several rounds: no machine's speed decides it. Rates are shown as pytest-benchmark's extra info.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from aimcost.inputs.run import load_run
from aimcost.search.bulk import LayerTable, layer_table

SCHEDULES, LAYERS = 200_000, 28
# The checks and the sum may cost half as much as the gather.
BAR = 1.5


@pytest.fixture(scope="module")
def table() -> LayerTable:
    return layer_table(load_run("llava_onevision_dense_a100"))


@pytest.fixture(scope="module")
def schedules(table: LayerTable) -> np.ndarray:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, table.max_tokens + 1, (SCHEDULES, LAYERS))
    return np.ascontiguousarray(np.sort(counts, axis=1)[:, ::-1].astype(np.uint16))


def best_thread_time(work, rounds: int = 7) -> float:
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def test_nothing_but_the_gather_costs(benchmark, table: LayerTable, schedules: np.ndarray) -> None:
    benchmark.pedantic(table.prefill_seconds, args=(schedules,), rounds=5)
    spent = best_thread_time(lambda: table.prefill_seconds(schedules))
    buffer, ones = np.empty((8192, LAYERS)), np.ones(LAYERS)

    def bare_gather() -> None:
        for start in range(0, SCHEDULES, 8192):
            part = schedules[start : start + 8192]
            np.dot(table.seconds.take(part, out=buffer[: len(part)], mode="clip"), ones)

    reference = best_thread_time(bare_gather)
    read = schedules.nbytes / spent
    copy = schedules.nbytes / best_thread_time(schedules.copy)
    benchmark.extra_info.update(
        schedules_per_s=SCHEDULES / spent, index_bytes_per_s=read, of_copy_bandwidth=read / copy
    )
    assert spent <= BAR * reference
