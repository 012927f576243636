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
from collections.abc import Iterator
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
from aimcost.measure.campaign import torch_kernels as kernels
from aimcost.measure.campaign import torch_rig as rig
from aimcost.measure.campaign import torch_stages as stages
from aimcost.measure.campaign.book import Book, results_of
from aimcost.measure.campaign.deadline import Deadline, OutOfTime
from aimcost.measure.campaign.floors import measured_profile
from aimcost.measure.campaign.predicting import predictions
from aimcost.measure.campaign.rows import seed_rows
from aimcost.measure.campaign.run import run_campaign
from aimcost.measure.campaign.sizes import FULL, TINY, config_of
from aimcost.measure.campaign.steps import STEPS, VALIDATED, Step
from aimcost.measure.campaign.summary import summarise
from aimcost.measure.campaign.torch_rig import Rig, token_runs
from aimcost.measure.campaign.visit import Visit
from aimcost.measure.profile import describe
from aimcost.measure.records import Sample, load_record
from aimcost.measure.validate import compare_record
from aimcost.report.campaign import summary_text
from aimcost.runtime import apply, build_model, graph
from aimcost.runtime.host_syncs import HostSyncs

ROOT = Path(__file__).resolve().parents[2]
NAMES = [step.name for step in STEPS]
# Minutes that no step uses up on any machine.
AMPLE = 600.0


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("campaign")
    state = run_campaign(folder, device="cpu", minutes=AMPLE, tiny=True)
    return folder, state


def test_a_dry_run_does_every_step(dry: Any) -> None:
    folder, state = dry
    assert [(step["name"], step["state"]) for step in state["steps"]] == [(name, "done") for name in NAMES]
    assert json.loads((folder / "summary.json").read_text()) == state
    for name in NAMES:
        record = load_record(folder / f"{name}.json")
        assert record.complete
        assert record.kind == (name if name in ("profile", "validation") else "campaign")
    assert load_hardware(folder / state["profile"]).dense_flops_per_s["fp32"] > 0


def test_a_sample_tells_what_ran(dry: Any) -> None:
    record = load_record(dry[0] / "seeds.json")
    assert {row for sample in record.samples for row in sample.labels["rows"].split(",")} == set(TINY.rows or ())
    for sample in record.samples:
        run = load_run(json.loads(sample.labels["run"]))
        assert token_runs(run.computed.tokens) == sample.labels["tokens"]
        assert sample.dims["prompt"] == run.schedule.prompt_tokens
        assert run.precision.weights == sample.dtype == "fp32"
        assert len(sample.samples_s) == TINY.repeats
        assert sample.labels["path"] == "eager"
    masked = load_record(dry[0] / "masked.json").samples
    assert {s.labels["implementation"] for s in masked} == {"masked"}
    assert all(load_run(json.loads(s.labels["run"])).implementation == "masked" for s in masked)


def test_the_validation_record_is_read_by_validate(dry: Any) -> None:
    record = load_record(dry[0] / "validation.json")
    comparison = compare_record(record)
    assert {point.part for point in comparison.points} >= {"prefill", "layer", "vision", "merge", "selection", "decode"}
    assert {point.run for point in comparison.points} == {name for name, _ in VALIDATED}
    reduced = [p.tokens for p in comparison.points if (p.run, p.part, p.variant) == ("aim_25", "layer", "reduced")]
    assert tuple(reduced) == load_run(record.settings["runs"]["aim_25"]).schedule.tokens


def test_kernels_agree_with_their_references(dry: Any) -> None:
    results = results_of(load_record(dry[0] / "correctness.json"))
    assert {entry["check"] for entry in results} == {"importance", "merge", "select", "gather"}
    assert all(entry["ok"] for entry in results)


def test_a_wrong_kernel_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernels.importance_scores
    monkeypatch.setattr(kernels, "importance_scores", lambda q, k: real(q, k) * 1.01)
    monkeypatch.setattr(kernels, "merge_tokens", lambda x, r: x[:, r:] * float("nan"))
    given = {"cuts": TINY.cuts, "heads": TINY.kernel_heads, "merges": TINY.merges, "device": "cpu", "dtype": "fp32"}
    found = {entry["check"]: entry for entry in kernels.check_kernels(**given, tick=lambda: None)}
    assert {name: entry["ok"] for name, entry in found.items()} == {
        "importance": False,
        "merge": False,
        "select": True,
        "gather": True,
    }
    assert found["merge"]["value"] == 1.0
    assert 0.005 < found["importance"]["value"] < 0.02


