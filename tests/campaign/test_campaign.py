"""The campaign on a CPU with a tiny model: its records, its deadline, and what a failure leaves."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

from aimcost import estimate
from aimcost.errors import FileFormatError, InvalidValueError
from aimcost.inputs import discover
from aimcost.inputs.files import read_mapping
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.run import load_run
from aimcost.measure import measure, subject
from aimcost.measure.campaign import kernels
from aimcost.measure.campaign.plan import load_plan
from aimcost.measure.campaign.run import Campaign, Deadline, OutOfTime, Step, measure_runs, run_campaign, steps_of
from aimcost.measure.campaign.summary import summarise
from aimcost.measure.profile import describe
from aimcost.measure.records import load_record
from aimcost.measure.validate import compare_record
from aimcost.methods.registry import reads_tower
from aimcost.report.campaign import summary_text
from aimcost.runtime import apply, build_model, graph
from aimcost.runtime.host_syncs import HostSyncs
from aimcost.runtime.timing import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
PLAN, TINY = load_plan(tiny=False), load_plan(tiny=True)
STEPS = {step.name: step for step in steps_of(TINY)}
OF_RUNS = [step.name for step in TINY.steps if step.runs]
# Minutes that no step uses up on any machine.
AMPLE = 600.0


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("campaign")
    state = run_campaign(folder, device="cpu", minutes=AMPLE, tiny=True)
    return folder, state


@pytest.fixture(scope="module")
def tables(dry: Any) -> dict[str, Any]:
    return summarise(dry[0])


def test_a_dry_run_does_every_step(dry: Any) -> None:
    folder, state = dry
    assert [(step["name"], step["state"], step["message"]) for step in state["steps"]] == [
        (name, "done", "") for name in STEPS
    ]
    assert json.loads((folder / "summary.json").read_text()) == state
    for name in STEPS:
        record = load_record(folder / f"{name}.json")
        assert record.complete
        assert record.kind == ("validation" if name in OF_RUNS else "profile" if name == "profile" else "campaign")
    assert load_hardware(folder / state["profile"]).dense_flops_per_s["fp32"] > 0


def test_a_dry_run_does_the_steps_of_a_gpu() -> None:
    """All but those that only add sizes: other batches, other models."""
    names = [step.name for step in PLAN.steps if step.name not in ("batches", "images", "image_selections")]
    assert list(STEPS) == names


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_sample_tells_what_ran(dry: Any, name: str) -> None:
    record = load_record(dry[0] / f"{name}.json")
    step = next(step for step in TINY.steps if step.name == name)
    assert list(record.settings["runs"]) == [f"{label}@transformers" for label in step.runs]
    for label, document in record.settings["runs"].items():
        run = load_run(document)
        reduced = "reduced" if run.schedule.events else "dense"
        mine = [s for s in record.samples if s.labels["run"] == label]
        layers = [s for s in mine if s.op == "layer" and s.labels["variant"] == reduced]
        assert tuple(s.dims["tokens"] for s in layers) == run.computed.tokens
        prefill = next(s for s in mine if s.op == "prefill" and s.labels["variant"] == reduced)
        assert prefill.dtype == run.precision.weights == "fp32"
        assert 1 <= len(prefill.samples_s) <= TINY.repeats
        if run.implementation == "fused":
            assert prefill.dims["kv_bytes"] == sum(2 * 2 * 16 * 4 * count for count in run.schedule.tokens)
        else:
            assert {s.labels["variant"] for s in mine} == {"reduced"}
            assert len(set(run.computed.tokens)) == 1


def test_its_records_are_read_by_validate(dry: Any) -> None:
    comparison = compare_record(load_record(dry[0] / "requests.json"))
    parts = {"prefill", "layer", "vision", "projector", "merge", "selection", "ttft", "decode"}
    assert {point.part for point in comparison.points} >= parts
    assert len(comparison.speedups) == 1
    # a run whose tower is left out has no time to first token
    assert not {p.part for p in compare_record(load_record(dry[0] / "rows.json")).points} & {"ttft", "vision"}


def test_kernels_agree_with_their_references(dry: Any) -> None:
    results = load_record(dry[0] / "correctness.json").settings["results"]
    assert {entry["check"] for entry in results} == {"importance", "merge", "select", "gather"}
    assert all(entry["ok"] for entry in results)


def test_a_wrong_kernel_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = kernels.importance_scores
    monkeypatch.setattr(kernels, "importance_scores", lambda q, k, path: real(q, k, path=path) * 1.01)
    monkeypatch.setattr(kernels, "merge_tokens", lambda x, r: x[:, r:] * float("nan"))
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[STEPS["correctness"]])
    found = {entry["check"]: entry for entry in load_record(tmp_path / "correctness.json").settings["results"]}
    assert {name: entry["ok"] for name, entry in found.items()} == {
        "importance": False,
        "merge": False,
        "select": True,
        "gather": True,
    }
    assert found["merge"]["value"] == 1.0
    assert 0.005 < found["importance"]["value"] < 0.02
    assert "exceeds" in state["steps"][0]["message"]


def test_the_summary_is_read_without_torch(dry: Any, tables: Any) -> None:
    code = (
        "import sys; from aimcost.cli.campaigning import campaign_command as c; from pathlib import Path;"
        f"print(c(None, Path({str(dry[0])!r}), device='cpu', minutes=1, tiny=False, resume=False, as_json=False)[0]);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == summary_text(tables).rstrip()
    assert "video_aim_32f" in done.stdout
    assert "55.03" not in done.stdout  # the paper's figure is not that of a tiny model


def test_the_tables_follow_from_the_samples(dry: Any, tables: Any, tmp_path: Path) -> None:
    found = tables
    prefills = {
        (s.labels["run"].partition("@")[0], s.labels["variant"]): s.median_s
        for name in OF_RUNS
        for s in load_record(dry[0] / f"{name}.json").select("prefill")
    }
    rows = {row["run"]: row for row in found["runs"]}
    dense, reduced = (prefills["video_vtw", variant] for variant in ("dense", "reduced"))
    assert rows["video_vtw"]["seconds"] == {"transformers": {"dense": dense, "reduced": reduced}}
    assert rows["video_vtw"]["speedup"] == pytest.approx(dense / reduced)
    assert rows["video_vtw"]["flops"] / dense == pytest.approx(rows["video_vtw"]["flops_per_s"])
    # a short prompt in place of a selection, and a masked run: over the dense prefill of the whole prompt
    prumerge, whole = prefills["video_prumerge", "dense"], prefills["llava_ov_7b", "dense"]
    assert rows["video_prumerge"]["speedup"] == pytest.approx(whole / prumerge)
    masked = rows["masked_video_aim_32f"]
    least = min(
        seconds for (run, variant), seconds in prefills.items() if variant == "dense" and rows[run]["prompt"] == 402
    )
    assert masked["speedup"] == pytest.approx(least / prefills["masked_video_aim_32f", "reduced"])
    assert rows["video_vtw"]["printed_ms"] is None
    full = tmp_path / "full"
    shutil.copytree(dry[0], full)
    state = json.loads((full / "summary.json").read_text())
    (full / "summary.json").write_text(json.dumps({**state, "tiny": False}))
    as_full = summarise(full)
    row = next(r for r in as_full["runs"] if r["run"] == "video_vtw")
    assert row["printed_ms"] == 101.93
    assert row["printed_speedup"] == pytest.approx(439.58 / 101.93)
    text = summary_text(as_full)
    assert "101.93" in text
    assert "MAPE" in text
    score = next(k for k in found["kernels"] if k["op"] == "score")
    # 6 passes of 2·d + 2 FLOPs and 5 · 2 more a causal pair, 4 heads, 108 tokens, d 16
    flops = 4 * 108 * 109 / 2 * (6 * (2 * 16 + 2) + 5 * 2)
    assert score["floor_s"] == pytest.approx(flops / found["ceilings"]["flops_per_s"], rel=1e-9)
    kinds = ("merge", "score", "select", "gather")
    total = sum(k["median_s"] for k in found["kernels"] if k["op"] in kinds)
    assert found["overhead"]["total_s"] == pytest.approx(total)
    assert found["overhead"]["share"] == pytest.approx(total / prefills["video_aim_32f", "reduced"])


def test_predictions_stand_beside_what_was_measured(dry: Any, tables: Any) -> None:
    found, record = tables, load_record(dry[0] / "rows.json")
    label = "video_vtw@transformers"
    mine = next(p for p in found["predictions"] if (p["run"], p["variant"]) == (label, "reduced"))
    run = {**record.settings["runs"][label], "hardware": record.settings["profile"], "estimator": "calibrated"}
    assert mine["predicted_s"] == pytest.approx(estimate(run).stages["prefill"].time_s, rel=1e-12)
    sample = next(s for s in record.select("prefill") if s.labels == {"run": label, "variant": "reduced"})
    assert mine["error"] == pytest.approx(mine["predicted_s"] / sample.median_s - 1)
    assert sum(e["count"] for e in found["errors"] if e["part"] == "prefill") == len(found["predictions"])
    assert {(e["stack"], e["implementation"]) for e in found["errors"]} == {
        ("transformers", "fused"),
        ("transformers", "masked"),
    }


def _step(name: str, run: Any, weight: float = 1.0) -> Step:
    return Step(name=name, weight=weight, run=run)


def _good(campaign: Campaign, path: Path) -> None:
    campaign.open(path, fine=True).finish()


def test_a_step_that_fails_stops_no_other(tmp_path: Path) -> None:
    def bad(campaign: Campaign, path: Path) -> None:
        campaign.open(path).set(half=1)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 GiB")

    state = run_campaign(
        tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[_step("a", _good), _step("b", bad), _step("c", _good)]
    )
    assert [step["state"] for step in state["steps"]] == ["done", "failed", "done"]
    assert state["steps"][1]["message"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB"
    cut = load_record(tmp_path / "b.json")
    assert not cut.complete
    assert cut.settings["half"] == 1
    assert any("OutOfMemoryError" in note for note in cut.notes)
    assert "failed" in summary_text(summarise(tmp_path))


def test_a_run_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory in a pass, and a failure of another kind; without a profile nothing is predicted."""
    real = measure.time_prefills

    def time_prefills(run: Any, *given: Any, **more: Any) -> Any:
        if run.schedule.method in ("pyramiddrop", "vtw"):
            raise {"vtw": torch.OutOfMemoryError, "pyramiddrop": RuntimeError}[run.schedule.method]("on\npurpose")
        return real(run, *given, **more)

    monkeypatch.setattr(measure, "time_prefills", time_prefills)
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[STEPS["rows"]])
    assert state["steps"][0]["state"] == "partly done"
    assert "video_pdrop@transformers: RuntimeError: on purpose" in state["steps"][0]["message"]
    cut = load_record(tmp_path / "rows.json")
    assert any("video_vtw@transformers: out of memory" in note for note in cut.notes)
    assert not cut.complete
    found = summarise(tmp_path)
    assert {row["run"] for row in found["runs"]} == {"llava_ov_7b", "video_aim_32f", "video_fastv", "video_prumerge"}
    assert found["predictions"] == []


