"""Which method for a task: floors, budgets, the user's own scores, and what is said where nothing qualifies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError, InvalidValueError, UnknownNameError, UnsupportedModelError
from aimcost.inputs.run import Run, load_run
from aimcost.pricing.pricing import estimate_run
from aimcost.report.tasks import sentence, task_text
from aimcost.search.plan.tasks import TaskPlan, plan_task, scored
from aimcost.search.scores.points import benchmarks_of, load_points, settings_of
from aimcost.search.scores.surrogate import Query, shipped_surrogate
from aimcost.search.scores.users import with_yours

IMAGE = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 60}, "hardware": "nvidia_a100_sxm_80gb"}
FLAGS = ("--model", "llava-1.5-7b", "--images", "1", "--text-tokens", "60", "--hardware", "nvidia_a100_sxm_80gb")


@pytest.fixture(scope="module")
def image() -> Run:
    return load_run(IMAGE)


@pytest.fixture(scope="module")
def video() -> Run:
    return load_run("llava_onevision_dense_a100")


@pytest.fixture(scope="module")
def ocr(image: Run) -> TaskPlan:
    return plan_task(image, ["ocr"], min_accuracy=0.95)


def test_a_floor_asks_for_the_fastest_above_it(ocr: TaskPlan) -> None:
    assert ocr.best is not None
    assert ocr.best.mean >= 0.95
    assert all(each.ttft >= ocr.best.ttft for each in ocr.by_method)
    assert {each.name for each in ocr.by_method} >= {"fastv", "pyramiddrop", "sparsevlm", "holov", "divprune", "none"}
    # the front beats the choice nowhere: what is faster is expected to score less than the floor
    assert all(each.mean < 0.95 for each in ocr.front if each.ttft < ocr.best.ttft * (1 - 1e-9))


def test_every_price_is_that_of_the_run_itself(ocr: TaskPlan) -> None:
    """What the grids say a method takes is what an estimate of its run file says, its selection included."""
    for each in ocr.by_method:
        result = estimate_run(ocr.run.with_method(each.method))
        assert result.ttft_s == pytest.approx(each.ttft, rel=1e-9), each.method


@pytest.mark.check
def test_a_budget_alone_asks_for_the_best_score(image: Run) -> None:
    found = plan_task(image, ["ocr"], budgets={"max_ttft_ms": 36})
    assert found.best is not None
    assert found.best.ttft <= 0.036
    assert all(each.mean <= found.best.mean for each in found.by_method)
    both = plan_task(image, ["ocr"], budgets={"max_ttft_ms": 36}, min_accuracy=0.9)
    assert both.best is not None
    assert both.best.ttft < found.best.ttft
    assert both.best.mean >= 0.9


@pytest.mark.check
def test_vispcos_published_case(image: Run) -> None:
    """VisPCO's search ranks AIM's default on LLaVA-1.5-7B below other configurations at 2.2 to 2.3 TFLOP."""
    default = estimate_run(image.with_method({"name": "aim", "merge_ratio": 0.25, "l1": 13, "l2": 21}))
    assert 2.15e12 < default.totals.flops < 2.3e12
    tokens, text = default.run.schedule.tokens, default.run.schedule.text_tokens
    share = sum(count - text for count in tokens) / len(tokens) / image.workload.visual_tokens
    asked = ("MMB", "TextVQA")
    aim = shipped_surrogate().expect(Query(model="llava-1.5-7b", method="AIM", benchmark=""), asked, [share])
    # 2.3 of their TFLOP, of which AIM's default takes 2.2: they do not say whether CLIP's unread layer is among them
    found = plan_task(image, asked, budgets={"max_tflops": default.totals.flops / 1e12 * 2.3 / 2.2})
    assert sum(each.mean > aim.mean[0] for each in found.by_method) >= 3
    assert found.best is not None
    assert found.best.mean > aim.mean[0] + 0.02


def test_mean_visual_tokens_are_a_budget(image: Run) -> None:
    found = plan_task(image, ["POPE"], mean_visual_tokens=192, methods=["fastv", "holov", "visionzip", "vtw"])
    assert found.best is not None
    assert all(each.share * 576 <= 192 * (1 + 1e-9) for each in found.by_method)
    assert max(each.share * 576 for each in found.by_method) > 180


@pytest.mark.check
def test_measured_only_leaves_out_what_no_score_states(image: Run, ocr: TaskPlan) -> None:
    assert ocr.best is not None
    assert ocr.best.basis == "budget matched"
    found = plan_task(image, ["ocr"], min_accuracy=0.95, measured_only=True)
    assert {each.basis for each in found.by_method} <= {"published", "measured", "measured by its authors", "unreduced"}
    assert found.best == ocr.published
    # FastV's tables cut after layer 2
    assert all(each.method.get("k", 2) == 2 for each in found.by_method if each.name in ("fastv", "dart"))


def test_other_parameters_widen_the_interval(image: Run) -> None:
    """FastV at one mean number of tokens: cut later than any table's layer 2, and at it."""
    matched = plan_task(image, ["GQA"], mean_visual_tokens=200, methods=["fastv"], earliest_cut=4)
    stated = plan_task(image, ["GQA"], mean_visual_tokens=200, methods=["fastv"], measured_only=True)
    assert matched.best is not None
    assert stated.best is not None
    assert (matched.best.basis, stated.best.basis) == ("budget matched", "published")
    assert matched.best.high - matched.best.low > 1.3 * (stated.best.high - stated.best.low)