def test_the_summary_is_read_without_torch(dry: Any) -> None:
    code = (
        "import sys; from aimcost.cli.campaigning import campaign_command as c; from pathlib import Path;"
        f"print(c(None, Path({str(dry[0])!r}), device='cpu', minutes=1, tiny=False, resume=False, as_json=False));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip() == summary_text(summarise(dry[0])).rstrip()
    assert "video_aim_32f" in done.stdout
    assert "55.03" not in done.stdout  # the paper's figure is not that of a tiny model


def test_the_tables_follow_from_the_samples(dry: Any, tmp_path: Path) -> None:
    found = summarise(dry[0])
    seeds = {s.name: s.median_s for s in load_record(dry[0] / "seeds.json").samples}
    row = next(r for r in found["rows"] if "video_vtw" in r["rows"])
    assert row["eager_s"] == seeds["video_vtw"]
    assert row["speedup"] == pytest.approx(seeds["llava_ov_7b"] / seeds["video_vtw"])
    assert row["printed_ms"] is None
    full = tmp_path / "full"
    shutil.copytree(dry[0], full)
    state = json.loads((full / "summary.json").read_text())
    (full / "summary.json").write_text(json.dumps({**state, "tiny": False}))
    row = next(r for r in summarise(full)["rows"] if "video_vtw" in r["rows"])
    assert row["printed_ms"] == 101.93
    assert row["printed_speedup"] == pytest.approx(439.58 / 101.93)
    text = summary_text(summarise(full))
    assert "101.93" in text
    assert "MAPE" in text
    score = next(k for k in found["kernels"] if k["op"] == "score")
    # 6 passes of 2·d + 2 FLOPs and 5 · 2 more a causal pair, 4 heads, 60 tokens, d 16
    flops = 4 * 60 * 61 / 2 * (6 * (2 * 16 + 2) + 5 * 2)
    assert score["floor_s"] == pytest.approx(flops / found["peaks"]["flops_per_s"], rel=1e-9)
    dense = next(d for d in found["dense"] if d["tokens"] == 60)
    assert dense["tflops_per_s"] * 1e12 == pytest.approx(dense["flops"] / dense["eager_s"])
    assert found["overhead"]["total_s"] == pytest.approx(
        sum(k["median_s"] for k in found["kernels"] if k["op"] in ("merge", "score", "select", "gather"))
    )


def test_predictions_stand_beside_what_was_measured(dry: Any) -> None:
    found, profile = summarise(dry[0]), measured_profile(dry[0])
    assert profile is not None
    sample = next(s for s in load_record(dry[0] / "seeds.json").samples if s.name == "video_vtw")
    mine = next(p for p in found["predictions"] if p["name"] == "video_vtw")
    run = {**json.loads(sample.labels["run"]), "hardware": profile, "estimator": "calibrated"}
    assert mine["predicted_s"] == estimate(run).totals.time_s
    assert mine["error"] == pytest.approx(mine["predicted_s"] / sample.median_s - 1)
    assert sum(e["prefills"] for e in found["prediction_errors"]) == len(found["predictions"])
    graph = Sample(**{**_fields(sample), "labels": {**sample.labels, "path": "graph"}})
    (launched,) = predictions([graph], profile)
    assert launched["predicted_s"] == estimate({**run, "execution": "cuda_graph"}).totals.time_s
    assert predictions([Sample(**{**_fields(sample), "labels": {**sample.labels, "selection": "x"}})], profile) == []
    assert predictions([sample], None) == []


def _fields(sample: Sample) -> dict[str, Any]:
    return {name: getattr(sample, name) for name in ("op", "name", "dims", "dtype", "samples_s", "clock")}


def _step(name: str, run: Any, weight: float = 1.0) -> Step:
    return Step(name=name, weight=weight, run=run)


def _good(_: Visit, book: Book) -> None:
    book.result(fine=True)


def test_a_step_that_fails_stops_no_other(tmp_path: Path) -> None:
    def bad(_: Visit, book: Book) -> None:
        book.result(half=1)
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 GiB")

    state = run_campaign(
        tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[_step("a", _good), _step("b", bad), _step("c", _good)]
    )
    assert [step["state"] for step in state["steps"]] == ["done", "failed", "done"]
    assert state["steps"][1]["message"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB"
    cut = load_record(tmp_path / "b.json")
    assert not cut.complete
    assert results_of(cut) == [{"half": 1}]
    assert any("OutOfMemoryError" in note for note in cut.notes)
    assert "failed" in summary_text(summarise(tmp_path))


def test_a_prefill_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Rig.prefill

    def prefill(self: Rig, case: Any, paths: Any) -> Any:
        if case.name == "video_pdrop":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, case, paths)

    monkeypatch.setattr(Rig, "prefill", prefill)
    seeds = next(step for step in STEPS if step.name == "seeds")
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[seeds])
    assert state["steps"][0]["state"] == "done"
    assert "video_pdrop (fused): OutOfMemoryError: CUDA out of memory." in state["steps"][0]["message"]
    assert "video_fastv" in {sample.name for sample in load_record(tmp_path / "seeds.json").samples}


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

    def slow(visit: Visit, book: Book) -> None:
        for number in range(10_000):
            visit.tick()
            clock.now += 1.0
            if number < 3:
                book.result(number=number)

    steps = [_step("slow", slow), _step("next", _good), _step("endless", slow)]
    state = run_campaign(tmp_path, device="cpu", minutes=1.0, tiny=True, steps=steps)
    assert [step["state"] for step in state["steps"]] == ["out of time", "done", "out of time"]
    assert [step["seconds"] for step in state["steps"]] == [19.0, 0.0, 38.0]
    record = load_record(tmp_path / "slow.json")
    assert not record.complete
    assert len(results_of(record)) == 3


