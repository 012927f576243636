"""Shared by all tests: small runs, and the command as a user calls it."""

from __future__ import annotations

import csv
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
if "PYTEST_XDIST_WORKER" in os.environ:
    # a worker a core: threads of torch and NumPy would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Traces of models lie in the tests' own cache folder, never in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
def golden() -> Callable[[str], list[dict[str, Any]]]:
    """The rows of a file that `make processors` wrote: counts of transformers' own processors."""

    def read(name: str) -> list[dict[str, Any]]:
        with (ROOT / "tests" / "golden" / "processors" / f"{name}.csv").open() as file:
            versions = json.loads(file.readline().removeprefix("# "))
            rows = [
                {key: float(value) if key == "fps" else int(value) for key, value in row.items()}
                for row in csv.DictReader(file)
            ]
        assert {"transformers", "torch", "torchvision"} < set(versions)
        assert len(rows) >= 1000
        return rows

    return read


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """An inline machine with round figures."""
    return {"name": "round", "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100, "int8": 200}}


def call_in_process(
    *arguments: str, folder: Path, encoding: str = "utf-8", **environment: str
) -> subprocess.CompletedProcess[str]:
    """``aimcost …`` as its console script calls it, without the third of a second that a process costs."""
    from aimcost.cli import main

    with tempfile.TemporaryDirectory() as streams, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("AIMCOST_PATH", raising=False)
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # the command sets it where it is not set
        patch.setenv("AIMCOST_QUIET_PROCESS", "1")  # or a command that measures would take pytest's place
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["aimcost", *arguments])
        patch.setattr(gc, "freeze", lambda: None)  # at the end of a process, not of a test
        for name in ("stdout", "stderr"):
            # files, since the command may close its standard output as it would a pipe
            patch.setattr(sys, name, open(Path(streams, name), "w", encoding=encoding))  # noqa: SIM115
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        finally:
            sys.stdout.close()
            sys.stderr.close()
        out, err = (Path(streams, name).read_bytes().decode(encoding) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(list(arguments), status, out, err)


def call_in_a_process(*arguments: str, folder: Path, address_space: int) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    environment = {key: value for key, value in os.environ.items() if key != "AIMCOST_PATH"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "aimcost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, preexec_fn=limit)


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``aimcost …`` in a folder of the test's own; stdout, stderr and exit status as text.

    It runs in this process, unless its memory is limited; tests/unit/test_terminals.py starts real ones.
    """

    def call(*arguments: str, address_space: int | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        if address_space is None:
            return call_in_process(*arguments, folder=tmp_path, **options)
        return call_in_a_process(*arguments, folder=tmp_path, address_space=address_space)

    return call
