"""What an estimate loads, and that the import contracts of pyproject.toml would notice an offender."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aimcost"
TORCH = {"torch", "transformers", "triton"}
SCIENTIFIC = {"pandas", "pyarrow", "scipy"}


def test_every_module_says_what_it_is() -> None:
    files = (path for path in PACKAGE.rglob("*.py") if "data" not in path.relative_to(PACKAGE).parts)
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    assert len(texts) > 100
    assert not [name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))]


OFFENDERS = {
    # an import up, hidden behind TYPE_CHECKING
    "ops/gemm.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..pricing.result import Estimate\n",
    "pricing/table.py": "import torch\n",
    "search/bulk.py": "from ..pricing.estimators import llm_viewer\n",
    "report/text.py": "import scipy.optimize\n",
}


@pytest.mark.check
def test_the_contracts_name_every_offender(tmp_path: Path) -> None:
    """Each contract breaks on an import that it forbids, in a copy; the tree as it is keeps them all."""
    pytest.importorskip("importlinter")
    for name in ("aimcost", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    assert contracts(tmp_path).returncode == 0
    for name, lines in OFFENDERS.items():
        path = tmp_path / "aimcost" / name
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole + lines, encoding="utf-8")
        done = contracts(tmp_path)
        assert done.returncode == 1, name
        assert "aimcost." + name.removesuffix(".py").replace("/", ".") in done.stdout
        path.write_text(whole, encoding="utf-8")


def contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


PROBE = """
import json, sys
import aimcost
before = sorted(sys.modules)
estimate = aimcost.estimate({run!r})
estimate.to_dict()
print(json.dumps([before, sorted(sys.modules), estimate.totals.flops]))
"""
HEAVY = TORCH | SCIENTIFIC | {"dask", "distributed", "matplotlib", "aiconfigurator_core", "sklearn"}


@pytest.mark.parametrize("estimator", [None, "roofline", "llm_viewer"])
def test_an_estimate_loads_neither_torch_nor_transformers(estimator: str | None) -> None:
    run = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 32, "text_tokens": 100, "new_tokens": 4},
        "method": {"name": "aim"},
        "hardware": "nvidia_a100_sxm_40gb",
        **({"estimator": estimator} if estimator else {}),
    }
    code = PROBE.format(run=run)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    on_import, after, flops = json.loads(done.stdout)
    assert flops > 1e12
    assert "numpy" in after
    assert not HEAVY & set(after)
    # importing the package alone is cheaper still
    assert not {"numpy", "pydantic", "yaml"} & set(on_import)
