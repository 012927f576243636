"""How long one estimate takes, and the command from a cold start.

Both bars are on CPU time, never on the clock. A machine that does a fixed piece of the same kind of
work slower than the one on which the bars were set gets as much more. One estimate is the quietest of
eleven medians: what neighbours take from the caches only ever adds.
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
ESTIMATE_BAR_S = 2e-3
COLD_START_BAR_S = 0.5
# `yardstick` on the machine on which the bars were set.
YARDSTICK_S = 1.36e-3
# As spread out in memory as an estimate is: what neighbours take from the caches slows both.
COLUMNS = [np.full(744, float(index)) for index in range(300)]
OBJECTS = [{str(index): float(index)} for index in range(4000)]
# The same for starting a process: what no estimate can do without, none of it our code.
STARTUP_YARDSTICK = "import numpy, yaml, pydantic"
STARTUP_YARDSTICK_S = 0.15
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


class Slowness:
    """How much slower this machine is, at least 1: measured beside the work, since neighbours come and go."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    def sample(self) -> None:
        self.add(median_thread_time(yardstick, 5) / YARDSTICK_S)

    def add(self, ratio: float) -> None:
        self.samples.append(ratio)

    def __call__(self) -> float:
        """The median; beyond 4 the figures say nothing."""
        return check_slowness(statistics.median(self.samples))

    def quietest(self) -> float:
        """At the quietest sample."""
        return check_slowness(min(self.samples))


def check_slowness(found: float) -> float:
    if found > 4:
        pytest.skip(f"this machine is {found:.1f} times slower than the one the bars were set on")
    return max(1.0, found)


@pytest.fixture
def slowness() -> Slowness:
    return Slowness()


@pytest.mark.parametrize("estimator", discover.estimator_names())
def test_one_estimate(benchmark: Any, estimator: str, slowness: Slowness) -> None:
    """28 layers, inputs loaded, to the totals and without ``.to_dict()``."""
    run: Run = load_run({**RUN, "estimator": estimator})
    assert len(run.schedule.tokens) == 28

    def work() -> float:
        return estimate_run(run).totals.time_s

    assert work() > 0
    benchmark.pedantic(work, rounds=20)
    medians = []
    for _ in range(11):
        slowness.sample()
        medians.append(median_thread_time(work, 11))
    median, slower = min(medians), slowness.quietest()
    benchmark.extra_info.update(cpu_ms=median * 1e3, slowness=slower)
    assert median <= ESTIMATE_BAR_S * slower, f"{median * 1e3:.2f} ms, machine {slower:.2f}x slower"


def test_cold_start(benchmark: Any, tmp_path: Path, slowness: Slowness) -> None:
    """``aimcost estimate`` with everything it imports and reads: user + system time, median of ten."""
    (tmp_path / "run.yaml").write_text(
        "model: llava-onevision-qwen2-7b\nworkload: {frames: 32, text_tokens: 100}\n"
        "method: {name: aim}\nhardware: nvidia_a100_sxm_40gb\n"
    )
    # an installed package has its byte code, whatever this test's own environment says
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def cpu_seconds(*arguments: str, **variables: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def once() -> float:
        return cpu_seconds("-m", "aimcost", "estimate", "run.yaml")

    once()  # byte code
    benchmark.pedantic(once, rounds=1)
    times = []
    for _ in range(10):
        startup = cpu_seconds("-c", STARTUP_YARDSTICK, OPENBLAS_NUM_THREADS="1")
        slowness.add(startup / STARTUP_YARDSTICK_S)
        times.append(once())
    median, slower = statistics.median(times), slowness()
    benchmark.extra_info.update(cpu_s=median, slowness=slower)
    assert median <= COLD_START_BAR_S * slower, f"{median:.3f} s, machine {slower:.2f}x slower"
