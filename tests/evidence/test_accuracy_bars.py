"""Published scores that are left out: error, coverage and share answered, held to the project's bars."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aimcost.errors import InvalidValueError, UnknownNameError
from aimcost.search.scores.fitting import NEUTRAL, fitted
from aimcost.search.scores.held_out import HeldOut, leave_out, leave_out_refitted
from aimcost.search.scores.points import Point, benchmark_named, load_points, points_of
from aimcost.search.scores.surrogate import HALF_80, Parameters, Query, Surrogate, covariance, score_variance

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


@pytest.mark.check
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


def test_nothing_is_expected_to_beat_the_model(surrogate: Surrogate) -> None:
    """However high some scores are (CDPruner gains on VizWiz): 100 % without reduction, and never more."""
    highest = 0.0
    methods = {p.method for p in surrogate.points if p.model == "llava-1.5-7b" and p.benchmark == "VizWiz"}
    for method, benchmark in itertools.product(sorted(methods), ("VizWiz", "POPE")):
        found = surrogate.expect(Query(model="llava-1.5-7b", method=method, benchmark=""), [benchmark], SHARES)
        assert found.mean[0] == 1
        assert found.mean.max() <= 1, (method, benchmark)
        highest = max(highest, found.high.max())
    assert highest > 1.02


def test_no_interval_is_narrower_than_the_spread_of_its_cell(surrogate: Surrogate) -> None:
    """Wherever two sources print one method, model, benchmark and share; ToMe on POPE is 37 points apart."""
    cells: dict[tuple[str, str, str, float], list[int]] = {}
    for i, point in enumerate(surrogate.points):
        cells.setdefault((point.model, point.method, point.benchmark, point.share_kept or 0.0), []).append(i)
    several = {key: at for key, at in cells.items() if len(frozenset().union(*(surrogate.sources[i] for i in at))) > 1}
    assert len(several) > 300
    for (model, method, benchmark, share), at in list(several.items())[::6]:
        found = surrogate.expect(Query(model=model, method=method, benchmark=""), [benchmark], [share])
        spread = np.ptp(surrogate.loss[at])
        if found.low[0] > 0:
            assert 100 * (found.high[0] - found.low[0]) >= spread * (1 - 1e-9), (model, method, benchmark, share)
    query = Query(model="llava-1.5-7b", method="ToMe", benchmark="")
    near, far = surrogate.apart(query, ["POPE"], np.array([1.06, 2.0]))
    assert near > 35
    assert far == 0


def test_it_is_silent_far_below_the_shares_that_were_scored(surrogate: Surrogate) -> None:
    """FastV's scores on LLaVA go down to a ninth of the tokens; no bound is known of a method without scores."""
    query = Query(model="llava-1.5-7b", method="FastV", benchmark="")
    assert surrogate.deepest(query) == pytest.approx(np.log2(9) / 3, rel=1e-2)
    found = surrogate.expect(query, ["TextVQA"], [1 / 9, 1 / 16, 1 / 20])
    assert found.known.tolist() == [True, True, False]
    assert surrogate.deepest(replace(query, method="some method")) == np.inf


def test_milder_reductions_than_were_scored_are_answered_where_the_mildest_score_is(surrogate: Surrogate) -> None:
    """Between no reduction and a method's mildest score; of what nobody scored nothing is answered there either."""
    mild = 2.0 ** -np.linspace(0.05, 1.5, 12)
    for method, benchmarks in (("FastV", ["TextVQA", "OCRBench"]), ("VisionZip", ["POPE"]), ("DivPrune", ["GQA"])):
        query = Query(model="llava-1.5-7b", method=method, benchmark="")
        assert surrogate.mildest(query) > 0.5  # 1.5 / 3: below a share of 35 %
        assert surrogate.expect(query, benchmarks, mild).known.all()
    strange = Query(model="llava-1.5-7b", method="some method", benchmark="")
    assert surrogate.mildest(strange) == 0
    unknown = [strange, Query(model="some-model-8b", method="FastV", benchmark="")]
    assert not any(surrogate.expect(query, ["TextVQA"], mild[:5]).known.any() for query in unknown)


def test_the_mildest_scores_of_a_method_are_predicted_from_its_deeper_ones(surrogate: Surrogate) -> None:
    """Left out on all models of a family at once. Their intervals are no narrower than the others'."""
    labels, depth = {name: surrogate.labels(name) for name in ("method", "family")}, surrogate.rows.depth
    errors, halves = list[float](), list[float]()
    for method, family in sorted(set(zip(labels["method"], labels["family"], strict=True))):
        at = np.flatnonzero((labels["method"] == method) & (labels["family"] == family))
        block = at[depth[at] < depth[at].min() + 0.02]
        if len(block) < len(at):
            variance = np.linalg.inv(surrogate.inverse[np.ix_(block, block)])
            errors += np.abs(variance @ surrogate.weights[block]).tolist()
            apart = [surrogate.disagreement.get(method, 0.0) / 2] * len(block)
            halves += np.maximum(HALF_80 * np.sqrt(np.diag(variance)), apart).tolist()
    assert len(errors) > 600
    assert np.mean(errors) <= 2.8
    assert 0.72 <= np.mean(np.array(errors) <= np.array(halves)) <= 0.9


