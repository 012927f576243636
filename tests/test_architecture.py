"""The import rules: which way imports run, who may touch torch, and what an estimate loads."""

from __future__ import annotations

import ast
import functools
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

# Low to high; a room imports from its own row or from rows above it.
ORDER = [
    {"errors", "units", "extras"},
    {"types"},
    {"ops"},
    {"models"},
    {"methods"},
    {"inputs"},
    {"machine"},
    {"pricing", "summaries", "api"},
    {"search", "guard"},
    {"report"},
    {"cli"},
    {"__main__"},
]
RANK = {component: rank for rank, row in enumerate(ORDER) for component in row}
TORCH_ORDER = ["kernels", "apply", "runtime", "measure"]
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


@functools.cache
def parsed(module: str) -> list[tuple[str, bool]]:
    path = MODULES[module]
    visitor = Imports(module, path.name == "__init__.py")
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found


def imports(module: str, *, eager_only: bool = False) -> Iterator[str]:
    return (name for name, eager in parsed(module) if eager or not eager_only)


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


def test_torch_stays_where_it_belongs() -> None:
    found = {module: outside(module) & TORCH for module in MODULES if component(module) not in TORCH_ORDER}
    assert offenders(found) == []


def test_scientific_packages_load_lazily_and_only_where_tables_are_made() -> None:
    lazy = SCIENTIFIC | {"matplotlib"}
    assert offenders({module: outside(module, eager_only=True) & lazy for module in MODULES}) == []
    elsewhere = [module for module in MODULES if not module.startswith("aimcost.machine.fitting")]
    assert offenders({module: outside(module) & SCIENTIFIC for module in elsewhere}) == []


def test_imports_run_one_way() -> None:
    assert offenders({module: {name for name in inside(module) if up(module, name)} for module in MODULES}) == []


def up(module: str, name: str) -> bool:
    """Whether an import runs against the order, or from the light core into what needs torch."""
    mine, theirs = component(module), component(name)
    if mine in TORCH_ORDER:
        if theirs in TORCH_ORDER:
            return TORCH_ORDER.index(theirs) > TORCH_ORDER.index(mine)
        return mine != "measure" and RANK.get(theirs, 0) > RANK["methods"]  # kernels and runtime know no runs
    if theirs in TORCH_ORDER:
        return mine in RANK and mine != "cli"  # load it with importlib, on demand
    return RANK.get(theirs, 0) > RANK.get(mine, len(ORDER))


def offenders(found: dict[str, set[str]]) -> list[str]:
    return [f"{module} imports {name}" for module, names in found.items() for name in sorted(names)]


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


def test_nothing_builds_on_the_quirky_estimator() -> None:
    quirky = {"aimcost.pricing.estimators.llm_viewer"}
    assert offenders({module: inside(module) & quirky for module in MODULES}) == []


def test_files_are_short_and_say_what_they_are() -> None:
    texts = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in FILES}
    assert [name for name, text in texts.items() if len(text.splitlines()) > MAX_LINES] == []
    assert [name for name, text in texts.items() if text.strip() and not ast.get_docstring(ast.parse(text))] == []


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