def test_a_step_that_does_not_ask_is_stopped_by_an_alarm(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth after its time; the last one at the end. The alarm rings a thousand times early here."""
    alarms, set_timer = [], signal.setitimer

    def soon(which: int, seconds: float) -> Any:
        alarms.append(seconds)
        return set_timer(which, seconds / 1000)

    def endless(_: Visit, book: Book) -> None:
        book.result(number=0)
        while True:
            time.sleep(0.001)

    monkeypatch.setattr(signal, "setitimer", soon)
    steps = [_step("slow", endless), _step("next", _good), _step("endless", endless)]
    state = run_campaign(tmp_path, device="cpu", minutes=1.0, tiny=True, steps=steps)
    assert [step["state"] for step in state["steps"]] == ["out of time", "done", "out of time"]
    assert alarms == pytest.approx([1.1 * 19, 0, 1.1 * 28.5, 0, 57, 0])
    assert len(results_of(load_record(tmp_path / "slow.json"))) == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_no_time_left_is_said(tmp_path: Path, clock: Clock) -> None:
    def swallow(visit: Visit, _: Book) -> None:
        clock.now += 60.0
        with contextlib.suppress(OutOfTime):
            visit.tick()

    steps = [_step("greedy", swallow), _step("late", _good)]
    state = run_campaign(tmp_path, device="cpu", minutes=1.0, tiny=True, steps=steps)
    assert state["steps"][1]["state"] == "no time"
    assert not (tmp_path / "late.json").exists()


def test_killed_at_any_moment_it_leaves_records_that_load(cli: Any, tmp_path: Path) -> None:
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
    assert {"profile", "correctness", "kernels", "dense"} <= complete
    assert "seeds" not in complete
    found = summarise(tmp_path)
    assert found["finished"] is None
    assert len(found["rows"]) >= 2
    assert summary_text(found)
    again = cli(*command[3:], "--resume", "--json")
    assert again.returncode == 0, again.stderr
    states = Counter(step["state"] for step in json.loads(again.stdout)["steps"])
    assert states == {"kept": len(complete), "done": len(NAMES) - len(complete)}
    assert json.loads((tmp_path / "tables.json").read_text()) == json.loads(again.stdout)


def test_other_settings_are_measured_anew(tmp_path: Path) -> None:
    first = [_step("a", _good)]
    run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=first)
    kept = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=first, resume=True)
    assert kept["steps"][0]["state"] == "kept"
    full = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=False, steps=first, resume=True)
    assert full["steps"][0]["state"] == "done"


def test_every_row_of_the_paper_is_there_once_with_its_own_schedule() -> None:
    rows, data = seed_rows(FULL), read_mapping(discover.find("paper", "aim"))
    assert Counter(row for entry in rows for row in entry.ids) == Counter(row["id"] for row in data["rows"])
    assert all(row.schedule is not None for row in rows)
    runs = {name: row for row in rows for name in row.ids}
    aim = runs["video_aim_32f"].schedule
    assert aim is not None
    # cut after l1 = 14: 15 layers on all 1668 tokens, where the paper charges 14
    assert token_runs(aim.tokens) == "1668x15,1472,1276,1080,884,688,492,296,100x6"
    assert tuple((e.tokens_in, e.tokens_out) for e in aim.layer_events) == FULL.cuts
    merged = tuple((e.groups, e.tokens_in, e.tokens_out, 3584) for e in aim.pre_llm_events)
    assert merged == FULL.merges
    assert runs["exp_6"] is runs["video_aim_32f"]
    assert runs["longva_7b"].model == FULL.model
    constant = {name for name, row in runs.items() if row.counts_only}
    assert constant == {"video_prumerge", "image_prumerge", "image_prumerge_plus"}


def reduced_rows() -> Iterator[Any]:
    """Rows that reduce tokens: one of each method for `make test`, all of them for `make check`."""
    tried = set()
    for row in seed_rows(FULL):
        assert row.schedule is not None
        if not row.counts_only and row.schedule.events:
            kind = (str(row.model), row.schedule.method, bool(row.schedule.layer_events))
            yield pytest.param(row, id=row.ids[0], marks=[pytest.mark.check] if kind in tried else [])
            tried.add(kind)


@functools.lru_cache(maxsize=1)
def full_model(name: str) -> Any:
    return build_model(config_of(name), device="meta", dtype="bf16")


@pytest.mark.parametrize("row", reduced_rows())
def test_every_row_runs_at_full_size_without_waiting_for_the_device(row: Any) -> None:
    model = full_model(row.model)
    width = (getattr(model.config, "text_config", None) or model.config).hidden_size
    x = torch.empty(1, row.schedule.prompt_tokens, width, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), apply(model, row.schedule) as applied, HostSyncs("meta") as syncs:
        model(inputs_embeds=x, use_cache=True, logits_to_keep=1)
    assert applied.record is not None
    assert applied.record.tokens == row.schedule.tokens
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
    """Rigs take the GPU's way through the code; only what is CUDA's own is replaced."""
    made: list[Replay] = []

    def capture(call: Any, inputs: Any, *, around: Any = None, **_: Any) -> Any:
        static = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}

        def entered() -> Any:
            if around is None:
                return call(**static)
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

    monkeypatch.setattr(rig, "capture", capture)
    monkeypatch.setattr(stages, "capture", capture)
    monkeypatch.setattr(Rig, "cuda", True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name, value in (("memory_allocated", 100), ("max_memory_allocated", 700)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    return made


def test_on_a_gpu_everything_is_measured_as_a_graph_and_eager(as_on_a_gpu: list[Replay], tmp_path: Path) -> None:
    wanted = ("dense", "seeds", "tower", "decode", "ttft", "memory")
    chosen = [step for step in STEPS if step.name in wanted]
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=chosen)
    assert [step["state"] for step in state["steps"]] == ["done"] * len(wanted)
    assert not any(step["message"] for step in state["steps"])
    assert as_on_a_gpu
    # two calls to warm up, then one a sample
    assert {replay.count for replay in as_on_a_gpu} == {TINY.repeats + 2}
    for name in ("dense", "seeds", "tower", "decode"):
        samples = load_record(tmp_path / f"{name}.json").samples
        paths = Counter(sample.labels["path"] for sample in samples)
        assert paths["graph"] == paths["eager"] > 0
        assert {sample.clock for sample in samples} == {"cuda_event"}
    memory = results_of(load_record(tmp_path / "memory.json"))
    assert {entry["peak_bytes"] for entry in memory} == {600}
    rows = summarise(tmp_path)["rows"]
    assert all(row["graph_s"] and row["eager_s"] and row["graph_speedup"] for row in rows)


def test_bad_input_is_one_line(cli: Any, tmp_path: Path) -> None:
    cases = [
        (("campaign",), "given one of -o DIR and --from DIR"),
        (("campaign", "-o", "a", "--from", "b"), "given one of -o DIR and --from DIR"),
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
    tower = next(step for step in STEPS if step.name == "tower")
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, steps=[tower])
    assert state["steps"][0]["state"] == "failed"
    # 8.03 B parameters of 4 bytes
    assert "the model holds 32.1" in state["steps"][0]["message"]


def test_a_gpu_that_was_throttled_meanwhile_is_told(dry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("aimcost.measure.profile.environment")
    hot = {"throttle_reasons": ["hardware thermal slowdown"]}
    monkeypatch.setattr(module, "changes", lambda before, after: hot)
    state = run_campaign(tmp_path, device="cpu", minutes=AMPLE, tiny=True, steps=[_step("a", _good)])
    assert state["state_after"] == hot
    assert "at the end the GPU was throttled: hardware thermal slowdown" in summary_text(summarise(tmp_path))
    assert "throttled" not in summary_text(summarise(dry[0]))


def test_the_environment_is_in_every_record(dry: Any) -> None:
    here = describe("cpu")
    for name in NAMES:
        environment = load_record(dry[0] / f"{name}.json").environment
        assert environment.device_name == here.device_name
        assert environment.packages["torch"] == torch.__version__