@pytest.mark.parametrize("score", [0.5, pytest.param(1.1, marks=pytest.mark.check)])
def test_a_score_of_ones_own_moves_its_method_alone(surrogate: Surrogate, score: float) -> None:
    """Half of the score that is expected, or a tenth above the model: the other methods stay where they are."""
    mine = Point(
        model="llava-1.5-7b",
        method="FastV",
        budget="mine",
        share_kept=0.157,
        benchmark="TextVQA",
        score=score,
        vanilla=1.0,
        relative=score,
        source_id="yours",
    )
    more = Surrogate([*load_points(), mine], trusted=("yours",))

    def moved(method: str, share: float) -> float:
        queries = [Query(model="llava-1.5-7b", method=method, benchmark="", source=each) for each in ("", "yours")]
        before, after = (s.expect(q, ["TextVQA"], [share]) for s, q in zip((surrogate, more), queries, strict=True))
        assert after.known[0] == before.known[0]
        assert after.low[0] < after.mean[0] < after.high[0]
        return float(after.mean[0] - before.mean[0])

    own = moved("FastV", 0.157)
    assert (own < -0.3) if score < 1 else (own > 0.08)
    for method in ("VisionZip", "DivPrune", "HoloV"):
        assert abs(moved(method, 0.157)) < abs(own) / 20
        assert abs(moved(method, 0.999)) < 0.001


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


@pytest.mark.check
def test_the_fit_is_where_the_likelihood_is_flat() -> None:
    """Likelihood by its definition, at the fitted variances, and at twice and half of some of them."""
    points = points_of("qwen2.5-vl-7b") + points_of("qwen3-vl-8b")
    found = fitted(points)
    at_fit = Surrogate(points, parameters=found)
    weights = at_fit.score_variance / score_variance(at_fit.rows, found)

    def likelihood(parameters: Parameters) -> float:
        some = Surrogate(points, parameters=parameters)
        total = covariance(some.rows, some.rows, parameters)
        total += np.diag(weights * score_variance(some.rows, parameters))
        return float(-np.linalg.slogdet(total)[1] - some.loss @ np.linalg.solve(total, some.loss)) / 2

    best = likelihood(found)
    assert best > likelihood(NEUTRAL) + 20
    for factor in (2, 0.5):
        others = {key: replace(found, shared={**found.shared, key: factor * found.shared[key]}) for key in found.shared}
        others |= {("row",): replace(found, row=factor * found.row)}
        others |= {("column",): replace(found, column=factor * found.column)}
        scales = {**found.task_scale, "chart": factor * found.task_scale["chart"]}
        others |= {("chart",): replace(found, task_scale=scales)}
        better = {key: likelihood(other) - best for key, other in others.items() if likelihood(other) > best + 0.1}
        assert not better, factor


@pytest.mark.check
def test_a_refit_has_not_known_the_block() -> None:
    """What is predicted of a left-out model stays the same whatever its scores are."""
    points = points_of("llava-video-7b-qwen2") + points_of("llava-onevision-qwen2-7b")
    wrong = [p if p.model != "llava-video-7b" else replace(p, relative=0.5 * (p.relative or 1)) for p in points]
    first, second = (leave_out_refitted(Surrogate(some), "model") for some in (points, wrong))
    at = [i for i, p in enumerate(first.points) if p.model == "llava-video-7b"]
    assert len(at) > 100
    np.testing.assert_allclose(first.expected[at], second.expected[at], rtol=1e-12)
    np.testing.assert_allclose(first.half[at], second.half[at], rtol=1e-12)
    assert first.refitted


@pytest.mark.check
@pytest.mark.parametrize("kind", ["source", "model"])
def test_one_source_alone_cannot_be_left_out(kind: str) -> None:
    """Refused in a line, without a warning of NumPy's."""
    alone = Surrogate(
        p for p in load_points() if p.source_id == load_points()[0].source_id and p.model == "llava-1.5-7b"
    )
    with pytest.raises(InvalidValueError, match=f"to leave a {kind} out"):
        leave_out(alone, kind)


def test_a_kind_of_block_is_named(surrogate: Surrogate) -> None:
    with pytest.raises(UnknownNameError, match="unknown block to leave out 'method'"):
        leave_out(surrogate, "method")
