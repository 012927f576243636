"""JSON is read and written in one place: what Python's parser lets through is refused everywhere."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest

from aimcost.errors import FileFormatError
from aimcost.inputs.files import read_json, read_mapping
from aimcost.inputs.strict_json import canonical, digest, parse, tagged, to_json, untagged

PACKAGE = Path(__file__).resolve().parents[2] / "aimcost"
REFUSED = {
    '{"a": NaN}': "NaN is not a finite number",
    '{"a": [1, -Infinity]}': "-Infinity is not a finite number",
    '{"b": {"a": 1, "c": 2, "a": 3}}': "duplicate key 'a'",
    '{"a": 1': "is truncated or not JSON",
    '{"a": "\\ud800"}': "holds half of a surrogate pair",
    "[" * 100_000: "is truncated or not JSON",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=REFUSED[text]):
        parse(text)
    path = tmp_path / "table.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=f"table.json: {REFUSED[text]}"):
        read_json(path)


def test_only_objects_are_files_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(FileFormatError, match="must hold one JSON object"):
        read_json(path)


def test_a_models_config_may_hold_infinity(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity]}', encoding="utf-8")
    assert read_mapping(path) == {"time_step_limit": [0.0, float("inf")]}


def test_a_models_config_may_hold_infinity_as_transformers_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    held = {"time_step_limit": [0.0, float("inf"), float("-inf")], "__float__": "Infinity", "x": {"__float__": "one"}}
    path.write_text(to_json(tagged(held), indent=None), encoding="utf-8")
    assert '{"__float__": "-Infinity"}' in path.read_text(encoding="utf-8")
    assert read_mapping(path) == held
    assert math.isnan(untagged(tagged([float("nan")]))[0])
    assert digest([float("inf")]) != digest([float("-inf")])


def test_a_number_beyond_floats_is_refused() -> None:
    for text in ("1e999", "-1e999", "1" + "0" * 400 + ".0"):
        with pytest.raises(FileFormatError, match="is not a finite number"):
            parse(text)


def test_what_is_written_is_read() -> None:
    data = {"b": [1, 2.5, None, True], "ä": {"x": "→"}}
    assert parse(to_json(data)) == parse(canonical(data)) == data
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            to_json([number])


def test_no_other_file_parses_prints_or_replaces() -> None:
    """Outside measure/, which has harnesses of its own, and the gates' append to a CI's summary."""
    offenders = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place in ("inputs/strict_json.py", "inputs/files.py") or place.startswith(("measure/", "data/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("json.loads", "json.load", "json.dump", "json.dumps", "os.replace", "tempfile.mkstemp"):
                    offenders.append(f"{place}:{node.lineno} {called}")
    assert offenders == []
