"""The command on terminals and pipes that are not what it hopes for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.cli.common import reader_gone
from aimcost.errors import FileFormatError

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = "llava_onevision_aim_a100"


def call(
    *arguments: str, folder: Path, stdout: int | None = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "aimcost", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, cwd=folder, env=env)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("arguments", [["estimate", RUN], ["reproduce"], ["list"]], ids=lambda a: a[0])
def test_any_encoding_of_the_output(cli: Any, arguments: list[str], encoding: str) -> None:
    done = cli(*arguments, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 500


def test_a_process_takes_the_encoding_of_its_terminal(tmp_path: Path) -> None:
    done = call("estimate", RUN, folder=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.decode("ascii")) > 500
    done = call("estimate", "--model", "qwen2–7b", "--text-tokens", "5", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"qwen2-7b" in done.stderr


@pytest.mark.parametrize("columns", ["1", "20", "400"])
def test_any_width(cli: Any, columns: str) -> None:
    done = cli("estimate", RUN, COLUMNS=columns)
    assert done.returncode == 0
    assert "prefill" in done.stdout


def test_a_reader_that_stops_reading_sees_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aimcost", "estimate", RUN, "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = call("estimate", RUN, "--json", folder=tmp_path, stdout=full.fileno())
    assert done.returncode == 2  # 1 would be a failed check
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("limit", "pipe", "status"),
    [
        pytest.param("9.0e+9", "| true", 0, marks=pytest.mark.check),
        ("0.001", "| true", 1),
        ("9.0e+9", ">&-", 0),
        pytest.param("0.001", ">&- <&-", 1, marks=pytest.mark.check),
    ],
)
def test_a_verdict_reaches_its_caller_whoever_reads_the_report(
    tmp_path: Path, limit: str, pipe: str, status: int
) -> None:
    (tmp_path / "r.yaml").write_text(
        f"model: qwen2-0.5b\nworkload: {{text_tokens: 9}}\nhardware: nvidia_l4\nbudgets: {{max_ttft_ms: {limit}}}\n"
    )
    command = f"set -o pipefail; {sys.executable} -m aimcost check r.yaml {pipe}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("estimate no-such-run 2>/dev/full", 2),
        pytest.param("estimate no-such-run 2>&-", 2, marks=pytest.mark.check),
        pytest.param("estimate --help | true", 0, marks=pytest.mark.check),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_status_does_not_depend_on_who_reads_the_message(tmp_path: Path, command: str, status: int) -> None:
    """1 would be a failed check."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    text = f"set -o pipefail; {sys.executable} -m aimcost {command}"
    assert subprocess.run(["bash", "-c", text], cwd=tmp_path, env=env, capture_output=True).returncode == status


def test_a_folder_that_was_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(gone)
        gone.rmdir()
        with pytest.raises(FileFormatError, match="the current folder is gone"):
            aimcost.estimate(RUN)


def test_another_pipe_than_the_readers_is_a_failure(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed as it starts breaks the pipe to it: nothing was written, and the status says so."""

    def broken(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("aimcost.pricing.pricing.estimate_run", broken)
    monkeypatch.setattr("aimcost.cli.reader_gone", lambda _: False)
    done = cli("estimate", RUN)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Broken pipe" in done.stderr
    read, write = os.pipe()
    with open(write, "w") as stream:
        assert not reader_gone(stream)
        os.close(read)
        assert reader_gone(stream)


def test_an_internal_error_is_one_line_with_a_status_of_its_own(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("nobody\nforesaw this")

    monkeypatch.setattr("aimcost.pricing.pricing.estimate_run", broken)
    done = cli("estimate", RUN)
    assert done.returncode == 70
    assert done.stderr.count("\n") == 1
    assert "KeyError" in done.stderr
    assert "this is a bug: please report it" in done.stderr
    with pytest.raises(KeyError):
        cli("estimate", RUN, AIMCOST_TRACEBACK="1")
