"""Result files that lmms-eval wrote through the plug-in (`make test-lmms`): imported, and into a plan."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from aimcost.evidence.formats.accuracy import import_scores, score_lines

ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests" / "golden" / "lmms_eval"


def test_results_of_the_plug_in_are_scores_of_its_methods() -> None:
    paths = sorted(FIXTURES.glob("*.json"))
    assert [path.stem for path in paths] == ["fastv", "none"]
    found = import_scores(paths, {})
    assert found is not None
    assert found.tools == ("lmms-eval",)
    assert not found.notes
    scores = {row.method["name"]: row for row in found.scores}
    assert scores["fastv"].method == {"name": "fastv", "k": 2, "ratio": 0.75}
    assert {row.benchmark for row in found.scores} == {"easy_vqa_scenes"}
    stated = json.loads((FIXTURES / "fastv.json").read_text())["results"]["easy_vqa_scenes"]["exact_match,none"]
    assert scores["fastv"].score == pytest.approx(stated)
    assert scores["fastv"].vanilla == pytest.approx(scores["none"].score)
    table = list(csv.DictReader(score_lines(found.scores).splitlines()))
    assert [json.loads(row["schedule"])["name"] for row in table] == ["fastv", "none"]


def test_the_command_writes_them(cli: Any, tmp_path: Path) -> None:
    names = [str(FIXTURES / f"{name}.json") for name in ("none", "fastv")]
    done = cli("import", *names, "--json", "-o", "scores.csv")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["method"]["name"] for row in rows] == ["none", "fastv"]
    assert (tmp_path / "scores.csv").read_text().startswith("schedule,benchmark,score,vanilla\n")


def test_measured_scores_drive_a_plan(cli: Any, tmp_path: Path) -> None:
    """All of the trained model's scores: the planner finds a schedule within a budget that the dense run misses."""
    profile = ROOT / "hardware_profiles" / "measurements" / "amd_epyc" / "2026-11-21_profile.yaml"
    run = {
        "model": str(ROOT / "tests" / "golden" / "easy_vqa" / "model" / "config.json"),
        "workload": {"images": 1, "text_tokens": {"system": 0, "question": 6}, "batch": 16},
        "method": {"name": "aim"},
        "precision": {"weights": "fp32", "activations": "fp32", "kv": "fp32"},
        "hardware": str(profile),
        "include": ["merge", "prefill"],
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    scores = ROOT / "docs" / "examples" / "easy_vqa_scores.csv"
    done = cli("plan", "run.yaml", "--accuracy", str(scores), "--ttft-ms", "50")
    assert done.returncode == 0, done.stderr
    assert "expected score" in done.stdout
    assert "fitted to 23 measured points" in done.stdout
