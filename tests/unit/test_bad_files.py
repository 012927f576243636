"""A user's mistake in a file is one readable line and exit status 2: never a traceback, never a NaN."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from bad_input import estimate_or_error, message, put

import aimcost
from aimcost.errors import AimcostError, FileFormatError
from aimcost.inputs.files import MAX_FILE_BYTES, read_mapping


def nested(depth: int, opening: str, closing: str) -> bytes:
    return (opening * depth + closing * depth).encode()


LAUGHS = b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n".encode() for i in range(1, 12)
)

FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("r.yaml", b"", "mapping"),
    "blank": ("r.yaml", b"\n\n# nothing here\n", "mapping"),
    "list": ("r.yaml", b"- model\n- workload\n", "mapping"),
    "text": ("r.yaml", b"just words", "mapping"),
    "number": ("r.yaml", b"42", "mapping"),
    "binary": ("r.yaml", b"\x7fELF\x02\x01\x01\0\0\0\0", "binary"),
    "not UTF-8": ("r.yaml", "model: caf\xe9".encode("latin-1"), "UTF-8"),
    "UTF-16": ("r.yaml", "model: x".encode("utf-16"), "text"),
    "control characters": ("r.yaml", b"model: \x01\x02", "YAML"),
    "tabs": ("r.yaml", b"model:\n\t- x", "YAML"),
    "unclosed": ("r.yaml", b"model: {a: 1", "YAML"),
    "tag": ("r.yaml", b"model: !!python/object/apply:os.system ['true']", "YAML"),
    "two documents": ("r.yaml", b"model: a\n---\nmodel: b\n", "YAML"),
    "unknown alias": ("r.yaml", b"model: *nothing", "YAML"),
    "duplicate key": ("r.yaml", b"model: a\nmodel: b\n", "duplicate key 'model'"),
    "leading zero": ("r.yaml", b"model: a\nworkload: {text_tokens: 0100}\n", "line 2: a number with a leading zero"),
    "duplicate inner key": ("r.yaml", b"model: a\nworkload:\n  batch: 1\n  batch: 2\n", "duplicate key 'batch'"),
    "mapping as key": ("r.yaml", b"? {a: 1}\n: 2\n", "key"),
    "list as key": ("r.yaml", b"? [a, b]\n: 2\n", "key"),
    "number as key": ("r.yaml", b"5: 2\n", "key"),
    "null as key": ("r.yaml", b"~: 2\n", "key"),
    "impossible date": ("r.yaml", b"model: 2026-99-99\n", ""),
    "digits without end": ("r.yaml", b"model: " + b"9" * 6000, ""),
    "broken JSON": ("r.json", b'{"model": ', "JSON"),
    "duplicate JSON key": ("r.json", b'{"model": "a", "model": "b"}', "duplicate key 'model'"),
    "aliases without end": ("r.yaml", LAUGHS + b"model: *a11\n", ""),
    "many aliases": ("r.yaml", b"model: [&a " + nested(9, "[", "]") + b", *a" * 40_000 + b"]\n", "200,000 values"),
    "many values": ("r.yaml", b"model: [" + b"1," * 200_000 + b"]\n", "200,000 values"),
    "many merge keys": ("r.yaml", LAUGHS.replace(b"[x, x", b"[{x: 1}, {x: 2}") + b"model: {<<: *a11}\n", "200,000"),
    "alias of itself": ("r.yaml", b"model: &m {text_config: *m}\n", "inside what it names"),
    "binary data": ("r.yaml", b"model: !!binary aGFsbG8=\n", "binary"),
    "a set": ("r.yaml", b"model: !!set {a, b}\n", "set"),
    "merge keys": ("r.yaml", b"base: &b {model: a}\n<<: *b\n", "line 2: merge keys (<<) are not read"),
    "inner merge keys": (
        "r.yaml",
        b"workload:\n  <<: {frames: 4}\n  batch: 1\n",
        "line 2: merge keys (<<) are not read",
    ),
    "a list of merge keys": (
        "r.yaml",
        b"a: &a {x: 1}\nmodel: {<<: [*a, *a]}\n",
        "line 2: merge keys (<<) are not read",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    filename, content, says = FILES[name]
    path = tmp_path / filename
    path.write_bytes(content)
    text = message(str(path))
    assert says in text


@pytest.mark.parametrize("name", FILES)
def test_errors_name_the_file(name: str, tmp_path: Path) -> None:
    filename, content, _ = FILES[name]
    (tmp_path / filename).write_bytes(content)
    assert str(tmp_path / filename) in message(str(tmp_path / filename))


@pytest.mark.parametrize(
    "line",
    [
        "wrokload: {batch: 1}",
        "workload: {batch: 0}",
        "workload: {images: 2}",
        "method: {name: vtw, k: 99}",
        "method: {name: fast_v}",
        "estimator: rooffline",
        "hardware: {name: x}",
        "hardware: nvidia_a10o",
    ],
)
def test_errors_in_a_run_file_name_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"model: qwen2-7b\n{line}\n")
    assert str(path) in message(str(path))


DEEP = {
    "YAML lists": ("r.yaml", b"model: " + nested(5000, "[", "]")),
    "YAML mappings": ("r.yaml", b"model: " + nested(5000, "{a: ", "}")),
    "very deep YAML": ("r.yaml", b"model: " + nested(100_000, "[", "]")),
    "dashes": ("r.yaml", b"model:\n  " + b"- " * 100_000),
    "JSON lists": ("r.json", nested(100_000, "[", "]")),
    "JSON mappings": ("r.json", nested(100_000, '{"a":', "}")),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting(name: str, cli: Any, tmp_path: Path) -> None:
    """In a process of its own: a parser that recurses in C would take the tests with it."""
    filename, content = DEEP[name]
    (tmp_path / filename).write_bytes(content)
    done = cli("estimate", filename)
    assert done.returncode == 2
    assert filename in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ["model", "hardware"])
@pytest.mark.parametrize("name", FILES)
def test_the_same_files_as_model_and_profile(name: str, what: str, tmp_path: Path, run: dict[str, Any]) -> None:
    _, content, _ = FILES[name]
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    message(put(run, what, str(path)))


def test_a_file_of_100_mb(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert "100 MB is too large" in message(str(path), FileFormatError)
    assert MAX_FILE_BYTES < 10_000_000


def test_a_folder_and_a_file_that_is_not_there(tmp_path: Path, run: dict[str, Any]) -> None:
    for given in (tmp_path, tmp_path / "missing.yaml"):
        assert str(given) in message(str(given), FileFormatError)
        message({**run, "hardware": str(given)}, FileFormatError)
        message({**run, "model": str(given)}, FileFormatError)
    with pytest.raises(FileFormatError, match="folder"):
        read_mapping(tmp_path)


def test_files_that_never_end(run: dict[str, Any]) -> None:
    for what in ("model", "hardware"):
        message(put(dict(run), what, "/dev/zero"), FileFormatError)


def test_a_file_that_has_nothing_to_read_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/kmsg calls itself a regular file, and makes its reader wait: a pipe stands in for it."""
    os.mkfifo(tmp_path / "log")
    writer = os.open(tmp_path / "log", os.O_RDWR)  # which writes nothing
    monkeypatch.setattr("aimcost.inputs.files.stat.S_ISREG", lambda mode: True)
    with pytest.raises(FileFormatError, match="device or a pipe"):
        read_mapping(tmp_path / "log")
    os.close(writer)


def test_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIMCOST_PATH", "~no-such-user/x")
    assert aimcost.estimate("llava15_aim_a100").ttft_s > 0
    with pytest.raises(FileFormatError, match="no such file: ~no-such-user"):
        aimcost.estimate("~no-such-user/run.yaml")


@pytest.mark.parametrize("value", ["989e12", "1_000", "0x10", "1e3", "12:30:45", "0o17", ".5e3", "+1"])
def test_numbers_that_yaml_reads_in_its_own_way(tmp_path: Path, value: str) -> None:
    """PyYAML takes 989e12 for text and 12:30:45 for a number of base 60: neither may pass unseen."""
    path = tmp_path / "gpu.yaml"
    path.write_text(f"name: x\nmemory_gb_per_s: 1000\ndense_tflops: {{fp16: {value}}}\n")
    run = {"model": "qwen2-0.5b", "workload": {"text_tokens": 10}, "hardware": str(path), "estimator": "roofline"}
    document = estimate_or_error(run)
    if isinstance(document, AimcostError):
        assert "fp16" in str(document)
    else:
        assert value in ("1_000", "0x10", "+1"), f"{value} was read as a number"
