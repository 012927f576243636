"""Profiling on the CPU: what is timed, what is recorded, and what a profile is good for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from aimcost.errors import CalibrationError, InvalidValueError
from aimcost.inputs.hardware import load_hardware
from aimcost.machine.timemodels.measured import AttentionGrid, CurveSet, GemmGrid
from aimcost.measure.profile import bench, describe, pointwise, process, profile
from aimcost.measure.profile.bench import Bench, Prepared, Task, WeightPool
from aimcost.measure.profile.plan import Plan, plan_for
from aimcost.measure.profile.run import _groups
from aimcost.measure.profile.to_calibration import calibration_block, ceilings_of, profile_mapping, profile_yaml
from aimcost.measure.records import Record, load_record
from aimcost.runtime.timing import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
TINY = Plan(
    dtypes=("fp32", "bf16"),
    rows=(1, 4, 16),
    outs=(24, 72),
    ins=(40, 88),
    ceiling=(64, 64, 64),
    probes=((2, 40, 60), (8, 30, 50)),
    tokens=(1, 5, 17, 40),
    probe_tokens=(9,),
    heads=((4, 2, 16, True), (2, 2, 16, False)),
    widths=(48,),
    elementwise_rows=(1, 6, 24),
    reduction_tokens=(20, 60),
    copy_bytes=400_000,
    pool_bytes=100_000,
    passes=2,
    repeats=2,
    budget_s=60.0,
    limit_s=3600.0,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path, list[tuple[int, int, str]]]:
    path = tmp_path_factory.mktemp("profile") / "record.json"
    calls: list[tuple[int, int, str]] = []
    record = profile("cpu", progress=lambda *call: calls.append(call), path=path, plan=TINY)
    return record, path, calls


def test_a_profile_measures_every_kind_in_every_format(tiny: Any) -> None:
    record = tiny[0]
    assert record.kind == "profile"
    assert record.complete
    for dtype in TINY.dtypes:
        found = {sample.op for sample in record.samples if sample.dtype == dtype}
        assert {"gemm", "attention", "norm", "pointwise", "rope", "embed", "score", "select"} <= found
    assert len(record.select("gemm", dtype="fp32")) == 3 * 2 * 2 + 2
    assert all(len(s.samples_s) == 4 for s in record.samples)
    assert {sample.clock for sample in record.samples} == {"thread_cpu"}


def test_the_file_holds_the_record_and_every_step_was_announced(tiny: Any) -> None:
    record, path, calls = tiny
    assert load_record(path) == record
    done, total = [call[0] for call in calls], {call[1] for call in calls}
    assert done == sorted(done)
    assert total == {2 * len(record.samples)}
    assert calls[-1][0] == 2 * len(record.samples)


def test_a_killed_profile_leaves_a_record_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimcost.measure.profile.run.SAVE_EVERY_S", 0.0)
    path = tmp_path / "record.json"

    class Killed(BaseException):
        pass

    def kill(done: int, total: int, _: str) -> None:
        if done > total // 2:
            raise Killed

    with pytest.raises(Killed):
        profile("cpu", plan=TINY, path=path, progress=kill)
    cut = load_record(path)
    assert not cut.complete
    assert cut.samples


def test_a_slow_machine_leaves_out_the_second_pass() -> None:
    record = profile("cpu", plan=replace(TINY, dtypes=("fp32",), limit_s=0.0))
    assert all(len(sample.samples_s) == 2 for sample in record.samples)
    assert "pass 2 of 2 ended early, after 0 s" in record.notes


def test_threads_and_random_state_come_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    profile("cpu", plan=replace(TINY, dtypes=("fp32",)))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_what_lies_between_the_nodes_is_never_fitted(tiny: Any) -> None:
    record = tiny[0]
    spoiled = tuple(
        replace(s, samples_s=tuple(9.0 * t for t in s.samples_s)) if s.labels.get("role") else s for s in record.samples
    )
    honest, other = (calibration_block(r) for r in (record, replace(record, samples=spoiled)))
    for dtype in TINY.dtypes:
        ours, theirs = honest["gemm"][dtype], other["gemm"][dtype]
        assert ours["ns_per_1000_weights"] == theirs["ns_per_1000_weights"]
        assert theirs["held_out_mape"] > 0.5


def test_the_block_reads_back_as_time_models(tiny: Any) -> None:
    block = calibration_block(tiny[0])
    for entry in block["gemm"].values():
        GemmGrid.of(entry, where="t")
    for section in ("attention", "encoder_attention", "decode_attention"):
        kernels = block[section]
        for entry in kernels[kernels["default"]].values():
            AttentionGrid.of(entry, where="t")
    for entry in block["bandwidth"].values():
        CurveSet.of(entry, where="t")
    assert {"rms_norm", "layer_norm", "pointwise", "rope", "score", "gather", "merge"} <= set(block["bandwidth"])


def test_the_yaml_is_a_hardware_profile(tiny: Any, tmp_path: Path) -> None:
    record = tiny[0]
    text = profile_yaml(record, "this_machine")
    (tmp_path / "this_machine.yaml").write_text(text)
    hardware = load_hardware(tmp_path / "this_machine.yaml")
    ceilings = ceilings_of(record)
    assert hardware.name == "this_machine"
    assert hardware.dense_flops_per_s["fp32"] == pytest.approx(ceilings.flops_per_s["fp32"], rel=1e-4)
    assert hardware.memory_bytes_per_s == pytest.approx(ceilings.memory_bytes_per_s, rel=1e-4)
    assert hardware.sources["dense_tflops"].count(record.date) == 1
    assert "torch " in hardware.sources["memory_gb_per_s"]
    assert yaml.safe_load(text) == profile_mapping(record, "this_machine")


def test_a_cut_profile_says_what_it_lacks(tiny: Any) -> None:
    record = tiny[0]
    nothing = replace(record, samples=())
    with pytest.raises(CalibrationError, match="no ceilings"):
        calibration_block(nothing)
    part = tuple(s for s in record.samples if s.op != "gemm" or s.dims["n"] != 72)
    short = tuple(s for s in part if s.op != "gemm" or s.dims != {"m": 1.0, "n": 24.0, "k": 40.0})
    with pytest.raises(CalibrationError, match="cut short"):
        calibration_block(replace(record, samples=short))
    with pytest.raises(CalibrationError, match="'kind' must be profile"):
        ceilings_of(replace(record, kind="validation"))


def test_devices_that_are_not_there_are_named() -> None:
    with pytest.raises(InvalidValueError, match="'device' must be 'cpu' or 'cuda'"):
        profile("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidValueError, match="'device' must be 'cpu': "):
            profile("cuda")


def test_the_environment_names_the_machine() -> None:
    found = describe("cpu")
    assert found.device_name
    assert found.packages["torch"] == torch.__version__
    assert found.memory_bytes > 1e8
    assert found.properties["cores"] == os.cpu_count()


def test_weights_rotate_through_parts_of_one_block() -> None:
    views = WeightPool(Bench("cpu"), elements=1000, dtype="fp32").views(10, 20)
    assert len(views) == 5
    assert len({view.data_ptr() for view in views}) == 5
    assert WeightPool(Bench("cpu"), elements=10, dtype="bf16").views(10, 20)[0].dtype == torch.bfloat16


class Event:
    """Stands in for torch.cuda.Event where there is no GPU."""

    def __init__(self, **_: Any) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.time - self.time) * 1e3


class Graph:
    """Records nothing, but counts its replays."""

    replays = 0

    def replay(self) -> None:
        Graph.replays += 1
        time.sleep(1e-3)


def test_the_gpu_way_runs_every_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = contextlib.nullcontext()
    stream_like = type("Stream", (), {"wait_stream": lambda *_: None})
    monkeypatch.setattr(torch.cuda, "Stream", stream_like)
    monkeypatch.setattr(torch.cuda, "current_stream", stream_like)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "graph", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(Stopwatch, "cuda", True)
    device = Bench("cpu", repeats=2, budget_s=0.01)
    groups = _groups(device, replace(TINY, passes=1))
    samples = [sample for _, group in groups for sample in device.time(group)]
    assert all(len(group) == 1 for _, group in groups)
    clocks = {sample.op: sample.clock for sample in samples}
    assert clocks.pop("host") == "wall"
    assert set(clocks.values()) == {"cuda_event"}
    assert "launch" in clocks
    assert Graph.replays > len(samples)
    assert not {s.dtype for s in samples if s.op in ("attention", "score")} & {"fp32"}
    record = Record(
        kind="profile",
        environment=replace(describe("cpu"), device="cuda", properties={"sm_count": 132}),
        seed=0,
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:01+00:00",
        samples=tuple(samples),
    )
    assert profile_mapping(record, "gpu")["sm_count"] == 132


def test_tasks_take_turns_and_keep_their_own_times() -> None:
    order: list[str] = []

    def task(name: str, rounds: int) -> Task:
        def step(_: int) -> None:
            order.append(name)
            sum(range(rounds))

        return Task(op="x", name=name, dims={}, dtype="fp32", make=lambda: Prepared(step), rows=1)

    fast, slow = Bench("cpu", repeats=4, budget_s=60.0).time([task("fast", 100_000), task("slow", 800_000)])
    assert slow.median_s / fast.median_s == pytest.approx(8, rel=0.5)
    assert [set(order[i : i + 2]) for i in range(0, len(order), 2)] == [{"fast", "slow"}] * 5


@pytest.mark.parametrize(("budget_s", "samples"), [(0.0, 2), (60.0, 5)])
def test_a_budget_that_is_used_up_leaves_two_samples(budget_s: float, samples: int) -> None:
    task = Task(op="x", dims={}, dtype="fp32", rows=1, make=lambda: Prepared(lambda _: sum(range(10_000))))
    assert len(Bench("cpu", repeats=5, budget_s=budget_s).time([task])[0].samples_s) == samples


def test_sleeping_costs_no_cpu_time() -> None:
    slept = []

    def sleep(_: int) -> None:
        began = time.perf_counter()
        time.sleep(0.02)
        slept.append(time.perf_counter() - began)

    sleeper = Task(op="x", dims={}, dtype="fp32", rows=1, make=lambda: Prepared(sleep))
    assert Bench("cpu", repeats=3).time([sleeper])[0].median_s < min(slept) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_that_is_timed_is_the_one_transformers_runs(dtype: Any) -> None:
    qwen2 = pytest.importorskip("transformers.models.qwen2.modeling_qwen2")
    norm = qwen2.Qwen2RMSNorm(32, eps=1e-6).to(dtype)
    norm.weight.data = torch.randn(32).to(dtype)
    x = torch.randn(1, 5, 32).to(dtype)
    with torch.inference_mode():
        assert torch.equal(pointwise._rms_norm(x, norm.weight), norm(x))


def test_the_rotation_that_is_timed_is_the_one_transformers_runs() -> None:
    qwen2 = pytest.importorskip("transformers.models.qwen2.modeling_qwen2")
    q, k = torch.randn(1, 4, 6, 16), torch.randn(1, 2, 6, 16)
    cos, sin = torch.randn(1, 6, 16), torch.randn(1, 6, 16)
    theirs = qwen2.apply_rotary_pos_emb(q, k, cos, sin)
    for x, expected in zip((q, k), theirs, strict=True):
        assert torch.equal(pointwise._rotate(x, cos[:, None], sin[:, None]), expected)


REEXEC = """
import os, sys
from aimcost.measure.profile import quiet_process
from aimcost.measure.profile.process import QUIET_ENVIRONMENT, is_quiet
print("before", os.getpid(), flush=True)
quiet_process(["a b", "--c"], module="again")
print("after", is_quiet(), flush=True)
"""
AGAIN = """
import os, sys
from aimcost.measure.profile import quiet_process
from aimcost.measure.profile.process import is_quiet
quiet_process(["never"], module="nowhere")
print("again", os.getpid(), sys.argv[1:], is_quiet(), flush=True)
"""


@pytest.mark.skipif(process.is_quiet(), reason="nothing to restart: quiet already, or another C library")
def test_a_process_restarts_once_with_the_settings(tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(AGAIN)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    run = subprocess.run([sys.executable, "-c", REEXEC], capture_output=True, text=True, env=environment, check=True)
    before, again = run.stdout.splitlines()
    assert before.split()[1] == again.split()[1]  # the same process, anew
    assert again.endswith("['a b', '--c'] True")


@pytest.mark.skipif(process.is_quiet(), reason="nothing to restart: quiet already, or another C library")
@pytest.mark.parametrize("flags", [[], ["-P"], ["-I"]], ids=" ".join)
def test_a_restart_imports_nothing_from_the_current_folder(tmp_path: Path, flags: list[str]) -> None:
    """A folder of downloads with modules named as the library's, the project's needs and the project."""
    if flags == ["-P"] and sys.version_info < (3, 11):
        pytest.skip("the interpreter has no such switch")
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in ("torch", "yaml", "numpy", "aimcost", "runpy", "platform", "typer"):
        (folder / f"{name}.py").write_text("open('ran', 'a').write(__name__)")
    start = f"import sys; sys.path = [{str(ROOT)!r}, *(one for one in sys.path if one)]\n"
    start += "from aimcost.measure.profile import quiet_process; quiet_process(['estimate', '--help'])"
    arguments = [sys.executable, *flags, "-c", start]
    run = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "aimcost estimate" in run.stdout
    assert not (folder / "ran").exists()


def grid_flops(plan: Plan) -> int:
    """Of all repeats of the GEMM grid in all formats, which are most of a profile."""
    once = sum(2 * m * n * k for m in plan.rows for n in plan.outs for k in plan.ins)
    return once * len(plan.dtypes) * plan.repeats * plan.passes


@pytest.mark.check_all  # half a minute of measuring
def test_a_quick_profile_is_quick() -> None:
    """Fewer operations, of less work, none repeated past its budget; and it measures, more than it prepares."""
    quick, full = (plan_for("cpu", quick=quick) for quick in (True, False))
    began = time.thread_time()
    record = profile("cpu", quick=True)
    spent = time.thread_time() - began
    assert record.settings["quick"] is True
    assert len(record.samples) < 0.65 * sum(len(group) for _, group in _groups(Bench("cpu"), full))
    assert grid_flops(quick) < 0.4 * grid_flops(full)
    for sample in record.samples:
        over = 2 * min(sample.samples_s) > quick.budget_s
        assert len(sample.samples_s) <= quick.passes * (bench.LEAST if over else quick.repeats), sample
    assert sum(sum(sample.samples_s) for sample in record.samples) > 0.4 * spent
    block = calibration_block(record)
    for entry in block["gemm"].values():
        # generous: a loaded machine shares its caches; a broken grid is off by factors
        assert entry["held_out_mape"] < 0.25
    assert set(block["gemm"]) == set(plan_for("cpu", quick=True).dtypes)
    assert bench.DTYPES.keys() >= set(block["gemm"])


def test_the_profile_prices_a_run(tiny: Any, tmp_path: Path) -> None:
    """The estimator reads the block unchanged, and a longer prompt takes longer."""
    pytest.importorskip("aimcost.machine.timemodels.measured")
    from aimcost import estimate

    path = tmp_path / "this_machine.yaml"
    path.write_text(profile_yaml(tiny[0], "this_machine"))
    model = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    }
    times = []
    for tokens in (10, 40, 400):
        run = {
            "model": model,
            "workload": {"text_tokens": tokens},
            "precision": {"weights": "fp32", "activations": "fp32", "kv": "fp32"},
            "hardware": str(path),
            "estimator": "calibrated",
        }
        found = estimate(run).to_dict()
        times.append(found["stages"]["prefill"]["time_s"])
        assert found["totals"]["time_low_s"] <= found["totals"]["time_s"] <= found["totals"]["time_high_s"]
        assert found["totals"]["extrapolated"]  # the tiny grid holds none of the model's widths
    assert 0 < times[0] < times[1] < times[2]
