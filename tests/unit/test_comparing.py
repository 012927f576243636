"""`aimcost compare` over workloads, and what a thousand requests cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError

RUN: dict[str, Any] = {
    "model": "llava-1.5-7b",
    "workload": {"images": 1, "text_tokens": 40},
    "hardware": "nvidia_l4",
    "estimator": "roofline",
}


def test_each_workload_is_that_run() -> None:
    loads = [{"images": 1}, {"images": 4, "batch": 2}]
    rows = aimcost.compare(RUN, ["nvidia_l4", "nvidia_h100_sxm"], workloads=loads)
    assert [(row["workload"], row["hardware"]) for row in rows] == [
        ("images 1", "nvidia_h100_sxm"),
        ("images 1", "nvidia_l4"),
        ("images 4, batch 2", "nvidia_h100_sxm"),
        ("images 4, batch 2", "nvidia_l4"),
    ]
    for row, load in zip(rows, [loads[0], loads[0], loads[1], loads[1]], strict=True):
        assert row["ttft_s"] == aimcost.estimate(RUN, hardware=row["hardware"], **load).ttft_s


def test_a_thousand_requests_at_a_price_an_hour() -> None:
    """Two requests a batch: a thousand are 500 batches of `time_s`."""
    (row,) = aimcost.compare(RUN, batch=2, prices={"nvidia_l4": 0.71}, currency="USD")
    seconds = aimcost.estimate(RUN, batch=2).totals.time_s
    assert row["cost_per_1000_requests"] == pytest.approx(0.71 / 3600 * 500 * seconds)
    assert (row["price_per_hour"], row["currency"]) == (0.71, "USD")
    with pytest.raises(AimcostError, match="unknown machine 'nvidia_l40s'"):
        aimcost.compare(RUN, prices={"nvidia_l40s": 1.0})
    with pytest.raises(AimcostError, match="numbers above zero"):
        aimcost.compare(RUN, prices={"nvidia_l4": 0.0})


def test_several_values_of_a_flag(cli: Any) -> None:
    flags = ["--model", "llava-1.5-7b", "--hardware", "nvidia_l4", "--images", "1,4", "--batch", "1,2"]
    done = cli("compare", *flags, "--price", "nvidia_l4=0.71", "--currency", "USD")
    assert done.stderr == ""
    assert "cost per 1000 requests, USD" in done.stdout
    rows = json.loads(cli("compare", *flags, "--json").stdout)
    assert [row["workload"] for row in rows] == [
        "images 1, batch 1",
        "images 1, batch 2",
        "images 4, batch 1",
        "images 4, batch 2",
    ]
    done = cli("compare", *flags, "--price", "0.71")
    assert (done.returncode, "MACHINE=PRICE" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "llava15_aim_a100", "--hardware", ",,"],
        ["compare", "llava15_aim_a100", "--hardware", "nvidia_l4", "--batch", ","],
        ["plan", "llava15_aim_a100", "--ttft-ms", "100", "--hardware", " "],
        ["plan", "llava15_aim_a100", "--ttft-ms", "100", "--method", ""],
    ],
)
def test_a_list_of_nothing_is_not_the_default(cli: Any, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"'{arguments[-2]}' must be given a value" in done.stderr