def test_settings_that_were_scored_stand_as_they_were(video: Run) -> None:
    """AIM at 25 %, l1 14, l2 22 has a score on six benchmarks and on a part of one: expected is the mean of the six."""
    found = plan_task(video, ["video"], budgets={"max_ttft_ms": 300})
    (aim,) = (each for each in found.by_method if each.name == "aim")
    assert aim.basis == "measured by its authors"
    assert aim.method == {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22}
    assert aim.mean == pytest.approx((1 + 1.0071 + 0.9845 + 0.9917 + 0.9874 + 0.9807) / 6, abs=1e-4)
    assert found.random == ((0.25, pytest.approx(0.9458, abs=1e-3), 4),)
    # 53.3 / 58.3, 57.7 / 60.4, 54.2 / 56.4 and 54.1 / 58.6 (SimpleCluster, table 1)
    assert found.resampled["average pooling"] == ((0.1, pytest.approx(0.9384, abs=1e-3), 4),)
    assert [each.what for each in found.downsampled] == ["16 frames", "8 frames"]
    assert "16 frames without reduction: TTFT" in task_text(found)
    assert "score unknown" in task_text(found)


def test_a_setting_is_averaged_by_benchmark(image: Run) -> None:
    """VTW at layer 16 has several scores of GQA and MMB, which count once each, and none of five benchmarks."""
    found = plan_task(image, ["general"], mean_visual_tokens=300, methods=["vtw"])
    (vtw,) = (each for each in found.by_method if each.name == "vtw" and each.method["k"] == 16)
    scores: dict[str, list[float]] = {}
    for point in load_points():
        if (point.model, point.method) == ("llava-1.5-7b", "VTW") and settings_of(point) == dict(vtw.method):
            scores.setdefault(point.benchmark, []).append(point.relative or 0.0)
    of_task = [sum(some) / len(some) for name, some in scores.items() if name in found.benchmarks]
    assert max(len(some) for some in scores.values()) > 1
    assert vtw.mean == pytest.approx(sum(of_task) / len(of_task))
    assert vtw.scored_benchmarks == len(of_task) < len(found.benchmarks)
    assert f"vtw: its setting has scores on {len(of_task)} of the {len(found.benchmarks)} benchmarks" in found.notes


def test_one_score_of_a_setting_does_not_beat_the_pool(image: Run) -> None:
    """FastV after layer 1 at a quarter has one score of TextVQA, 98.5 %: drawn to what its share lets expect."""
    (fastv,) = (
        each
        for each in scored(image, ["TextVQA"], methods=["fastv"])["fastv"]
        if each.basis == "measured" and each.method == {"name": "fastv", "k": 1, "ratio": 0.75}
    )
    query = Query(model="llava-1.5-7b", method="FastV", benchmark="")
    pool = shipped_surrogate().expect(query, ["TextVQA"], fastv.share)
    (own,) = {
        point.relative
        for point in load_points()
        if point.model == "llava-1.5-7b" and point.benchmark == "TextVQA" and settings_of(point) == dict(fastv.method)
    }
    assert own == pytest.approx(0.985, abs=1e-3)
    assert pool.mean[0] + 0.01 < fastv.mean < own - 0.01
    assert fastv.low < pool.mean[0] < own < fastv.high


