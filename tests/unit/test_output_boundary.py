"""What stands in names and files is text wherever it is shown: a terminal, a log, Markdown, XML, a spreadsheet."""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from aimcost.errors import InvalidValueError, printable
from aimcost.guard.check import check
from aimcost.report.export import to_csv
from aimcost.report.guard import check_junit, check_markdown, check_text
from aimcost.search.sweep.sweep import sweep

CLI = Path(__file__).resolve().parents[2] / "aimcost" / "cli"
EVIL = "\x1b[2J\x9b31m\u202ex"


@pytest.fixture
def place(tmp_path: Path, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run["hardware"]["name"] = EVIL
    text = yaml.safe_dump({**run, "budgets": {"max_ttft_ms": 0.000001}})
    (tmp_path / "plain.yaml").write_text(text)
    return tmp_path


def named(place: Path, name: str) -> str:
    """The run under another name."""
    (place / name).write_text((place / "plain.yaml").read_text())
    return name


def test_control_characters_are_written_out() -> None:
    assert printable("é → 7\t\n") == "é → 7\t\n"
    assert printable("a\n\tb", line=True) == "a\\n\\tb"
    assert printable(EVIL + "\ud800") == "\\u001b[2J\\u009b31m\\u202ex\\ud800"
    message = str(InvalidValueError("key\x1b", "good\n", EVIL))
    assert "\x1b" not in message
    assert "\n" not in message


def test_a_terminal_acts_on_nothing(cli: Any, place: Path) -> None:
    for flags in ([], ["--json"], ["--csv"], ["-o", "out.txt"]):
        done = cli("estimate", "plain.yaml", *flags)
        text = done.stdout + ((place / "out.txt").read_text() if flags[:1] == ["-o"] else "")
        assert (done.returncode, done.stderr) == (0, "")
        assert not {"\x1b", "\x9b", "\u202e"} & set(text)
        if flags == ["--json"]:
            assert json.loads(done.stdout)["hardware"] == EVIL
    missing = cli("estimate", "\x1b]0;x\x07.yaml")
    assert missing.returncode == 2
    assert "\x1b" not in missing.stderr
    assert "\\u001b]0;x\\u0007.yaml" in missing.stderr


def test_a_log_of_github_takes_no_command(cli: Any, place: Path) -> None:
    # a folder `::error file=a` makes the path of a run begin like a command
    (place / "::error file=a").mkdir()
    names = ["::stop-commands::x.yaml", "a\n::error::x.yaml", "##[group]x.yaml"]
    for name in names:
        named(place, name)
    done = cli("check", "--", *names, "::error file=a/b.yaml", GITHUB_ACTIONS="true")
    assert done.returncode == 2  # the last is not there
    named(place, "::error file=a/b.yaml")
    done = cli("check", "--", *names, "::error file=a/b.yaml", GITHUB_ACTIONS="true")
    assert done.returncode == 1
    for line in (done.stdout + done.stderr).splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    assert "\\x3a\\x3astop-commands::x.yaml: FAILED" in done.stdout


def test_junit_is_xml_whatever_a_run_is_called(place: Path) -> None:
    names = [named(place, name) for name in ("a\n\x1b<b>&\"'.yaml", "]]>.yaml")]
    suite = ElementTree.fromstring(check_junit(check(names)))
    assert suite.get("failures") == "2"
    assert [case.get("classname") for case in suite] == ["a\\n\\u001b<b>&\"'.yaml", "]]>.yaml"]
    assert all("budget" in str(case[0].text) for case in suite)


def test_markdown_shows_a_name_as_it_is(place: Path) -> None:
    name = named(place, "a`b\n# c <img src=x> [d](http:e) @f |.yaml".replace("/", ""))
    (line,) = (line for line in check_markdown(check([name])).splitlines() if "❌" in line)
    assert line.startswith("**❌ `a\\u0060b\\n# c <img src=x> [d](http:e) @f |.yaml`**: FAILED")
    note = next(line for line in check_markdown(check(["plain.yaml"])).splitlines() if line.startswith("- budget"))
    assert "max_ttft_ms" in note


def test_text_names_a_run_on_one_line(place: Path) -> None:
    assert check_text(check([named(place, "a\nb: ok.yaml")])).startswith("a\\nb: ok.yaml: FAILED")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1"])
def test_no_cell_is_a_formula(place: Path, run: dict[str, Any], text: str) -> None:
    assert next(csv.DictReader(to_csv([{"name": text, "n": -1}]).splitlines())) == {"name": "'" + text, "n": "-1"}
    grid = {"base": run, "axes": {"hardware": [{**run["hardware"], "name": "x"}], "estimator": [text, "roofline"]}}
    (place / "g.yaml").write_text(yaml.safe_dump(grid))
    sweep("g.yaml", "o.csv")
    with open("o.csv", encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file))["estimator"] == "'" + text


def test_the_command_line_prints_through_one_function() -> None:
    """`say` escapes; a print elsewhere would not."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in sorted(CLI.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert len(found) == 1, found
    assert found[0].startswith("common.py")
