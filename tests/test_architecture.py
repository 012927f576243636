"""The import rules: which way imports run, who may touch torch, and what an estimate loads."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aimcost"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "data" not in path.relative_to(PACKAGE).parts)
MAX_LINES = 350

# Low to high; a component imports from its own row or from rows above it. One that is not listed
# only has to keep the whole free of cycles.
ORDER = [
    {"errors", "units"},
    {"types", "discover"},
    {"ops"},
    {"models"},
    {"loading"},  # loading.model hands a config.json to models.from_hf
    {"methods"},
    {"run", "hardware", "memory", "table"},
    {"result"},
    {"estimators"},
    {"api"},
    {"bulk", "comparison", "guard", "listing", "planner", "reproduce", "sweeping", "validate"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {component: rank for rank, row in enumerate(ORDER) for component in row}
TORCH_ORDER = ["kernels", "apply", "runtime", "profiling"]
TORCH = {"torch", "transformers", "triton"}
SCIENTIFIC = {"pandas", "pyarrow", "scipy"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def component(module: str) -> str:
    """The part of the package a module belongs to; what runs a method is apart from what plans it."""
    parts = module.split(".")[1:]
    if not parts:
        return "aimcost"
    return "apply" if parts[0] == "methods" and parts[-1] == "apply" else parts[0]


class Imports(ast.NodeVisitor):
    """Imported modules of one file; `eager` ones run when it is imported."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.package = module if is_package else module.rpartition(".")[0]
        self.inside, self.found = 0, list[tuple[str, bool]]()

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.dump(node.test):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.inside += 1
        self.generic_visit(node)
        self.inside -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, not self.inside) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            self.found.append((inner if inner in MODULES else base, not self.inside))


def imports(module: str, *, eager_only: bool = False) -> Iterator[str]:
    path = MODULES[module]
    visitor = Imports(module, path.name == "__init__.py")
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return (name for name, eager in visitor.found if eager or not eager_only)


def outside(module: str, *, eager_only: bool = False) -> set[str]:
    """Top-level names of the third-party packages that a module imports."""
    return {name.split(".")[0] for name in imports(module, eager_only=eager_only)} - {"aimcost"}


def inside(module: str, *, eager_only: bool = False) -> set[str]:
    return {name for name in imports(module, eager_only=eager_only) if name.split(".")[0] == "aimcost"}


def test_the_walk_sees_imports() -> None:
    """Guards the tests below against passing because nothing is found."""
    assert "aimcost.inputs.hf.from_hf" in inside("aimcost.inputs.model")
    assert "torch" in outside("aimcost.kernels.merge.reference")
    assert "aimcost.pricing.estimators.roofline" in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_torch_stays_where_it_belongs(module: str) -> None:
    if component(module) not in TORCH_ORDER:
        assert not outside(module) & TORCH


@pytest.mark.parametrize("module", MODULES)
def test_scientific_packages_load_lazily_and_only_where_tables_are_made(module: str) -> None:
    assert not outside(module, eager_only=True) & (SCIENTIFIC | {"matplotlib"})
    if component(module) != "fitting":
        assert not outside(module) & SCIENTIFIC


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    mine = component(module)
    for name in inside(module):
        theirs = component(name)
        if mine in RANK and theirs in RANK:
            assert RANK[theirs] <= RANK[mine], f"{module} ({mine}) imports {name} ({theirs})"
        if mine in TORCH_ORDER and theirs in TORCH_ORDER:
            assert TORCH_ORDER.index(theirs) <= TORCH_ORDER.index(mine), f"{module} imports {name}"
        if mine in RANK:
            assert theirs not in TORCH_ORDER, f"{module} imports {name}: load it with importlib, on demand"
        if mine in TORCH_ORDER and theirs in RANK:
            assert RANK[theirs] <= RANK["methods"], f"{module} imports {name}, which knows runs"


def test_components_form_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        mine = component(module)
        if mine != "aimcost":
            others = {component(name) for name in inside(module)}
            graph.setdefault(mine, set()).update(others - {mine, "aimcost"})
    assert_acyclic(graph)


def test_modules_form_no_cycle() -> None:
    """At import time; a package and its own modules count as one way, from package to module."""
    graph = {}
    for module in MODULES:
        others = inside(module, eager_only=True) & MODULES.keys()
        graph[module] = {name for name in others if not module.startswith(name + ".")} - {module}
    assert_acyclic(graph)


def assert_acyclic(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports go round: " + " → ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_nothing_builds_on_the_quirky_estimator(module: str) -> None:
    assert "aimcost.pricing.estimators.llm_viewer" not in inside(module)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert not text.strip() or ast.get_docstring(ast.parse(text))


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