def test_the_answer_is_one_sentence(ocr: TaskPlan) -> None:
    text = sentence(ocr)
    assert "\n" not in text
    assert re.search(
        r"^llava-1\.5-7b on nvidia_a100_sxm_80gb, stack transformers \(default\), ocr with score ≥ 95\.0% of the "
        r"unreduced: fastv \(k \d+, ratio 0\.\d+\), TTFT [\d.]+ ms \(80 % band .+?\), [\d.]+ ms less than unreduced, "
        r"expected score 9\d\.\d% of the unreduced \(80 % interval .+; budget matched, from \d+ scores of fastv on "
        r"this model: .+ and \d+ more\); runner-up within the noise: ",
        text,
    )


def test_methods_that_cannot_be_run_are_named(ocr: TaskPlan) -> None:
    (line,) = [line for line in task_text(ocr).splitlines() if line.startswith("priced, but not run by aimcost.apply")]
    assert "cdpruner (ranks with CLIP's text tower" in line
    assert "tome" not in line
    assert "fastv" not in line


def test_a_tower_that_takes_too_long_is_named(video: Run) -> None:
    found = plan_task(video, ["video"], budgets={"max_ttft_ms": 60})
    assert found.best is None
    tower = found.dense.stages["vision"].time_s * 1e3
    assert re.fullmatch(
        rf"the tower alone takes {tower:.1f} ms of the [\d.]+ ms of the fastest candidate \(\w+\): no reduction "
        r"after it can reach 60.00 ms; even 8 frames without reduction need [\d.]+ ms",
        found.shortfalls[0],
    )


@pytest.mark.parametrize(
    ("budget", "remedy"),
    [
        (200, r"8 frames without reduction take 1\d\d\.\d ms"),
        pytest.param(140, r"even 8 frames without reduction need 1\d\d\.\d ms", marks=pytest.mark.check),
    ],
)
def test_a_budget_below_every_method_names_an_input_that_reaches_it(video: Run, budget: int, remedy: str) -> None:
    found = plan_task(video, ["video"], budgets={"max_ttft_ms": budget})
    assert found.best is None
    assert re.fullmatch(
        rf"TTFT is at least [\d.]+ ms \(\w+\), of which the tower takes [\d.]+ ms, over {budget}.0 ms; {remedy}",
        found.shortfalls[0],
    )


def test_a_floor_out_of_reach_says_what_is_in_reach(image: Run) -> None:
    found = plan_task(image, ["ocr"], budgets={"max_ttft_ms": 26}, min_accuracy=0.99)
    assert found.best is None
    assert re.fullmatch(
        r"within the budgets at most \d\d\.\d% is expected \(\w+, [\d.]+ ms\), below 99.0%", found.shortfalls[0]
    )


