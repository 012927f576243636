"""Counts of every method against values worked out by hand, under both conventions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.cli.listing import describe
from aimcost.errors import InvalidValueError
from aimcost.inputs import discover
from aimcost.methods.registry import plan_module
from aimcost.types import ReductionEvent, Schedule

ROOT = Path(__file__).resolve().parents[2]
VIDEO = {"model": "llava-onevision-qwen2-7b", "workload": {"frames": 32, "text_tokens": 100}}  # 28 layers
IMAGE = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 40}}  # 576 patches, 32 layers


def plan(run: dict[str, Any], name: str, **params: Any) -> Schedule:
    return aimcost.schedule({**run, "method": {"name": name, **params}})


def runs(schedule: Schedule) -> list[list[int]]:
    """[tokens, layers] runs."""
    result: list[list[int]] = []
    for count in schedule.tokens:
        if result and result[-1][0] == count:
            result[-1][1] += 1
        else:
            result.append([count, 1])
    return result


def merges(schedule: Schedule) -> list[int]:
    """Tokens a group before, between and after the merge steps."""
    events = schedule.pre_llm_events
    return [events[0].tokens_in, *(event.tokens_out for event in events)] if events else []


def test_none() -> None:
    schedule = plan(VIDEO, "none")
    assert runs(schedule) == [[32 * 196 + 1 + 100, 28]]
    assert schedule.events == ()


# AIM, as its code runs: frames halve, 196 → 98 → 49 → 25 → 13 → 7 → 4, and a newline token follows.


@pytest.mark.parametrize(
    ("ratio", "steps"),
    [
        (1.0, []),
        (0.5, [196, 98]),
        (0.25, [196, 98, 49]),
        (0.125, [196, 98, 49, 25]),
        (0.0625, [196, 98, 49, 25, 13]),
        (0.063, [196, 98, 49, 25, 13]),
        (0.03125, [196, 98, 49, 25, 13, 7]),
        (0.031, [196, 98, 49, 25, 13, 7]),
        (0.015625, [196, 98, 49, 25, 13, 7, 4]),
        (0.016, [196, 98, 49, 25, 13, 7, 4]),
        (25 / 196, [196, 98, 49, 25]),
        (4 / 196, [196, 98, 49, 25, 13, 7, 4]),
    ],
)
def test_aim_merges_by_halves(ratio: float, steps: list[int]) -> None:
    schedule = plan(VIDEO, "aim", merge_ratio=ratio, l1=28, l2=29)
    assert merges(schedule) == steps
    left = steps[-1] if steps else 196
    assert runs(schedule) == [[32 * left + 1 + 100, 28]]
    assert schedule.visual_tokens == 32 * left + 1
    assert {(event.action, event.scorer, event.groups) for event in schedule.events} <= {
        ("merge", "bipartite_cosine", 32)
    }


def test_aim_executed() -> None:
    """V = 32·49 + 1 = 1569 and T = 100; after layer l = 14 … 21: int(1569·(1 − (l − 13)/8) + 100)."""
    schedule = plan(VIDEO, "aim")
    after = [1472, 1276, 1080, 884, 688, 492, 296, 100]  # 1472.875, 1276.75, 1080.625, 884.5, …
    assert schedule.tokens == (1669,) * 15 + tuple(after[:7]) + (100,) * 6
    assert (schedule.params["l1"], schedule.params["l2"]) == (14, 22)
    first = schedule.layer_events[0]
    # the cut after layer 14 takes effect at layer 15
    assert (first.after_layer, first.tokens_in, first.tokens_out) == (14, 1669, 1472)
    assert first.scorer == "pagerank"
    assert [event.after_layer for event in schedule.layer_events] == list(range(14, 22))


def test_aim_paper() -> None:
    """The published row: no newline token, and the cut charged at layer l itself."""
    schedule = plan(VIDEO, "aim", convention="paper")
    # 1568·(1 − k/8) + 100
    assert schedule.tokens == (1668,) * 14 + (1472, 1276, 1080, 884, 688, 492, 296) + (100,) * 7
    assert schedule.newline_tokens == 0
    assert schedule.layer_events[0].after_layer == 13


@pytest.mark.parametrize(
    ("ratio", "tokens"), [(0.5, 98), (0.125, 24), (0.0625, 12), (0.03125, 6), (0.015625, 3), (0.3, 58)]
)
def test_aim_paper_takes_the_floor_of_any_ratio(ratio: float, tokens: int) -> None:
    schedule = plan(VIDEO, "aim", convention="paper", merge_ratio=ratio, l1=28, l2=29)
    assert runs(schedule) == [[32 * tokens + 100, 28]]


def test_aim_paper_rounds_its_decay() -> None:
    """1/7 = 0.142857… is 0.1429 there: after seven layers nothing is left, not 1e-16 of V."""
    paper = plan(VIDEO, "aim", convention="paper", l1=10, l2=17)
    executed = plan(VIDEO, "aim", l1=10, l2=17)
    assert paper.params["decay"] == 0.1429
    assert executed.params["decay"] == 1 / 7
    # 1568·(1 − 0.1429) + 100 = 1443.9…; 1569·6/7 + 100 = 1444.857…
    assert (paper.tokens[10], executed.tokens[11]) == (1443, 1444)
    # 1568·(1 − 3·0.1429) + 100 = 995.7…
    assert paper.tokens[12] == 995


def test_aim_decay_given() -> None:
    """The slip of the retention table: 0.0125 a layer instead of 0.125."""
    schedule = plan(VIDEO, "aim", convention="paper", merge_ratio=0.125, decay=0.0125)
    # 768·(1 − 0.0125·k) + 100: 858.4, 848.8, 839.2, 829.6, 820.0 …
    assert schedule.tokens[:20] == (868,) * 14 + (858, 848, 839, 829, 820, 810)
    assert schedule.tokens[27] == 733  # 768·(1 − 0.175) + 100 = 733.6


def test_aim_boundaries() -> None:
    assert plan(VIDEO, "aim", l1=28, l2=29).layer_events == ()  # the cut after the last layer is no event
    # l1 = 27: only the cut after layer 27, which is the last
    assert plan(VIDEO, "aim", l1=27, l2=40).layer_events == ()
    # l1 = 26, l2 past the end: one cut after layer 26, by 1/14
    late = plan(VIDEO, "aim", l1=26, l2=40)
    assert late.tokens == (1669,) * 27 + (int(1569 * 13 / 14 + 100),)
    # l1 = 0: after layer 0 already
    early = plan(VIDEO, "aim", l1=0, l2=2)
    assert early.tokens == (1669, 884) + (100,) * 26  # 1569/2 + 100 = 884.5
    at_zero = plan(VIDEO, "aim", l1=0, l2=2, convention="paper")
    assert at_zero.tokens == (884,) + (100,) * 27
    with pytest.raises(InvalidValueError, match="from 0 to 28"):
        plan(VIDEO, "aim", l1=29)


def test_aim_defaults_by_depth() -> None:
    assert (plan(IMAGE, "aim").params["l1"], plan(IMAGE, "aim").params["l2"]) == (13, 21)
    deep = {"model": "qwen3-8b", "workload": {"visual_tokens": 640, "text_tokens": 10}}
    # 36 layers: 14/28 and 22/28 of the depth
    assert (plan(deep, "aim").params["l1"], plan(deep, "aim").params["l2"]) == (18, 28)


def test_aim_merge_steps_given() -> None:
    """576 → 288 → 252, the image row of the paper; a step takes at most half."""
    schedule = plan(IMAGE, "aim", merge_r=[288, 36], l1=32, l2=33)
    assert merges(schedule) == [576, 288, 252]
    assert runs(schedule) == [[292, 32]]
    assert merges(plan(IMAGE, "aim", merge_r=[500, 500, 0], l1=32, l2=33)) == [576, 288, 144]
    assert plan(IMAGE, "aim", merge_r=[], l1=32, l2=33).events == ()


def test_aim_names_the_ratios_it_reaches() -> None:
    with pytest.raises(InvalidValueError) as caught:
        plan(VIDEO, "aim", merge_ratio=0.3)
    for reachable in ("1 (196 of 196)", "0.5 (98 of 196)", "0.25 (49 of 196)", "0.125 (25 of 196)"):
        assert reachable in str(caught.value)
    assert "0.3" in str(caught.value)


def test_aim_keeps_text_around_the_visuals() -> None:
    workload = {"frames": 4, "text_tokens": {"system": 14, "question": 86}}
    schedule = plan({**VIDEO, "workload": workload}, "aim")
    assert (schedule.text_before, schedule.text_after, schedule.newline_tokens) == (14, 86, 1)
    assert schedule.visual_tokens == 4 * 49 + 1


def test_newline_can_be_turned_off() -> None:
    workload = {"frames": 32, "text_tokens": 100, "newline": False}
    assert plan({**VIDEO, "workload": workload}, "none").tokens[0] == 6372
    workload = {"images": 1, "text_tokens": 0, "newline": True}
    assert plan({**IMAGE, "workload": workload}, "none").tokens[0] == 577


# The other methods.


@pytest.mark.parametrize(
    ("run", "params", "expected"),
    [
        # half of 576 and 40; K = 2
        (IMAGE, {}, [[616, 2], [328, 30]]),
        (IMAGE, {"k": 3, "ratio": 0.75}, [[616, 3], [184, 29]]),
        (IMAGE, {"k": 32}, [[616, 32]]),
        # round(6273·0.5) = 3136 (banker's)
        (VIDEO, {}, [[6373, 2], [3236, 26]]),
        # the published video row: one full layer, 1248 visual tokens left
        (VIDEO, {"k": 1, "keep_tokens": 1248}, [[6373, 1], [1348, 27]]),
        (VIDEO, {"k": 1, "keep_tokens": 0}, [[6373, 1], [100, 27]]),
    ],
)
def test_fastv(run: dict[str, Any], params: dict[str, Any], expected: list[list[int]]) -> None:
    schedule = plan(run, "fastv", **params)
    assert runs(schedule) == expected
    if len(expected) > 1:
        (event,) = schedule.events
        assert event == ReductionEvent(
            action="prune",
            scorer="last_row",
            after_layer=expected[0][1] - 1,
            tokens_in=expected[0][0],
            tokens_out=expected[1][0],
        )


@pytest.mark.parametrize(
    ("run", "params", "expected"),
    [
        # cuts before layers 8, 16, 24 of 32: 288, 144, 72
        (IMAGE, {}, [[616, 8], [328, 8], [184, 8], [112, 8]]),
        # 28 layers: 7, 14, 21; int(6273/2) = 3136, 1568, 784
        (VIDEO, {}, [[6373, 7], [3236, 7], [1668, 7], [884, 7]]),
        # the published video row without its newline: 413, 256, 178 from layers 6, 13, 20
        (
            {**VIDEO, "workload": {"frames": 32, "text_tokens": 100, "newline": False}},
            {"layers": [6, 13, 20], "ratios": [0.05, 0.025, 0.0125]},
            [[6372, 6], [413, 7], [256, 7], [178, 8]],
        ),
        (IMAGE, {"layers": [31, 32], "ratios": [0.5, 0.1]}, [[616, 31], [328, 1]]),
    ],
)
def test_pyramiddrop(run: dict[str, Any], params: dict[str, Any], expected: list[list[int]]) -> None:
    schedule = plan(run, "pyramiddrop", **params)
    assert runs(schedule) == expected
    assert [event.scorer for event in schedule.events] == ["last_query"] * (len(expected) - 1)


@pytest.mark.parametrize(
    ("run", "params", "expected"),
    [
        (IMAGE, {}, [[616, 15], [40, 17]]),
        (IMAGE, {"k": 8}, [[616, 8], [40, 24]]),
        # 15 of 32 is 13.1 of 28
        (VIDEO, {}, [[6373, 13], [100, 15]]),
        (VIDEO, {"k": 28}, [[6373, 28]]),
    ],
)
def test_vtw(run: dict[str, Any], params: dict[str, Any], expected: list[list[int]]) -> None:
    schedule = plan(run, "vtw", **params)
    assert runs(schedule) == expected
    assert [event.scorer for event in schedule.events] == ["none"] * (len(expected) - 1)


@pytest.mark.parametrize(
    ("method", "run", "params", "visual"),
    [
        # int(576·0.0694) + 1 = 39 + 1; the grid adds up to a quarter
        ("prumerge", IMAGE, {}, 40),
        ("prumerge", IMAGE, {"ratio": 0.0625}, 37),
        ("prumerge", IMAGE, {"keep_tokens": 32}, 32),
        ("prumerge", VIDEO, {"ratio": 0.25}, 32 * 50 + 1),
        ("prumerge_plus", IMAGE, {}, 144),
        ("prumerge_plus", IMAGE, {"ratio": 0.5}, 288),
        ("pre_llm", IMAGE, {"ratio": 0.5}, 288),
        ("pre_llm", IMAGE, {"ratio": 0.0001}, 1),
        ("pre_llm", IMAGE, {"keep_tokens": 0}, 0),
        # a newline token counts as visual and stays
        ("pre_llm", VIDEO, {"ratio": 0.25}, 32 * 49 + 1),
        ("pre_llm", VIDEO, {"keep_tokens": 1620}, 1620),
        ("pre_llm", VIDEO, {"keep_tokens": 1569}, 1569),
    ],
)
def test_before_the_language_model(method: str, run: dict[str, Any], params: dict[str, Any], visual: int) -> None:
    schedule = plan(run, method, **params)
    assert schedule.visual_tokens == visual
    assert runs(schedule) == [[visual + schedule.text_tokens, len(schedule.tokens)]]
    (event,) = schedule.events
    assert event.after_layer is None
    assert event.groups * event.tokens_out == visual - schedule.newline_tokens


def test_groups_are_kept_where_they_divide() -> None:
    even = plan(VIDEO, "pre_llm", keep_tokens=32 * 10 + 1).events[0]
    assert (even.groups, even.tokens_in, even.tokens_out) == (32, 196, 10)
    odd = plan(VIDEO, "pre_llm", keep_tokens=1620).events[0]
    assert (odd.groups, odd.tokens_in, odd.tokens_out) == (1, 6272, 1619)


# Schedules given layer by layer.


def test_explicit_notations_are_one() -> None:
    by_run = plan(VIDEO, "explicit", tokens_per_layer=[[6373, 6], [100, 22]])
    by_layer = plan(VIDEO, "explicit", tokens_per_layer=[6373] * 6 + [100] * 22)
    assert by_run.tokens == by_layer.tokens
    assert by_run.events == by_layer.events
    (event,) = by_run.events
    assert (event.after_layer, event.tokens_in, event.tokens_out, event.selects) == (5, 6373, 100, False)
    assert runs(plan(VIDEO, "explicit", tokens_per_layer=[[6373, 3], [6373, 3], [100, 22]])) == [[6373, 6], [100, 22]]


@pytest.mark.parametrize(
    ("select", "scorer"), [("uniform", "uniform"), ("random", "random"), ("aim", "pagerank"), (None, "uniform")]
)
def test_explicit_selection_costs_only_when_named(select: str | None, scorer: str) -> None:
    params = {"tokens_per_layer": [[6373, 6], [100, 22]], **({"select": select} if select else {})}
    run = {**VIDEO, "hardware": "nvidia_a100_sxm_40gb", "estimator": "roofline"}
    estimate = aimcost.estimate({**run, "method": {"name": "explicit", **params}})
    (event,) = estimate.run.schedule.events
    assert (event.scorer, event.selects) == (scorer, select is not None)
    reductions = {op["name"] for op in estimate.ops()} & {"score", "select", "gather", "merge"}
    assert bool(reductions) == (select is not None)
    assert ("score" in reductions) == (select == "aim")


def test_explicit_may_start_below_the_prompt() -> None:
    schedule = plan(VIDEO, "explicit", tokens_per_layer=[[1668, 28]])
    (event,) = schedule.events
    assert (event.after_layer, event.groups) == (None, 1)
    assert schedule.visual_tokens == event.tokens_out == 1568
    # below the text: some of it is not there either
    few = plan(VIDEO, "explicit", tokens_per_layer=[[60, 28]])
    assert (few.visual_tokens, few.tokens[0]) == (0, 60)


# Decode steps.


def test_decode_attends_to_what_each_layer_kept() -> None:
    """G = 3: two steps, over n + 1 and n + 2 tokens in a layer that kept n."""
    run = {
        **VIDEO,
        "workload": {"frames": 32, "text_tokens": 100, "new_tokens": 3},
        "hardware": "nvidia_a100_sxm_40gb",
        "estimator": "roofline",
        "method": {"name": "vtw", "k": 10},
    }
    estimate = aimcost.estimate(run)
    assert estimate.stages["decode"].steps == 2
    found = {
        op["layer"]: op["flops"] for op in estimate.ops() if (op["stage"], op["name"]) == ("decode", "fused_attention")
    }
    for layer, kept in ((0, 6373), (9, 6373), (10, 100), (27, 100)):
        assert found[layer] == 4 * 28 * 128 * ((kept + 1) + (kept + 2))
    # one lm_head a step, and one in prefill
    heads = [op for op in estimate.ops() if op["name"] == "lm_head"]
    assert [(op["stage"], op["layer"], op["flops"]) for op in heads] == [
        ("prefill", None, 2 * 3584 * 152064),
        ("decode", None, 2 * 2 * 3584 * 152064),
    ]
    assert estimate.stages["decode"].tpot_s == pytest.approx(estimate.stages["decode"].time_s / 2)
    # K and V of 4 heads of 128, 2 bytes: the kept tokens and two generated ones a layer
    assert estimate.memory.kv_bytes == 2 * 4 * 128 * 2 * (10 * 6373 + 18 * 100 + 28 * 2)


def test_counts_after_merging_are_aims_own() -> None:
    """The same counts, merged and selected alike, are the same schedule and cost the same."""
    base = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 8, "text_tokens": 50},
        "hardware": "nvidia_a100_sxm_80gb",
    }
    own = aimcost.estimate(base, method={"name": "aim", "merge_ratio": 0.25, "l1": 9, "l2": 12})
    counts = list(own.run.schedule.tokens)
    method = {"name": "explicit", "tokens_per_layer": counts, "merge_ratio": 0.25, "select": "aim"}
    written = aimcost.estimate(base, method=method)
    assert written.run.schedule.events == own.run.schedule.events
    assert written.ttft_s == own.ttft_s
    # without a way of selecting, the merging is still priced and the cuts are not
    free = aimcost.estimate(base, method={key: value for key, value in method.items() if key != "select"})
    assert free.stages["merge"].time_s == own.stages["merge"].time_s
    assert not any(event.selects for event in free.run.schedule.layer_events)
    with pytest.raises(InvalidValueError, match=f"{counts[0]} in layer 0"):
        aimcost.schedule(base, method={**method, "tokens_per_layer": [counts[0] + 1, *counts[1:]]})


def test_the_page_of_methods_is_current() -> None:
    """docs/methods.md, the notes of schedules and `aimcost show` say what `RELEASED` says."""
    spec = importlib.util.spec_from_file_location("docs_methods", ROOT / "docs" / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    rows = "".join(page.row(name) for name in discover.method_names())
    assert page.HEAD + rows + page.TAIL == (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    released = plan_module("dart").RELEASED
    assert (
        str(released) in aimcost.schedule({"model": "llava-1.5-7b", "workload": {"images": 1}, "method": "dart"}).notes
    )
    assert released.differs[0] in describe("dart")
    assert not aimcost.schedule({"model": "llava-1.5-7b", "workload": {"images": 1}, "method": "fastv"}).notes


@pytest.mark.parametrize(
    ("workload", "method", "why"),
    [
        ({"images": 1}, {"name": "fastv", "k": 32}, "drops and merges none"),
        ({"images": 1}, {"name": "vtw", "k": 32}, "drops and merges none"),
        ({"images": 1}, {"name": "dart", "k": 32}, "drops and merges none"),
        ({"images": 1}, {"name": "pyramiddrop", "layers": [32], "ratios": [0.5]}, "drops and merges none"),
        ({"images": 1}, {"name": "aim", "l1": 31, "l2": 40, "merge_ratio": 1.0, "decay": 0.0}, "drops and merges none"),
        ({"images": 1}, {"name": "visionzip", "dominant": 500, "contextual": 80}, "drops and merges none"),
        ({"text_tokens": 40}, {"name": "aim"}, "none is visual"),
    ],
)
def test_a_method_that_reduces_nothing_says_so(workload: dict[str, Any], method: dict[str, Any], why: str) -> None:
    """Once, and what its released code does is not told then."""
    schedule = aimcost.schedule({"model": "llava-1.5-7b", "workload": workload, "method": method})
    assert not schedule.events
    assert len(set(schedule.tokens)) == 1
    assert [note for note in schedule.notes if "leaves all tokens" in note and why in note] == list(schedule.notes)
    none = aimcost.schedule({"model": "llava-1.5-7b", "workload": workload, "method": "none"})
    assert not none.notes
    assert schedule.tokens == none.tokens


@pytest.mark.parametrize("method", ["pyramiddrop", "sparsevlm"])
def test_positions_that_stay_were_never_compared_with_the_released_code(method: str) -> None:
    base = {"model": "llava-1.5-7b", "workload": {"images": 1}}
    renumbered, kept = (
        "; ".join(aimcost.schedule({**base, "method": {"name": method, **more}}).notes)
        for more in ({}, {"positions": "kept"})
    )
    assert "): 1.00;" in renumbered
    assert "counts them from 0" not in renumbered
    assert "): not recorded;" in kept
    assert "counts them from 0" in kept
    assert "under mRoPE" not in kept
