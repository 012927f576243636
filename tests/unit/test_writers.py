"""Every writer on a full disk and in a folder that cannot be written to: one line, and what was there stays."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aimcost.errors import FileFormatError
from aimcost.guard.bands import Band, Update, save_bands
from aimcost.inputs.files import STALE_S, write_atomically
from aimcost.measure.records import Environment, Record, RecordWriter, Sample

resource = pytest.importorskip("resource")
# A folder that not even root can write to.
READ_ONLY = Path("/proc/sys")
# Smaller than what each writer writes, larger than what the command prints.
FULL_AT = 300
COMMANDS = {
    "estimate": ["estimate", "r.yaml", "--json", "-o"],
    "compare": ["compare", "r.yaml", "--hardware", "nvidia_l4,nvidia_a100_sxm_40gb", "--json", "-o"],
    "check": ["check", "r.yaml", "--json", "-o"],
    "baseline": ["check", "r.yaml", "--update", "--baseline"],
    "junit": ["check", "r.yaml", "--junit"],
    "markdown": ["check", "r.yaml", "--markdown"],
    "sweep": ["sweep", "g.yaml", "-o"],
}
SUFFIX = {"sweep": ".csv", "junit": ".xml", "markdown": ".md"}


def band() -> dict[str, Band]:
    return {f"t{i}": Band(reference={"tokens": 8}, updates=(Update(cpu="x", ratios=(1.0,) * 40),)) for i in range(9)}


def record(path: Path) -> None:
    environment = Environment(device="cpu", device_name="x" * 2000)
    sample = Sample(op="gemm", dtype="fp32", samples_s=(1.0,), clock="wall")
    RecordWriter(path, Record(kind="profile", environment=environment, seed=0, started="2026-01-01")).add(sample)


WRITERS: dict[str, Callable[[Path], None]] = {"bands": lambda path: save_bands(path, band()), "record": record}


@pytest.fixture
def place(tmp_path: Path, run: dict[str, Any]) -> Path:
    budgets = {"max_ttft_ms": 1e-6, "max_memory_gb": 1e-9, "max_kv_gb": 1e-9, "max_tflops": 1e-9}
    text = yaml.safe_dump({**run, "hardware": "nvidia_l4", "budgets": budgets, "model": {**run["model"]}})
    (tmp_path / "r.yaml").write_text(text)
    grid = {"base": {**run, "hardware": "nvidia_l4"}, "axes": {"workload.batch": {"from": 1, "to": 20}}}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(grid))
    return tmp_path


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond `FULL_AT`: the system refuses the write as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_AT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def left(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()} - {"r.yaml", "g.yaml"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk(cli: Any, place: Path, name: str) -> None:
    target = place / f"out{SUFFIX.get(name, '.json')}"
    done = cli(*COMMANDS[name], str(target))
    assert done.returncode in (0, 1), done.stderr
    before = target.read_bytes()
    assert len(before) > FULL_AT
    for known in (True, False):
        if not known:
            target.unlink()
            shutil.rmtree(place / "out.csv.parts", ignore_errors=True)
        with full_disk():
            done = cli(*COMMANDS[name], str(target))
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "out" in done.stderr
        assert "cannot be written" in done.stderr
        if known:
            assert target.read_bytes() == before
        assert left(place) - {"out.csv.parts"} == ({target.name} if known else set())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_in_a_read_only_folder(cli: Any, place: Path, name: str) -> None:
    done = cli(*COMMANDS[name], str(READ_ONLY / f"out{SUFFIX.get(name, '.json')}"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{READ_ONLY}/out" in done.stderr
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_no_file_can_have(cli: Any, place: Path, command: str, name: str) -> None:
    done = cli(*COMMANDS[command], str(place / f"{name}{SUFFIX.get(command, '.json')}"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no file can have this name" in done.stderr


def test_a_device_or_pipe_is_not_replaced(cli: Any, place: Path) -> None:
    """A file in its place would be moved over it: as root even over /dev/null."""
    for command in ("estimate", "sweep"):
        pipe = place / f"pipe{SUFFIX.get(command, '.json')}"
        os.mkfifo(pipe)
        done = cli(*COMMANDS[command], str(pipe))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"{pipe.name}: cannot be written: not a regular file" in done.stderr
        assert pipe.is_fifo()
    done = cli("check", "r.yaml", "--junit", "/dev/stdout.xml")
    assert "/dev/stdout.xml: cannot be written: not a regular file" in done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["check", "r.yaml", "--baseline", "b.json", "--update", "--junit", "./b.json"], "'--junit'.*of --baseline"),
        (["check", "r.yaml", "--junit", "x.out", "--markdown", "x.out"], "'--markdown'.*of --junit"),
        (["plan", "r.yaml", "--ttft-ms", "80", "-o", "./r.yaml"], "'--output'.*of RUN"),
        (["check", "r.yaml", "--baseline", "r.yaml", "--update"], "'--baseline'.*of RUN"),
        (["estimate", "r.json", "-o", "r.json"], "'--output'.*of RUN"),
        (["compare", "r.json", "--hardware", "nvidia_l4", "-o", "./r.json"], "'--output'.*of RUN"),
        (["explore", "r.yaml", "-o", "r.yaml"], "'--output'.*of RUN"),
        (["report", "r.yaml", "-o", "r.yaml"], "'--output'.*of RUN"),
        (["import", "r.json", "-o", "r.json"], "'--output'.*of FILE"),
        (["evidence", "r.json", "-o", "r.json"], "'--output'.*of FILE"),
        (["sweep", "r.json", "-o", "r.json"], "'--output'.*of GRID"),
        (["trace", "r.json", "-o", "./r.json"], "'--output'.*of CONFIG"),
        (["validate", "r.yaml", "-o", "r.yaml"], "'--output'.*of RUN"),
        (["profile", "-o", "p.yaml", "--record", "p.yaml"], "'--record'.*of --output"),
        (["calibrate-stack", "r.json", "-o", "r.json"], "'--output'.*of TIMING"),
    ],
)
def test_no_report_replaces_another_or_what_it_was_made_of(
    cli: Any, place: Path, command: list[str], says: str
) -> None:
    (place / "r.json").write_text(json.dumps(yaml.safe_load((place / "r.yaml").read_text())))
    before = {name: (place / name).read_bytes() for name in ("r.yaml", "r.json")}
    done = cli(*command)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert re.search(says, done.stderr)
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.name != "g.yaml"} == before


def test_a_summary_waits_for_no_reader(cli: Any, place: Path) -> None:
    os.mkfifo(place / "pipe")
    done = cli("check", "r.yaml", "--summary", GITHUB_STEP_SUMMARY=str(place / "pipe"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
def test_a_run_whose_name_is_not_utf_8(cli: Any, place: Path) -> None:
    name = os.fsdecode(b"r\xff.yaml")
    (place / name).write_text((place / "r.yaml").read_text())
    assert cli("estimate", name).returncode == 0
    for command in (["check", name, "--update", "--baseline", "b.json"], ["check", name, "--junit", "j.xml"]):
        done = cli(*command)
        assert done.returncode in (1, 2)
        assert done.stderr.count("\n") == done.returncode - 1


def test_a_symbolic_link_is_replaced_and_not_followed(cli: Any, place: Path) -> None:
    """Whoever may write to the folder cannot choose another file that is overwritten."""
    elsewhere, link = place / "elsewhere.json", place / "link.json"
    elsewhere.write_text("as it was")
    link.symlink_to(elsewhere.name)
    assert cli(*COMMANDS["estimate"], str(link)).returncode == 0
    assert elsewhere.read_text() == "as it was"
    assert not link.is_symlink()
    assert '"totals"' in link.read_text()


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_on_a_full_disk_and_in_a_read_only_folder(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.json"
    target.write_text("{}")
    with full_disk(), pytest.raises(FileFormatError, match=r"out\.json: cannot be written"):
        WRITERS[name](target)
    assert target.read_text() == "{}"
    assert os.listdir(tmp_path) == ["out.json"]
    with pytest.raises(FileFormatError, match="cannot be written"):
        WRITERS[name](READ_ONLY / "out.json")


def test_what_a_killed_writer_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    old, new, other = (tmp_path / name for name in (".r.json.a1.tmp", ".r.json.b2.tmp", ".s.json.a1.tmp"))
    for path in (old, new, other):
        path.write_text("half")
    for path in (old, other):
        moment = path.stat().st_mtime - STALE_S - 1
        os.utime(path, (moment, moment))
    write_atomically(target, "{}")
    assert sorted(os.listdir(tmp_path)) == sorted([new.name, other.name, "r.json"])