def test_ones_own_scores_replace_published_ones(image: Run, tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text(
        "method,parameters,benchmark,score,vanilla\n"
        "none,,POPE,86,\n"
        '"visionzip","{keep_tokens: 64}",POPE,43,\n'
        '"visionzip","{keep_tokens: 192}",POPE,60,80\n',
        encoding="utf-8",
    )
    asked: dict[str, Any] = {"mean_visual_tokens": 64, "methods": ["visionzip"]}
    theirs = plan_task(image, ["POPE"], **asked)
    mine = plan_task(image, ["POPE"], accuracy=table, **asked)
    assert theirs.best is not None
    assert mine.best is not None
    assert theirs.best.mean > 0.85
    assert mine.best.mean == pytest.approx(0.5, abs=0.12)
    assert theirs.best.mean - mine.best.mean > 0.25
    assert mine.scores == 2
    assert mine.sources == (str(table),)
    assert "the published tables" in task_text(theirs)
    assert "the published tables" not in task_text(mine)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedule,score\n", "needs the column benchmark"),
        ("benchmark,score\nPOPE,1\n", "needs the column schedule, or method and parameters"),
        ("method,benchmark,score\nvtw,POPE,1\n", "line 2: 'vanilla' must be given, or a row with the method none"),
        ("method,parameters,benchmark,score,vanilla\nvtw,{k: 99},POPE,1,2\n", "method.k"),
        ("method,parameters,benchmark,score,vanilla\nvtw,[3],POPE,1,2\n", "line 2: needs a schedule, or a method"),
        ("method,benchmark,score,vanilla\nvtw,POPE,high,2\n", "line 2: 'score' must be a number"),
        ("method,benchmark,score,vanilla\nvtw,POPE,1,2,3\n", "line 2: more fields than the 4 columns"),
        ("method,benchmark,score,vanilla\nvtw,POPE,86,0.9\n", "line 2: 'score' must be from 0 to 1.5 times vanilla"),
        ("method,benchmark,score,vanilla\nvtw,POPE,-1,2\n", "line 2: 'score' must be from 0 to 1.5 times vanilla"),
        ("method,params,benchmark,score\nvtw,{k: 8},POPE,1\n", "unknown column 'params'; did you mean 'parameters'?"),
        ("method,score,benchmark,score\nvtw,1,POPE,1\n", "has the column score twice"),
        ("method,benchmark,score,vanilla\nnone,POPE,8,9\nvtw,POPE,1,2\n", "line 2: 'vanilla' must be empty, or"),
        ("method,parameters,benchmark,score,vanilla\nvtw,{k: 014},POPE,1,2\n", "line 2: a number with a leading zero"),
        ("method,benchmark,score,vanilla\nvtw,POPE,0.579,60\n", "line 2: 'score' must be 0, or at least 0.05 times"),
        ("method,benchmark,score\nnone,POPE,8\nnone,POPE,6\nvtw,POPE,7\n", "line 3: 'score' must be 8, as in a row"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(image: Run, tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "mine.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(AimcostError) as caught:
        plan_task(image, ["POPE"], mean_visual_tokens=64, accuracy=table)
    assert str(table) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_harnesses_names_are_the_published_ones(image: Run, tmp_path: Path) -> None:
    """Rows of lmms-eval and VLMEvalKit replace published ones, and those of no benchmark of the task are noted."""
    table = tmp_path / "mine.csv"
    names = ("gqa", "ocrbench", "textvqa_val", "mme/mme_perception_score", "MMBench_DEV_EN", "pope", "My own")
    rows = "".join(f"visionzip,{{keep_tokens: 64}},{name},40,80\n" for name in names)
    table.write_text(f"method,parameters,benchmark,score,vanilla\n{rows}", encoding="utf-8")
    points = with_yours(image, load_points(), table)
    mine = [point for point in points if point.source_id == "yours"]
    assert [point.benchmark for point in mine] == ["GQA", "OCRBench", "TextVQA", "MME-P", "MMB", "POPE", "My own"]
    assert not [
        p
        for p in points
        if p.source_id != "yours"
        and p.method == "VisionZip"
        and p.model == mine[0].model
        and p.benchmark in ("GQA", "POPE", "OCRBench", "OCRBench/10")
    ]
    assert settings_of(mine[0]) == {"name": "visionzip", "keep_tokens": 64}


@pytest.mark.check
def test_ones_own_settings_stand_and_their_disagreement_widens(image: Run, tmp_path: Path) -> None:
    """VTW as it was run here; and a method whose own scores of one schedule are 40 points apart."""
    table = tmp_path / "mine.csv"
    table.write_text(
        "method,parameters,benchmark,score,vanilla\n"
        "vtw,{k: 8},POPE,40,80\nvtw,{k: 16},POPE,79,80\n"
        "holov,{ratio: 0.25},POPE,44,80\nholov,{ratio: 0.25},POPE,76,80\nholov,{ratio: 0.25},OCRBench,76,80\n",
        encoding="utf-8",
    )
    found = plan_task(image, ["POPE"], mean_visual_tokens=288, accuracy=table, methods=["vtw", "holov"])
    by_name = {each.name: each for each in found.by_method}
    assert by_name["vtw"].method == {"name": "vtw", "k": 16}
    assert (by_name["vtw"].basis, by_name["vtw"].mean) == ("measured", 79 / 80)
    assert by_name["holov"].high - by_name["holov"].low >= 0.4 * (1 - 1e-9)
    assert "your scores of HoloV on POPE with one setting are 55.0% to 95.0%" in task_text(found)
    assert "your scores on OCRBench, no benchmarks of the task, do not enter the mean" in task_text(found)


def test_it_asks_for_a_floor_or_a_budget(image: Run) -> None:
    with pytest.raises(InvalidValueError, match=r"^'min_accuracy' must be given, or a budget, with task$"):
        plan_task(image, ["ocr"])
    with pytest.raises(AimcostError, match="unknown task 'orc'"):
        plan_task(image, ["orc"], min_accuracy=0.9)
    with pytest.raises(
        UnsupportedModelError, match=r"^llava-1\.5-7b has no scores for 'video'; it has: general, ocr, .*; or A-OKVQA, "
    ):
        plan_task(image, ["video"], min_accuracy=0.9)
    with pytest.raises(UnsupportedModelError, match=r"^no published scores of qwen2-7b or of a sibling; .* accuracy$"):
        plan_task(
            load_run({**IMAGE, "model": "qwen2-7b", "workload": {"visual_tokens": 100, "text_tokens": 9}}),
            ["ocr"],
            min_accuracy=0.9,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_accuracy": "95%"}, "'min_accuracy' must be a number above 0 and at most 1 (got '95%')"),
        ({"min_accuracy": True}, "'min_accuracy' must be a number above 0 and at most 1 (got True)"),
        ({"mean_visual_tokens": "64"}, "'mean_visual_tokens' must be a positive number (got '64')"),
        ({"mean_visual_tokens": float("nan")}, "'mean_visual_tokens' must be a positive number (got nan)"),
        ({"min_accuracy": 0.9, "task": 5}, "'task' must be a list of names (got 5)"),
        ({"min_accuracy": 0.9, "task": []}, "'task' must be a task or a benchmark (got None)"),
        ({"min_accuracy": 0.9, "methods": 5}, "'methods' must be a list of names (got 5)"),
        ({"min_accuracy": 0.9, "earliest_cut": "8"}, "'earliest_cut' must be a whole number (got '8')"),
        ({"min_accuracy": 0.9, "measured_only": "no"}, "'measured_only' must be True or False (got 'no')"),
        ({"min_accuracy": 0.9, "accuracy": 5}, "'accuracy' must be the path of a CSV file (got 5)"),
        ({"min_accuracy": 0.9, "shapes": "step"}, "'shapes' must be omitted with task (got 'step')"),
        ({"min_accuracy": 0.9, "shape": "step"}, "unknown argument 'shape'"),
        ({"min_accuracy": 0.9, "task": None}, "'min_accuracy' must be given with task"),
        ({"shape": "step", "task": None}, "unknown argument 'shape'; did you mean 'shapes'?"),
    ],
    ids=str,
)
def test_python_hears_of_the_argument(options: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidValueError, UnknownNameError)) as caught:
        aimcost.plan(IMAGE, **{"task": "ocr", **options})
    assert str(caught.value).startswith(message)


def test_a_limit_beside_the_budgets_is_told_where_it_goes() -> None:
    with pytest.raises(UnknownNameError, match=r"'max_ttft_ms'; .*; limits such as max_ttft_ms go in budgets$"):
        aimcost.plan(IMAGE, max_ttft_ms=40)


def test_python_takes_a_string_as_one_name() -> None:
    found = aimcost.plan(IMAGE, task="POPE", min_accuracy=0.9, methods="fastv", hardware="nvidia_l40s")
    assert [plan.run.hardware.name for plan in found.plans] == ["nvidia_l40s"]
    assert {each.name for each in found.plans[0].by_method} == {"fastv", "none"}


def test_methods_of_which_nothing_qualifies_are_named(image: Run) -> None:
    found = plan_task(image, ["ocr"], min_accuracy=0.9, methods=["fastv", "vtw", "none"])
    assert found.silent == ()
    assert found.runner_up is None
    (line,) = [line for line in task_text(found).splitlines() if line.startswith("below the floor: ")]
    assert line == f"below the floor: vtw ({found.below_floor['vtw']:.1%})"
    assert found.below_floor["vtw"] < 0.9
    tight = plan_task(image, ["ocr"], mean_visual_tokens=30, methods=["holov", "prumerge_plus", "vtw"])
    assert tight.over_budget.keys() == {"vtw"}
    assert "over the budget: vtw (by " in task_text(tight)


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        (
            "qwen2.5-vl-72b",
            {"min_accuracy": 0.9},
            r"the model does not fit: .* has 75\.20 GB; .* \(weights alone 146\.\d GB\)",
        ),
        ("llava-1.5-7b", {"budgets": {"max_memory_gb": 10}}, r"the weights alone are 14\.13 GB, over 10\.00 GB: .*"),
        (
            "llava-1.5-7b",
            {"mean_visual_tokens": 5},
            r"the fewest visual tokens a layer with a score are \d\d \(prumerge_plus\), over 5",
        ),
        (
            "llava-1.5-7b",
            {"budgets": {"max_kv_gb": 0.01}},
            r".*; of the nearest, prumerge_plus, KV cache .* exceeds 10\.00 MB by .*",
        ),
    ],
)
def test_what_nothing_keeps_is_named(model: str, asked: dict[str, Any], message: str) -> None:
    found = plan_task(load_run({**IMAGE, "model": model}), ["ocr"], methods=["prumerge_plus", "vtw", "fastv"], **asked)
    assert found.best is None
    assert re.fullmatch(message, found.shortfalls[0])


