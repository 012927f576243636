"""Stacks on the command line: list, show, --stack, compare, calibrate-stack, and baselines from before stacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import aimcost
from aimcost.guard.check import check
from aimcost.inputs import discover
from aimcost.inputs.strict_json import digest

A100 = "nvidia_a100_sxm_80gb"
FLAGS = ["--model", "llava-1.5-7b", "--images", "1", "--text-tokens", "60", "--hardware", A100]
RUN: dict[str, Any] = {
    "model": "llava-1.5-7b",
    "workload": {"images": 1, "text_tokens": 60},
    "hardware": A100,
    "stack": "llava",
}


def test_list_and_show_know_the_stacks(cli: Any) -> None:
    listed = json.loads(cli("list", "stacks", "--json").stdout)["stacks"]
    assert [row["name"].split()[0] for row in listed] == sorted(discover.names("stack"))
    assert "transformers (default)" in cli("list", "stacks").stdout
    shown = cli("show", "llava").stdout
    assert shown.startswith("# stack llava: ")
    assert "sources:" in shown
    assert "stack" in json.loads(cli("schema").stdout)


def test_the_header_names_the_stack_and_the_default(cli: Any) -> None:
    assert "stack transformers (default), implementation fused" in cli("estimate", *FLAGS).stdout
    text = cli("estimate", *FLAGS, "--stack", "llava", "--method", "divprune").stdout
    assert "stack llava, implementation eager, attention flash (tower eager)" in text
    assert "stack overhead" in text
    assert "no reduction can beat" in text
    assert "saved (80 % band)" in text
    assert "all stages but preprocess" in text
    ignored = cli("estimate", *FLAGS, "--stack", "llava", "--estimator", "roofline").stdout
    assert "no stack" in ignored
    assert "stack llava ignored: roofline" in ignored


def test_an_unknown_stack_is_one_line(cli: Any) -> None:
    done = cli("estimate", *FLAGS, "--stack", "vlm")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown stack 'vlm'; did you mean 'vllm'" in done.stderr


def test_two_stacks_side_by_side(cli: Any) -> None:
    rows = json.loads(cli("compare", *FLAGS, "--method", "divprune", "--stack", "llava,vllm", "--json").stdout)
    assert {row["stack"] for row in rows} == {"llava", "vllm"}
    assert all(row["speedup_low"] < row["speedup"] < row["speedup_high"] for row in rows)
    text = cli("compare", *FLAGS, "--stack", "llava,vllm").stdout
    assert "stacks as listed" in text
    assert "hardware              stack" in text
    assert "stack vllm," in cli("compare", *FLAGS, "--stack", "vllm").stdout
    alone = [flag for flag in FLAGS if flag not in ("--hardware", A100)]
    assert cli("compare", *alone).returncode == 2


@pytest.mark.parametrize("frames", [1, 32])
def test_a_captured_prompt_that_gains_nothing_says_why(cli: Any, frames: int) -> None:
    """One frame's launches take longer than its kernels; those of 32 frames are issued while the device computes."""
    flags = ["compare", "--model", "llava-onevision-qwen2-7b", "--frames", str(frames), "--hardware", A100]
    flags += ["--stack", "transformers,aimcost_graph"]
    rows = {row["stack"]: row for row in json.loads(cli(*flags, "--json").stdout)}
    saved = rows["transformers"]["ttft_s"] - rows["aimcost_graph"]["ttft_s"]
    assert saved == pytest.approx(rows["transformers"]["launch_wait_s"], rel=1e-6)
    note = "note: no kernel before the first token waits for its launch: capturing launches in a graph saves nothing"
    assert (note in cli(*flags).stdout) == (frames == 32) == (saved < 1e-3 * rows["transformers"]["ttft_s"])
    assert rows["aimcost_graph"]["launch_wait_s"] == 0


