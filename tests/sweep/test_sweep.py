"""Sweeps: what a point costs, in which order, byte for byte the same however it was computed."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import aimcost
from aimcost.errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError
from aimcost.inputs.run import load_run
from aimcost.pricing.pricing import estimate_run
from aimcost.search.sweep import engines
from aimcost.search.sweep.grid import Grid, load_grid
from aimcost.search.sweep.pricing import columns_of
from aimcost.search.sweep.store import Parts
from aimcost.search.sweep.sweep import sweep

ROOT = Path(__file__).resolve().parent.parent.parent
HAS_ARROW = importlib.util.find_spec("pyarrow") is not None
HAS_DASK = importlib.util.find_spec("distributed") is not None
MODEL = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
MACHINE = {"name": "round", "memory_gb_per_s": 1000, "dense_tflops": {"fp16": 100}, "memory_gb": 40}
BASE = {
    "model": MODEL,
    "hardware": MACHINE,
    "workload": {"visual_tokens": 200, "text_tokens": 20},
    "estimator": "roofline",
}
RUNS = {
    "base": BASE,
    "axes": {
        "method": ["none", {"name": "fastv"}, {"name": "aim", "merge_ratio": 1.0, "l1": 2, "l2": 4}],
        "workload.batch": [1, 2, 8],
        "workload.visual_tokens": {"from": 50, "to": 200, "step": 50},
    },
    "chunk": 5,
}
LEVELS = {
    "base": BASE,
    "axes": {"workload.batch": [1, 4]},
    "schedules": {"levels": [1.0, 0.5, 60, 0.0], "select": "aim"},
    "chunk": 25,
}
METHOD = {
    "base": BASE,
    "axes": {"workload.batch": [1, 4]},
    "schedules": {"method": "aim", "merge_ratio": [1.0, 0.5], "l1": [0, 2, 4], "l2": [2, 4, 6]},
    "chunk": 7,
}
GRIDS = {"runs": RUNS, "levels": LEVELS, "method": METHOD}


def put(folder: Path, grid: dict[str, Any], name: str = "grid.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(grid, sort_keys=False), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_points_come_in_the_order_of_the_axes_and_cost_what_an_estimate_says(tmp_path: Path) -> None:
    result = sweep(put(tmp_path, RUNS), tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert result.points == len(rows) == 3 * 3 * 4
    assert [int(row["point"]) for row in rows] == list(range(36))
    assert [row["workload.visual_tokens"] for row in rows[:5]] == ["50", "100", "150", "200", "50"]
    assert [row["workload.batch"] for row in rows[:12]] == ["1"] * 4 + ["2"] * 4 + ["8"] * 4
    assert json.loads(rows[35]["method"]) == RUNS["axes"]["method"][2]
    for point in (0, 13, 35):
        row = rows[point]
        method = row["method"] if row["method"].isalpha() else json.loads(row["method"])
        seen = {"batch": int(row["workload.batch"]), "visual_tokens": int(row["workload.visual_tokens"])}
        one = aimcost.estimate({**BASE, "method": {"name": "none"}}, method=method, workload=seen)
        assert float(row["ttft_s"]) == pytest.approx(one.ttft_s, rel=1e-8)
        assert float(row["flops"]) == pytest.approx(one.totals.flops, rel=1e-8)
        assert float(row["peak_bytes"]) == pytest.approx(one.memory.peak_bytes, rel=1e-8)
        assert row["error"] == ""


def test_several_grids_follow_each_other(tmp_path: Path) -> None:
    axes = [{"method": ["none"], "workload.batch": [1, 2]}, {"method": ["fastv"], "attention": ["flash", "eager"]}]
    sweep(put(tmp_path, {"base": BASE, "axes": axes}), tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["method"], row["workload.batch"], row["attention"]) for row in rows] == [
        ("none", 1, None),
        ("none", 2, None),
        ("fastv", None, "flash"),
        ("fastv", None, "eager"),
    ]


def test_a_point_that_cannot_be_priced_keeps_its_row_and_says_why(tmp_path: Path) -> None:
    axes = {"method": [{"name": "aim", "merge_ratio": 1.0, "l1": l1, "l2": 3} for l1 in (1, 3, 9)]}
    result = sweep(put(tmp_path, {"base": BASE, "axes": axes}), tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert result.errors == 2
    assert [bool(row["error"]) for row in rows] == [False, True, True]
    assert "l2" in rows[1]["error"]
    assert rows[1]["ttft_s"] == ""


@pytest.mark.parametrize("huge", [2**63, 10**400], ids=["beyond int64", "beyond float"])
@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_value_larger_than_a_files_numbers_is_a_row_that_says_why(tmp_path: Path, huge: int, name: str) -> None:
    """As a value of an axis, and of a schedule's parameter, which is computed for the whole chunk."""
    axes = {"workload.batch": [1, huge]}
    assert sweep(put(tmp_path, {"base": BASE, "axes": axes}), tmp_path / name).errors == 1
    ratios = {"method": "aim", "merge_ratio": [1.0, -huge], "l1": [0], "l2": [4]}
    grid = {"base": BASE, "axes": {}, "schedules": ratios}
    assert sweep(put(tmp_path, grid), tmp_path / f"schedules-{name}").errors == 1


