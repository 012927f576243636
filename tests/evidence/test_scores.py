"""Published scores: every file reads, names resolve, and what a row states twice agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aimcost.errors import AimcostError
from aimcost.inputs import discover
from aimcost.inputs.run import load_model, plan_schedule
from aimcost.inputs.schema import WorkloadFile
from aimcost.inputs.workload import resolve_workload
from aimcost.search.scores.points import (
    FAMILIES,
    Point,
    benchmarks_of,
    family_of,
    load_points,
    method_named,
    models_named,
    points_of,
    settings_of,
)

POINTS = load_points()


def test_a_file_is_one_source_with_its_title() -> None:
    for path in discover.names("accuracy").values():
        points = load_points([path])
        assert len({(point.source_id, point.source) for point in points}) == 1, path
        assert points[0].source, path


def test_no_row_stands_twice_in_a_source() -> None:
    keys = [(p.source_id, p.table, *p.copied_as[:4], p.metric) for p in POINTS]

    assert len(keys) == len(set(keys))


def test_every_benchmark_is_of_a_task() -> None:
    assert {family_of(point.benchmark) for point in POINTS} <= set(FAMILIES)


def test_names_are_ours_where_we_have_the_model_or_the_method() -> None:
    named = models_named(POINTS)
    unknown = {point.model for point in POINTS} - set(named)
    assert unknown == {"llava-next-video-7b", "internvl2-26b", "qwen3-vl-32b", "nemotron-nano-12b-v2-vl"}
    assert named["llava-next-7b"] == "llava-next-vicuna-7b"
    assert method_named("PruMerge+") == "prumerge_plus"
    for variant in ("DivPrune + ours", "VisionZip (trained)", "DivPrune (PruMerge's ratio)", "Random"):
        assert method_named(variant) is None


def test_aims_tables_are_those_of_its_paper_file() -> None:
    """Every score of the AIM file stands in configs/papers/aim.yaml, under its row's method."""
    paper = yaml.safe_load(discover.find("paper", "aim").read_text(encoding="utf-8"))
    printed: dict[str, set[float]] = {}
    for table in paper["accuracy"]:
        for row in table["points"]:
            for score in row["scores"].values():
                printed.setdefault(row["method"], set()).add(score)
    rows = load_points([discover.find("accuracy", "aim")])
    assert len(rows) == 84 + 19  # S18, and the points of AIM's own grids that it does not repeat
    strange = [p for p in rows if p.score not in printed[method_named(p.method) or ""]]
    assert not strange


def test_flops_matched_rows_state_what_the_paper_file_reconstructs() -> None:
    """Visual tokens summed over layers are those of the paper file's runs, but for rounding."""
    paper = yaml.safe_load(discover.find("paper", "aim").read_text(encoding="utf-8"))
    runs = {row["id"]: row for row in paper["rows"]}
    printed = [
        (runs[point["row"]], point["method"], set(point["scores"].values()))
        for table in paper["accuracy"]
        for point in table["points"]
    ]
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in load_points([discover.find("accuracy", "aim")]):
        if "matched" in point.budget or "level" in point.budget:
            groups.setdefault((point.model, point.method, point.parameters), []).append(point)
    assert len(groups) == 11
    named = models_named(POINTS)
    for (printed_model, printed_method, parameters), some in groups.items():
        method, model = method_named(printed_method), load_model(named[printed_model])
        scores = {point.score for point in some}
        (row,) = (row for row, name, values in printed if name == method and scores <= values)
        workload, _ = resolve_workload(WorkloadFile(**row["run"]["workload"]), model, without_newline=True)
        planned = plan_schedule(model, workload, {**(settings_of(some[0]) or {}), "convention": "paper"})
        text = workload.text_tokens
        expected = sum((tokens - text) * layers for tokens, layers in row["tokens_rle"])
        assert sum(tokens - text for tokens in planned.tokens) == pytest.approx(expected, rel=0.02), parameters


def test_stated_parameters_are_schedules() -> None:
    named = models_named(POINTS)
    stated = [(p, method) for p in POINTS if (method := settings_of(p)) is not None and p.model in named]
    assert {method["name"] for _, method in stated} == {
        *("aim", "vtw", "fastv", "pyramiddrop", "prumerge", "prumerge_plus")
    }
    for point, method in stated:
        model = load_model(named[point.model])
        workload, _ = resolve_workload(WorkloadFile(images=1, text_tokens=40), model, without_newline=False)
        assert plan_schedule(model, workload, method).tokens


def test_a_task_is_its_benchmarks() -> None:
    known = {point.benchmark for point in points_of("llava-1.5-7b")}
    assert benchmarks_of(["ocr"], known) == ("TextVQA", "OCRBench", "DocVQA")
    assert benchmarks_of(["pope", "chart"], known) == ("POPE",)
    with pytest.raises(AimcostError, match="unknown task 'orc'; did you mean 'ocr'"):
        benchmarks_of(["orc"], known)


HEAD = "model,method,benchmark,score,source_id"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the column model (found no columns)"),
        ("model,method,benchmark,score", "needs the column source_id"),
        (HEAD + ",colour\n", "unknown column 'colour'"),
        (HEAD + "\nm,FastV,GQA,1\n", "line 2: 4 fields under 5 columns"),
        (HEAD + "\nm,FastV,,1,S\n", "line 2: benchmark is empty"),
        (HEAD + "\nm,FastV,GQA,high,S\n", "line 2: 'score' must be a number (got 'high')"),
        (HEAD + "\nm,FastV,GQA,nan,S\n", "line 2: 'score' must be a number"),
        (HEAD + ",share_kept\nm,FastV,GQA,1,S,64\n", "'share_kept' must be from 0 to 1 (got 64.0)"),
        (HEAD + ",vanilla_same_table\nm,FastV,GQA,1,S,0\n", "'vanilla_same_table' must be above 0"),
        (
            HEAD + ",vanilla_same_table,relative\nm,FastV,GQA,57.1,S,61.9,0.9325\n",
            "line 2: 'relative' must be 0.9225, score over vanilla_same_table (got 0.9325)",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AimcostError) as caught:
        load_points([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
