"""Records: what is written is read back, what is damaged is refused, a killed run leaves what it had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aimcost.errors import FileFormatError, InvalidValueError
from aimcost.inputs.files import write_atomically
from aimcost.measure.records import Environment, Record, RecordWriter, Sample, load_record

ROOT = Path(__file__).resolve().parents[2]


def sample(number: int = 0, **changes: Any) -> Sample:
    base = Sample(
        op="gemm",
        name="linear",
        dims={"m": 8.0, "n": 16.0 + number, "k": 32.0},
        dtype="bf16",
        samples_s=(1e-3, 1.5e-3, 1.25e-3),
        clock="thread_cpu",
        labels={"role": "held_out"},
    )
    return replace(base, **changes)


def record(*samples: Sample, **changes: Any) -> Record:
    base = Record(
        kind="profile",
        environment=Environment(
            device="cpu",
            device_name="Test µCPU",
            threads=1,
            memory_bytes=8e9,
            packages={"torch": "2.6.0"},
            clocks_mhz={"core": 2600.0},
            properties={"load_average": [0.1, 0.2, 0.3], "blas": "mkl"},
            notes=("the machine is busy",),
        ),
        seed=7,
        started="2026-01-02T03:04:05+00:00",
        settings={"quick": True, "plan": {"rows": [1, 8]}},
        samples=samples,
        notes=("one note",),
    )
    return replace(base, **changes)


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    whole = record(sample(), sample(1, labels={}, name=""), finished="2026-01-02T03:05:00+00:00")
    write_atomically(tmp_path / "deep" / "r.json", whole.to_json())
    assert load_record(tmp_path / "deep" / "r.json") == whole
    assert whole.complete
    assert whole.date == "2026-01-02"


def test_one_sample_a_line() -> None:
    text = record(*(sample(i) for i in range(5))).to_json()
    assert sum('"op": "gemm"' in line for line in text.splitlines()) == 5
    assert json.loads(record().to_json())["samples"] == []


def test_statistics_are_those_of_the_samples() -> None:
    assert sample().median_s == 1.25e-3
    assert sample().spread == pytest.approx(0.5e-3 / 1.25e-3)


def test_select_narrows_by_operation_name_and_format() -> None:
    other = sample(1, op="norm", name="rms_norm", dtype="fp32")
    held = record(sample(), other)
    assert held.select("norm") == [other]
    assert held.select("gemm", name="linear", dtype="bf16") == [sample()]
    assert held.select("gemm", dtype="fp32") == []


def test_a_writer_leaves_a_whole_file_after_every_addition(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    writer = RecordWriter(path, record())
    for count in range(1, 4):
        writer.add(sample(count), notes=["busy", "busy"])
        loaded = load_record(path)
        assert len(loaded.samples) == count
        assert not loaded.complete
        assert loaded.notes == ("one note", "busy")
    assert writer.finish().complete
    assert load_record(path).complete
    assert os.listdir(tmp_path) == ["r.json"]


def test_leaving_by_an_exception_keeps_the_record_unfinished(tmp_path: Path) -> None:
    def interrupted() -> None:
        with RecordWriter(tmp_path / "r.json", record()) as writer:
            writer.add(sample())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not load_record(tmp_path / "r.json").complete
    with RecordWriter(tmp_path / "s.json", record()) as writer:
        writer.add(sample())
    assert load_record(tmp_path / "s.json").complete


ENDLESS = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_records import record, sample
from aimcost.measure.records import RecordWriter
writer = RecordWriter({path!r}, record())
print("started", flush=True)
while True:
    writer.add(*(sample(i) for i in range(20)))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("after_s", [0.05, 0.11, 0.23])
def test_a_killed_run_leaves_its_finished_part(tmp_path: Path, after_s: float) -> None:
    path = tmp_path / "r.json"
    code = ENDLESS.format(root=str(ROOT), tests=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        time.sleep(after_s)
    finally:
        process.kill()
        process.communicate()
    loaded = load_record(path)
    assert len(loaded.samples) % 20 == 0
    assert not loaded.complete


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    write_atomically(path, record(sample()).to_json())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileFormatError, match="No space left"):
        write_atomically(path, "half")
    assert load_record(path) == record(sample())
    assert os.listdir(tmp_path) == ["r.json"]


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o027, 0o640)])
def test_a_new_file_is_as_open_as_the_umask_says(tmp_path: Path, mask: int, mode: int) -> None:
    path, before = tmp_path / "r.json", os.umask(mask)
    try:
        write_atomically(path, "{}")
        assert path.stat().st_mode & 0o777 == mode
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_replaced_file_stays_as_open_as_it_was(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "r.json"
    path.touch()
    path.chmod(mode)
    write_atomically(path, "{}")
    assert path.stat().st_mode & 0o777 == mode


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    text = record(sample(), sample(1)).to_json().rstrip()
    path = tmp_path / "r.json"
    for length in range(0, len(text), 37):
        path.write_text(text[:length])
        with pytest.raises(FileFormatError, match=r"r\.json: is (truncated|empty)"):
            load_record(path)


def damaged(**changes: Any) -> dict[str, Any]:
    return {**record(sample()).to_dict(), **changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in damaged().items() if name != key}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (damaged(schema_version=2), r"'schema_version' must be 1.*got 2"),
        (damaged(schema_version=True), "schema_version"),
        (without("schema_version"), "got None"),
        (without("kind"), "'kind' must be given"),
        (damaged(finished="2026-01-02T03:04:04+00:00"), "'finished' is before 'started'"),
        (damaged(finished="2026-01-02T04:04:04+02:00"), "'finished' is before 'started'"),
        (damaged(started="yesterday"), "'started' must be an ISO 8601 time"),
        (damaged(kind="guess"), "'kind' must be one of"),
        (damaged(surprise=1), "unknown key 'surprise'"),
        (damaged(seed="x"), "'seed' must be a whole number"),
        (damaged(samples=[{**record(sample()).to_dict()["samples"][0], "samples_s": []}]), "samples_s"),
        (damaged(samples=[{**record(sample()).to_dict()["samples"][0], "samples_s": [-1.0]}]), "at least 0"),
        (damaged(samples=[{**record(sample()).to_dict()["samples"][0], "clock": "sundial"}]), "clock"),
    ],
)
def test_values_that_cannot_be_are_named(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(data))
    with pytest.raises(FileFormatError, match=message) as raised:
        load_record(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[1, 2]", "one JSON object"),
        (b'{"schema_version": NaN}', "NaN is not a finite number"),
        (b"[" * 100_000, "truncated or not JSON"),
    ],
)
def test_files_that_are_no_records(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        load_record(tmp_path / "r.json")


def test_missing_files_and_folders_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        load_record(tmp_path / "none.json")
    with pytest.raises(FileFormatError, match="is a folder"):
        load_record(tmp_path)


def test_times_that_are_not_finite_are_never_written() -> None:
    with pytest.raises(InvalidValueError, match="finite"):
        record(sample(samples_s=(float("nan"),))).to_json()
