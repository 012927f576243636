"""Nothing that aimcost reads ends in a traceback, a gigabyte, ten seconds, or a figure that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).parent / "fuzz.py"


def fuzzed(*arguments: str) -> dict[str, Any]:
    """The report of a run of the fuzzer, in a process whose memory is limited; it has found nothing."""
    done = subprocess.run([sys.executable, str(FUZZ), *arguments], capture_output=True, text=True)
    *problems, report = done.stdout.splitlines() or [done.stderr]
    assert (done.returncode, problems) == (0, []), done.stderr
    found: dict[str, Any] = json.loads(report)
    return found


@pytest.mark.check
def test_a_short_fuzz() -> None:
    """45 s of the inputs that `make check-all` has 100,000 of; on the slowest machine still a few of each kind, and of
    each some that are not refused: what is fuzzed begins from what is good."""
    report = fuzzed("--seconds", "45", "--inputs", "100000")
    assert min(report["inputs"].values()) > 20
    assert min(report["answered"].values()) > 0


@pytest.mark.check_all
@pytest.mark.parametrize("part", range(4))
def test_100_000_inputs(part: int) -> None:
    assert fuzzed("--inputs", "25000", "--first", str(25_000 * part))["total"] == 25_000


def test_the_fuzzer_notices(tmp_path: Path) -> None:
    """A traceback, memory and time of an input are problems: by targets that have them."""
    (tmp_path / "targets.py").write_text(
        "def boom(rng, shown):\n    raise KeyError('x')\n"
        "def big(rng, shown):\n    return bytes(2 * 10**9) and None\n"
        "def slow(rng, shown):\n    while True: pass\n"
        "def good(rng, shown):\n    return None\n"
        "def dead(rng, shown):\n    import os; os.kill(os.getpid(), 9)\n"
        "ANSWERED = []\nTARGETS = dict(dead=dead, boom=boom, big=big, slow=slow, good=good)\n"
    )
    code = FUZZ.read_text(encoding="utf-8").replace("CPU_S = 1_000_000_000, 10.0", "CPU_S = 1_000_000_000, 0.2")
    (tmp_path / "fuzz.py").write_text(code.replace("parents[2]", "parents[0]"), encoding="utf-8")
    done = subprocess.run([sys.executable, str(tmp_path / "fuzz.py"), "--inputs", "5"], capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["problem"] for one in found[:-1]] == [
        "ended with status 9",
        "KeyError: 'x'",
        "MemoryError",
        "more than 0.2 s",
    ]
    assert (found[-1]["failures"], found[-1]["total"], done.returncode) == (4, 5, 1)
