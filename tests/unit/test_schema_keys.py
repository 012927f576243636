"""Every key of every file is described, and docs/run-files.md says so."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aimcost.cli.listing import json_schema

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def _undescribed(node: Any, place: str) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict):
            yield from (f"{place}.{key}" for key, field in node["properties"].items() if not field.get("description"))
        for key, value in node.items():
            yield from _undescribed(value, f"{place}.{key}")


def test_every_key_is_described(schema: dict[str, Any]) -> None:
    assert len(schema["run"]["properties"]) >= 17
    assert list(_undescribed(schema, "")) == []


def test_the_reference_page_is_that_of_the_schema() -> None:
    spec = importlib.util.spec_from_file_location("run_files", ROOT / "docs" / "run_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "run-files.md").read_text(encoding="utf-8") == module.page()
