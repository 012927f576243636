"""Measured curves of collectives: nodes, what lies between and beyond them, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.errors import CalibrationError
from aimcost.inputs.hardware import load_hardware
from aimcost.machine.calibration import calibration_of
from aimcost.machine.timemodels.collective import CollectiveModel

CURVE = {"bytes": [1000, 4000, 16000], "us": [10.0, 10.0, 40.0]}
DATA: dict[str, Any] = {
    "all_reduce": {2: CURVE, 8: {"bytes": [1000, 16000], "us": [20.0, 80.0]}},
    "all_gather": {2: CURVE},
    "band": [0.9, 1.1],
    "source": "by hand",
}


def model(**changes: Any) -> CollectiveModel:
    return CollectiveModel.of({**copy.deepcopy(DATA), **changes}, where="test")


def microseconds(operation: str, ranks: float, *sizes: float) -> list[float]:
    return list(model().seconds(operation, ranks, np.array(sizes)) * 1e6)


def test_nodes_and_between() -> None:
    assert microseconds("all_reduce", 2, 1000, 4000, 16000) == pytest.approx([10, 10, 40])
    # time is a power of the size between nodes: 8000 is half way from 4000 to 16000 on a log scale
    assert microseconds("all_reduce", 2, 8000) == pytest.approx([20])


def test_beyond_the_ends() -> None:
    assert microseconds("all_gather", 2, 0, 1, 32000, 160000) == pytest.approx([10, 10, 80, 400])


def test_ranks_take_the_nearest_curve_and_say_so() -> None:
    assert microseconds("all_reduce", 3, 1000) == microseconds("all_reduce", 2, 1000)
    assert microseconds("all_reduce", 16, 1000) == microseconds("all_reduce", 8, 1000)
    sizes = np.array([1000.0, 16000.0, 16001.0])
    assert list(model().outside("all_reduce", 8, sizes)) == [False, False, True]
    assert model().outside("all_reduce", 16, sizes).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"all_reduce": {}}, "all_reduce must hold curves"),
        ({"all_gather": None}, "all_gather must hold curves"),
        ({"all_gather": {2: {"bytes": [1, 2]}}}, "'bytes' and 'us'"),
        ({"all_gather": {2: {"bytes": [1, 2], "us": [1]}}}, "as long as each other"),
        ({"all_gather": {2: {"bytes": [2, 1], "us": [1, 1]}}}, "must rise"),
        ({"all_gather": {2: {"bytes": [1, 2], "us": [0, 1]}}}, "above zero"),
        ({"all_gather": {2: {"bytes": [1, 2], "us": [1, float("nan")]}}}, "finite"),
        ({"source": ""}, "source"),
    ],
)
def test_curves_that_cannot_be_true(change: dict[str, Any], says: str) -> None:
    with pytest.raises(CalibrationError, match=says):
        model(**change)


def all_reduces(hardware: str, tp: int) -> list[dict[str, Any]]:
    run = {"model": "qwen2-7b", "workload": {"text_tokens": 4000}, "hardware": hardware, "parallel": {"tp": tp}}
    estimate = aimcost.estimate(run, execution="cuda_graph")
    return [op for op in estimate.ops() if op["name"].startswith("all_reduce") and op["layer"] == 5]


def test_an_estimate_reads_the_curve() -> None:
    curves = calibration_of(load_hardware("nvidia_h100_sxm")).collective
    assert curves is not None
    # 4000 tokens of 3584 16-bit elements
    expected = float(curves.seconds("all_reduce", 4, np.array([4000 * 3584 * 2.0]))[0])
    found = all_reduces("nvidia_h100_sxm", 4)
    assert found
    assert all(op["time_s"] == pytest.approx(expected) for op in found)


@pytest.mark.parametrize("hardware", ["nvidia_h100_sxm", "intel_arc_pro_b60"])
def test_an_exchange_that_does_not_wait_for_the_host_is_bound_by_the_network(hardware: str) -> None:
    """Of one token too: its start-up is the network's latency, measured or assumed."""
    run = {"model": "qwen2-7b", "workload": {"text_tokens": 100, "new_tokens": 8}, "parallel": {"tp": 2}}
    ops = aimcost.estimate(run, hardware=hardware, execution="cuda_graph").ops()
    exchanges = {(op["stage"], op["bound"]) for op in ops if "wire_bytes" in op}
    assert exchanges == {("prefill", "network"), ("decode", "network")}


def test_a_relative_with_half_the_link_takes_about_twice_as_long() -> None:
    names = ("nvidia_a100_sxm_80gb", "nvidia_v100_sxm2_32gb")
    links = [load_hardware(name).interconnect_bytes_per_s for name in names]
    assert links[0] == 2 * links[1]
    whole, half = (all_reduces(name, 2)[0]["time_s"] for name in names)
    assert 1.7 < half / whole <= 2.0


def test_a_card_on_a_bus_takes_the_curves_of_one() -> None:
    """A PCIe A100 inherits from the SXM card, but not its NVLink switch."""
    bus, measured = (all_reduces(name, 4)[0]["time_s"] for name in ("nvidia_a100_pcie_80gb", "nvidia_l40s"))
    assert bus == pytest.approx(measured)


def test_an_hour_of_each_device_is_paid_for() -> None:
    """Replicas cost more and serve as many more; ranks and stages only cost more."""
    from aimcost.inputs.run import load_run
    from aimcost.pricing.comparison import compare_run

    def row(**split: int) -> dict[str, Any]:
        run = {"model": "qwen2-7b", "workload": {"text_tokens": 500, "batch": 2}, "price_per_hour": 3.6}
        return compare_run(load_run({**run, "parallel": split}), ["nvidia_h100_sxm"])[0]

    for split, devices in (({}, 1), ({"tp": 4}, 4), ({"pp": 2}, 2), ({"dp": 2}, 1)):
        found = row(**split)
        # 3.6 an hour is 0.001 a second; 500 batches of two
        assert found["cost_per_1000_requests"] == pytest.approx(0.001 * devices * found["ttft_s"] * 500)
