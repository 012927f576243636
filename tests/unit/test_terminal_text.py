"""Text at a terminal: no line is wider, no word is broken, bounds are coloured; what is piped stays as it was."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aimcost.cli.common import app
from aimcost.cli.typed import _completions, application
from aimcost.report import table as tables
from aimcost.report import terminal

ROOT = Path(__file__).resolve().parents[2]
RUN = "llava_onevision_aim_a100"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def at_80() -> Iterator[None]:
    tables.fit_to(80)
    yield
    tables.fit_to(None)


word = st.text("abcdefgh", min_size=1, max_size=14)
cell = st.lists(word, max_size=6).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.lists(cell, min_size=n, max_size=n), min_size=1, max_size=5)))
def test_a_table_fits_and_breaks_no_word(rows: list[list[str]]) -> None:
    headers = [f"h{n}" for n in range(len(rows[0]))]
    left = [n < 2 for n in range(len(headers))]
    drawn = terminal.fitted(rows, headers, left, 80)
    assert max(map(len, drawn.splitlines())) <= 80
    shown = drawn.split()
    for row in rows:
        for text in row:
            for each in text.split():
                assert each in shown


def test_a_word_wider_than_the_terminal_is_printed_whole() -> None:
    assert "x" * 100 in terminal.fitted([["x" * 100, "b"]], ["a", "b"], [True, False], 80)


def test_rows_are_told_apart_in_every_part(at_80: None) -> None:
    rows = [["one", stack, *["1234567890" * 2] * 5] for stack in ("eager", "graphs")]
    parts = tables.table(rows, ["machine", "stack", *"abcde"], left=2).split("\n\n")
    assert len(parts) == 3
    assert all("eager" in part and "graphs" in part for part in parts)


def test_empty_columns_are_dropped(at_80: None) -> None:
    assert "note" not in tables.table([["a", "", "1"]], ["name", "note", "count"])


def test_a_sparkline_averages_what_has_no_room() -> None:
    assert tables.sparkline([0, 50, 100], 10) == "▁▅█"
    assert tables.sparkline([100] * 40 + [0] * 40, 8) == "████▁▁▁▁"
    assert tables.sparkline([0, 0], 8) == "▁▁"


def test_prose_hangs_under_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    terminal.show("note             " + "several words " * 8, 60)
    first, *rest = sys.stdout.getvalue().rstrip().split("\n")  # type: ignore[attr-defined]
    assert first.startswith("note             several")
    assert rest
    assert all(line.startswith((" " * 17 + "several", " " * 17 + "words")) for line in rest)


def test_a_file_that_is_shown_folds_between_words_and_means_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "hardware_profiles" / "nvidia_l4.yaml").read_text(encoding="utf-8")
    terminal.show(text, 60)
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown) == yaml.safe_load(text)
    assert [line for line in shown.split("\n") if len(line) > 60 and " " in line.strip()] == []
    assert '  memory_gb: "NVIDIA L4 Tensor Core GPU datasheet (2023-03),\n    specifications' in shown


def call_at_terminal(*arguments: str, columns: int, **environment: str) -> str:
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment}
    env.pop("COLUMNS", None)
    command = [sys.executable, "-m", "aimcost", *arguments]
    process = subprocess.Popen(command, stdout=follower, stderr=subprocess.DEVNULL, env=env)
    os.close(follower)
    found = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        found += part
    os.close(leader)
    assert process.wait() == 0
    return found.decode().replace("\r\n", "\n")


def test_an_estimate_at_a_terminal_and_piped(cli: Any) -> None:
    shown = call_at_terminal("estimate", RUN, columns=80)
    lines = ESCAPE.sub("", shown).split("\n")
    assert max(map(len, lines)) <= 80
    assert any(set(line.strip()) <= set("▁▂▃▄▅▆▇█") and len(line.strip()) == 28 for line in lines)
    assert re.search(r"\x1b\[36mcompute\x1b\[0m", shown)
    assert "\x1b" not in cli("estimate", RUN).stdout


@pytest.mark.check
@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", RUN, "--hardware", "nvidia_l4,nvidia_h100_sxm", "--stack", "vllm,transformers"],
        ["estimate", RUN, "--ops", "--layers"],
        ["list"],
        ["show", "nvidia_l4"],
        ["reproduce"],
        ["evidence", str(ROOT / "configs/timings/fastv.jsonl")],
        ["plan", RUN, "--ttft-ms", "250", "--shape", "linear"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_fit_80_columns(arguments: list[str]) -> None:
    shown = ESCAPE.sub("", call_at_terminal(*arguments, columns=80))
    wide = [line for line in shown.split("\n") if len(line) > 80]
    assert [line for line in wide if " " in line.strip()] == []


@pytest.mark.check
def test_no_color_is_plain(cli: Any) -> None:
    assert call_at_terminal("estimate", RUN, columns=80, NO_COLOR="1") == cli("estimate", RUN).stdout


@pytest.mark.check
def test_json_at_a_terminal_is_json() -> None:
    shown = call_at_terminal("estimate", RUN, "--json", columns=80)
    assert "\x1b" not in shown
    assert __import__("json").loads(shown)["model"] == "llava-onevision-qwen2-7b"


def test_summaries_of_help_are_whole(cli: Any) -> None:
    listed = cli("--help", COLUMNS="80").stdout.partition("Commands:")[2]
    for name, function in app.all().items():
        assert " ".join((function.__doc__ or "").split("\n")[0].split()) in " ".join(listed.split()), name


def test_names_and_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _completions(["hardware"], "nvidia_l4,nvidia_h100_s") == ["nvidia_l4,nvidia_h100_sxm"]
    assert "fastv" in _completions(["method"], "fa")
    assert _completions(["run"], "ru") == ["run.yaml", "runs/"]


def test_a_shell_can_complete() -> None:
    import typer

    command = typer.main.get_command(application(app, lambda name: None))
    options = {name for parameter in command.params for name in parameter.opts}
    assert {"--install-completion", "--show-completion"} <= options
    hardware = next(p for p in command.commands["estimate"].params if p.name == "hardware")  # type: ignore[attr-defined]
    with command.make_context("aimcost", ["estimate"], resilient_parsing=True) as context:
        assert [each.value for each in hardware.shell_complete(context, "nvidia_l4")] == [
            "nvidia_l4",
            "nvidia_l40",
            "nvidia_l40s",
        ]
