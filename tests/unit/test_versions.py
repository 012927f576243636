"""The table of `make test-versions` shows what ran, and is green only where something did."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from xml.sax.saxutils import quoteattr

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "versions.py"


@pytest.fixture(scope="module")
def versions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("versions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


def report(*cases: tuple[str, tuple[str, ...], str, str]) -> str:
    """A JUnit report of cases: family, columns, "passed" or the tag of what happened, and its message."""
    text = ""
    for number, (family, columns, tag, message) in enumerate(cases):
        properties = f'<property name="family" value="{family}"/>'
        properties += "".join(f"<property name='column' value={quoteattr(column)}/>" for column in columns)
        happened = "" if tag == "passed" else f"<{tag} message={quoteattr(message)}>trace</{tag}>"
        text += f'<testcase classname="tests.t" name="n{number}">'
        text += f"<properties>{properties}</properties>{happened}</testcase>"
    return f"<testsuites><testsuite>{text}</testsuite></testsuites>"


DROP, BOTH = ("drop = mask",), ("drop = mask", "generate")
GREEN = report(("llama", DROP, "passed", ""), ("llama", BOTH, "passed", ""), ("qwen3_vl", DROP, "passed", ""))
LACKS = report(
    ("llama", BOTH, "passed", ""),
    ("qwen3_vl", DROP, "skipped", "absent: this transformers has no qwen3_vl"),
)


def test_a_green_table(versions: ModuleType) -> None:
    text, green = versions.table({"5.24.0": versions.read_report(GREEN), "4.57.6": versions.read_report(LACKS)})
    assert text.splitlines() == [
        "transformers  family    drop = mask  generate",
        "5.24.0        llama     2 passed     1 passed",
        "5.24.0        qwen3_vl  1 passed",
        "4.57.6        llama     1 passed     1 passed",
        "4.57.6        qwen3_vl  absent",
    ]
    assert green


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        (report(("llama", BOTH, "passed", ""), ("qwen3_vl", DROP, "failure", "assert 0\nmore")), "1 OF 1 FAILED"),
        (report(("llama", BOTH, "passed", ""), ("qwen3_vl", DROP, "error", "no such module")), "1 OF 1 FAILED"),
        (report(("llama", BOTH, "passed", ""), ("qwen3_vl", DROP, "skipped", "could not import")), "NONE RAN"),
        (report(("llama", BOTH, "passed", "")), "NONE RAN"),
        (report(("llama", DROP, "passed", ""), ("qwen3_vl", DROP, "passed", "")), "NONE RAN"),
    ],
)
def test_what_is_not_green(text: str, cell: str, versions: ModuleType) -> None:
    shown, green = versions.table({"5.24.0": versions.read_report(GREEN), "6.0.0": versions.read_report(text)})
    assert cell in shown
    assert not green


def test_a_failure_is_named_with_its_first_line(versions: ModuleType) -> None:
    text = report(("llama", BOTH, "failure", "assert 0\nmore"), ("llama", DROP, "passed", ""))
    found = versions.read_report(text)
    assert found.failures == ["tests.t::n0: assert 0"]
    assert "1 OF 2 FAILED" in versions.table({"6.0.0": found})[0]


def test_nothing_at_all_is_not_green(versions: ModuleType) -> None:
    assert not versions.table({"6.0.0": versions.Report()})[1]
    failed = versions.Report(failures=["pytest ended with status 3"])
    assert not versions.table({"5.24.0": versions.read_report(GREEN), "6.0.0": failed})[1]
