"""The tutorial runs as it stands, and what it shows is of the kind that is committed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.check
ROOT = Path(__file__).resolve().parents[2]


def _kinds(notebook: Any) -> list[list[list[str]]]:
    """Of every code cell, of every output: its media types."""
    return [
        [sorted(output.get("data", {output.output_type: ""})) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_tutorial_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = nbformat.read(module.NOTEBOOK, as_version=4)
    kinds = _kinds(module.executed())
    assert kinds == _kinds(committed)
    assert [["image/png", "text/plain"]] in kinds
    assert [["text/html", "text/plain"]] in kinds
