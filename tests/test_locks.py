"""The locks in ``locks/`` agree with ``pyproject.toml``: what a clone installs lies in the ranges users get."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
PYTHONS = [
    name.rpartition(" ")[2]
    for name in PROJECT["classifiers"]
    if name.startswith("Programming Language :: Python :: 3.")
]
OLDEST = PYTHONS[0]
LOCKED_EXTRAS = ("torch", "report", "sweep", "dev", "browser", "docs")
LOWEST_EXTRAS = ("report", "sweep", "test")
PIN = re.compile(r"[a-z0-9-]+==[0-9][0-9a-z.]*")
CHANGE = "change pyproject.toml, then `make update-locks`"


def pins(name: str) -> dict[str, Version]:
    """The pinned version of every package of one lock."""
    lines = (ROOT / "locks" / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def requirements(extras: Iterable[str], python: str) -> Iterator[Requirement]:
    """What pip installs for these extras on Linux, an extra of our own replaced by what it holds."""
    extras = list(extras)
    lines = [*PROJECT["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            inner = Requirement(line)
            if inner.name == PROJECT["name"]:
                extras += sorted(inner.extras)
            else:
                lines.append(line)
    environment = {"python_version": python, "platform_system": "Linux", "sys_platform": "linux", "extra": ""}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield requirement


def disagreements(lock: dict[str, Version], wanted: Iterable[Requirement]) -> list[str]:
    """Requirements that a lock leaves out or pins outside their range."""
    wrong = []
    for requirement in wanted:
        pinned = lock.get(canonicalize_name(requirement.name))
        if pinned is None or not requirement.specifier.contains(pinned, prereleases=True):
            wrong.append(f"{requirement} is locked at {pinned}")
    return wrong


def test_every_supported_python_has_a_lock() -> None:
    assert {path.name for path in (ROOT / "locks").glob("*.txt")} == {
        "lowest.txt",
        *(f"py{python}.txt" for python in PYTHONS),
    }
    assert PROJECT["requires-python"] == f">={OLDEST}"


@pytest.mark.parametrize("name", [f"py{python}.txt" for python in PYTHONS] + ["lowest.txt"])
def test_a_lock_holds_exact_pins_and_nothing_else(name: str) -> None:
    """No index, path, URL or hash of the machine that compiled it, and none of torch's CUDA libraries."""
    lines = (ROOT / "locks" / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and not PIN.fullmatch(line)] == []
    assert [line for line in lines if line.startswith(("nvidia-", "cuda-"))] == []
    assert lines[1] == "#    make update-locks"
    assert sum(line.startswith("#") for line in lines) == 2


@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_satisfies_pyproject(python: str) -> None:
    lock = pins(f"py{python}.txt")
    assert disagreements(lock, requirements(LOCKED_EXTRAS, python)) == [], CHANGE
    (torch,) = (Requirement(line) for line in (ROOT / "locks/torch.in").read_text().splitlines())
    assert torch.specifier.contains(lock["torch"])


def test_a_disagreement_is_found() -> None:
    lock = {"numpy": Version("1.26.4"), "rich": Version("15.0")}
    wanted = map(Requirement, ["numpy>=2", "rich>=13", "PyYAML>=6"])
    assert disagreements(lock, wanted) == ["numpy>=2 is locked at 1.26.4", "PyYAML>=6 is locked at None"]


def test_the_lowest_lock_pins_every_lower_bound() -> None:
    """``make lowest`` tests the bounds themselves, so that a bound that works nowhere is not published."""
    lock = pins("lowest.txt")
    bounds = {
        canonicalize_name(requirement.name): Version(bound.version)
        for requirement in requirements(LOWEST_EXTRAS, OLDEST)
        for bound in requirement.specifier
        if bound.operator == ">="
    }
    named = {canonicalize_name(requirement.name) for requirement in requirements(LOWEST_EXTRAS, OLDEST)}
    assert named == set(bounds), "a dependency without a lower bound"
    assert {name: lock.get(name) for name in bounds} == bounds, CHANGE


def installed_closure() -> Iterator[str]:
    """Every distribution that aimcost needs here, by the metadata of what is installed."""
    queue = [(PROJECT["name"], frozenset(LOCKED_EXTRAS))]
    seen = set(queue)
    while queue:
        name, wanted = queue.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # an extra that this environment leaves out
        yield canonicalize_name(name)
        for requirement in map(Requirement, found.requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                entry = (canonicalize_name(requirement.name), frozenset(requirement.extras))
                if entry not in seen:
                    seen.add(entry)
                    queue.append(entry)


def test_a_lock_covers_what_the_dependencies_need() -> None:
    """A dependency of a dependency that no lock pins would drift from one month to the next."""
    needed = {name for name in installed_closure() if not name.startswith(("nvidia-", "cuda-"))} - {PROJECT["name"]}
    assert {"numpy", "pydantic-core"} <= needed
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    left_out = [sorted(needed - set(pins(name))) for name in (f"py{python}.txt", "lowest.txt")]
    assert min(left_out, key=len) == [], CHANGE


@pytest.mark.parametrize(
    ("version", "reason"),
    [(None, "{} does not run"), ("3.9", "aimcost is not tested on Python 3.9")],
    ids=["none", "old"],
)
def test_make_says_in_a_line_which_python_it_needs(version: str | None, reason: str, tmp_path: Path) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make")
    (tmp_path / "pyproject.toml").touch()
    python = tmp_path / "python"
    if version is not None:
        python.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
        python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    for target in ("run", "test"):
        done = subprocess.run(
            [make, "-f", str(ROOT / "Makefile"), f"PYTHON={python}", target],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        ours = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
        assert ours == [reason.format(python) + "; for " + ours[0].partition("; for ")[2]]
        assert ours[0].endswith("make PYTHON=python3.12")
