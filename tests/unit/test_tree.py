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
        if inside:
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
    estimate = aimcost.estimate(
        {**RUN, "method": {"name": "none"}, "workload": {**RUN["workload"], "batch": 8}}
    )
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
    assert "rising to" in fits
    short = estimate_text(aimcost.estimate({**RUN, "hardware": "nvidia_t4"}))
    assert "DOES NOT FIT" in short
    assert "not even a batch of 1 fits" in short
    assert "to first token" in short