def test_a_floor_is_printed_as_it_was_given(image: Run) -> None:
    found = plan_task(image, ["POPE", "POPE"], min_accuracy=0.9725, methods="visionzip")
    assert ", POPE with score ≥ 97.25% of the unreduced: " in sentence(found)


def test_python_asks_with_task() -> None:
    found = aimcost.plan(IMAGE, task="POPE", min_accuracy=0.97, methods=["visionzip", "vtw"])
    assert isinstance(found, TaskPlan)
    assert found.benchmarks == ("POPE",)


def test_the_command_needs_no_run_file(cli: Any, tmp_path: Path) -> None:
    written = tmp_path / "best.yaml"
    done = cli("plan", *FLAGS, "--task", "pope,ocr", "--min-accuracy", "95%", "--json", "-o", str(written))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["benchmarks"] == ["POPE", "TextVQA", "OCRBench", "DocVQA"]
    assert found["best"]["expected"] >= 0.95
    assert found["best"]["expected_low"] < found["best"]["expected"] < found["best"]["expected_high"]
    again = cli("estimate", str(written), "--json")
    assert json.loads(again.stdout)["summary"]["ttft_s"] == pytest.approx(found["best"]["ttft_s"], rel=1e-9)
    budget = cli("plan", *FLAGS, "--ttft-ms", "40", "--method", "fastv", "--json")
    assert json.loads(budget.stdout)["best"]["ttft_s"] <= 0.040


