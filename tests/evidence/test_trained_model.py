"""The small vision-language model trained on easy-vqa: its committed weights answer as the committed figures say."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "easy_vqa"
# Two-sided, for a few points of a run: a deviation beyond is one in 15,000.
DEVIATIONS = 4.0


def measure() -> Any:
    """The module that measured the figures."""
    spec = importlib.util.spec_from_file_location("easy_vqa_measure", FOLDER / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def committed() -> dict[str, tuple[float, float, int]]:
    """Method -> mean visual tokens, share right, questions."""
    with (FOLDER / "accuracy.csv").open() as file:
        return {
            row["method"]: (float(row["mean_visual_tokens"]), int(row["right"]) / int(row["asked"]), int(row["asked"]))
            for row in csv.DictReader(file)
        }


def within(share: float, expected: float, asked: int, of: int) -> bool:
    """Whether two shares of different questions differ by no more than both binomial errors explain."""
    pooled = (share * asked + expected * of) / (asked + of)
    error = math.sqrt(max(pooled * (1 - pooled), 1 / (asked + of)) * (1 / asked + 1 / of))
    return abs(share - expected) <= DEVIATIONS * error


def test_a_few_points() -> None:
    """Other questions than the committed ones: dense, a method before the model, one inside it, and chance."""
    module = measure()
    figures = committed()
    examiner = module.Examiner(module.make_scenes("test", 24, seed=11))
    points = [m for m in module.METHODS if m in ({"name": "none"}, *POINTS)]
    assert len(points) == 1 + len(POINTS)
    for method in points:
        tokens, expected, of = figures[json.dumps(method)]
        right = examiner.right(method)
        assert within(right.mean(), expected, len(right), of), (method, right.mean(), expected)
        assert module.mean_visual_tokens(method) == pytest.approx(tokens, rel=1e-3)
    assert figures[json.dumps({"name": "none"})][1] > 0.9
    assert figures["text alone"][1] < 0.35


POINTS = (
    {"name": "pre_llm", "scorer": "random", "keep_tokens": 8},
    {"name": "fastv", "k": 2, "ratio": 0.75},
    {"name": "aim", "merge_ratio": 0.25, "l1": 3, "l2": 7},
)


def test_no_trivial_rule_wins() -> None:
    """The task is one that selection matters in: contrast alone, or any few tokens, answer far fewer questions."""
    figures = committed()
    dense = figures[json.dumps({"name": "none"})][1]
    random = [
        figures[json.dumps({"name": "pre_llm", "scorer": "random", "keep_tokens": keep})][1] for keep in (32, 16, 8, 4)
    ]
    assert max(_contrast(8), random[2]) < dense - 0.2
    assert [dense, *random] == sorted([dense, *random], reverse=True)


def _contrast(keep: int) -> float:
    with (FOLDER / "accuracy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "contrast"]
    (row,) = [row for row in rows if float(row["mean_visual_tokens"]) == keep]
    return int(row["right"]) / int(row["asked"])


@pytest.mark.check_all
def test_the_whole_table() -> None:
    """Every method on the committed questions: the same answers but for what rounding of another machine moves."""
    module = measure()
    figures = committed()
    examiner = module.Examiner(module.make_scenes("test", module.SCENES, module.SEED))
    for method in module.METHODS:
        right = examiner.right(method)
        _, expected, of = figures[json.dumps(method)]
        assert len(right) == of
        assert abs(right.mean() - expected) <= 0.01, (method, right.mean(), expected)
