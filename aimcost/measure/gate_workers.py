"""Fresh processes of a latency test: each collects the test by itself, times its pairs and reports one ratio.

A process' memory layout moves the ratio of prefill to reference kernel by about as much as all else on a quiet machine,
and stays for its lifetime: only another process says how much. Processes of a base commit collect the same test from a
checkout of that commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AimcostError
from ..inputs.files import read_json, write_atomically
from ..inputs.strict_json import to_json

__all__ = ["Workers", "checkout", "report"]

# Of one process: start, build and time.
TIMEOUT_S = 900
_SHOWN_LINES = 15
# With the paths of the parent, so that the same packages are found however pytest was started.
_START = "import sys; sys.path[:] = {path!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How to run one test in a process by itself.

    Attributes
    ----------
    root
        pytest's root folder; the test's id is relative to it.
    test
        Its node id.
    arguments
        More options of pytest.
    """

    root: Path
    test: str
    arguments: tuple[str, ...] = ()

    def ratio(self, request: Mapping[str, Any], root: Path | None = None) -> float:
        """The ratio that a fresh process measures; `request` is what `report` gets there, `root` another checkout.

        Raises
        ------
        AimcostError
            The process failed, took longer than `TIMEOUT_S` or reported nothing.
        """
        where = self.root if root is None else root
        path = [_moved(entry, self.root, where) for entry in sys.path]
        with tempfile.TemporaryDirectory(prefix="aimcost-gate-") as folder:
            file = Path(folder) / "request.json"
            write_atomically(file, to_json(request))
            options = [f"--rootdir={where}", "-p", "no:cacheprovider", "-o", "addopts=", f"--aimcost-worker={file}"]
            command = [sys.executable, "-c", _START.format(path=path), *options, *self.arguments, self.test]
            environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
            try:
                done = subprocess.run(
                    command, cwd=where, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment
                )
            except subprocess.TimeoutExpired:
                raise AimcostError(f"a process of {self.test} took longer than {TIMEOUT_S} s") from None
            try:
                ratio = read_json(Path(f"{file}.out"))["ratio"]
            except (AimcostError, KeyError):
                shown = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:])
                raise AimcostError(f"a process of {self.test} in {where} measured nothing:\n{shown}") from None
        return float(ratio)


def report(request: str, ratio: float) -> None:
    """Answer a request file, in the process that was started for it."""
    write_atomically(f"{request}.out", to_json({"ratio": ratio}))


def _moved(entry: str, root: Path, to: Path) -> str:
    """An entry of sys.path in another checkout, where it lies in both."""
    place = Path(entry or ".").resolve()
    there = to / place.relative_to(root) if place.is_relative_to(root) else place
    return str(there if there.exists() else place)


@contextmanager
def checkout(root: Path, commit: str) -> Iterator[Path]:
    """A folder with `commit` of the repository around `root`, at the place of `root` in it.

    Raises
    ------
    AimcostError
        No git, no repository, or no such commit.
    """
    top = Path(_git(root, "rev-parse", "--show-toplevel"))
    with tempfile.TemporaryDirectory(prefix="aimcost-base-") as folder:
        place = Path(folder) / "base"
        _git(top, "worktree", "add", "--detach", str(place), f"{commit}^{{commit}}")
        try:
            yield place / root.resolve().relative_to(top.resolve())
        finally:
            _git(top, "worktree", "remove", "--force", str(place))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise AimcostError("a base commit needs git, which is not installed") from None
    if done.returncode:
        raise AimcostError(f"git {' '.join(arguments[:2])}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return done.stdout.strip()