def test_confidence_holds_the_edges_of_band_and_interval(image: Run, ocr: TaskPlan) -> None:
    """At 0.9 the upper edge of the 80 % band meets the budget, and the lower edge of the interval the floor."""
    floor: dict[str, Any] = {"min_accuracy": 0.9, "confidence": 0.9, "methods": ["fastv", "holov", "visionzip"]}
    found = plan_task(image, ["ocr"], budgets={"max_ttft_ms": 66}, **floor)
    assert found.best is not None
    assert all(each.low >= 0.9 for each in found.by_method)
    assert any(each.low < 0.9 <= each.mean and each.ttft < found.best.ttft for each in found.front)
    for each in found.by_method:
        assert (estimate_run(image.with_method(each.method)).ttft_band_s[1] or 1.0) <= 0.066 * (1 + 1e-9)
    # the unreduced run is under the budget, and the upper edge of its band above it
    assert found.dense.ttft_s < 0.066 < (found.dense.ttft_band_s[1] or 0.0)
    assert "none" not in {each.name for each in found.by_method}
    assert " at 90% confidence: " in sentence(found)


def test_a_share_is_of_the_tokens_that_a_method_chooses_from() -> None:
    """LLaVA-NeXT: 288 tokens are 10 % of 5 crops of 576, and no candidate has more tokens than the unreduced image."""
    run = load_run({**IMAGE, "model": "llava-next-vicuna-7b"})
    assert run.workload.visual_tokens == 1948
    shares = (0.9, 0.1)
    found = scored(run, ["POPE"], methods=["prumerge_plus", "divprune"], shares=shares)
    bases = {"prumerge_plus": ("PruMerge+", 2880), "divprune": ("DivPrune", 1948)}
    for name, (printed, base) in bases.items():
        one = found[name][-1]
        query = Query(model="llava-next-7b", method=printed, benchmark="")
        expected = shipped_surrogate().expect(query, ["POPE"], one.share * 1948 / base)
        assert one.share * 1948 / base == pytest.approx(0.1, rel=0.02), name
        assert one.mean == pytest.approx(float(expected.mean[0]), abs=1e-9), name
    assert len(found["prumerge_plus"]) == 1  # nine tenths of the crops are more tokens than unpadding leaves of all


