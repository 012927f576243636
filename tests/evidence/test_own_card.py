"""A card predicted by its own profile and two timings a stack: on the committed campaigns of an H100."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aimcost.errors import InvalidValueError
from aimcost.evidence.own_card import OwnCard, first_and_last, judge_own_card
from aimcost.inputs.files import read_mapping
from aimcost.measure.records import load_record
from aimcost.measure.validate import Errors

FOLDER = Path(__file__).resolve().parents[2] / "hardware_profiles" / "measurements" / "nvidia_h100_sxm"
PROFILE = read_mapping(FOLDER / "2026-11-26_first" / "nvidia_h100_80gb_hbm3.yaml")
DENSE, IMAGES = (load_record(FOLDER / "2026-11-26" / f"{step}.json") for step in ("dense", "images"))


def judged(stack: str) -> OwnCard:
    return judge_own_card(PROFILE, (DENSE, IMAGES), stack, fitted=first_and_last(DENSE, stack, PROFILE))


def test_two_timings_are_fitted_and_never_judged() -> None:
    found = judged("aimcost_graph")
    assert [timing.id for timing in found.fitted] == ["dense_100@aimcost_graph", "dense_4000@aimcost_graph"]
    runs = {point.run for point in found.points("prefill")}
    assert "dense_1668@aimcost_graph" in runs
    assert not runs & {timing.id for timing in found.fitted}
    assert all(run.endswith("@aimcost_graph") for run in runs)
    assert found.nodes_timed == (0, 1)  # attention over 260 tokens
    errors = Errors.of(found.prefills())
    assert errors is not None
    assert errors.mape < 0.03
    assert len(found.speedups) == 7
    assert max(abs(speedup.error) for speedup in found.speedups) < 0.12


def test_what_the_stack_adds_to_a_request_counts() -> None:
    """Eager prefills of an H100 wait for a slower host than the stack's: the fit adds milliseconds to each."""
    found = judged("transformers")
    timing, last = found.fitted
    assert found.calibrated.offset_s > 0.005
    with_fitted = replace(found, fitted=()).points("prefill")
    predicted = {point.run: point.predicted_s for point in with_fitted}
    assert predicted[timing.id] == pytest.approx(timing.value_s, rel=1e-3)
    assert predicted[last.id] == pytest.approx(last.value_s, rel=1e-3)


def test_a_prompt_timed_beside_several_schedules_is_one() -> None:
    found = judged("aimcost_graph")
    llava = [p for p in found.points("prefill", "dense") if p.tokens == 616]
    assert len(llava) > 5
    assert sum(p.tokens == 616 for p in found.prefills("dense")) == 1


def test_one_length_is_no_pair() -> None:
    samples = [sample for sample in DENSE.samples if sample.labels["run"] == "dense_100@transformers"]
    with pytest.raises(InvalidValueError, match="two lengths"):
        first_and_last(replace(DENSE, samples=tuple(samples)), "transformers", PROFILE)
