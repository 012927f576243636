"""The tree of the time to the first token: every row once, and lines that join."""

from __future__ import annotations

import pytest

import aimcost
from aimcost.report.text import estimate_text
from aimcost.report.tree import breakdown, tree_rows

RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 32, "text_tokens": 100, "new_tokens": 65},
    "method": {"name": "aim", "merge_ratio": 0.25, "l1": 14, "l2": 22},
    "hardware": "nvidia_a100_sxm_80gb",
    "estimator": "roofline",
}


@pytest.mark.parametrize("changes", [{}, {"parallel": {"tp": 4, "pp": 2}}, {"implementation": "masked"}])
@pytest.mark.parametrize("include", [None, ["vision", "prefill"], ["decode"], ["merge", "decode"]])
def test_branches_add_up(changes: dict, include: list[str] | None) -> None:
    run = {**RUN, **changes} if include is None else {**RUN, **changes, "include": include}
    estimate = aimcost.estimate(run)
    branches = breakdown(estimate)
    for quantity in ("time_s", "flops", "bytes"):
        top = [b for b in branches if b.depth == 0 and b.name != "total"]
        wanted = getattr(estimate.totals, quantity)
        assert sum(getattr(b, quantity) for b in top) == pytest.approx(wanted, rel=1e-12)
        first = [b for b in branches if b.depth == 1]
        if first:
            assert sum(getattr(b, quantity) for b in first) == pytest.approx(getattr(branches[0], quantity))
        inside = [b for b in branches if b.depth == 2]
        if any(b.name == "prefill" for b in branches):
            prefill = next(b for b in branches if b.name == "prefill")
            assert sum(getattr(b, quantity) for b in inside) == pytest.approx(getattr(prefill, quantity))


def test_reading_order_and_lines() -> None:
    rows = [cells[0] for cells in tree_rows(breakdown(aimcost.estimate(RUN)))]
    assert rows == [
        "to first token",
        "├─ vision tower",
        "├─ projector",
        "├─ merge",
        "├─ prefill",
        "│  ├─ embedding",
        "│  ├─ layers",
        "│  ├─ score",
        "│  ├─ select",
        "│  └─ gather",
        "└─ lm_head",
        "decode, 64 steps",
        "total",
    ]


def test_mfu_is_of_matrix_products_at_their_peak() -> None:
    estimate = aimcost.estimate(RUN)
    layers = next(b for b in breakdown(estimate) if b.name == "layers")
    head = sum(op["flops"] for op in estimate.ops() if op["name"] == "lm_head" and op["stage"] == "prefill")
    assert layers.mfu == pytest.approx(
        (estimate.matrix_flops(["prefill"]) - head) / (layers.time_s * 312e12), rel=1e-12
    )
    assert next(b for b in breakdown(estimate) if b.name == "gather").mfu is None


def test_each_step_attends_to_one_token_more() -> None:
    estimate = aimcost.estimate({**RUN, "method": {"name": "none"}, "workload": {**RUN["workload"], "batch": 8}})
    decode = estimate.to_dict()["stages"]["decode"]
    first, last = estimate.tpot_range_s
    assert (decode["tpot_first_s"], decode["tpot_last_s"]) == (first, last)
    # each step reads one more token of every layer's K and V
    added = 63 * 28 * 8 * 2 * 4 * 128 * 2 / 2039e9
    assert last - first == pytest.approx(added, rel=1e-6)
    assert decode["tpot_s"] == pytest.approx((first + last) / 2)


def test_no_decode_no_growth() -> None:
    estimate = aimcost.estimate({**RUN, "workload": {"frames": 2, "text_tokens": 9}})
    assert estimate.tpot_range_s == (0.0, 0.0)
    assert "total" not in {b.name for b in breakdown(estimate)}


def test_text_says_what_fits_and_what_is_short() -> None:
    fits = estimate_text(aimcost.estimate(RUN))
    assert "largest batch 1" in fits
    assert "rising from" in fits
    short = estimate_text(aimcost.estimate({**RUN, "hardware": "nvidia_t4"}))
    assert "DOES NOT FIT" in short
    assert "not even a batch of 1 fits" in short
    assert "to first token" in short


def test_merging_in_the_tower_is_shown_there() -> None:
    run = {
        **RUN,
        "model": "llava-1.5-7b",
        "workload": {"images": 1, "text_tokens": 40},
        "method": {"name": "tome"},
    }
    branches = breakdown(aimcost.estimate(run))
    names = [b.name for b in branches]
    assert names[:7] == ["to first token", "vision tower", "layers", "score", "select", "merge", "projector"]
    inside = branches[2:6]
    assert sum(b.time_s for b in inside) == pytest.approx(branches[1].time_s)


def test_reduction_is_summed_and_compared_with_fused_kernels() -> None:
    run = {**RUN, "implementation": "masked"}
    masked, fused = aimcost.estimate(run), aimcost.estimate(RUN)
    dense = aimcost.estimate({**RUN, "method": {"name": "none"}})
    text = estimate_text(masked, dense, fused)
    assert "same, if fused" in text
    reduction = fused.to_dict()["reduction"]
    choosing = [op for op in fused.ops() if op["name"] in ("score", "select", "gather", "merge")]
    assert reduction["time_s"] == pytest.approx(sum(op["time_s"] for op in choosing))
    assert reduction["flops"] == pytest.approx(sum(op["flops"] for op in choosing))
    assert reduction["events"] == 2 + 8
    assert dense.to_dict()["reduction"]["time_s"] == 0


def test_the_details_name_parameters_and_the_context_limit() -> None:
    """Qwen3-30B-A3B: 30.53 G stored, and 3.35 G with 8 of its 128 experts; 40,960 positions in its config.json."""
    run = {"model": "qwen3-30b-a3b", "workload": {"text_tokens": 100}, "hardware": "nvidia_h100_sxm"}
    shown = estimate_text(aimcost.estimate(run))
    line = next(line for line in shown.splitlines() if line.startswith("model "))
    assert line.split(maxsplit=1)[1] == "30.53 G parameters, 3.35 G active; context limit 40,960"
