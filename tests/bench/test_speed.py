"""What one estimate costs, and the command from a cold start: calls, and ratios within one run.

Calls do not depend on the machine. Thread CPU time is compared with that of a fixed piece of the same kind
of work, run in between; durations are shown as pytest-benchmark's extra info.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimcost.inputs import discover
from aimcost.inputs.run import Run, load_run
from aimcost.pricing.pricing import estimate_run

ROOT = Path(__file__).resolve().parent.parent.parent
# Python and C functions that one estimate calls (1490 for calibrated), and one whose operations are new (3510).
CALLS_BAR = 1800
NEW_CALLS_BAR = 4000
# Of an estimate to `yardstick` (calibrated on an AMD EPYC, 2026-11-25: 0.68, and 1.4 ms of CPU).
ESTIMATE_BAR = 1.0
# Of the command to `STARTUP_YARDSTICK` (1.65 on a busy AMD EPYC of two cores, 2026-11-26; 2.05 of a NumPy that starts
# one thread, as the command's own does). Of 215 ms, Python and NumPy take 100, PyYAML 14, making eighty frozen classes
# 20, the code of 120 modules 25, and the estimate with what it reads 45.
COLD_START_BAR = 2.0
# As spread out in memory as an estimate is: what neighbours take from the caches slows both.
COLUMNS = [np.full(744, float(index)) for index in range(300)]
OBJECTS = [{str(index): float(index)} for index in range(4000)]
STARTUP_YARDSTICK = "import numpy"
SMALL = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 32, "text_tokens": 100},
    "method": {"name": "aim"},
    "hardware": "nvidia_a100_sxm_40gb",
}


def median_thread_time(work: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return statistics.median(times)


def yardstick() -> None:
    """Small arrays and many Python objects, as an estimate is."""
    for values in COLUMNS:
        np.maximum(values, 0.5)
    sum(number for each in OBJECTS for number in each.values())
    column = np.arange(28.0)
    rows: dict[int, float] = {}
    for index in range(400):
        total = np.maximum(column * 2.0, index) + column
        rows[index] = float(total[index % 28])


def calls(work: Callable[[], Any]) -> int:
    """Python and C functions called."""
    count = 0

    def hook(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hook)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


ESTIMATORS = pytest.mark.parametrize("estimator", discover.estimator_names())


@ESTIMATORS
def test_an_estimate_makes_few_calls(estimator: str) -> None:
    """28 layers, inputs loaded, to the totals and without ``.to_dict()``."""
    run = load_run({**RUN, "estimator": estimator})
    estimate_run(run)
    found = calls(lambda: estimate_run(run).totals.time_s)
    other = run.with_(text_tokens=101 + discover.estimator_names().index(estimator))
    first = calls(lambda: estimate_run(other).totals.time_s)
    print(f"{estimator}: {found} calls, {first} for a run whose operations are new")
    assert found <= CALLS_BAR
    assert first <= NEW_CALLS_BAR


@ESTIMATORS
def test_calls_do_not_grow_with_layers(estimator: str) -> None:
    found = list[int]()
    for layers in (8, 56):
        model = {**SMALL, "num_hidden_layers": layers}
        run = load_run({**RUN, "workload": {"visual_tokens": 576, "text_tokens": 70}, "model": model,
                        "method": {"name": "fastv"}, "estimator": estimator})  # fmt: skip
        estimate_run(run)
        found.append(calls(lambda run=run: estimate_run(run).totals.time_s))
    assert abs(found[1] - found[0]) < 5, found  # for 48 layers more


@ESTIMATORS
def test_one_estimate(benchmark: Any, estimator: str) -> None:
    """The median of eleven ratios, each of two medians: what neighbours take from the caches, both lose."""
    run: Run = load_run({**RUN, "estimator": estimator})
    assert len(run.schedule.tokens) == 28

    def work() -> float:
        return estimate_run(run).totals.time_s

    assert work() > 0
    benchmark.pedantic(work, rounds=20)
    pairs = [(median_thread_time(work, 11), median_thread_time(yardstick, 5)) for _ in range(11)]
    ratio = statistics.median(spent / unit for spent, unit in pairs)
    benchmark.extra_info.update(cpu_ms=min(pairs)[0] * 1e3, ratio=ratio)
    assert ratio <= ESTIMATE_BAR


def test_cold_start(benchmark: Any, tmp_path: Path) -> None:
    """``aimcost estimate`` with everything it imports and reads, user and system time: the median of seven ratios."""
    (tmp_path / "run.yaml").write_text(
        "model: llava-onevision-qwen2-7b\nworkload: {frames: 32, text_tokens: 100}\n"
        "method: {name: aim}\nhardware: nvidia_a100_sxm_40gb\n"
    )
    # an installed package has its byte code, whatever this test's own environment says
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    # NumPy as it comes: the command sets its own number of threads
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        environment.pop(name, None)

    def cpu_seconds(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def once() -> float:
        return cpu_seconds("-m", "aimcost", "estimate", "run.yaml")

    once()  # byte code
    benchmark.pedantic(once, rounds=1)
    pairs = [(once(), cpu_seconds("-c", STARTUP_YARDSTICK)) for _ in range(7)]
    ratio = statistics.median(spent / unit for spent, unit in pairs)
    benchmark.extra_info.update(cpu_s=statistics.median(spent for spent, _ in pairs), ratio=ratio)
    assert ratio <= COLD_START_BAR
