"""Refitting a stack: the decomposition is the price, the solver is least squares, and a known truth is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aimcost.evidence.held_out import _Model, held_out, refit
from aimcost.evidence.joining import join
from aimcost.evidence.timings import Timing, load_timings
from aimcost.machine.fitting.robust import soft_l1
from aimcost.machine.fitting.stacks import figures_of, with_figures

WIDE = np.array([-100.0, -100.0]), np.array([100.0, 100.0])


def rows_of(stack: str, every: int = 1) -> list[Timing]:
    return [timing for timing in load_timings().requests if timing.stack == stack][::every]


@pytest.mark.parametrize(("stack", "every"), [("llava", 3), ("transformers", 3), ("vllm_2023", 12), ("vllm_v0", 12)])
def test_the_decomposition_prices_as_the_estimator_does(stack: str, every: int) -> None:
    """At the shipped figures, and 30 % away from them, where other rows wait for the host."""
    model = _Model(stack, rows_of(stack, every))
    for factor in (1.0, 1.3):
        x = model.start * factor
        file = with_figures(stack, model.data, x)
        priced = [row.predicted for row in join(model.rows, {row.id: file for row in model.rows})]
        assert [part.seconds(x - model.start) for part in model.parts] == pytest.approx(priced, rel=1e-9)


def test_the_decomposition_knows_host_syncs() -> None:
    """DivPrune's eager loop waits for the device; with other host figures too."""
    dense = next(row for row in rows_of("transformers") if row.id == "pace4090/prefill-dense")
    run = {
        "model": "llava-1.5-7b",
        "hardware": "nvidia_a100_sxm_80gb",
        "stack": "transformers",
        "implementation": "eager",
        "workload": {"images": 1, "text_tokens": 60, "new_tokens": 4},
        "method": {"name": "divprune"},
    }
    rows = [
        replace(dense, id=str(stages), run=run, stages=stages)
        for stages in (("prefill",), ("merge",), ("vision", "projector", "merge", "prefill"), "tpot")
    ]
    model = _Model("transformers", rows)
    for factor in (0.5, 1.0, 2.0):
        x = model.start * factor
        file = with_figures("transformers", model.data, x)
        priced = [row.predicted for row in join(rows, {row.id: file for row in rows})]
        assert [part.seconds(x - model.start) for part in model.parts] == pytest.approx(priced, rel=1e-9)


def test_a_known_truth_is_found() -> None:
    """Times made of other figures than the file's: the fit returns those (no figure of this stack has a prior)."""
    rows = rows_of("vllm_2023", 5)
    model = _Model("vllm_2023", rows)
    truth = model.start * np.array([1.2, 0.8, 1.3, 0.8, 1.1])
    file = with_figures("vllm_2023", model.data, truth)
    made = [
        replace(row, value_s=joined.predicted)
        for row, joined in zip(rows, join(rows, {row.id: file for row in rows}), strict=True)
    ]
    (found,) = refit(made)
    assert list(found.figures.values()) == pytest.approx(list(truth), rel=1e-3)


def test_rows_are_judged_without_their_source() -> None:
    """`transformers` has four sources: each is left out whole, and every row is judged once."""
    rows = rows_of("transformers")
    refits = held_out(rows)
    assert [each.left_out for each in refits] == sorted({row.group for row in rows})
    for each in refits:
        assert each.judged == {row.id for row in rows if row.group == each.left_out}
    # without the one source that shows the host's pace, its prior is left: 13
    without = next(each for each in refits if each.left_out == "vicur")
    assert without.figures["host_us_per_launch.value"] == pytest.approx(13.0, abs=0.2)


def test_a_stack_of_two_sources_is_halved() -> None:
    rows = rows_of("tensorrt_llm", 8)
    first, second = held_out(rows)
    assert (first.left_out, second.left_out) == ("half A", "half B")
    assert first.judged | second.judged == {row.id for row in rows}
    assert not first.judged & second.judged


@pytest.mark.check
def test_shipped_figures_are_those_of_the_fit() -> None:
    """`aimcost evidence --refit` prints them; the files hold two or three digits of them."""
    for each in refit(load_timings().requests):
        for path, value in each.figures.items():
            assert each.shipped[path] == pytest.approx(value, rel=0.05), f"{each.stack}: {path}"


def test_a_changed_figure_keeps_the_shape_of_its_band() -> None:
    data = {"host_us_per_launch": {"value": 10, "low": 5, "high": 20}}
    changed = with_figures("transformers", data, [12.0])
    assert changed["host_us_per_launch"] == {"value": 12.0, "low": 6.0, "high": 24.0}
    assert data["host_us_per_launch"]["value"] == 10
    assert list(figures_of("transformers", changed)) == [12.0]
    tied = with_figures("vllm_2023", {"host_us_per_launch": 30}, [1, 2, 3, 4, 1.5])
    assert tied["architectures"]["hopper"]["scale"] == {"product_prefill": 1.5, "attention_prefill": 1.5}
    assert tied["host_us_per_launch"] == {"value": 1.0}


def test_small_residuals_make_it_least_squares() -> None:
    """With a scale far above the residuals the loss is quadratic: the answer is numpy's."""
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(40, 2)), rng.normal(size=40)
    found = soft_l1(lambda x: design @ x - target, np.zeros(2), WIDE, scale=1e4)
    assert found == pytest.approx(np.linalg.lstsq(design, target, rcond=None)[0], abs=1e-6)


def test_an_outlier_pulls_less_than_its_square() -> None:
    """Nine rows at 1 and one at 100: their mean is 10.9, soft-L1 stays near 1."""
    target = np.array([1.0] * 9 + [100.0])
    (found,) = soft_l1(lambda x: x[0] - target, np.array([5.0]), (np.array([0.0]), np.array([200.0])), scale=0.1)
    assert found == pytest.approx(1.0, abs=0.05)


def test_bounds_hold() -> None:
    found = soft_l1(
        lambda x: np.array([x[0] - 3.0, x[1] + 5.0]), np.array([1.0, 1.0]), (np.zeros(2), np.array([2.0, 9.0])), 1e3
    )
    assert found == pytest.approx([2.0, 0.0])
