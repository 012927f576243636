"""Run docs/tutorial.ipynb and write its outputs: needs the extra ``docs``. ``make docs`` calls it.

Figures are pictures of 110 dpi; what a run changes besides (execution counts, times, versions) is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

__all__ = ["NOTEBOOK", "executed"]

NOTEBOOK = Path(__file__).resolve().parent / "tutorial.ipynb"


def executed(path: Path = NOTEBOOK) -> Any:
    """The notebook with the outputs of the present code; a cell that raises, raises here."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", record_timing=False, resources={"metadata": {"path": path.parent}}
    ).execute()
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
    print(f"written: {NOTEBOOK}")
