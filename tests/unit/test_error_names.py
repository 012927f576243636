"""Errors name arguments to Python callers and flags on the command line."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.cli.common import flag_of
from aimcost.errors import AimcostError, InvalidValueError, UnknownNameError, argument
from aimcost.guard.check import check, parse_tolerances
from aimcost.inputs import discover
from aimcost.inputs.run import load_run
from aimcost.search.plan.questions import ask
from aimcost.search.sweep.sweep import sweep

PACKAGE = Path(__file__).resolve().parents[2] / "aimcost"
RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 4, "text_tokens": 30},
    "method": {"name": "aim"},
    "hardware": "nvidia_a100_sxm_80gb",
}
BUDGET = {"max_ttft_ms": 100.0}
GRID = """
base: {model: llava-1.5-7b, workload: {images: 1}, hardware: nvidia_a100_sxm_80gb, estimator: roofline}
axes: {workload.batch: [1, 2]}
"""


def plan(**options: Any) -> Callable[[Path], Any]:
    return lambda _: aimcost.plan(RUN, **{"budgets": BUDGET, **options})


def question(name: str, budgets: dict[str, float], **options: Any) -> Callable[[Path], Any]:
    return lambda _: ask(load_run(RUN), name, budgets=budgets, **options)


def swept(**options: Any) -> Callable[[Path], Any]:
    def call(folder: Path) -> Any:
        (folder / "grid.yaml").write_text(GRID, encoding="utf-8")
        return sweep(folder / "grid.yaml", **{"output": folder / "out.csv", **options})

    return call


def unfinished(folder: Path) -> Any:
    (folder / "out.csv.parts").mkdir()
    (folder / "out.csv.parts" / "manifest.json").write_text("{}", encoding="utf-8")
    return swept()(folder)


def edited(folder: Path) -> Any:
    """A baseline whose figures were changed by hand."""
    path, run = folder / "baseline.json", "llava15_aim_a100"
    check([run], baseline=path, update=True)
    path.write_text(path.read_text(encoding="utf-8").replace('"flops": ', '"flops": 1'), encoding="utf-8")
    return check([run], baseline=path)


def plotted(folder: Path) -> Any:
    from aimcost.report.pictures import check_plot

    return check_plot(folder / "plot.txt")


# a bad call, the argument it names, and the flag that the command line prints
CASES: list[tuple[Callable[[Path], Any], str, str]] = [
    (plan(confidence=0.3), "confidence", "--confidence"),
    (lambda _: aimcost.plan({**RUN, "estimator": "roofline"}, BUDGET, confidence=0.9), "confidence", "--confidence"),
    (plan(budgets={}), "max_ttft_ms", "--ttft-ms"),
    (plan(earliest_cut=99), "earliest_cut", "--earliest-cut"),
    (plan(earliest_cut=28, shapes=["step"]), "earliest_cut", "--earliest-cut"),
    (plan(methods=["visionzip"]), "methods", "--method"),
    (
        lambda _: aimcost.plan({**RUN, "model": "llava-onevision-qwen2-0.5b"}, BUDGET, objective="accuracy"),
        "objective",
        "--objective",
    ),
    (question("why", BUDGET), "question", "--question"),
    (question("batch", {}), "max_kv_gb", "--kv-gb"),
    (question("break-even", BUDGET), "max_ttft_ms", "--ttft-ms"),
    (question("frames", BUDGET, confidence=2.0), "confidence", "--confidence"),
    (swept(output="out.txt"), "output", "--output"),
    (swept(engine_name="spark"), "engine_name", "--engine"),
    (swept(workers=0), "workers", "--workers"),
    (swept(scheduler="tcp://localhost:1"), "scheduler", "--scheduler"),
    (unfinished, "resume", "--resume"),
    (lambda _: check([], update=True), "baseline", "--baseline"),
    (lambda _: check([]), "runs", "RUNS"),
    (lambda _: check(["llava15_aim_a100"]), "baseline", "--baseline"),
    (lambda f: check(["llava15_aim_a100"], baseline=f / "none.json"), "update", "--update"),
    (
        lambda f: check([], baseline=f / "b.json", update=True, overrides={"workload": {"batch": 2}}),
        "overrides",
        "--set",
    ),
    (edited, "update", "--update"),
    (lambda _: parse_tolerances(["ttft=much"]), "tolerances", "--tolerance"),
    (lambda _: parse_tolerances(["speed=1%"]), "tolerances", "--tolerance"),
    (plotted, "path", "--plot"),
]


@pytest.mark.parametrize(("call", "name", "flag"), CASES)
def test_python_callers_hear_of_arguments_and_the_command_line_of_flags(
    call: Callable[[Path], Any], name: str, flag: str, tmp_path: Path
) -> None:
    with pytest.raises(AimcostError) as caught:
        call(tmp_path)
    assert name in str(caught.value)
    assert "--" not in str(caught.value)
    assert flag in caught.value.text(flag_of)


def test_the_message_survives_prefixes_and_processes() -> None:
    error = InvalidValueError(argument("confidence"), f"below 1 with {argument('engine_name')}", 2)
    assert error.key == "confidence"
    text = AimcostError(*error.args)
    text.prefix("run.yaml")
    text = pickle.loads(pickle.dumps(text))
    assert str(text) == "run.yaml: 'confidence' must be below 1 with engine_name (got 2)"
    assert text.text(flag_of) == "run.yaml: '--confidence' must be below 1 with --engine (got 2)"


def test_no_error_outside_the_command_line_spells_a_flag() -> None:
    """Every ``raise`` outside cli/ and the pytest plugin, whose flags are pytest's own."""
    offenders = []
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] == "cli" or inside.name == "pytest_plugin.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                if any(isinstance(text, str) and "--" in text for text in texts):
                    offenders.append(f"{inside}:{node.lineno}")
    assert offenders == []


def test_of_cards_that_are_equally_near_the_measured_one_comes_first() -> None:
    for name, measured in (("A100", "nvidia_a100_sxm_80gb"), ("h100", "nvidia_h100_sxm")):
        with pytest.raises(UnknownNameError, match=f"did you mean '{measured}' or"):
            discover.find("hardware", name)
