"""The quick way through plain YAML gives what the loader gives, and leaves the rest to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aimcost.inputs import files
from aimcost.inputs.files import MAX_DEPTH, FileFormatError, parse_value

ROOT = Path(__file__).resolve().parents[2]


def by_the_loader(text: str) -> Any:
    """As `parse_value` without the quick way."""

    def doubt(_: str) -> Any:
        raise files._Doubt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_plain_value", doubt)
        return parse_value(text)


def outcome(read: Any, text: str) -> str:
    try:
        return repr(read(text))
    except FileFormatError as error:
        return str(error)


NUMBERS = "1 -0 +7 09 010 0o7 0x1F 0b1 1_000 1.5 -.5 5. 1e5 1.5e5 1.0e+5 6.02E-23 1.e5 1e400 .inf -.INF .nan 1.5.2 1:30"
TEXTS = [
    *NUMBERS.split(),
    *(
        "",
        "~",
        "null",
        "Null",
        "yes",
        "NO",
        "True",
        "on",
        "'1'",
        '"\\u00e9"',
        "=",
        "<<",
        "2020-01-01",
        "- - - a",
        "text: ",
    ),
    *(
        "a: &x 1\nb: *x",
        "&x [*x]",
        "<<: {a: 1}\nb: 2",
        "!!str 1",
        "! a",
        "!!set {a, b}",
        "{1: a, 1.0: b}",
        "{1: a, true: b}",
    ),
    *(
        "a: 1\na: 2",
        "? [a]\n: b",
        "? {a: 1}\n: b",
        "{[a]: b}",
        "null: 2",
        "--- a\n--- b",
        "a\n...\n",
        "...",
        "%YAML 1.1\n---\na: 1",
    ),
    *(
        "[1, 2",
        "a: }",
        "*x",
        "a: b: c",
        "\t- a",
        "a: |\n  one\n  two\n",
        "a: >-\n  one\n  two\n",
        "[,]",
        "{a, b: }",
        "# only",
    ),
    *("[" * MAX_DEPTH + "]" * MAX_DEPTH, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "1" * 5000),
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_odd_texts(text: str) -> None:
    assert outcome(parse_value, text) == outcome(by_the_loader, text)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.check
@settings(max_examples=60, deadline=None)
@given(VALUES, st.booleans())
def test_what_yaml_writes(value: Any, flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    assert outcome(parse_value, text) == outcome(by_the_loader, text)


def test_shipped_files_are_plain() -> None:
    """Profile, stack and model go the quick way, a third of the loader's."""
    for name in ("hardware_profiles/nvidia_l40s", "configs/stacks/vllm", "configs/models/qwen2.5-vl-7b"):
        text = (ROOT / f"{name}.yaml").read_text(encoding="utf-8")
        assert repr(files._plain_value(text)) == repr(by_the_loader(text))


def test_values_of_flags() -> None:
    assert parse_value("{a: [1, 2.5, yes, x]}") == {"a": [1, 2.5, True, "x"]}
