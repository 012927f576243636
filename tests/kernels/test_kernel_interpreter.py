"""Run the folder ``interpreted`` in a process whose Triton interprets its kernels on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ("fp32 and (test_merge and 9-33-4 or test_importance and 50-32 or test_select and 37-36 or test_gather)", 6),
        pytest.param("not fp16 and not bf16 and not tenfold and not any_order", 40, marks=pytest.mark.check_all),
        # that a defect would be found; programs on threads
        pytest.param("not fp16 and not bf16 and (tenfold or any_order)", 20, marks=pytest.mark.check),
        pytest.param("fp16 or bf16", 55, marks=pytest.mark.check_all),
    ],
)
def test_triton_kernels_match_the_reference_in_the_interpreter(chosen, count):
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", str(HERE / "interpreted"), "-p", "no:cacheprovider", "-k", chosen]
    ran = subprocess.run(command, env=environment, cwd=HERE.parent.parent, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed, ran.stdout[-2000:]
    assert int(passed[1]) > count
    assert "skipped" not in ran.stdout
