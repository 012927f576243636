"""The claim itself, on whatever machine this runs: prefills are predicted within the bar.

The machine is profiled and the runs are executed in one fresh process, on one thread, by that thread's
CPU time. The bar is fixed. A machine that was disturbed by its own account (repeats of one and the same
pass far apart, or much of the profile's) is measured again if it missed, twice at most; nothing is ever
loosened, a steady machine has one try, and a third miss is a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
# minutes of measuring: what lands a change runs it, a commit need not
pytestmark = [pytest.mark.torch, pytest.mark.check]

ROOT = Path(__file__).resolve().parents[2]
RUNS = ("cpu_bf16_aim", "cpu_bf16_cut", "cpu_fp32_aim", "cpu_fp32_short")
MAPE_BAR = 0.08
EACH_BAR = 0.15
ATTEMPTS = 3


def validate(*arguments: str) -> dict[str, Any]:
    """``aimcost validate … --json`` in a process of its own."""
    command = [sys.executable, "-m", "aimcost", "validate", *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def meets_the_bar(found: dict[str, Any]) -> bool:
    errors = found["errors"]["prefill"]
    return bool(errors["mape"] <= MAPE_BAR and abs(errors["worst"]) <= EACH_BAR)


def was_disturbed(found: dict[str, Any]) -> bool:
    """By its own account: in the passes that were timed, or while it was profiled."""
    return bool(found["disturbed"]) or any("busy machine" in note for note in found["notes"])


def test_prefills_are_predicted_within_the_bar(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    for _ in range(ATTEMPTS):
        found = validate(*RUNS, "-o", str(record))
        if meets_the_bar(found) or not was_disturbed(found):
            break
    errors, speedups = found["errors"], found["speedups"]
    summary = {name: f"{e['mape']:.1%} worst {e['worst']:+.1%}" for name, e in errors.items()}
    assert meets_the_bar(found), (summary, found["notes"])
    assert errors["prefill"]["count"] == 7
    # a slip of one layer in four would be 25 %: the layers and the gain tell it from noise
    assert errors["layer"]["mape"] <= MAPE_BAR, summary
    assert len(speedups) == 3
    assert all(abs(speedup["error"]) <= EACH_BAR for speedup in speedups), speedups
    # the profile had seen none of it, and reached all of it
    held = found["held_out"]
    assert held["grid"]
    assert not held["seen_products"]
    assert not held["seen_lengths"]
    assert not any(point["extrapolated"] for point in found["points"] if point["part"] == "prefill")
    assert not any("page faults" in note for note in found["notes"])
    assert validate("--from-record", str(record)) == found
