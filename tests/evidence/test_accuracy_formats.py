"""Scores of lmms-eval and VLMEvalKit: the fields that are read, the method they belong to, and the planner's table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from aimcost.errors import AimcostError
from aimcost.evidence.formats.accuracy import ImportedScores, import_scores, score_lines
from aimcost.inputs.method_arguments import method_arguments, method_in


def lmms(arguments: str = "pretrained=x", **results: dict[str, Any]) -> dict[str, Any]:
    """lmms_eval/loggers/evaluation_tracker.py: {date}_results.json."""
    return {
        "results": results or {"gqa": {"alias": "gqa", "exact_match,none": 0.6, "exact_match_stderr,none": 0.01}},
        "configs": {},
        "n-samples": {"gqa": {"original": 100, "effective": 100}},
        "config": {"model": "aimcost", "model_args": arguments},
    }


def vlm(model: str = "llava_next_vicuna_7b", **datasets: dict[str, Any]) -> dict[str, Any]:
    """vlmeval/smp/status_report.py: status.json of a run."""
    table = {"status": "done", "primary_metric": "Overall", "metrics": {"Overall": 61.0, "yes/no": 80.0}}
    return {
        "schema_version": "1.0",
        "eval_id": "T20260101_Gabc",
        "model_name": model,
        "datasets": datasets or {"ChartQA": table},
    }


def read(folder: Path, *files: dict[str, Any], method: Any = None, metric: str | None = None) -> ImportedScores:
    paths = [folder / f"{index}.json" for index in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_text(json.dumps(data))
    found = import_scores(paths, {} if method is None else {"method": method}, metric=metric)
    assert found is not None
    return found


def rows(found: ImportedScores) -> list[tuple[str, str, float, float | None]]:
    return [(row.method["name"], row.benchmark, row.score, row.vanilla) for row in found.scores]


def test_lmms_eval_and_the_unreduced_score(tmp_path: Path) -> None:
    """The run without a method is what the other is compared with."""
    reduced = lmms("pretrained=x,method=aim,method.l1=14", gqa={"exact_match,none": 0.57})
    found = read(tmp_path, reduced, lmms())
    assert rows(found) == [("aim", "gqa", 0.57, 0.6), ("none", "gqa", 0.6, 0.6)]
    assert found.scores[0].method == {"name": "aim", "l1": 14}
    assert found.notes == (f"{tmp_path / '1.json'}: names no method: taken as the unreduced model",)


def test_several_metrics_of_a_task(tmp_path: Path) -> None:
    mme = {"mme_perception_score,none": 1500.0, "mme_cognition_score,none": 300, "submission,none": None}
    names = [row[1] for row in rows(read(tmp_path, lmms(mme=mme)))]
    assert names == ["mme/mme_perception_score", "mme/mme_cognition_score"]
    assert rows(read(tmp_path, lmms(mme=mme), metric="mme_cognition_score")) == [("none", "mme", 300.0, 300.0)]


def test_vlmevalkit(tmp_path: Path) -> None:
    """A run's name says its method; a table is flattened, and its row "Overall" is the score."""
    pope = {"primary_metric": "Overall F1", "metrics": {"split=Overall|Overall": 86.0, "split=Overall|acc": 85.0}}
    found = read(tmp_path, vlm("x,method=divprune,method.keep=64", POPE=pope), vlm(POPE=pope))
    assert rows(found) == [("divprune", "POPE", 86.0, 86.0), ("none", "POPE", 86.0, 86.0)]
    assert found.tools == ("VLMEvalKit",)
    assert rows(read(tmp_path, vlm())) == [("none", "ChartQA", 61.0, 61.0)]


def test_a_method_that_the_user_gives_wins(tmp_path: Path) -> None:
    found = read(tmp_path, lmms("method=aim"), method={"name": "vtw", "layer": 14})
    assert found.scores[0].method == {"name": "vtw", "layer": 14}
    assert read(tmp_path, lmms("method=aim"), method="fastv").scores[0].method == {"name": "fastv"}


@pytest.mark.parametrize(
    ("data", "metric", "said"),
    [
        (lmms(gqa={"alias": "gqa"}), None, "holds no score"),
        (lmms(gqa="none"), None, "results.gqa must be a mapping"),
        (lmms(), "anls", "holds no score under 'anls'"),
        (lmms("method.l1=14"), None, "'method' must be given with its name"),
        (lmms("method=[aim"), None, "not YAML"),
        (vlm(MME={"metrics": {"perception": 1500, "reasoning": 300}}), None, "'metric' must be given: MME has several"),
        (vlm(ChartQA={"status": "infer"}), None, "ChartQA: no metrics (status infer)"),
        (vlm(ChartQA=3), None, "datasets.ChartQA must be a mapping"),
    ],
)
def test_what_is_missing_or_malformed_is_one_line(tmp_path: Path, data: Any, metric: str | None, said: str) -> None:
    with pytest.raises(AimcostError) as caught:
        read(tmp_path, data, metric=metric)
    assert said in str(caught.value)
    assert "0.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_two_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AimcostError, match="not a result file of lmms-eval or VLMEvalKit"):
        read(tmp_path, lmms(), {"avg_latency": 1.0})


def test_a_method_and_its_arguments() -> None:
    for method in ({"name": "aim", "merge_r": [288, 36], "l1": 14}, {"name": "fastv", "keep_ratio": 0.5}):
        assert method_in(f"pretrained=a/b,{method_arguments(method)},dtype=float32") == method
    assert method_in("pretrained=a/b") is None
    assert method_in('method={"name": "aim", "l1": 3}') == {"name": "aim", "l1": 3}
    assert method_in({"pretrained": "x", "method": "vtw", "method.layer": 14}) == {"name": "vtw", "layer": 14}


def test_the_command_writes_the_table(tmp_path: Path, cli: Any) -> None:
    scores = {"none": 0.6, "aim": 0.59, "aim,method.merge_ratio=0.25,method.l1=14,method.l2=22": 0.5}
    names = []
    for index, (method, score) in enumerate(scores.items()):
        (tmp_path / f"{index}.json").write_text(json.dumps(lmms(f"method={method}", gqa={"exact_match,none": score})))
        names.append(f"{index}.json")
    done = cli("import", *names, "-o", "scores.csv")
    assert done.returncode == 0, done.stderr
    assert "method=aim,method.merge_ratio=0.25,method.l1=14,method.l2=22" in done.stdout
    table = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [float(row["score"]) for row in table] == [0.6, 0.59, 0.5]
    assert {row["vanilla"] for row in table} == {"0.6"}


def test_quotes_survive_the_table(tmp_path: Path) -> None:
    found = read(tmp_path, lmms("method=aim,method.merge_r=[288, 36]"))
    table = list(csv.DictReader(score_lines(found.scores).splitlines()))
    assert json.loads(table[0]["schedule"]) == {"name": "aim", "merge_r": [288, 36]}
