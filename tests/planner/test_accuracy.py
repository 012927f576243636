"""The surrogate: monotone, honest about its error, and silent beyond what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import aimcost
from aimcost.errors import FileFormatError, InvalidValueError
from aimcost.inputs import discover
from aimcost.inputs.run import load_run
from aimcost.search.plan.accuracy import _scored, features, fit, surrogate_for
from aimcost.search.plan.planning import plan_run

RUN = "llava_onevision_aim_a100"


def test_the_points_are_those_of_the_papers_tables() -> None:
    paper = yaml.safe_load(discover.find("paper", "aim").read_text(encoding="utf-8"))
    printed: dict[tuple[float, int, int], set[float]] = {}
    for table in paper["accuracy"]:
        for row in table["points"]:
            if "retention_percent" in row:
                key = (row["retention_percent"], row.get("l1", 28), row.get("l2", 29))
                printed.setdefault(key, set()).add(row["scores"]["videomme_wo_sub"])
    percent = {1.0: 100.0, 0.5: 50.0, 0.25: 25.0, 0.125: 12.5, 0.0625: 6.3, 0.03125: 3.1, 0.015625: 1.6}
    mine = {
        (percent[method["merge_ratio"]], method["l1"], method["l2"]): point.score
        for point, method in _scored("llava-onevision-qwen2-7b")
    }
    assert mine.keys() == printed.keys()
    assert all(score in printed[key] for key, score in mine.items())


def test_states_its_error() -> None:
    surrogate = surrogate_for(load_run(RUN))
    assert surrogate is not None
    predicted = np.array([float(surrogate.score(x1, x2)) for x1, x2, _ in surrogate.points])
    assert np.abs(predicted - surrogate.points[:, 2]).max() < 0.6
    # by hand: without (l1 7, l2 15), the line from (7, 8) at x2 = 0.286 to (14, 15) at 0.536 gives 50.3 for 52.9
    assert 2.0 < max(surrogate.left_out) < 3.0
    assert len(surrogate.left_out) < len(surrogate.points)
    assert "leave-one-out error" in surrogate.describe()


POINTS = st.lists(
    st.tuples(st.floats(-6, 0), st.floats(0.01, 1), st.floats(0, 100)),
    min_size=3,
    max_size=12,
    unique_by=lambda p: p[0],
)


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_more_is_never_expected_to_score_less(points: list[tuple[float, float, float]]) -> None:
    surrogate = fit(np.array(points), source="s", metric="m")
    scores = surrogate.score(-1.0, np.linspace(0, 1, 50))
    assert (np.diff(scores) >= -1e-9).all()
    merged = [float(surrogate.score(x1, 0.5)) for x1 in np.linspace(-7, 0, 50)]
    assert (np.diff(merged) >= -1e-9).all()
    # every measured point lies among the measured points, and nothing below or above them does
    for x1, x2, _ in points:
        assert surrogate.known(x1, x2)
    assert not surrogate.known(min(p[0] for p in points) - 0.1, 0.5)
    assert not surrogate.known(points[0][0], 1.5)


def test_the_hull_is_that_of_the_points() -> None:
    square = np.array([[0, 0, 1.0], [0, 1, 2.0], [-2, 1, 1.5], [-1, 0.2, 1.0]])
    surrogate = fit(square, source="s", metric="m")
    assert surrogate.known(0.0, [0.0, 0.5, 1.0, 1.1]).tolist() == [True, True, True, False]
    assert surrogate.known(-1.0, [0.1, 0.2, 0.9]).tolist() == [False, True, True]
    assert surrogate.known(-1.5, 0.5).tolist() is False  # below the edge from (−2, 1) to (−1, 0.2)
    assert surrogate.known(-2.0, [0.9, 1.0]).tolist() == [False, True]


def test_other_frames_are_beyond_the_measured_points() -> None:
    run = load_run(RUN, {"workload": {"frames": 16}})
    plan = plan_run(run, budgets={"max_ttft_ms": 1e4}, shapes=["linear"])
    assert plan.objective == "tokens"
    assert plan.beyond == plan.candidates
    assert plan.best.expected_score is None
    allowed = plan_run(run, budgets={"max_ttft_ms": 1e4}, shapes=["linear"], extrapolate=True, objective="accuracy")
    assert allowed.best.expected_score == pytest.approx(58.35, abs=0.01)
    with pytest.raises(InvalidValueError, match="outside the measured points"):
        plan_run(run, budgets={"max_ttft_ms": 1e4}, shapes=["linear"], objective="accuracy")


def test_one_methods_points_say_nothing_of_another() -> None:
    plan = plan_run(load_run(RUN), budgets={"max_ttft_ms": 1e4}, methods=["pre_llm"], objective="tokens")
    assert plan.beyond == plan.candidates
    assert plan.best.expected_score is None


def test_a_table_of_ones_own_replaces_it(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text(
        "schedule,score\n"
        '"{name: aim, merge_ratio: 1.0, l1: 28, l2: 29}",70\n'
        '"{name: aim, merge_ratio: 0.5, l1: 28, l2: 29}",60\n'
        '"[[6373, 14], [100, 14]]",50\n'
        '"{name: aim, merge_ratio: 0.25, l1: 14, l2: 22}",40\n',
        encoding="utf-8",
    )
    run = load_run(RUN)
    surrogate = surrogate_for(run, table)
    assert surrogate is not None
    assert surrogate.points[:, 2].tolist() == [70, 60, 50, 40]
    half = aimcost.schedule(RUN, method={"name": "aim", "merge_ratio": 0.5, "l1": 28, "l2": 29})
    assert float(surrogate.score(*features(half, run.workload))) == pytest.approx(60, abs=1e-6)
    plan = plan_run(run, budgets={"max_ttft_ms": 1e4}, shapes=["linear"], accuracy=table)
    assert plan.best.expected_score == pytest.approx(70, abs=1e-6)
    assert str(table) in plan.surrogate.describe()


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", FileFormatError, "schedule and score"),
        ("a,b\n1,2\n", FileFormatError, "found a, b"),
        ("schedule,score\n[[6373, 28]],fine\n", FileFormatError, "line 2"),
        ("schedule,score\n{,3\n", FileFormatError, "line 2"),
        ('schedule,score\n"[[6373, 28]]",nan\n', FileFormatError, "line 2"),
        ('schedule,score\n"[[6373, 28]]",3\n', FileFormatError, "at least two"),
        ('schedule,score\n"[[6373, 27]]",3\n"[[6373, 28]]",4\n', InvalidValueError, "27 layers"),
        ('schedule,score\n"{name: aimm}",3\n"[[6373, 28]]",4\n', InvalidValueError, "aimm"),
    ],
)
def test_tables_that_cannot_be_read(text: str, error: type[Exception], said: str, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=said):
        surrogate_for(load_run(RUN), table)


def test_a_missing_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="not a readable CSV"):
        surrogate_for(load_run(RUN), tmp_path / "none.csv")
