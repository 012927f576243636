"""The planner finds what going through every schedule one by one finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.errors import InvalidValueError, UnknownNameError
from aimcost.inputs import discover
from aimcost.inputs.run import load_run
from aimcost.search.plan import plan_run
from aimcost.search.plan.planning import _why

from .conftest import FIRST, LEVELS, SMALL, Candidate, brute_force, estimated

FIGURES = {
    "max_ttft_ms": lambda c: c.ttft * 1e3,
    "max_tpot_ms": lambda c: c.estimate.stages["decode"].tpot_s * 1e3,
    "max_kv_gb": lambda c: c.estimate.memory.kv_bytes / 1e9,
    "max_memory_gb": lambda c: c.estimate.memory.peak_bytes / 1e9,
    "max_tflops": lambda c: c.estimate.totals.flops / 1e12,
}
# Each budget as a quantile of its figure over the whole grid; sure: of the upper end of the band. Launched
# one by one (eager), this small model waits for the host, and all decode steps take the same time.
CASES: list[tuple[dict[str, float], bool, str]] = [
    ({"max_ttft_ms": 0.1}, False, "eager"),
    ({"max_ttft_ms": 0.5}, False, "eager"),
    ({"max_ttft_ms": 0.9}, False, "cuda_graph"),
    ({"max_ttft_ms": 0.6}, True, "eager"),
    ({"max_ttft_ms": 0.6}, True, "cuda_graph"),
    ({"max_tflops": 0.4}, False, "eager"),
    ({"max_kv_gb": 0.7}, False, "eager"),
    ({"max_memory_gb": 0.95}, False, "eager"),
    ({"max_tpot_ms": 0.5}, False, "cuda_graph"),
    ({"max_ttft_ms": 0.7, "max_kv_gb": 0.5}, False, "eager"),
    ({"max_ttft_ms": 0.8, "max_kv_gb": 0.9, "max_tflops": 0.7, "max_tpot_ms": 0.85}, True, "cuda_graph"),
]


def figure(candidate: Candidate, key: str, sure: bool) -> float:
    return candidate.upper * 1e3 if key == "max_ttft_ms" and sure else FIGURES[key](candidate)


def limits(case: dict[str, float], brute: list[Candidate], sure: bool = False) -> dict[str, float]:
    return {key: float(np.quantile([figure(c, key, sure) for c in brute], share)) for key, share in case.items()}


def keeps(candidate: Candidate, budgets: dict[str, float], sure: bool) -> bool:
    # a limit that is a candidate's own figure is kept by it, whatever the last bit says
    return all(figure(candidate, key, sure) <= limit * (1 + 1e-12) for key, limit in budgets.items())


def planned(budgets: dict[str, float], execution: str = "eager", **options: Any) -> Any:
    nudged = {key: limit * (1 + 1e-11) for key, limit in budgets.items()}
    return plan_run(
        load_run(SMALL, {"execution": execution}), budgets=nudged, earliest_cut=FIRST, levels=LEVELS, **options
    )


@pytest.fixture(scope="module")
def whole() -> Any:
    """The plan that no budget limits."""
    return planned({"max_ttft_ms": 1e6}, objective="tokens")


@pytest.mark.parametrize(
    ("case", "sure", "execution"),
    [pytest.param(*case, marks=[pytest.mark.check] if number % 6 else []) for number, case in enumerate(CASES)],
)
def test_equals_brute_force(case: dict[str, float], sure: bool, execution: str) -> None:
    brute = brute_force(execution)
    budgets = limits(case, brute, sure)
    fitting = [candidate for candidate in brute if keeps(candidate, budgets, sure)]
    assert 0 < len(fitting) < len(brute)
    expected = max(fitting, key=lambda c: (c.kept, -c.ttft))
    plan = planned(budgets, execution, confidence=0.9 if sure else None, objective="tokens")
    assert plan.best is not None
    assert plan.best.kept_tokens == expected.kept
    assert plan.best.estimate.ttft_s == pytest.approx(expected.ttft, rel=1e-9)
    # what it prints keeps every budget when estimated again as a run of its own
    again = aimcost.estimate(plan.best.run)
    text = again.run.schedule.text_tokens
    kept = sum(again.run.schedule.tokens) - text * len(again.run.schedule.tokens)
    assert keeps(Candidate({}, again, kept, again.ttft_s, again.ttft_band_s[1] or 0.0), budgets, sure)


def test_goes_through_the_whole_grid(brute: list[Candidate]) -> None:
    plan = planned({"max_ttft_ms": 1e6}, shapes=["linear", "free"])
    mine = {tuple(c.estimate.run.schedule.tokens) for c in brute}
    assert plan.candidates >= len(mine)
    assert plan.best.kept_share == pytest.approx(1.0)


def test_the_front_is_that_of_brute_force(brute: list[Candidate], whole: Any) -> None:
    plan = whole
    front = [(row["ttft_s"], row["value"]) for row in plan.front() if row["front"] == "tokens"]
    kept = sorted({c.kept for c in brute}, reverse=True)
    fastest = {value: min(c.ttft for c in brute if c.kept == value) for value in kept}
    expected, best = [], float("inf")
    for value in kept:
        if fastest[value] < best * (1 - 1e-12):
            best = fastest[value]
            expected.append((best, value))
    expected.reverse()
    assert [value for _, value in front] == [value for _, value in expected]
    np.testing.assert_allclose([t for t, _ in front], [t for t, _ in expected], rtol=1e-9)


@pytest.mark.check
@pytest.mark.parametrize(("case", "sure", "execution"), CASES)
def test_the_front_says_which_keep_every_budget(case: dict[str, float], sure: bool, execution: str) -> None:
    budgets = limits(case, brute_force(execution), sure)
    plan = planned(budgets, execution, confidence=0.9 if sure else None, objective="tokens")
    rows = plan.front()
    assert rows
    for row in rows:
        candidate = estimated({**SMALL, "execution": execution}, row["method"])
        assert candidate is not None
        assert row["within"] == keeps(candidate, budgets, sure)


@pytest.mark.parametrize(
    ("kept", "scores", "said"),
    [
        ((100_000, 100_001), (57.0, 56.0), "its expected score is 1.00 lower (56.00)"),
        (
            (100_000, 101_000),
            (57.0, 56.0),
            "its expected score is 1.00 lower (56.00), although it keeps 1.0% more visual tokens",
        ),
        ((100_000, 90_000), (57.0, 56.999), "its expected score is lower by less than 0.01 (57.00)"),
        ((100_000, 99_998), (None, None), "it keeps 2 fewer visual tokens, summed over layers (99,998)"),
        ((100_000, 90_000), (None, None), "it keeps 10.0% fewer visual tokens, summed over layers (90,000)"),
    ],
)
def test_why_the_runner_up_came_second(
    whole: Any, kept: tuple[int, int], scores: tuple[float | None, float | None], said: str
) -> None:
    plan = whole
    best, second = (
        replace(plan.best, kept_tokens=count, expected_score=score) for count, score in zip(kept, scores, strict=True)
    )
    assert _why(replace(plan, objective="accuracy"), best, second) == said


def test_an_impossible_budget_gives_the_closest_and_what_it_misses(brute: list[Candidate]) -> None:
    fastest = min(candidate.ttft for candidate in brute)
    plan = planned({"max_ttft_ms": fastest * 1e3 * 0.5}, objective="tokens")
    assert plan.best is None
    assert plan.nearest.estimate.ttft_s == pytest.approx(fastest, rel=1e-9)
    (miss,) = plan.shortfalls
    assert miss["found"] - miss["limit"] == pytest.approx(fastest * 0.5, rel=1e-6)


def test_the_card_limits_too() -> None:
    run = {**SMALL, "hardware": {"name": "tiny", "memory_gb_per_s": 1000, "dense_tflops": {"bf16": 100}}}
    run = {**run, "estimator": "roofline", "workload": {"visual_tokens": 4000, "text_tokens": 40, "batch": 64}}
    free = plan_run(load_run(run), budgets={"max_ttft_ms": 1e6}, objective="tokens")
    run["hardware"] = {**run["hardware"], "usable_memory_bytes": free.best.figures["peak"] * 0.9}
    tight = plan_run(load_run(run), budgets={"max_ttft_ms": 1e6}, objective="tokens")
    assert tight.best.figures["peak"] <= free.best.figures["peak"] * 0.9
    assert tight.best.kept_tokens < free.best.kept_tokens


SEED = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 32, "text_tokens": 100},
    "method": {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22, "convention": "paper"},
    "hardware": "llm_viewer_nvidia_a100",
    "attention": "eager",
    "estimator": "llm_viewer",
    "estimator_options": {"skip_mlp_add": True},
}


@pytest.mark.parametrize("objective", ["tokens", "accuracy"])
def test_finds_the_published_schedule_or_better_from_its_own_cost(objective: str) -> None:
    seed = aimcost.estimate(SEED)
    assert seed.ttft_s * 1e3 == pytest.approx(55.028372, rel=1e-6)  # the paper's 55.03 ms
    plan = plan_run(
        load_run(SEED),
        budgets={"max_ttft_ms": seed.ttft_s * 1e3 * (1 + 1e-9), "max_tflops": seed.totals.flops / 1e12 * (1 + 1e-9)},
        objective=objective,
        shapes=["linear"],
    )
    tokens = seed.run.schedule.tokens
    assert plan.best.kept_tokens >= sum(tokens) - 100 * len(tokens) or objective == "accuracy"
    if objective == "accuracy":
        own = plan.surrogate
        from aimcost.search.plan.accuracy import features

        assert plan.best.expected_score >= float(own.score(*features(seed.run.schedule, seed.run.workload))) - 1e-9


def test_searches_machines_batches_and_frames() -> None:
    run = load_run("llava_onevision_aim_a100")
    plan = plan_run(
        run,
        budgets={"max_ttft_ms": 150},
        hardware=["nvidia_a100_sxm_80gb", "nvidia_h100_sxm"],
        batches=[1, 2],
        frames=[8, 16],
        shapes=["linear"],
    )
    assert [(s.hardware, s.batch) for s in plan.settings] == [
        (name, batch) for name in ("nvidia_a100_sxm_80gb", "nvidia_h100_sxm") for batch in (1, 2)
    ]
    assert plan.best.to_dict()["hardware"] == "nvidia_h100_sxm"
    assert plan.best.to_dict()["frames"] == 16
    assert aimcost.estimate(plan.best.run).ttft_s <= 0.150
    assert {row["frames"] for row in plan.front()} == {8, 16}


@pytest.mark.parametrize("method", ["none", "fastv", "vtw", "dart", "pyramiddrop", "pre_llm", "divprune", "prumerge"])
def test_other_methods_have_grids(method: str) -> None:
    run = load_run({**SMALL, "hardware": "nvidia_a100_sxm_80gb"})
    plan = plan_run(run, budgets={"max_ttft_ms": 1e4}, methods=[method], earliest_cut=1, objective="tokens")
    assert plan.best.run["method"]["name"] == method
    again = aimcost.estimate(plan.best.run)
    best = max(group.best.rank for s in plan.settings for group in s.outcome.groups if group.best)
    assert again.ttft_s == pytest.approx(-best[2], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"budgets": {}}, InvalidValueError, "max_ttft_ms"),
        ({"shapes": ["round"]}, UnknownNameError, "round"),
        ({"methods": ["visionzip"]}, InvalidValueError, "visionzip"),
        ({"objective": "speed"}, UnknownNameError, "speed"),
        ({"objective": "accuracy"}, InvalidValueError, "no scores are known"),
        ({"confidence": 0.2}, InvalidValueError, "confidence"),
        ({"earliest_cut": 99}, InvalidValueError, "earliest_cut"),
        ({"hardware": ["a200"]}, UnknownNameError, "a200"),
    ],
)
def test_refuses(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        plan_run(load_run(SMALL), **{"budgets": {"max_ttft_ms": 10}, **options})


def test_confidence_needs_a_band() -> None:
    with pytest.raises(InvalidValueError, match="no uncertainty band"):
        plan_run(load_run({**SMALL, "estimator": "roofline"}), budgets={"max_ttft_ms": 10}, confidence=0.9)


def test_masked_tokens_have_no_plan() -> None:
    with pytest.raises(InvalidValueError, match="masked"):
        plan_run(load_run({**SMALL, "implementation": "masked"}), budgets={"max_ttft_ms": 10})


def test_folders_are_read_a_few_times_not_for_every_published_point(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, listed = [], discover.names
    monkeypatch.setattr(discover, "names", lambda kind: reads.append(kind) or listed(kind))
    planned({"max_ttft_ms": 1e6})
    assert len(reads) < 20
