"""Timing files are read strictly, and what is joined and scored is what a row says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError
from aimcost.evidence.joining import Joined, join, speedups, unpaired
from aimcost.evidence.scores import bootstrap, by, mean_of, score_of
from aimcost.evidence.timings import Timing, load_timings, timing_lines

ROW: dict[str, Any] = {
    "id": "paper/dense",
    "source": "a paper, Table 1",
    "group": "paper",
    "quantity": "ttft",
    "value_s": 0.1,
    "trust": "high",
    "pair": None,
    "stages": ["vision", "projector", "merge", "prefill"],
    "stack": "llava",
    "run": {
        "model": "llava-1.5-7b",
        "hardware": "nvidia_a100_sxm_80gb",
        "workload": {"images": 1, "text_tokens": 60, "new_tokens": 3},
    },
}


def written(folder: Path, *rows: Any) -> list[Path]:
    path = folder / "paper.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return [path]


def test_a_row_is_read_whole(tmp_path: Path) -> None:
    (row,) = load_timings(written(tmp_path, ROW)).requests
    assert (row.id, row.value_s, row.weight) == ("paper/dense", 0.1, 1.0)
    assert row.run["stack"] == "llava"  # the row's, since the run names none
    assert load_timings(written(tmp_path, timing_lines([row]).strip())).requests == (row,)


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        (["{"], FileFormatError, "line 1: is truncated or not JSON"),
        (["[1]"], FileFormatError, "line 1: must hold one JSON object"),
        ([{**ROW, "valu_s": 1}], UnknownNameError, "'value_s'"),
        ([{**ROW, "value_s": 0}], InvalidValueError, "line 1: 'value_s'"),
        ([{**ROW, "value_s": float("nan")}], FileFormatError, "line 1: NaN is not a finite number"),
        ([{**ROW, "stages": ["prefil"]}], InvalidValueError, "stages"),
        ([{**ROW, "trust": "very"}], InvalidValueError, "trust"),
        ([{**ROW, "stack": None}], InvalidValueError, "'stack' must be given"),
        ([{**ROW, "run": {**ROW["run"], "stack": "vllm"}}], InvalidValueError, "that of the run ('vllm')"),
        ([ROW, "", ROW], InvalidValueError, "line 3: 'id' must be unique"),
    ],
)
def test_a_bad_row_is_an_error_with_its_line(
    tmp_path: Path, rows: list[Any], error: type[AimcostError], said: str
) -> None:
    with pytest.raises(error) as caught:
        load_timings(written(tmp_path, *rows))
    assert said in str(caught.value)
    assert "paper.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_cannot_be_priced_names_its_row(tmp_path: Path) -> None:
    timings = load_timings(written(tmp_path, {**ROW, "run": {**ROW["run"], "hardware": "nvidia_a101"}}))
    with pytest.raises(UnknownNameError, match="timing 'paper/dense'"):
        join(timings.requests)


def test_all_given_sources_are_there() -> None:
    """Each file is one source; 463 requests of 15 sources and 4,581 kernels were given."""
    timings = load_timings()
    assert len(timings.requests) == 463
    assert len({row.group for row in timings.requests}) == 15
    assert len(timings.kernels) == 4581
    assert unpaired(join(timings.requests[:0])) == []
    known = {row.id for row in timings.requests}
    assert {row.pair for row in timings.requests if row.pair} <= known


def timing(**changes: Any) -> Timing:
    row = {key: value for key, value in ROW.items() if key != "run"}
    return Timing(**{**row, "stages": tuple(ROW["stages"]), "run": {**ROW["run"], "stack": "llava"}, **changes})


def test_an_interval_holds_its_stages_and_what_the_stack_adds_beside_them() -> None:
    """`llava` costs 40 ms a request, beside the tower: in a first token, not in a prefill or a decode step."""
    ttft, prefill, step, whole = join(
        [
            timing(),
            timing(id="prefill", stages=("prefill",)),
            timing(id="step", stages="tpot"),
            timing(id="whole", stages=("vision", "projector", "merge", "prefill", "decode")),
        ]
    )
    estimate = aimcost.estimate(dict(timing().run))
    seconds = {name: each.time_s for name, each in estimate.stages.items()}
    assert seconds["merge"] == 0.0  # nothing is reduced
    assert prefill.predicted == pytest.approx(seconds["prefill"])
    assert ttft.predicted == pytest.approx(0.040 + seconds["vision"] + seconds["projector"] + seconds["prefill"])
    # the third token is the second step's
    assert step.predicted == pytest.approx(seconds["decode"] / 2)
    assert whole.predicted == pytest.approx(ttft.predicted + 2 * step.predicted)
    assert ttft.estimate is prefill.estimate  # one run, priced once
    assert ttft.low < ttft.predicted < ttft.high
    assert ttft.card == "measured"


def test_a_speed_up_is_of_two_rows() -> None:
    """Published 100 ms and 80 ms: 1.25x, 20 ms saved."""
    reduced = {**timing().run, "method": {"name": "explicit", "tokens_per_layer": [[636, 2], [124, 30]]}}
    rows = join([timing(), timing(id="paper/reduced", value_s=0.08, pair="paper/dense", run=reduced)])
    (pair,) = speedups(rows)
    assert pair.published == pytest.approx(1.25)
    assert pair.saved_published_s == pytest.approx(0.02)
    assert pair.predicted == pytest.approx(rows[0].predicted / rows[1].predicted)
    assert pair.saved_s == pytest.approx(rows[0].predicted - rows[1].predicted)
    assert pair.low < pair.predicted < pair.high
    assert unpaired(rows[1:]) == ["paper/reduced"]
    assert speedups(rows[1:]) == []


def joined(group: str, published: float, predicted: float, low: float, high: float) -> Joined:
    row = join([timing()])[0]
    return replace(
        row, timing=replace(row.timing, group=group, value_s=published), predicted=predicted, low=low, high=high
    )


def test_scores_by_hand() -> None:
    """Source A: +10 % inside and −20 % outside, so MAPE 15 %, bias −5 %, half inside. Source B: +30 %, outside.

    Means over the two sources weigh them alike: MAPE (15 + 30) / 2 = 22.5 %, coverage (50 + 0) / 2 = 25 %.
    """
    rows = [
        joined("A", 1.0, 1.1, 0.9, 1.3),
        joined("A", 1.0, 0.8, 0.7, 0.9),
        joined("B", 2.0, 2.6, 2.4, 3.0),
    ]
    a, b = by(rows, lambda row: row.timing.group)
    assert (a.name, a.rows, b.name, b.rows) == ("A", 2, "B", 1)
    assert (a.mape, a.bias, a.coverage) == pytest.approx((0.15, -0.05, 0.5))
    assert (b.mape, b.bias, b.coverage) == pytest.approx((0.3, 0.3, 0.0))
    assert (a.low, a.high) == pytest.approx(((0.9 / 1.1 + 0.7 / 0.8) / 2, (1.3 / 1.1 + 0.9 / 0.8) / 2))
    assert score_of("all", rows).mape == pytest.approx(0.2)
    assert mean_of([a, b], "mape").value == pytest.approx(0.225)
    coverage = mean_of([a, b], "coverage")
    # resamples of two sources are (0, 0), (0, ½), (½, 0) or (½, ½): the 10th percentile is 0, the 90th ½
    assert (coverage.value, coverage.low, coverage.high) == pytest.approx((0.25, 0.0, 0.5))


def test_a_bootstrap_of_equal_values_has_no_width() -> None:
    interval = bootstrap([0.3] * 7)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize("part", ["cell", "model", "papers"])
def test_only_sources_are_held_out_of_timings(part: str, cli: Any) -> None:
    done = cli("evidence", "--leave-out", part)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "'--leave-out' must be source" in done.stderr
    assert f"got '{part}'" in done.stderr
