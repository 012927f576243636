"""Most frames, largest batch, break-even: each answer is at the edge that it names."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs.run import load_run
from aimcost.search.plan.budgets import upper_end
from aimcost.search.plan.questions import ask

VIDEO, IMAGE = "llava_onevision_aim_a100", "llava15_aim_a100"


def estimate(name: str, method: dict[str, Any], **workload: int) -> Any:
    return aimcost.estimate(name, method=method, workload=workload)


@pytest.mark.parametrize(
    ("question", "confidence"),
    [("frames", None), pytest.param("frames", 0.9, marks=pytest.mark.check), ("batch", None)],
)
def test_one_more_is_over(question: str, confidence: float | None) -> None:
    name, limit = (VIDEO, 0.3) if question == "frames" else (IMAGE, 0.25)
    answer = ask(load_run(name), question, budgets={"max_ttft_ms": limit * 1e3}, confidence=confidence)
    assert answer.rows[0]["method"] == "aim (as in the run)"
    own = dict(load_run(name).method)
    for row, method in zip(answer.rows[:2], [own, {"name": "none"}], strict=True):
        most = row["most"]
        assert most > 1
        times = []
        for number in (most, most + 1):
            result = estimate(name, method, **{question: number})
            times.append(result.ttft_s if confidence is None else upper_end(result, 1.0))
        assert times[0] <= limit < times[1]
        assert row["ttft_s"] == estimate(name, method, **{question: most}).ttft_s
    assert answer.rows[0]["most"] > answer.rows[1]["most"]


def test_the_largest_batch_is_that_of_the_card_too() -> None:
    answer = ask(load_run(IMAGE), "batch", budgets={"max_ttft_ms": 1e6})
    plain = next(row for row in answer.rows if row["method"] == "none")
    assert plain["most"] == estimate(IMAGE, {"name": "none"}).memory.largest_batch
    assert "peak memory" in plain["stops"]


def test_nothing_fits_is_an_answer_of_zero() -> None:
    answer = ask(load_run(VIDEO), "frames", budgets={"max_ttft_ms": 1})
    assert not answer.answered
    assert all(row["most"] == 0 and "TTFT" in row["stops"] for row in answer.rows)


def test_break_even_is_where_the_gain_turns() -> None:
    run = load_run(VIDEO, {"model": "llava-onevision-qwen2-0.5b"})
    answer = ask(run, "break-even", budgets={})
    row = answer.rows[0]
    assert row["unit"] == "frames"
    method = dict(run.method)

    def gain(frames: int) -> float:
        changes = {"model": "llava-onevision-qwen2-0.5b", "workload": {"frames": frames}}
        plain = aimcost.estimate(VIDEO, method={"name": "none"}, **changes).ttft_s
        return plain - aimcost.estimate(VIDEO, method=method, **changes).ttft_s

    assert gain(row["from"]) > 0 >= gain(row["from"] - 1)
    # pruning alone: its scores take time with the square of the tokens, and it pays for some lengths only
    pruned = next(r for r in answer.rows if r["method"] == "aim, merge 1")
    method["merge_ratio"] = 1.0
    assert pruned["until"] < 64
    assert gain(pruned["from"]) > 0 >= gain(pruned["from"] - 1)
    assert gain(pruned["until"]) > 0 >= gain(pruned["until"] + 1)


@pytest.mark.check
def test_below_one_image_tokens_are_gone_through() -> None:
    answer = ask(load_run(IMAGE, {"method": {"name": "aim"}}), "break-even", budgets={})
    row = answer.rows[0]
    assert row["unit"] == "visual_tokens"
    assert 1 <= row["from"] < 576
    assert row["ttft_s"] < row["plain_s"]


@pytest.mark.parametrize(
    ("run", "question", "budgets", "said"),
    [
        (VIDEO, "colour", {"max_ttft_ms": 10}, "question"),
        (VIDEO, "frames", {}, "max_ttft_ms"),
        (VIDEO, "break-even", {"max_kv_gb": 10}, "max_kv_gb"),
        ({"model": "qwen2-7b", "hardware": "nvidia_l4"}, "frames", {"max_ttft_ms": 10}, "workload.frames"),
    ],
)
def test_refuses(run: Any, question: str, budgets: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidValueError, match=said):
        ask(load_run(run), question, budgets=budgets)
