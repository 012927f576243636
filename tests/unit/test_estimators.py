"""An estimator is one file in pricing/estimators/, and nothing else compares its name."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import aimcost
from aimcost.errors import AimcostError, InvalidValueError, UnknownNameError
from aimcost.inputs.discover import estimator_names
from aimcost.pricing.estimator import estimator_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "aimcost"
RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 2, "text_tokens": 30, "new_tokens": 3},
    "method": {"name": "aim"},
    "hardware": "nvidia_a100_sxm_80gb",
}
NEW = '''"""Twice the roofline, for the test."""

from ...inputs.schema import Strict
from ..estimator import Estimator
from ..priced import PricedTable
from .roofline import price as at_peak


class Options(Strict):
    factor: float = 2.0


def price(run):
    priced = at_peak(run)
    factor = run.estimator_options.get("factor", 2.0)
    return PricedTable(table=priced.table, seconds=priced.seconds * factor, bound=priced.bound)


ESTIMATOR = Estimator(
    name="doubled", summary="twice the roofline", time_means="doubled bound", price=price, options=Options
)
'''


@pytest.mark.parametrize("name", estimator_names())
def test_an_estimator_is_named_as_its_file(name: str) -> None:
    estimator = estimator_of(name)
    assert estimator.name == name
    result = aimcost.estimate(RUN, estimator=name)
    assert (result.band is not None) == estimator.has_band
    assert (result.host_seconds is not None) == estimator.has_host_time
    assert {segment.stage for segment in result.table.segments} <= set(estimator.stages)


def test_nothing_compares_an_estimators_name() -> None:
    """Differences between estimators are attributes of the object."""
    names, offenders = set(estimator_names()), []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                if constants & names:
                    offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert offenders == []


def test_parallel_runs_are_refused_by_the_estimator_that_prices_one_device() -> None:
    with pytest.raises(InvalidValueError, match="llm_viewer prices one device"):
        aimcost.estimate(RUN, estimator="llm_viewer", parallel={"tp": 2})


def test_options_of_another_estimator_are_noted_and_an_unknown_one_refused() -> None:
    result = aimcost.estimate(RUN, estimator="roofline", estimator_options={"skip_mlp_add": True})
    assert "estimator_options ignored by roofline: skip_mlp_add" in result.notes
    with pytest.raises(UnknownNameError, match="skip_mlp_add"):
        aimcost.estimate(RUN, estimator="roofline", estimator_options={"skip_mlp": True})


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one more file."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "aimcost", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for folder in ("configs", "hardware_profiles"):
        (root / folder).symlink_to(ROOT / folder)
    (root / "aimcost" / "pricing" / "estimators" / "doubled.py").write_text(NEW, encoding="utf-8")
    (root / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    return root


def command(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "aimcost", *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.check
def test_a_new_estimator_is_one_file(copy: Path) -> None:
    """Listing, help, schema, estimate, its text and JSON, compare and planner know it."""
    assert {"name": "doubled", "summary": "twice the roofline"} in json.loads(
        command(copy, "list", "estimators", "--json")
    )["estimators"]
    assert "doubled" in command(copy, "estimate", "--help")
    schema = json.loads(command(copy, "schema"))["run"]["properties"]
    assert "doubled" in schema["estimator"]["anyOf"][0]["enum"]
    assert set(schema["estimator_options"]["properties"]) == {"factor", "skip_mlp_add"}
    assert "estimator doubled (doubled bound)" in command(copy, "estimate", "run.json", "--estimator", "doubled")
    ours, bound, thrice = (
        json.loads(command(copy, "estimate", "run.json", "--estimator", name, *more, "--json"))
        for name, *more in (["doubled"], ["roofline"], ["doubled", "--set", "estimator_options.factor=3.0"])
    )
    assert ours["estimator"] == "doubled"
    assert ours["totals"]["time_s"] == pytest.approx(2 * bound["totals"]["time_s"])
    assert thrice["totals"]["time_s"] == pytest.approx(3 * bound["totals"]["time_s"])
    (row,) = json.loads(
        command(copy, "compare", "run.json", "--hardware", "nvidia_a100_sxm_80gb", "--estimator", "doubled", "--json")
    )
    assert row["calibration"] == "datasheet"
    assert row["ttft_s"] == pytest.approx(sum(s["time_s"] for k, s in ours["stages"].items() if k != "decode"))
    planned = json.loads(
        command(
            copy, "plan", "run.json", "--ttft-ms", "1000", "--shape", "step", "--set", "estimator=doubled", "--json"
        )
    )
    assert planned["best"]["run"]["estimator"] == "doubled"


@pytest.mark.parametrize("found", ["nan", "inf"])
def test_a_time_that_is_no_number_leaves_no_estimate(found: str) -> None:
    def price(run):
        priced = estimator_of("roofline").price(run)
        seconds = priced.seconds.copy()
        seconds[priced.table.segments[3].start] = float(found)
        return replace(priced, seconds=seconds)

    run = aimcost.estimate(RUN).run
    segment = estimator_of("roofline").price(run).table.segments[3]
    with pytest.raises(
        AimcostError, match=f"^the run cannot be priced: {segment.name} of stage {segment.stage} takes {found} s"
    ):
        replace(estimator_of("roofline"), price=price).estimate(run)
    assert np.isfinite(estimator_of("roofline").estimate(run).seconds).all()
