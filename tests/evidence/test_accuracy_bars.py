"""Published scores that are left out: error, coverage and share answered, held to the project's bars."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from aimcost.errors import UnknownNameError
from aimcost.search.scores.held_out import HeldOut, leave_out
from aimcost.search.scores.points import Point, benchmark_named, load_points
from aimcost.search.scores.surrogate import Query, Surrogate, covariance

# (kind, most error, least and most coverage, least share answered)
BARS = [("cell", 2.8, 0.72, 0.88, 0.90), ("source", 4.3, 0.70, 0.90, 0.70), ("model", 5.2, 0.70, 0.90, 0.70)]
SHARES = 2.0 ** -np.linspace(0, 5, 41)


@pytest.fixture(scope="module")
def surrogate() -> Surrogate:
    return Surrogate(load_points())


@pytest.mark.parametrize(("kind", "error", "least", "most", "answered"), BARS)
def test_left_out_scores_are_within_the_bars(
    surrogate: Surrogate, kind: str, error: float, least: float, most: float, answered: float
) -> None:
    found = leave_out(surrogate, kind)
    assert found.error <= error
    assert least <= found.coverage <= most
    assert found.share_answered >= answered
    # better than the method's own mean over its other budgets, the silent ones included
    assert found.error_of_all < 0.75 * found.error_of_method_mean


def test_a_block_is_predicted_as_if_it_had_never_been_known(surrogate: Surrogate) -> None:
    """The shortcut through the inverse of all points equals a surrogate of the others, but for their own weights."""
    found: HeldOut = leave_out(surrogate, "cell")
    cell = ("llava-1.5-7b", "VisionZip", "64")
    rest = Surrogate(point for point in load_points() if point.cell != cell)
    at = [i for i, point in enumerate(found.points) if point.cell == cell]
    points = [found.points[i] for i in at]
    rows = rest.rows_of([Query.of(p) for p in points], [p.share_kept for p in points])
    onto = covariance(rows, rest.rows)
    np.testing.assert_allclose(100 - onto @ rest.weights, found.expected[at], atol=0.3)
    # to the digits, with the weights that the points have beside the cell
    kept = [i for i, point in enumerate(surrogate.points) if point.cell != cell]
    inverse = np.linalg.inv(covariance(rest.rows, rest.rows) + np.diag(surrogate.score_variance[kept]))
    np.testing.assert_allclose(100 - onto @ inverse @ rest.loss, found.expected[at], rtol=1e-6)


@pytest.mark.parametrize("method", ["FastV", "VisionZip", "DivPrune", "ToMe"])
def test_more_tokens_are_never_expected_to_score_less(surrogate: Surrogate, method: str) -> None:
    for task in (["TextVQA", "OCRBench"], ["POPE"], ["GQA", "MMB", "VizWiz"]):
        found = surrogate.expect(Query(model="llava-1.5-7b", method=method, benchmark=""), task, SHARES)
        assert (np.diff(found.mean) <= 1e-12).all()
        assert (found.low <= found.mean).all()
        assert (found.mean <= found.high).all()
        assert (found.mean[0], found.low[0], found.high[0]) == (1, 1, 1)


def test_an_interval_is_as_wide_as_sources_disagree(surrogate: Surrogate) -> None:
    """An interval of a method is no narrower than the mean spread of its cells that several sources print."""
    for method, spread in surrogate.disagreement.items():
        cells = {(p.model, p.benchmark, p.share_kept) for p in surrogate.points if p.method == method}
        for model, benchmark, share in sorted(cells, key=str)[:4]:
            found = surrogate.expect(Query(model=model, method=method, benchmark=""), [benchmark], [share])
            if found.low[0] > 0:
                assert 100 * (found.high[0] - found.low[0]) >= spread * (1 - 1e-9), (method, model, benchmark)
    assert surrogate.disagreement["ToMe"] > 10 > 2 > surrogate.disagreement["DivPrune"]


def test_it_is_silent_of_what_nobody_scored(surrogate: Surrogate) -> None:
    def known(model: str, method: str, benchmark: str) -> bool:
        query = Query(model=model, method=method, benchmark="")
        return bool(surrogate.expect(query, [benchmark], [0.1]).known[0])

    assert known("llava-1.5-7b", "FastV", "TextVQA")
    assert known("llava-1.5-13b", "HoloV", "POPE")  # its sibling was scored
    assert not known("some-model-8b", "some method", "TextVQA")
    assert not known("llava-1.5-7b", "FastV", "a benchmark")


def test_a_new_score_moves_its_own_cell(surrogate: Surrogate) -> None:
    """A point far above the others pulls the expectation up where it stands, and less beside it."""
    new = Point(
        model="llava-1.5-7b",
        method="FastV",
        budget="28",
        share_kept=0.05,
        benchmark="TextVQA",
        score=58.2,
        vanilla=58.2,
        relative=1.0,
        source_id="mine",
    )
    more = Surrogate([*load_points(), new])

    def moved(method: str, benchmark: str) -> float:
        query = Query(model="llava-1.5-7b", method=method, benchmark="")
        before, after = (s.expect(query, [benchmark], [0.05]).mean[0] for s in (surrogate, more))
        return float(after - before)

    assert moved("FastV", "TextVQA") > 3 * abs(moved("FastV", "POPE")) >= 0
    assert moved("FastV", "TextVQA") > 3 * abs(moved("VisionZip", "TextVQA"))


def test_figures_that_sources_repeat_count_once(surrogate: Surrogate) -> None:
    keys = [(*p.cell, benchmark_named(p.benchmark), p.score) for p in surrogate.points]
    assert len(keys) == len(set(keys)) == 2587
    assert sum(len(sources) for sources in surrogate.sources) == 3066


def test_the_command_prints_them(cli: Any) -> None:
    done = cli("evidence", "--accuracy", "--leave-out", "model", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["left_out"]
    assert (found["left_out"], found["scores"], len(found["rows"])) == ("model", 3063, 3063)
    assert found["error"] <= 5.2


def test_a_kind_of_block_is_named(surrogate: Surrogate) -> None:
    with pytest.raises(UnknownNameError, match="unknown block to leave out 'method'"):
        leave_out(surrogate, "method")
