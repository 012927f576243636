"""Sums, bands and flags of an estimate, on rows whose times are set by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.pricing.priced import BOUNDS, Band
from aimcost.pricing.result import Estimate

RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 2, "text_tokens": 30, "new_tokens": 4},
    "method": {"name": "aim"},
    "hardware": "nvidia_a100_sxm_40gb",
    "estimator": "roofline",
}


@pytest.fixture(scope="module")
def estimate() -> Estimate:
    """A real table, with a second on every row."""
    priced = aimcost.estimate(RUN)
    return with_columns(priced, seconds=np.ones(len(priced.table)))


def with_columns(estimate: Estimate, **columns: object) -> Estimate:
    return replace(estimate, priced=replace(estimate.priced, **columns))


def test_times_are_those_of_the_rows(estimate: Estimate) -> None:
    assert estimate.totals.time_s == len(estimate.table)
    for stage, total in estimate.stages.items():
        assert total.time_s == estimate.rows([stage]).sum()
    assert sum(op["time_s"] for op in estimate.ops()) == len(estimate.table)
    decode = estimate.stages["decode"]
    assert (decode.steps, decode.tpot_s) == (3, decode.time_s / 3)
    assert estimate.ttft_s == estimate.totals.time_s - decode.time_s


@pytest.mark.parametrize(("share", "flagged"), [(0.0, False), (0.04, False), (0.06, True), (1.0, True)])
def test_extrapolated_from_a_twentieth_of_the_time(estimate: Estimate, share: float, flagged: bool) -> None:
    rows = np.arange(len(estimate.table)) < share * len(estimate.table)
    assert with_columns(estimate, extrapolated=rows).totals.extrapolated == flagged


def a_band(group: Any, below: Any, above: Any) -> Band:
    """Bands of rows of a second each: what their terms take off and add."""
    rows = len(group)
    return Band(
        names=("first", "second"),
        group=np.asarray(group, dtype=np.int64),
        seconds=np.ones(rows),
        below=below,
        above=above,
        decode=np.zeros(rows, dtype=bool),
    )


def test_a_band_adds_up_inside_a_group_and_in_quadrature_between(estimate: Estimate) -> None:
    """Two groups of n and 2n rows of a second, −10 % and +20 %, −30 % and +50 %."""
    n = len(estimate.table) // 3
    group = np.minimum(np.arange(len(estimate.table)) // n, 1)
    sizes = np.bincount(group)
    band = a_band(group, np.array([0.1, 0.3])[group], np.array([0.2, 0.5])[group])
    totals = with_columns(estimate, band=band).totals
    assert totals.time_low_s == pytest.approx(sizes.sum() - math.hypot(0.1 * sizes[0], 0.3 * sizes[1]))
    assert totals.time_high_s == pytest.approx(sizes.sum() + math.hypot(0.2 * sizes[0], 0.5 * sizes[1]))


def test_a_lower_bound_has_no_upper_end(estimate: Estimate) -> None:
    assert (estimate.totals.time_low_s, estimate.totals.time_high_s) == (estimate.totals.time_s, None)


def test_a_layers_bound_is_that_of_its_largest_share_of_time(estimate: Estimate) -> None:
    """In layer 3 one row of ten seconds outweighs the others, whatever they are."""
    table = estimate.table
    rows = np.flatnonzero((table.layer == 3) & estimate.rows(["prefill"]))
    for code, name in enumerate(BOUNDS):
        bound = np.full(len(table), (code + 1) % len(BOUNDS))
        bound[rows[-1]] = code
        seconds = np.ones(len(table))
        seconds[rows[-1]] = 10.0 * len(rows)
        layer = with_columns(estimate, bound=bound, seconds=seconds).layers()[3]
        assert (layer["bound"], layer["time_s"]) == (name, 11.0 * len(rows) - 1)


def test_the_first_and_last_step(estimate: Estimate) -> None:
    """Rows of what grows with the cache: 1, 2, 3 seconds a layer; the rest takes its time evenly."""
    table = estimate.table
    seconds = np.zeros(len(table))
    evenly = 0.0
    for segment in table.segments:
        if segment.stage != "decode":
            continue
        rows = slice(segment.start, segment.stop)
        if table.count[segment.start] == 1.0:
            seconds[rows] = np.tile([1.0, 2.0, 3.0], (segment.stop - segment.start) // 3)
            layers = (segment.stop - segment.start) // 3
        else:
            seconds[rows] = 0.3
            evenly += 0.1 * (segment.stop - segment.start)
    first, last = with_columns(estimate, seconds=seconds).tpot_range_s
    assert (first, last) == pytest.approx((layers + evenly, 3 * layers + evenly))


def test_the_band_of_a_decode_step_is_that_of_all_steps_over_their_number(estimate: Estimate) -> None:
    """One group: every decode row −10 % and +20 %, so is their mean; prefill rows, far wider, do not matter."""
    decode = estimate.rows(["decode"])
    band = a_band(np.zeros(len(decode), dtype=int), np.where(decode, 0.1, 0.9), np.where(decode, 0.2, 8.0))
    step = decode.sum() / 3
    assert with_columns(estimate, band=band).tpot_band_s == pytest.approx((0.9 * step, 1.2 * step))
    assert estimate.tpot_band_s == (step, None)
    stages = with_columns(estimate, band=band).to_dict()["stages"]
    assert (stages["decode"]["tpot_low_s"], stages["decode"]["tpot_high_s"]) == pytest.approx((0.9 * step, 1.2 * step))


def test_operations_carry_their_bytes_by_class_and_their_band(estimate: Estimate) -> None:
    rows = len(estimate.table)
    band = a_band(np.zeros(rows, dtype=int), np.full(rows, 0.5), np.full(rows, 1.0))
    outside = np.zeros(rows, dtype=bool)
    outside[0] = True
    ops = with_columns(estimate, band=band, extrapolated=outside).ops()
    classes = [key for key in ops[0] if key.endswith("_bytes") and key != "wire_bytes"]
    assert len(classes) == 5
    for op in ops:
        assert sum(op[name] for name in classes) == pytest.approx(op["bytes"])
        assert (op["time_low_s"], op["time_high_s"]) == pytest.approx((0.5 * op["time_s"], 2 * op["time_s"]))
    assert sum(op["extrapolated"] for op in ops) == 1
    down = next(op for op in ops if (op["stage"], op["layer"], op["name"]) == ("prefill", 0, "down_proj"))
    tokens = estimate.run.schedule.tokens[0]
    assert down["read_weights_bytes"] == 2 * 18944 * 3584
    assert down["read_activations_bytes"] == 2 * 18944 * tokens
    assert down["write_activations_bytes"] == 2 * 3584 * tokens
    assert down["read_kv_bytes"] == down["write_kv_bytes"] == 0
    assert all(op["time_high_s"] is None for op in estimate.ops())