class Clock:
    """Stands still until told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What a campaign's deadline reads in place of the time."""
    clock = Clock()
    after = staticmethod(lambda seconds: Deadline(at=clock() + seconds, clock=clock))
    monkeypatch.setattr(Deadline, "after", after)
    return clock


def test_a_step_that_asks_ends_at_its_share_of_the_time(tmp_path: Path, clock: Clock) -> None:
    """Three steps of one weight in 60 s, 3 s of them held back: 19 s for the first, half the rest for the next."""

    def slow(campaign: Campaign, path: Path) -> None:
        writer = campaign.open(path)
        for number in range(10_000):
            campaign.tick()
            clock.now += 1.0
            if number < 3:
                writer.set(number=number)

    steps = [_step("slow", slow), _step("next", _good), _step("endless", slow)]
    state = run_campaign(tmp_path, device="cpu", minutes=1.0, tiny=True, steps=steps)
    assert [step["state"] for step in state["steps"]] == ["out of time", "done", "out of time"]
    assert [step["seconds"] for step in state["steps"]] == [19.0, 0.0, 38.0]
    record = load_record(tmp_path / "slow.json")
    assert not record.complete
    assert record.settings["number"] == 2


def test_a_step_that_does_not_ask_is_stopped_by_an_alarm(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth after its time; the last one at the end. Here a step that does not end lets it ring at once."""
    alarms, set_timer = [], signal.setitimer

    def noted(which: int, seconds: float) -> Any:
        alarms.append(seconds)
        return set_timer(which, seconds)

    def endless(campaign: Campaign, path: Path) -> None:
        campaign.open(path).set(number=0)
        set_timer(signal.ITIMER_REAL, 0.001)
        while True:
            time.sleep(0.001)

    monkeypatch.setattr(signal, "setitimer", noted)
    steps = [_step("slow", endless), _step("next", _good), _step("endless", endless)]
    state = run_campaign(tmp_path, device="cpu", minutes=1.0, tiny=True, steps=steps)
    assert [step["state"] for step in state["steps"]] == ["out of time", "done", "out of time"]
    assert alarms == pytest.approx([1.1 * 19, 0, 1.1 * 28.5, 0, 57, 0])
    assert load_record(tmp_path / "slow.json").settings["number"] == 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_no_time_left_is_said(tmp_path: Path, clock: Clock) -> None:
    def swallow(campaign: Campaign, _: Path) -> None:
        clock.now += 60.0
        with contextlib.suppress(OutOfTime):
            campaign.tick()

    steps = [_step("greedy", swallow), _step("late", _good)]
    state = run_campaign(tmp_path, device="cpu", minutes=1.0, tiny=True, steps=steps)
    assert state["steps"][1]["state"] == "no time"
    assert not (tmp_path / "late.json").exists()


@pytest.mark.check
def test_killed_at_any_moment_it_leaves_records_that_load(cli: Any, tmp_path: Path) -> None:
    """And `--resume` measures what is missing: steps that were not complete, and of those only the other runs."""
    command = [sys.executable, "-m", "aimcost", "campaign", "--device", "cpu", "--tiny", "--minutes", str(AMPLE)]
    command += ["-o", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    for line in process.stderr:
        if "video_fastv" in line:
            break
    process.kill()
    process.communicate()
    files = [path for path in tmp_path.glob("*.json") if path.name != "summary.json"]
    complete = {path.stem for path in files if load_record(path).complete}
    assert complete == {"profile", "correctness", "kernels", "dense"}
    cut = load_record(tmp_path / "rows.json")
    assert len(cut.settings["measured"]) >= 2
    found = summarise(tmp_path)
    assert found["finished"] is None
    assert len(found["runs"]) >= 4
    assert summary_text(found)
    again = cli(*command[3:], "--resume", "--json")
    assert again.returncode == 0, again.stderr
    states = Counter(step["state"] for step in json.loads(again.stdout)["steps"])
    assert states == {"done before": len(complete), "done": len(STEPS) - len(complete)}
    assert json.loads((tmp_path / "tables.json").read_text()) == json.loads(again.stdout)
    whole = load_record(tmp_path / "rows.json")
    assert set(whole.settings["measured"]) == set(whole.settings["runs"])
    for label in cut.settings["measured"]:
        before, after = ([s for s in r.samples if s.labels["run"] == label] for r in (cut, whole))
        assert before == after


def test_other_settings_are_measured_anew(tmp_path: Path) -> None:
    first = [_step("a", _good)]
    run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=first)
    again = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=first, resume=True)
    assert again["steps"][0]["state"] == "done before"
    full = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=False, steps=first, resume=True)
    assert full["steps"][0]["state"] == "done"


def runs() -> dict[str, Any]:
    """Every run of a GPU's campaign by name, as transformers would run it."""
    steps = (step.changed(stacks=["transformers"]) for step in PLAN.steps)
    return {one.name: one.run for step in steps for one in PLAN.runs_of(step, "bf16", ("transformers",))}


def executed(row: dict[str, Any]) -> Any:
    """A row of the paper as it would be run: the executed convention, and no newline token."""
    given = row["run"]
    method = {key: value for key, value in given["method"].items() if key != "convention"}
    newline = {"newline": False} if given["workload"].get("frames") else {}
    return load_run({"model": given["model"], "workload": {**given["workload"], **newline}, "method": method})


def test_every_row_of_the_paper_is_there_once_with_its_own_schedule() -> None:
    ours, data = runs(), read_mapping(discover.find("paper", "aim"))
    by_row = {row: (name, run) for name, run in ours.items() for row in PLAN.rows_of(name)}
    for row in data["rows"]:
        name, run = by_row[row["id"]]
        theirs = executed(row)
        if name in PLAN.reduced_prompts:
            assert run.schedule.tokens == theirs.schedule.tokens
            assert not run.schedule.events
            dense = ours[PLAN.reduced_prompts[name]].schedule
            assert dense.tokens[0] == theirs.workload.prompt_tokens
        else:
            assert run.schedule.tokens == theirs.schedule.tokens
            assert run.schedule.events == theirs.schedule.events
        decoders = (r.model.decoder for r in (run, theirs))
        shapes = {(d.hidden, d.intermediate, d.layers, d.heads, d.kv_heads, d.head_dim) for d in decoders}
        assert len(shapes) == 1
    assert set(PLAN.reduced_prompts) == {"video_prumerge", "image_prumerge", "image_prumerge_plus"}
    cuts = [(event.tokens_in, event.tokens_out) for event in PLAN.kernel_run("bf16").schedule.layer_events]
    # cuts after l1 = 14 to l2 − 1 = 21: eight drop events from 1668 tokens to the text's 100
    assert cuts == [(1668 - 196 * i, 1472 - 196 * i) for i in range(8)]


def test_masked_runs_are_runs_of_rows_as_released() -> None:
    masked = {name.removeprefix("masked_"): run for name, run in runs().items() if run.implementation == "masked"}
    assert len(masked) == 4
    for name, run in masked.items():
        assert run.schedule == runs()[name].schedule
        assert run.attention == "eager"


def reduced_runs() -> list[Any]:
    """Runs that reduce tokens: one row of the paper a method for `make test`, all runs for `make check`."""
    tried, found = set(), []
    for name, run in runs().items():
        # a prompt of embeddings has no tower to choose by
        if run.schedule.events and run.implementation == "fused" and not reads_tower(run.schedule):
            kind = (run.model.name, run.schedule.method, bool(run.schedule.layer_events))
            later = kind in tried or run.include is None  # whole requests repeat the rows' methods
            found.append(pytest.param(run, id=name, marks=[pytest.mark.check] if later else []))
            tried.add(kind)
    return found


@functools.lru_cache(maxsize=1)
def full_model(config: str) -> Any:
    return build_model(json.loads(config), device="meta", dtype="bf16")


@pytest.mark.parametrize("run", reduced_runs())
def test_every_run_works_at_full_size_without_waiting_for_the_device(run: Any) -> None:
    model = full_model(json.dumps({key: value for key, value in run.hf_config().items() if key != "name"}))
    prompt = subject.prompt_of(run, model, embedded=True)
    applying = apply(model, run.schedule, boundaries=prompt.boundaries)
    with torch.no_grad(), applying as applied, HostSyncs("meta") as syncs:
        model(**prompt.inputs, use_cache=True, logits_to_keep=1)
    assert applied.record is not None
    assert applied.record.tokens == run.schedule.tokens
    assert syncs.found == []


class Replay:
    """Stands in for a CUDA graph: calls again, into the same outputs."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.count = 0

    def replay(self) -> None:
        self.count += 1
        self.call()

    def reset(self) -> None:
        pass


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Replay]:
    """Runs take the GPU's way through the code; only what is CUDA's own is replaced."""
    made: list[Replay] = []

    def capture(call: Any, inputs: Any, *, around: Any = contextlib.nullcontext) -> Any:
        static = {k: v.clone() for k, v in inputs.items()}

        def entered() -> Any:
            with around():
                return call(**static)

        made.append(Replay(entered))
        with torch.no_grad():
            return graph.Captured(call, static, graph=made[-1], output=entered())

    class Event:
        def __init__(self, **_: Any) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, end: Any) -> float:
            return float((end.at - self.at) * 1e3)

    monkeypatch.setattr(measure, "capture", capture)
    monkeypatch.setattr(subject, "runnable_stacks", lambda _: ("transformers", "aimcost_graph"))
    monkeypatch.setattr(Stopwatch, "cuda", True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name, value in (("memory_allocated", 100), ("max_memory_allocated", 700)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    return made


def test_on_a_gpu_everything_is_measured_as_a_graph_and_eager(
    dry: Any, as_on_a_gpu: list[Replay], tmp_path: Path
) -> None:
    shutil.copy(dry[0] / "profile.json", tmp_path)
    wanted = ("dense", "rows", "requests", "masked", "long")
    rows = next(step for step in TINY.steps if step.name == "rows")
    few = rows.changed(runs={name: rows.runs[name] for name in ("video_aim_32f", "video_vtw")})
    steps = {**STEPS, "rows": Step(name="rows", weight=1.0, run=functools.partial(measure_runs, few))}
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[steps[name] for name in wanted])
    assert [(step["state"], step["message"]) for step in state["steps"]] == [("done", "")] * len(wanted)
    assert as_on_a_gpu
    # two calls to warm up, then one a sample
    assert {replay.count for replay in as_on_a_gpu} <= {3, 4, TINY.repeats + 2}
    graphs: dict[str, Counter[str]] = {}
    for name in wanted:
        samples = load_record(tmp_path / f"{name}.json").samples
        assert {sample.clock for sample in samples} == {"cuda_event"}
        count = graphs[name] = Counter(s.op for s in samples if s.labels["run"].endswith("@aimcost_graph"))
        eager = Counter(s.op for s in samples if s.labels["run"].endswith("@transformers"))
        if name in ("dense", "rows", "requests"):
            assert count["prefill"] == eager["prefill"] > 0
    assert graphs["requests"] == {"prefill": 2, "decode": 2, "features": 1}
    assert graphs["masked"] == {}
    assert graphs["long"] == {"prefill": 1}
    found = summarise(tmp_path)
    assert {(entry["held_bytes"], entry["peak_bytes"]) for entry in found["memory"] if entry["peak_bytes"]} == {
        (100, 700)
    }
    row = next(row for row in found["runs"] if row["run"] == "video_vtw")
    assert all(row["seconds"][stack].keys() == {"dense", "reduced"} for stack in ("transformers", "aimcost_graph"))
    assert "graph reduced ms" in summary_text(found)
    # each is predicted under the stack that ran
    record = load_record(tmp_path / "rows.json")
    point = next(
        p for p in compare_record(record).points if p.run == "video_vtw@aimcost_graph" and p.variant == "dense"
    )
    run = {
        **record.settings["runs"]["video_vtw@transformers"],
        "hardware": record.settings["profile"],
        "method": "none",
    }
    captured = estimate({**run, "stack": "aimcost_graph"}).stages["prefill"].time_s
    assert point.predicted_s == pytest.approx(captured, rel=1e-12)
    assert record.settings["runs"]["video_vtw@aimcost_graph"]["stack"] == "aimcost_graph"


def test_what_cannot_be_captured_is_noted(
    as_on_a_gpu: list[Replay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(call: Any, inputs: Any, **_: Any) -> Any:
        return graph.Captured(call, dict(inputs), reason="not captured: on purpose")

    monkeypatch.setattr(measure, "capture", refused)
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[STEPS["long"]])
    assert state["steps"][0]["state"] == "done"
    assert state["steps"][0]["message"] == "dense_600@aimcost_graph: prefill, dense: not captured: on purpose"
    assert load_record(tmp_path / "long.json").samples == ()


def test_bad_input_is_one_line(cli: Any, tmp_path: Path) -> None:
    cases = [
        (("campaign",), "given either -o DIR or --from DIR"),
        (("campaign", "-o", "a", "--from", "b"), "given either -o DIR or --from DIR"),
        (("campaign", "--from", str(tmp_path)), "holds no campaign"),
        (("campaign", "-o", "x", "--device", "cpu", "--minutes", "0"), "'minutes' must be above 0"),
        (("campaign", "-o", "x", "--device", "tpu"), "'device' must be 'cpu' or 'cuda'"),
    ]
    if not torch.cuda.is_available():
        cases.append((("campaign", "-o", "x"), "'device' must be 'cpu': "))
    for arguments, message in cases:
        done = cli(*arguments)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    with pytest.raises(FileFormatError):
        summarise(tmp_path)
    with pytest.raises(InvalidValueError):
        run_campaign(tmp_path, device="cpu", minutes=-1.0)


def test_a_model_that_does_not_fit_in_memory_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimcost.measure.profile.environment._ram_bytes", lambda: 1e9)
    masked = next(step for step in steps_of(PLAN) if step.name == "masked")
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, steps=[masked])
    # 8.03 B parameters of 4 bytes
    assert "masked_exp_2@transformers: UnsupportedModelError: the model holds 32.1" in state["steps"][0]["message"]
    assert load_record(tmp_path / "masked.json").samples == ()


def test_a_gpu_that_was_throttled_meanwhile_is_told(
    tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("aimcost.measure.profile.environment")
    hot = {"throttle_reasons": ["hardware thermal slowdown"]}
    monkeypatch.setattr(module, "changes", lambda before, after: hot)
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[_step("a", _good)])
    assert state["state_after"] == hot
    assert "at the end the GPU was throttled: hardware thermal slowdown" in summary_text(summarise(tmp_path))
    assert "throttled" not in summary_text(tables)


def test_the_environment_is_in_every_record(dry: Any) -> None:
    here = describe("cpu")
    for name in STEPS:
        environment = load_record(dry[0] / f"{name}.json").environment
        assert environment.device_name == here.device_name
        assert environment.packages["torch"] == torch.__version__