def test_every_choice_of_levels_appears_once(tmp_path: Path) -> None:
    grid = load_grid(put(tmp_path, LEVELS))
    schedules = grid.schedules_in(0)
    assert schedules.count == math.comb(6 + 4 - 1, 3) == grid.per_context
    counts = schedules.points(0, schedules.count).counts
    assert len({tuple(row) for row in counts.tolist()}) == schedules.count
    assert (np.diff(counts.astype(int), axis=1) <= 0).all()
    assert set(counts.ravel().tolist()) == {220, 120, 60, 20}
    assert counts[0].tolist() == [220] * 6
    assert counts[-1].tolist() == [20] * 6
    # pieces fit together
    assert (np.concatenate([schedules.points(i, i + 7).counts for i in range(0, schedules.count, 7)]) == counts).all()


@pytest.mark.parametrize("estimator", ["roofline", "calibrated"])
@pytest.mark.parametrize("select", [None, "aim"])
def test_a_schedule_costs_what_an_estimate_of_it_says(tmp_path: Path, select: str | None, estimator: str) -> None:
    base = {**BASE, "estimator": estimator, "hardware": "nvidia_a100_sxm_80gb"}
    given = {**LEVELS, "base": base, "schedules": {**LEVELS["schedules"], "select": select}}
    sweep(put(tmp_path, given), tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    schedules = load_grid(put(tmp_path, given)).schedules_in(0)
    for point in (0, 1, 17, 40, 83, 84, 120):
        counts = schedules.points(point % 84, point % 84 + 1).counts[0].tolist()
        method = {"name": "explicit", "tokens_per_layer": counts, **({"select": select} if select else {})}
        run = load_run({**base, "method": method, "workload": {**BASE["workload"], "batch": [1, 4][point // 84]}})
        one = estimate_run(replace(run, host_time=False))
        row = rows[point]
        assert float(row["device_prefill_s"]) == pytest.approx(one.stages["prefill"].time_s, rel=1e-7)
        assert float(row["device_ttft_s"]) == pytest.approx(one.ttft_s, rel=1e-7)
        assert float(row["kv_bytes"]) == pytest.approx(one.memory.kv_bytes, rel=1e-8)
        assert float(row["mean_tokens"]) == pytest.approx(sum(counts) / 6, rel=1e-8)
        assert [int(row[f"layers_at_{name}"]) for name in ("1", "0.5", "60", "0")] == [
            counts.count(n) for n in (220, 120, 60, 20)
        ]


@pytest.mark.parametrize(
    "schedules", [{"levels": [1.0, 0.25], "select": "aim"}, {"method": "fastv", "k": [1, 3], "ratio": [0.25, 0.5]}]
)
def test_a_prompt_of_128k_tokens(tmp_path: Path, schedules: dict[str, Any]) -> None:
    """Only counts that occur are priced."""
    base = {**BASE, "workload": {"visual_tokens": 127_000, "text_tokens": 1000}}
    sweep(put(tmp_path, {"base": base, "schedules": schedules}), tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    found = [float(row["device_prefill_s"]) for row in rows]
    if "levels" in schedules:
        runs = [[128_000, 4], [32_750, 2]]
        method: dict[str, Any] = {"name": "explicit", "tokens_per_layer": runs, "select": "aim"}
        number = 2
    else:
        method, number = {"name": "fastv", "k": 3, "ratio": 0.5}, len(rows) - 1
    one = aimcost.estimate({**base, "method": method})
    assert found[number] == pytest.approx(one.stages["prefill"].time_s, rel=1e-8)


def test_a_methods_own_schedules_with_tower_and_merging(tmp_path: Path) -> None:
    base = {
        "model": "llava-onevision-qwen2-0.5b",
        "hardware": "nvidia_l4",
        "workload": {"frames": 4, "text_tokens": 30},
    }
    schedules = {"method": "aim", "merge_ratio": [1, 0.25], "l1": [4, 12], "l2": [12, 20]}
    result = sweep(put(tmp_path, {"base": base, "schedules": schedules}), tmp_path / "out.csv")
    rows = rows_of(tmp_path / "out.csv")
    assert result.errors == 2
    for row in rows:
        chosen = {
            "l1": int(row["method.l1"]),
            "l2": int(row["method.l2"]),
            "merge_ratio": float(row["method.merge_ratio"]),
        }
        if row["error"]:
            assert chosen["l1"] == chosen["l2"]
            assert row["device_ttft_s"] == ""
            continue
        one = estimate_run(replace(load_run({**base, "method": {"name": "aim", **chosen}}), host_time=False))
        assert float(row["device_ttft_s"]) == pytest.approx(one.ttft_s, rel=1e-7)
        assert float(row["kv_bytes"]) == pytest.approx(one.memory.kv_bytes, rel=1e-8)


@pytest.mark.parametrize(
    "kind", ["csv", "jsonl", pytest.param("parquet", marks=pytest.mark.skipif(not HAS_ARROW, reason="needs pyarrow"))]
)
@pytest.mark.parametrize("name", GRIDS)
def test_a_resumed_sweep_ends_with_the_same_bytes(
    tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = put(tmp_path, GRIDS[name])
    whole, resumed = tmp_path / f"whole.{kind}", tmp_path / f"resumed.{kind}"
    chunks = sweep(grid, whole).chunks
    assert chunks > 4
    kept, compute = [0], engines.compute

    def stops(*given: Any) -> Any:
        if kept[0] == 3:
            raise KeyboardInterrupt
        kept[0] += 1
        return compute(*given)

    monkeypatch.setattr(engines, "compute", stops)
    with pytest.raises(KeyboardInterrupt):
        sweep(grid, resumed)
    monkeypatch.undo()
    assert not resumed.exists()
    with pytest.raises(InvalidValueError, match="'resume'"):
        sweep(grid, resumed)
    assert sweep(grid, resumed, resume=True).resumed == 3
    assert resumed.read_bytes() == whole.read_bytes()
    assert not (tmp_path / f"resumed.{kind}.parts").exists()


def test_a_damaged_chunk_is_computed_again_and_another_grid_is_refused(tmp_path: Path) -> None:
    grid, out = put(tmp_path, RUNS), tmp_path / "out.csv"
    sweep(grid, out)
    good = out.read_bytes()
    loaded, parts = load_grid(grid), tmp_path / "out.csv.parts"
    store = Parts(out, loaded.digest, loaded.chunk_count)
    store.open(resume=False)
    for number in (0, 1, 2):
        _, _, content, errors = engines.compute(loaded.to_json(), (number, number * 5, number * 5 + 5, -1), "csv")
        store.add(number, content, errors)
    store.release()
    cut = next(parts.glob("000000001.*"))
    cut.write_bytes(cut.read_bytes()[:-9])
    (parts / "000000003.0.0123456789abcdef.tmp").write_bytes(b"half")
    whole = next(parts.glob("000000002.*"))
    for other in ("000000003", "000000007", "000000999"):  # parts are bound to their number
        (parts / whole.name.replace("000000002", other)).write_bytes(whole.read_bytes())
    assert sweep(grid, out, resume=True).resumed == 2
    assert out.read_bytes() == good
    parts.mkdir()
    (parts / "manifest.json").write_text('{"digest": "0"}', encoding="utf-8")
    with pytest.raises(FileFormatError, match="another grid"):
        sweep(grid, out, resume=True)
    assert out.read_bytes() == good


def test_a_sweep_killed_before_it_began_leaves_nothing_to_resume(tmp_path: Path) -> None:
    grid, out = put(tmp_path, RUNS), tmp_path / "out.csv"
    parts = tmp_path / "out.csv.parts"
    parts.mkdir()
    (parts / ".manifest.json.x.tmp").write_bytes(b"half")
    assert sweep(grid, out).resumed == 0
    assert not parts.exists()


def test_one_process_at_a_time_writes_an_output(tmp_path: Path) -> None:
    grid, out = put(tmp_path, RUNS), tmp_path / "out.csv"
    first = Parts(out, "d" * 16, 8)
    first.open(resume=False)
    for resume in (False, True):
        with pytest.raises(FileFormatError, match=r"out\.csv: another process is writing it"):
            sweep(grid, out, resume=resume)
    assert not out.exists()
    first.close()
    assert sweep(grid, out).points == 36


@pytest.mark.check_all
def test_of_20_processes_one_wins_and_the_others_say_so(tmp_path: Path) -> None:
    many = {**RUNS, "axes": {**RUNS["axes"], "workload.text_tokens": {"from": 10, "to": 19}}, "chunk": 20}
    grid, out = put(tmp_path, many), tmp_path / "out.csv"
    # forked, not started anew: all begin within milliseconds
    context = multiprocessing.get_context("fork")
    ends = context.SimpleQueue()

    def run() -> None:
        try:
            sweep(grid, out)
            ends.put("written")
        except AimcostError as error:
            ends.put(str(error))

    processes = [context.Process(target=run) for _ in range(20)]
    for process in processes:
        process.start()
    found = [ends.get() for _ in processes]
    for process in processes:
        process.join()
    assert found.count("written") >= 1
    assert {text.partition("out.csv")[2] for text in found if text != "written"} <= {": another process is writing it"}
    written = out.read_bytes()
    sweep(grid, tmp_path / "alone.csv")
    assert written == (tmp_path / "alone.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.csv", "grid.yaml", "out.csv"]


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


KILLED = {**RUNS, "axes": {**RUNS["axes"], "workload.text_tokens": {"from": 10, "to": 17}}, "chunk": 10}


def killed_and_resumed(tmp_path: Path, options: list[str], moments: list[float], victim: str) -> None:
    """Kill a sweep, or a worker, at shares of the time that it takes: resumed, it ends with the same bytes."""
    grid, whole = put(tmp_path, KILLED), tmp_path / "whole.csv"
    sweep(grid, whole)
    command = [sys.executable, "-m", "aimcost", "sweep", str(grid), *options, "-o"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "timed.csv")], env=environment, capture_output=True, check=True)
    lasts = time.monotonic() - began
    for number, moment in enumerate(moments):
        out = tmp_path / f"{number}.csv"
        process = subprocess.Popen(
            [*command, str(out)], env=environment, stderr=subprocess.PIPE, start_new_session=True
        )
        time.sleep(moment * lasts)
        if victim == "sweep":
            process.kill()
        elif process.poll() is None:
            for child in children_of(process.pid)[-1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        _, said = process.communicate(timeout=120)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if victim == "worker":
            assert process.returncode in (0, 2), said
            assert said.count(b"\n") == (process.returncode != 0), said
            assert b"Traceback" not in said
        if process.returncode:
            sweep(grid, out, resume=(tmp_path / f"{number}.csv.parts" / "manifest.json").exists())
        assert out.read_bytes() == whole.read_bytes()
        assert not (tmp_path / f"{number}.csv.parts").exists()


ENGINES = {
    "one process": [],
    "local": ["--workers", "2"],
    "dask": ["--engine", "dask", "--workers", "2"],
}


@pytest.mark.check
@pytest.mark.parametrize(
    ("engine", "victim", "moments"), [("one process", "sweep", [0.5, 0.9]), ("local", "worker", [0.7])]
)
def test_killed_at_a_few_moments_a_sweep_is_resumed(
    tmp_path: Path, engine: str, victim: str, moments: list[float]
) -> None:
    killed_and_resumed(tmp_path, ENGINES[engine], moments, victim)


@pytest.mark.check_all
@pytest.mark.parametrize("victim", ["sweep", "worker"])
@pytest.mark.parametrize("engine", ["local", "dask"])
def test_killed_at_50_moments_a_sweep_is_resumed(tmp_path: Path, engine: str, victim: str) -> None:
    if engine == "dask" and not HAS_DASK:
        pytest.skip("needs dask and distributed")
    generator = random.Random(engine + victim)
    killed_and_resumed(tmp_path, ENGINES[engine], [generator.uniform(0.1, 1.0) for _ in range(50)], victim)


def test_a_killed_process_is_resumed(tmp_path: Path, cli: Any) -> None:
    """SIGKILL in the middle, as an out-of-memory killer would."""
    many = {**RUNS, "axes": {**RUNS["axes"], "workload.text_tokens": {"from": 10, "to": 20}}, "chunk": 12}
    grid, out = put(tmp_path, many), tmp_path / "out.csv"
    command = [sys.executable, "-m", "aimcost", "sweep", str(grid), "-o", str(out)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    parts = tmp_path / "out.csv.parts"
    while len(list(parts.glob("*.part"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = cli("sweep", str(grid), "-o", str(out), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert 3 <= json.loads(done.stdout)["resumed"] < json.loads(done.stdout)["chunks"]
    sweep(grid, tmp_path / "whole.csv")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("name", GRIDS)
def test_two_processes_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    grid = put(tmp_path, GRIDS[name])
    sweep(grid, tmp_path / "one.csv")
    sweep(grid, tmp_path / "two.csv", workers=2)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A scheduler and two workers as processes of their own, reached by address alone, as on other machines."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize("kind", ["csv", pytest.param("parquet", marks=pytest.mark.check)])
@pytest.mark.parametrize("name", GRIDS)
def test_dask_workers_give_the_same_bytes(tmp_path: Path, scheduler: str, name: str, kind: str) -> None:
    if kind == "parquet" and not HAS_ARROW:
        pytest.skip("needs pyarrow")
    grid = put(tmp_path, GRIDS[name])
    sweep(grid, tmp_path / f"one.{kind}")
    sweep(grid, tmp_path / f"two.{kind}", engine_name="dask", scheduler=scheduler)
    assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


@pytest.mark.skipif(not HAS_DASK, reason="needs dask and distributed")
def test_a_cluster_that_the_sweep_starts(tmp_path: Path) -> None:
    grid = put(tmp_path, LEVELS)
    sweep(grid, tmp_path / "one.csv")
    sweep(grid, tmp_path / "two.csv", engine_name="dask", workers=2)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


@pytest.mark.skipif(not HAS_DASK, reason="needs dask and distributed")
def test_a_cluster_that_the_sweep_starts_is_closed_to_others() -> None:
    """Nothing listens beyond this machine, and the HTTP servers that Dask always opens have no page."""
    import urllib.error
    import urllib.request

    import distributed

    with engines._local_cluster(distributed, 1) as cluster:
        info = cluster.scheduler_info
        servers = [info["services"]["dashboard"], *(one["services"]["dashboard"] for one in info["workers"].values())]
        assert all(address.startswith("tcp://127.0.0.1:") for address in [info["address"], *info["workers"]])
        assert cluster.scheduler.http_server.address == "127.0.0.1"
        assert 8787 not in servers
        for port, page in itertools.product(servers, ("status", "health", "metrics", "info/main/workers.html")):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10)
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.skipif(not HAS_DASK, reason="needs dask and distributed")
@pytest.mark.parametrize("address", ["tcp://10.0.0.2:8786", "tcp://cluster:8786", "ws://127.0.0.1:1", "cluster:1", ""])
def test_a_scheduler_elsewhere_needs_tls(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidValueError, match="'scheduler' must be tls://HOST:PORT"):
        sweep(put(tmp_path, RUNS), tmp_path / "out.csv", engine_name="dask", scheduler=address)


@pytest.mark.parametrize("address", ["tls://cluster:8786", "tcp://127.0.0.1:1", "localhost:1", "tcp://[::1]:1"])
def test_a_scheduler_here_or_behind_tls_is_taken(address: str) -> None:
    engines._check_address(address)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the interpreter has no such switch")
def test_workers_import_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of downloads with modules named as the library's and the project's."""
    for name in ("random", "multiprocessing", "yaml", "numpy", "aimcost"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'a').write(__name__)")
    grid = put(tmp_path, RUNS)
    monkeypatch.chdir(tmp_path)
    sweep(grid, tmp_path / "out.csv", workers=2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"engine_name": "dask", "workers": 2}])
@pytest.mark.check
def test_what_fails_in_a_worker_is_one_line_here(tmp_path: Path, options: dict[str, Any]) -> None:
    """A bulk table needs the fused implementation: the second point of the axes has none."""
    if "engine_name" in options and not HAS_DASK:
        pytest.skip("needs dask and distributed")
    grid = {**LEVELS, "axes": {"implementation": ["fused", "eager"]}}
    with pytest.raises(AimcostError, match="'implementation' must be fused") as caught:
        sweep(put(tmp_path, grid), tmp_path / "out.csv", **options)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out.csv").exists()


def test_a_worker_that_dies_is_one_line() -> None:
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    future: Future[Any] = Future()
    future.set_exception(BrokenProcessPool("a child was\nkilled"))
    with pytest.raises(AimcostError, match=r"a worker failed: BrokenProcessPool: a child was killed .resume continues"):
        engines._result(future)


def test_a_worker_killed_as_it_starts_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", broken)
    with pytest.raises(AimcostError, match=r"a worker failed: BrokenPipeError: .*Broken pipe"):
        sweep(put(tmp_path, RUNS), tmp_path / "out.csv", workers=2)


@pytest.mark.skipif(not HAS_DASK, reason="needs dask and distributed")
def test_a_scheduler_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aimcost.search.sweep.engines.CONNECT_S", 1)
    with pytest.raises(InvalidValueError, match="'scheduler'"):
        sweep(put(tmp_path, RUNS), tmp_path / "out.csv", engine_name="dask", scheduler="tcp://127.0.0.1:9")


@pytest.mark.skipif(HAS_DASK, reason="distributed is installed")
def test_dask_names_its_extra(tmp_path: Path) -> None:
    with pytest.raises(AimcostError, match=r"aimcost\[sweep\]"):
        sweep(put(tmp_path, RUNS), tmp_path / "out.csv", engine_name="dask")


@pytest.mark.skipif(HAS_ARROW, reason="pyarrow is installed")
def test_parquet_names_its_extra(tmp_path: Path) -> None:
    with pytest.raises(AimcostError, match=r"aimcost\[sweep\]"):
        sweep(put(tmp_path, RUNS), tmp_path / "out.parquet")


@pytest.mark.skipif(not HAS_ARROW, reason="needs pyarrow")
@pytest.mark.parametrize("name", GRIDS)
def test_parquet_holds_what_csv_says(tmp_path: Path, name: str) -> None:
    import pyarrow.parquet as parquet

    grid = put(tmp_path, GRIDS[name])
    result = sweep(grid, tmp_path / "out.parquet")
    sweep(grid, tmp_path / "out.csv")
    table = parquet.read_table(tmp_path / "out.parquet")
    rows = rows_of(tmp_path / "out.csv")
    assert table.num_rows == len(rows)
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == result.chunks
    assert table.column_names == list(rows[0])
    figure = "ttft_s" if name == "runs" else "device_ttft_s"
    for ours, theirs in zip(table[figure].to_pylist(), rows, strict=True):
        assert (ours is None) == (theirs[figure] == "")
        assert ours is None or ours == pytest.approx(float(theirs[figure]), rel=1e-8)


def test_chunks_are_the_grids_own(tmp_path: Path) -> None:
    """The same points in chunks of another size give the same text."""
    for size in (1, 7, 1000):
        sweep(put(tmp_path, {**METHOD, "chunk": size}), tmp_path / f"{size}.csv")
    assert (
        (tmp_path / "1.csv").read_bytes() == (tmp_path / "7.csv").read_bytes() == (tmp_path / "1000.csv").read_bytes()
    )


def test_the_digest_follows_what_the_output_follows_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(MACHINE), encoding="utf-8")
    grid = {**RUNS, "base": {**BASE, "hardware": "./card.yaml"}}
    before = load_grid(put(tmp_path, grid)).digest
    assert load_grid(put(tmp_path, grid)).digest == before
    text = load_grid(put(tmp_path, grid)).to_json()
    assert Grid.from_json(text).digest == before
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({**MACHINE, "memory_gb_per_s": 970}), encoding="utf-8")
    assert load_grid(put(tmp_path, grid)).digest != before


@pytest.mark.parametrize(
    ("grid", "error", "text"),
    [
        ({**RUNS, "axis": {}}, UnknownNameError, "axes"),
        ({**RUNS, "axes": {"modle": ["x"]}}, UnknownNameError, "model"),
        ({**RUNS, "axes": {"method": []}}, InvalidValueError, "non-empty"),
        ({**RUNS, "axes": {"workload.batch": [1, 1]}}, InvalidValueError, "distinct"),
        ({**RUNS, "axes": {"workload.batch": {"from": 1, "to": 0}}}, InvalidValueError, "step"),
        ({**RUNS, "axes": {"workload.batch": {"from": 1, "to": 1e12}}}, InvalidValueError, "at most"),
        ({**RUNS, "axes": {"hardware": ["nvidia_a100"]}}, UnknownNameError, "nvidia_a100_sxm"),
        ({**RUNS, "axes": {"model": ["llama"]}}, UnknownNameError, "llama"),
        ({**RUNS, "axes": []}, InvalidValueError, "axes"),
        ({**RUNS, "chunk": 0}, InvalidValueError, "chunk"),
        ({**RUNS, "chunk": 1_000_000}, InvalidValueError, "at most 100,000"),
        ({**LEVELS, "chunk": 10_000_000}, InvalidValueError, "at most 8,333,333"),
        ({**RUNS, "axes": {"hardware": 0.0}}, InvalidValueError, "hardware"),
        ({**RUNS, "axes": {"model": [7]}}, InvalidValueError, "model"),
        ({**RUNS, "axes": {"stack": [[1]]}}, InvalidValueError, "stack"),
        ({**RUNS, "axes": {"workload.batch": math.inf}}, FileFormatError, "not finite"),
        ({**RUNS, "axes": {"workload.batch": {"from": 1, "to": 10**400}}}, InvalidValueError, "to"),
        ({**RUNS, "axes": {"workload.batch": {"from": 1e-300, "to": 1e15}}}, InvalidValueError, "at most"),
        ({**RUNS, "base": {**BASE, "method": {1: 2, "name": "none"}}}, FileFormatError, "not all text"),
        (
            {**LEVELS, "base": {**BASE, "workload": {"visual_tokens": 200, "text_tokens": 10**7}}},
            InvalidValueError,
            "from 1 to 2,097,152",
        ),
        ({**METHOD, "schedules": {"method": "aim", "l1": []}}, InvalidValueError, "non-empty"),
        ({**METHOD, "axes": {"workload.batch": {"from": 1, "to": 10_001}}}, InvalidValueError, "at most 10,000"),
        ({**RUNS, "base": "no_such_run"}, UnknownNameError, "no_such_run"),
        ({**RUNS, "base": {**BASE, "attention": "flesh"}}, InvalidValueError, "attention"),
        ({**LEVELS, "schedules": {}}, InvalidValueError, "levels"),
        ({**LEVELS, "schedules": {"levels": [0.5, 120]}}, InvalidValueError, "distinct"),
        ({**LEVELS, "schedules": {"levels": [500]}}, InvalidValueError, "prompt"),
        ({**LEVELS, "schedules": {"levels": [1.5]}}, InvalidValueError, "levels"),
        ({**LEVELS, "schedules": {"levels": list(range(20, 220))}}, InvalidValueError, "schedules"),
        ({**LEVELS, "axes": {"method": ["none"]}}, InvalidValueError, "method"),
        ({**METHOD, "schedules": {"method": "amm"}}, InvalidValueError, "aim"),
        ({**METHOD, "schedules": {"method": "aim", "l1": [99]}}, InvalidValueError, "l1"),
    ],
)
def test_a_bad_grid_is_one_line(tmp_path: Path, grid: Any, error: type[AimcostError], text: str) -> None:
    with pytest.raises(error) as caught:
        sweep(put(tmp_path, grid), tmp_path / "out.csv")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "grid.yaml" in str(caught.value)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", ["out.xlsx", "out", ".csv"])
def test_an_output_of_another_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"csv, \.jsonl or \.parquet"):
        sweep(put(tmp_path, RUNS), tmp_path / name)


def test_text_that_a_csv_must_quote(tmp_path: Path) -> None:
    axes = {"hardware": [{**MACHINE, "name": 'a "b", 100 %\n%d'}, {**MACHINE, "name": "plain"}]}
    for grid in ({"base": BASE, "axes": axes}, {**LEVELS, "axes": axes}):
        sweep(put(tmp_path, grid), tmp_path / "out.csv")
        sweep(put(tmp_path, grid), tmp_path / "out.jsonl")
        first = rows_of(tmp_path / "out.csv")[0]
        assert json.loads(first["hardware"])["name"] == 'a "b", 100 %\n%d'
        line = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[0]
        assert json.loads(line)["hardware"] == first["hardware"]


# Bare gathers and sums of as many schedules: a million schedules a second, where one takes 8 ms.
GATHERS = 8.2


def test_enumerating_costs_a_few_gathers(tmp_path: Path) -> None:
    """Enumerating, gathering, summing, in thread CPU time against a bare gather of the same run."""
    grid = {
        "base": "llava_onevision_dense_a100",
        "schedules": {"levels": [1.0, 0.75, 0.5, 0.25, 0.1, 0.0], "select": "aim"},
    }
    sixth = load_grid(put(tmp_path, grid))
    assert sixth.points == math.comb(33, 5)
    chunks = list(sixth.chunks())[:4]
    columns_of(sixth, chunks[0])  # the table
    points = chunks[1].stop - chunks[1].start

    def spent(work: Any) -> float:
        start = time.thread_time()
        work()
        return time.thread_time() - start

    best = min(spent(lambda: columns_of(sixth, chunks[1])) for _ in range(5))
    table, index = np.random.default_rng(0).random(6400), np.random.default_rng(1).integers(1, 6400, (points, 28))
    gather = min(spent(lambda: table.take(index.astype(np.uint16)).sum(axis=1)) for _ in range(5))
    assert best <= GATHERS * gather, f"{points / best:.3g} points/s"


def test_the_command(cli: Any, tmp_path: Path) -> None:
    put(tmp_path, RUNS)
    done = cli("sweep", "grid.yaml", "-o", "out.csv")
    assert done.returncode == 0
    assert "36 points in 8 chunks" in done.stdout
    assert cli("sweep", "none.yaml", "-o", "out.csv").returncode == 2
    assert cli("sweep", "grid.yaml", "-o", "out.csv", "--engine", "ray").returncode == 2
    assert cli("sweep", "grid.yaml", "-o", "out.csv", "--workers", "0").returncode == 2
    assert not (tmp_path / "out.csv.parts").exists()
    done = cli("sweep", "grid.yaml", "-o", "no/such/folder/out.csv")
    assert done.returncode == 0