def test_no_candidate_keeps_every_token(ocr: TaskPlan) -> None:
    """FastV with K at the last layer, or a ratio of one, is no reduction and competes as none alone."""
    whole = [each for each in (*ocr.front, *ocr.by_method) if each.share > 1 - 1e-9]
    assert {each.name for each in whole} <= {"none"}


@pytest.mark.check
def test_an_earliest_cut_without_effect_says_so(image: Run) -> None:
    """HoloV cuts before the language model; FastV's candidates start at layer 1."""
    for method, first, has_effect in (("holov", 9, False), ("fastv", 1, False), ("fastv", 9, True)):
        found = plan_task(image, ["ocr"], min_accuracy=0.8, methods=[method], earliest_cut=first)
        assert any("has no effect" in note for note in found.notes) != has_effect, (method, first)


def test_an_earliest_cut_holds_for_settings_that_were_scored(image: Run) -> None:
    """FastV at K = 1 and ratio 0.75 was scored on TextVQA, and a later cut was asked for."""
    found = {
        first: {each.method.get("k", 0) for each in plan_task(image, ["TextVQA"], earliest_cut=first, **asked).front}
        for asked in ({"min_accuracy": 0.9, "methods": ["fastv"]},)
        for first in (None, 8)
    }
    assert 1 in found[None]
    assert found[8] - {0}
    assert all(k >= 8 for k in found[8] - {0})


@pytest.mark.check
def test_several_machines_are_asked_at_once(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture, written = tmp_path / "front.svg", tmp_path / "best.yaml"
    asked = ("--task", "POPE", "--min-accuracy", "95%", "--method", "visionzip,holov")
    machines = [*FLAGS[:-1], "nvidia_l40s,nvidia_a100_sxm_80gb"]
    done = cli("plan", *machines, *asked, "--json", "--plot", str(picture), "-o", str(written))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    times = {plan["hardware"]: plan["best"]["ttft_s"] for plan in found["plans"]}
    assert found["best_hardware"] == min(times, key=lambda name: times[name]) == "nvidia_a100_sxm_80gb"
    assert "hardware: nvidia_a100_sxm_80gb" in written.read_text(encoding="utf-8")
    drawn = picture.read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    tight = cli("plan", *machines[:-1], "nvidia_t4,nvidia_a100_sxm_80gb", *asked, "--ttft-ms", "60").stdout
    assert re.search(r"^nvidia_t4: TTFT is at least ", tight, re.MULTILINE)
    text = cli("plan", *machines, *asked).stdout
    assert re.search(r"^nvidia_l40s +(visionzip|holov) \(", text, re.MULTILINE)
    both = aimcost.plan(IMAGE, task="POPE", min_accuracy=0.95, methods=["holov"], hardware=["nvidia_l40s"])
    assert [plan.run.hardware.name for plan in both.plans] == ["nvidia_l40s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "ocr"], "'--min-accuracy' must be given, or a budget, with --task"),
        (
            ["--task", "ocr", "--min-accuracy", "120%"],
            "'--min-accuracy' must be above 0 and at most 100%, such as 97% or 0.97",
        ),
        (["--min-accuracy", "97%"], "'--min-accuracy' must be given with --task"),
        (["--task", "ocr", "--ttft-ms", "9", "--shape", "step"], "'--shape' must be omitted with --task"),
        (["--task", "ocr", "--ttft-ms", "9", "--frames", "8,16"], "'--frames' must be one value with --task"),
        (["--task", "ocr", "--ttft-ms", "9", "--plot", "a.txt"], "'--plot' must be a file name ending in .png"),
        (["--task", "reading", "--ttft-ms", "9"], "unknown task 'reading'; tasks: general, ocr, chart"),
    ],
)
def test_what_does_not_go_together_is_refused(cli: Any, arguments: list[str], message: str) -> None:
    done = cli("plan", "llava15_aim_a100", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_task_takes_no_part_of_a_benchmark_beside_the_whole() -> None:
    assert benchmarks_of(["general"], ["MME-C", "MME", "GQA", "MME-P"]) == ("GQA", "MME")
    assert benchmarks_of(["general"], ["MME-C", "MME-P"]) == ("MME-P", "MME-C")
    assert benchmarks_of(["general", "MME-P"], ["MME", "MME-P"]) == ("MME", "MME-P")
    known = ["VideoMME (w/o sub)", "VideoMME (w/ sub)", "VideoMME long", "MVBench"]
    assert benchmarks_of(["video"], known) == ("VideoMME (w/o sub)", "MVBench")
