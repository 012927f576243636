"""The demonstration runs what it prices, and says what it measured."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.check]

from aimcost.errors import InvalidValueError
from aimcost.measure.demo import demonstrate
from aimcost.report.demo import demo_text


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def result(steps):
    return demonstrate(frames=2, layers=4, repeats=2, progress=lambda *step: steps.append(step))


def test_what_ran_is_what_was_scheduled(result):
    assert result.measured.tokens == result.schedule.tokens
    assert result.schedule.tokens[0] > result.schedule.tokens[-1]
    assert result.measured.device == "cpu"


def test_times_and_ratios(result):
    measured = result.measured
    assert result.flop_ratio > 1
    assert result.speedup == measured.dense.median / measured.reduced.median
    # wide bars: another process may disturb two repeats, but tokens that are gone cost nothing
    assert 0.5 * result.flop_ratio < result.speedup < 1.5 * result.flop_ratio
    assert 0 < measured.selection_s < measured.reduced.median
    assert len(measured.released.samples) == len(measured.dense.samples) == 2


def test_kept_sets_are_compared_with_the_released_ones(result):
    overlap = result.measured.overlap
    assert set(overlap) <= {event.after_layer for event in result.schedule.layer_events}
    assert all(0 < share <= 1 for share in overlap.values())


def test_progress_ends_at_its_own_total(result, steps):
    assert [done for done, _, _ in steps] == list(range(1, len(steps) + 1))
    assert len(steps) <= steps[-1][1]


def test_the_text_tells_measured_from_computed(result):
    text = demo_text(result)
    for part in ("measured speed-up", "by FLOPs alone", "as scheduled", "as released", "tokens kept"):
        assert part in text


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"layers": 1}, {"repeats": 0}])
def test_nothing_to_run(wrong):
    with pytest.raises(InvalidValueError):
        demonstrate(**wrong)


def test_a_gpu_that_is_not_there():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InvalidValueError, match="'device' must be 'cpu': "):
        demonstrate("cuda", frames=1, layers=2)