def test_a_sweep_has_an_axis_of_stacks(cli: Any, tmp_path: Path) -> None:
    grid = {"base": {**RUN, "stack": "transformers"}, "axes": {"stack": ["transformers", "llava"]}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    done = cli("sweep", "grid.yaml", "-o", "out.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["stack"] for row in rows] == ["transformers", "llava"]
    assert rows[1]["ttft_s"] > rows[0]["ttft_s"] + 0.035


def timing(name: str, seconds: float, **changes: Any) -> dict[str, Any]:
    row = {"id": name, "group": "ours", "source": "our clock", "quantity": "ttft", "value_s": seconds, "run": RUN}
    return {**row, "stages": ["vision", "projector", "prefill"], **changes}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "timings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_one_timing_fixes_the_offset_alone(cli: Any, tmp_path: Path) -> None:
    kernels = aimcost.estimate(RUN, include=["vision", "projector", "prefill"]).totals.time_s
    done = cli("calibrate-stack", write(tmp_path, timing("one", kernels + 0.055)), "-o", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "offset 55.00 ms per request, scale 1.000" in done.stdout
    assert "no timing is left to test them" in done.stdout
    mine = str(tmp_path / "mine.yaml")
    estimate = aimcost.estimate({**RUN, "stack": mine})
    assert estimate.ttft_s == pytest.approx(kernels + 0.055)
    assert estimate.run.stack.request_s.high == pytest.approx(0.055 * 1.64, rel=1e-3)
    assert estimate.run.stack.spread == pytest.approx((0.825, 1.212), abs=0.001)  # e^∓1.28·0.15


@pytest.mark.parametrize("stack", ["transformers", "llava", "torch_compile"])
def test_one_decode_timing_fixes_what_a_step_costs(cli: Any, tmp_path: Path, stack: str) -> None:
    run = {**RUN, "workload": {"text_tokens": 300, "new_tokens": 20}, "stack": stack}
    step = aimcost.estimate(run).decode_step()["tpot_s"]
    row = timing("one", step + 0.004, run=run, stages="tpot", quantity="tpot", stack=stack)
    done = cli("calibrate-stack", write(tmp_path, row), "-o", "mine.yaml")
    assert done.returncode == 0, done.stderr
    found = aimcost.estimate({**run, "stack": str(tmp_path / "mine.yaml")})
    assert found.decode_step()["tpot_s"] == pytest.approx(step + 0.004, rel=1e-3)


def test_a_file_without_timings_is_one_line(cli: Any, tmp_path: Path) -> None:
    done = cli("evidence", write(tmp_path))
    assert done.returncode == 2
    assert "timings.jsonl: holds no timing" in done.stderr


def test_timings_apart_fix_a_scale_too(cli: Any, tmp_path: Path) -> None:
    """Made of 20 ms and 1.2 times the kernels: the prior pulls the scale a little towards 1."""
    rows = []
    for frames in (1, 2, 4, 8):
        run = {**RUN, "model": "llava-onevision-qwen2-7b", "workload": {"frames": frames, "text_tokens": 60}}
        bare = aimcost.estimate(run, include=["vision", "projector", "prefill"]).totals.time_s
        rows.append(timing(f"{frames}", 0.020 + 0.0052 * frames + 1.2 * bare, run=run))
    found = json.loads(cli("calibrate-stack", write(tmp_path, *rows), "--json").stdout)
    assert 1.15 < found["scale"] < 1.2
    assert 0.020 < found["offset_s"] < 0.026
    assert found["scale_error"] is not None
    assert max(map(abs, found["residuals"].values())) < 0.03


def test_timings_that_do_not_tell_a_scale_or_mix_kinds(cli: Any, tmp_path: Path) -> None:
    kernels = aimcost.estimate(RUN, include=["vision", "projector", "prefill"]).totals.time_s
    alike = write(tmp_path, timing("a", kernels + 0.05), timing("b", kernels + 0.07))
    text = cli("calibrate-stack", alike).stdout
    assert "too close to separate a scale from an offset" in text
    run = {**RUN, "workload": {**RUN["workload"], "new_tokens": 9}}
    mixed = write(tmp_path, timing("a", 1.0), timing("b", 0.02, stages="tpot", quantity="tpot", run=run))
    done = cli("calibrate-stack", mixed)
    assert done.returncode == 2
    assert "'--quantity' must be one of tpot, ttft" in done.stderr
    for quantity, key in (("tpot", "step"), ("ttft", "request")):
        assert (
            f"per {'decode ' if key == 'step' else ''}{key}"
            in cli("calibrate-stack", mixed, "--quantity", quantity).stdout
        )
    unknown = cli("calibrate-stack", mixed, "--quantity", "e2e")
    assert unknown.returncode == 2
    assert "unknown quantity 'e2e'" in unknown.stderr
    fast = write(tmp_path, timing("a", 0.5 * kernels))
    assert "a scale in place of an offset" in cli("calibrate-stack", fast).stdout


def old_baseline(path: Path, *, estimator: str = "calibrated") -> dict[str, Any]:
    """A baseline as it was written before there were stacks: an execution, and other times."""
    run = path.parent / "run.yaml"
    document = {**{key: value for key, value in RUN.items() if key != "stack"}, "estimator": estimator}
    run.write_text(yaml.safe_dump(document), encoding="utf-8")
    check([str(run)], baseline=path, update=True)
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    (entry,) = data["runs"].values()
    settings = {key: value for key, value in entry["facts"]["settings"].items() if not key.startswith("stack.")}
    entry["facts"]["settings"] = {**settings, "execution": "eager"}
    entry["digests"]["settings"] = digest(entry["facts"]["settings"])
    if estimator == "calibrated":
        entry["figures"]["ttft_s"] *= 0.8
        entry["operations"] = {
            key: [[*row[:4], row[4] * 0.8] for row in rows]
            for key, rows in entry["operations"].items()
            if not key.startswith("overhead/")
        }
    save(path, data)
    return data


def save(path: Path, data: dict[str, Any]) -> None:
    (entry,) = data["runs"].values()
    entry["sha"] = digest({key: value for key, value in entry.items() if key != "sha"})
    path.write_text(json.dumps(data), encoding="utf-8")


def test_a_baseline_from_before_stacks_is_no_wall_of_failures(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    data = old_baseline(path)
    done = cli("check", "--baseline", "base.json")
    assert (done.returncode, done.stdout.count("note ")) == (0, 1)
    assert "before there were software stacks" in done.stdout
    assert "`--update` rewrites it" in done.stdout
    assert "repriced" in done.stdout
    assert "operations" not in done.stdout
    # what does not hang on the stack is judged as before
    (entry,) = data["runs"].values()
    entry["figures"]["flops"] *= 0.5
    save(path, data)
    done = cli("check", "--baseline", "base.json")
    assert done.returncode == 1
    assert "FAILED: FLOPs" in done.stdout
    assert cli("check", "--baseline", "base.json", "--update").returncode == 0
    assert "before there were" not in cli("check", "--baseline", "base.json").stdout


def test_an_old_baseline_of_an_estimator_without_stacks_is_judged_in_full(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    data = old_baseline(path, estimator="roofline")
    (run,) = check([], baseline=path).runs
    assert (run.ok, run.notes, run.causes) == (True, (), ())
    (entry,) = data["runs"].values()
    entry["figures"]["ttft_s"] *= 0.5
    save(path, data)
    (run,) = check([], baseline=path).runs
    assert not run.ok
