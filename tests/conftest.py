"""Shared by all tests: small runs, and the command as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_model() -> dict[str, Any]:
    """An inline decoder of four layers, small enough to check by hand."""
    return {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    }


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """An inline machine with round figures."""
    return {"name": "round", "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100, "int8": 200}}


@pytest.fixture
def cli(tmp_path: Path) -> Any:
    """``python -m aimcost …`` in a folder of its own; stdout, stderr and exit status as text."""
    environment = {key: value for key, value in os.environ.items() if key != "AIMCOST_PATH"}
    environment["PYTHONPATH"] = str(ROOT)

    def call(*arguments: str, address_space: int | None = None) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            if address_space is not None:
                import resource

                resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

        command = [sys.executable, "-m", "aimcost", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, preexec_fn=limit)

    return call
