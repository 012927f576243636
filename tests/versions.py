"""The tests marked `versions` against releases of transformers: a table of version x family x test.

    python tests/versions.py [RELEASE …]

A release is a series (``4.57``: its newest patch), ``oldest`` that is supported, or ``newest`` on the index; by
default all that `aimcost.runtime.compat.TESTED` names, and the newest. Each is installed into a small environment
that sees everything else, torch included, in the environment this runs in, and changes nothing there.
Exit status 1 if a test fails, or if nothing ran where the table has a place for it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = "oldest", "newest"
# What tests/runtime/conftest.py says where a release has no such family.
ABSENT = "absent"
Place = tuple[str, str]  # family, column


@dataclass
class Report:
    """Outcomes of one release's tests by place, and what failed."""

    outcomes: dict[Place, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def read_report(text: str) -> Report:
    """Sort the test cases of a JUnit report by the properties that tests/runtime/conftest.py attached."""
    report = Report()
    for case in ElementTree.fromstring(text).iter("testcase"):
        properties = [(one.get("name"), one.get("value", "")) for one in case.iter("property")]
        family = next((value for name, value in properties if name == "family"), "any")
        outcome, said = _outcome(case)
        if outcome == "failed":
            report.failures.append(f"{case.get('classname')}::{case.get('name')}: {said}")
        for column in (value for name, value in properties if name == "column"):
            report.outcomes.setdefault((family, column), Counter())[outcome] += 1
    return report


def _outcome(case: ElementTree.Element) -> tuple[str, str]:
    for child in case:
        said = (child.get("message") or "").partition("\n")[0]
        if child.tag in ("failure", "error"):
            return "failed", said
        if child.tag == "skipped":
            return (ABSENT if said.startswith(ABSENT) else "skipped"), said
    return "passed", ""


def table(reports: Mapping[str, Report]) -> tuple[str, bool]:
    """The table, and whether every place of every release holds a pass or an absent family."""
    places = {place for report in reports.values() for place in report.outcomes}
    families = sorted({family for family, _ in places})
    columns = sorted({column for _, column in places})
    rows, green = [["transformers", "family", *columns]], bool(places)
    for release, report in reports.items():
        for family in families:
            cells = []
            for column in columns:
                text, fine = _cell(report.outcomes.get((family, column)), expected=(family, column) in places)
                cells.append(text)
                green &= fine
            rows.append([release, family, *cells])
        green &= not report.failures
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines), green


def _cell(outcomes: Counter[str] | None, *, expected: bool) -> tuple[str, bool]:
    if not expected:
        return "", True
    if not outcomes:
        return "NONE RAN", False
    if outcomes["failed"]:
        return f"{outcomes['failed']} OF {outcomes.total()} FAILED", False
    if outcomes["passed"]:
        return f"{outcomes['passed']} passed", True
    return (ABSENT, True) if outcomes[ABSENT] else ("NONE RAN", False)


def prepare(release: str, folder: Path) -> tuple[Path, str]:
    """Install a release into an environment in `folder` that falls back on this one; its Python, its full version."""
    home = folder / release
    python = home / "bin" / "python"
    venv.create(home, with_pip=False, symlinks=True)
    here = sysconfig.get_paths()
    own = Path(_ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (own / "around.pth").write_text("\n".join({here["purelib"], here["platlib"]}) + "\n", encoding="utf-8")
    wanted = "transformers" if release == NEWEST else f"transformers=={release}.*"
    command = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile", "--upgrade", wanted]
    # a lock's constraints are for the environment around
    environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{wanted} cannot be installed:\n{done.stdout}{done.stderr}")
    return python, _ask(python, "import importlib.metadata as m; print(m.version('transformers'))")


def _ask(python: Path, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def run(python: Path) -> Report:
    """The tests marked `versions`, by the Python of one release's environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.xml")
        command = [python, "-m", "pytest", "tests/runtime", "-m", "versions", "-n", "auto", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "--tb=short", f"--junitxml={path}"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        report = read_report(path.read_text(encoding="utf-8")) if path.is_file() else Report()
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n")
        report.failures = report.failures or [f"pytest ended with status {done.returncode}"]
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare every release, test each version once, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", metavar="RELEASE")
    parser.add_argument("--into", type=Path, default=Path(sys.prefix, "versions"), help="where they are installed")
    given = parser.parse_args(arguments)
    releases = [_tested()[0] if release == OLDEST else release for release in given.releases or _tested()]
    prepared = {release: prepare(release, given.into) for release in releases}
    reports: dict[str, Report] = {}
    for version in dict.fromkeys(version for _, version in prepared.values()):
        names = [release for release, (_, found) in prepared.items() if found == version]
        title = f"{version} ({NEWEST})" if NEWEST in names else version
        began = time.monotonic()
        reports[title] = run(prepared[names[0]][0])
        print(f"transformers {title}: {time.monotonic() - began:.0f} s", flush=True)
    text, green = table(reports)
    print(text)
    for title, report in reports.items():
        for failure in report.failures:
            print(f"{title}: {failure}")
    return 0 if green else 1


def _tested() -> Sequence[str]:
    sys.path.insert(0, str(ROOT))
    from aimcost.runtime.compat import TESTED

    return (*TESTED, NEWEST)


if __name__ == "__main__":
    sys.exit(main())
