"""``aimcost plan`` from the shell: what it prints, writes and returns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import aimcost
from aimcost.inputs.run import Run
from aimcost.search import plan

RUN = "llava_onevision_aim_a100"
PLANS: dict[str, plan.Plan] = {}


@pytest.fixture
def command(cli: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``aimcost …``; one plan is searched once, however many formats it is printed in."""
    search = plan.plan_run

    def once(run: Run, *, progress: Any = None, **options: Any) -> plan.Plan:
        key = repr((run, options))
        if key not in PLANS:
            PLANS[key] = search(run, progress=progress, **options)
        return PLANS[key]

    monkeypatch.setattr(plan, "plan_run", once)
    return cli


def test_writes_a_run_file_that_estimate_takes(command: Any, tmp_path: Path) -> None:
    best, picture = tmp_path / "best.yaml", tmp_path / "front.svg"
    flags = ["--ttft-ms", "260", "--confidence", "0.9", "--shape", "step", "-o", str(best)]
    pytest.importorskip("matplotlib")
    done = command("plan", RUN, *flags, "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    for part in ("best: ", "runner-up: ", "(surrogate, not measured)", "leave-one-out error", "Pareto front, TTFT"):
        assert part in done.stdout
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    written = yaml.safe_load(best.read_text(encoding="utf-8"))
    assert written["budgets"] == {"max_ttft_ms": 260.0}
    result = aimcost.estimate(best)
    assert (result.ttft_band_s[1] or 1.0) <= 0.26
    again = command("estimate", str(best), "--json")
    assert json.loads(again.stdout)["totals"]["time_s"] == pytest.approx(result.totals.time_s)


def test_the_front_shows_the_chosen_schedule_among_its_neighbours(command: Any) -> None:
    """The last point within the budget, though every tenth is shown."""
    done = command("plan", RUN, "--ttft-ms", "250", "--shape", "free")
    lines = done.stdout[done.stdout.index("Pareto front, TTFT") :].splitlines()[3:]
    marks = [line.split()[-1] for line in lines[: lines.index("")]]
    assert marks.count("best") == 1
    at = marks.index("best")
    assert "over" not in marks[:at]
    assert set(marks[at + 1 :]) == {"over"}
    (best,) = (line for line in lines if line.endswith("best"))
    assert best.split()[0] == done.stdout.split("  TTFT ")[1].split()[0]


@pytest.mark.parametrize(
    ("flags", "limit"), [(["--ttft-ms", "272", "--confidence", "0.9"], 0.272), (["--kv-gb", "0.05"], 0.05e9)]
)
def test_the_front_marks_what_the_search_refused(command: Any, flags: list[str], limit: float) -> None:
    """Held to the upper end at a confidence, and to budgets other than the time."""
    found = json.loads(command("plan", RUN, *flags, "--shape", "linear", "--json").stdout)
    rows = [row for row in found["front"] if row["front"] == "accuracy"]
    for row in rows:
        result = aimcost.estimate(RUN, method=row["method"])
        held = result.memory.kv_bytes if "--kv-gb" in flags else result.ttft_band_s[1]
        assert row["within"] == (held <= limit), row
    # the time alone would not tell them apart
    within = [row["within"] for row in rows]
    assert set(within) == {True, False}
    assert within != [row["ttft_s"] <= limit for row in rows]
    text = command("plan", RUN, *flags, "--shape", "linear").stdout
    lines = text[text.index("Pareto front, TTFT") :].split("\n\n")[0].splitlines()
    assert lines[1].split()[-2:] == ["schedule", "budget"]
    times = {f"{row['ttft_s'] * 1e3:.1f}": row["within"] for row in rows}
    shown = [line for line in lines[3:] if line[:1].isdigit()]
    assert len(shown) >= 10
    for line in shown:
        assert line.endswith("over") != times[line.split()[0]], line
    printed = list(csv.DictReader(io.StringIO(command("plan", RUN, *flags, "--shape", "linear", "--csv").stdout)))
    assert [row["within"].lower() == "true" for row in printed] == [row["within"] for row in found["front"]]


def test_a_best_schedule_that_is_off_the_front_is_said_to_be(command: Any) -> None:
    """A cache budget is no axis of the front: a faster schedule may score more and hold a larger cache."""
    done = command("plan", RUN, "--kv-gb", "0.05", "--shape", "free")
    front = done.stdout[done.stdout.index("Pareto front, TTFT") :]
    assert not any(line.endswith(" best") for line in front.splitlines())
    assert "best is off the front" in front
    assert "best is off the front" not in command("plan", RUN, "--ttft-ms", "185", "--shape", "linear").stdout


def test_none_scores_as_the_same_schedule_of_aim(command: Any) -> None:
    done = command("plan", RUN, "--ttft-ms", "100000", "--shape", "linear", "--method", "aim,none,fastv")
    rows = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["none"][-4:] == rows["aim, merge 1"][-4:]  # milliseconds, tokens, score
    assert "no score: outside the measured points" in " ".join(rows["fastv"])
    tight = command("plan", RUN, "--ttft-ms", "222", "--shape", "linear", "--method", "none").stdout
    (row,) = [line.split() for line in tight.splitlines() if line.startswith("none ")]
    excess = aimcost.estimate(RUN, method={"name": "none"}).ttft_s / 0.222 - 1
    assert " ".join(row[2:]) == f"none: {excess:.1%} over budget"


def test_json_and_csv_hold_the_whole_front(command: Any) -> None:
    flags = [RUN, "--flops", "30", "--shape", "linear"]
    found = json.loads(command("plan", *flags, "--json").stdout)
    rows = list(csv.DictReader(io.StringIO(command("plan", *flags, "--csv").stdout)))
    assert len(rows) == len(found["front"]) > 20
    assert found["best"]["flops"] <= 30e12
    assert found["budgets"] == {"max_tflops": 30.0}
    method = json.loads(rows[5]["method"])
    assert aimcost.estimate(RUN, method=method).ttft_s == pytest.approx(float(rows[5]["ttft_s"]), rel=1e-9)


def test_an_impossible_budget_is_a_failed_check(command: Any, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    done = command("plan", RUN, "--ttft-ms", "50", "--shape", "linear", "-o", str(best))
    assert done.returncode == 1
    assert "closest: " in done.stdout
    assert "exceeds 50.00 ms" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not best.exists()
    asked = command("plan", RUN, "--ttft-ms", "50", "--question", "batch")
    assert asked.returncode == 1


def test_questions(command: Any, tmp_path: Path) -> None:
    done = command("plan", RUN, "--ttft-ms", "300", "--question", "frames")
    assert done.returncode == 0
    assert "max frames" in done.stdout
    rows = json.loads(command("plan", RUN, "--question", "break-even", "--json").stdout)["rows"]
    assert rows[0]["from"] >= 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--ttft-ms"),
        (["--ttft-ms", "-5"], "--ttft-ms"),
        (["--ttft-ms", "nan"], "--ttft-ms"),
        (["--ttft-ms", "80", "--shape", "triangle"], "triangle"),
        (["--ttft-ms", "80", "--batch", "one"], "--batch"),
        (["--ttft-ms", "80", "--confidence", "0.99999"], "from 0.5 to 0.9999"),
        (["--ttft-ms", "80", "--frames", "0"], "--frames"),
        (["--ttft-ms", "80", "--tpot-ms", "9"], "new_tokens"),
        (["--ttft-ms", "80", "--accuracy", "none.csv"], "none.csv"),
        (["--ttft-ms", "80", "--question", "why"], "--question"),
        (["--ttft-ms", "80", "--question", "batch", "--plot", "a.png"], "--plot"),
        (["--ttft-ms", "80", "--method", "magic"], "magic"),
        (["--ttft-ms", "80", "--question", "frames", "--method", "fastv"], "--method"),
        (["--ttft-ms", "80", "--question", "frames", "--method", "aim"], "--method"),
        (["--ttft-ms", "80", "--question", "frames", "--shape", "step"], "--shape"),
        (["--ttft-ms", "80", "--question", "batch", "--shape", "all"], "--shape"),
        (["--ttft-ms", "80", "--question", "batch", "--earliest-cut", "0"], "--earliest-cut"),
        (["--ttft-ms", "80", "--question", "batch", "--extrapolate"], "--extrapolate"),
        (["--question", "break-even", "--ttft-ms", "1"], "--ttft-ms"),
        (["--question", "break-even", "--kv-gb", "1"], "--kv-gb"),
        (["--question", "break-even", "--confidence", "0.9"], "--confidence"),
    ],
)
def test_bad_input_is_one_line(command: Any, flags: list[str], said: str) -> None:
    done = command("plan", RUN, *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not done.stdout
