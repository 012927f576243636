"""Timing a tiny model for real: what is recorded, what is refused, what a killed run leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from aimcost.errors import AimcostError
from aimcost.inputs.run import load_run
from aimcost.measure.measure import measure_run
from aimcost.measure.probe import Probe
from aimcost.measure.records import RecordWriter, Sample, load_record
from aimcost.measure.subject import build, prompt_of
from aimcost.measure.validate import compare_record
from aimcost.measure.validate.measuring import load_runs, measure_validation, read_profile
from aimcost.runtime import executor
from aimcost.runtime.families import locate
from aimcost.runtime.timing import Stopwatch

ROOT = Path(__file__).resolve().parents[2]
VIDEO = {
    "model_type": "llava_onevision",
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 200,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 84,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "image_grid_pinpoints": [[84, 84]],
    "image_token_index": 191,
    "video_token_index": 190,
    "image_token_id": 191,
    "video_token_id": 190,
}


def by_op(samples: tuple[Sample, ...]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.op, []).append(sample)
    return found


def test_every_part_of_a_run_is_timed_on_the_tokens_it_had(document: dict[str, Any]) -> None:
    run = load_run({**document, "workload": {**document["workload"], "new_tokens": 3}})
    found = by_op(measure_run(run, repeats=2, label="x"))
    assert set(found) == {"prefill", "layer", "selection", "group", "decode"}
    layers = {s.labels["variant"]: [] for s in found["layer"]}
    for s in found["layer"]:
        layers[s.labels["variant"]].append(s.dims["tokens"])
    assert layers == {"dense": [60, 60, 60, 60], "reduced": list(run.schedule.tokens)}
    (selection,) = found["selection"]
    assert (selection.dims["layer"], selection.dims["tokens_out"]) == (1, 40)
    assert {s.dims["steps"] for s in found["decode"]} == {2}
    # the parts of layers are timed in one pass of their own
    assert {len(s.samples_s) for op in found for s in found[op]} == {1, 2}
    assert {len(s.samples_s) for s in found["group"]} == {1}
    everything = [s for samples in found.values() for s in samples]
    assert {(s.clock, s.dtype, s.labels["run"]) for s in everything} == {("thread_cpu", "fp32", "x")}


def test_parts_lie_inside_what_they_are_parts_of(document: dict[str, Any]) -> None:
    found = by_op(measure_run(load_run(document), repeats=1))
    for variant in ("dense", "reduced"):

        def seconds(op: str, variant: str = variant) -> list[float]:
            return [s.samples_s[0] for s in found[op] if s.labels["variant"] == variant]

        (prefill,) = seconds("prefill")
        assert 0 < sum(seconds("layer")) < prefill
        assert all(part > 0 for part in seconds("group"))
    (selection,) = found["selection"]
    cut = next(s for s in found["layer"] if s.labels["variant"] == "reduced" and s.dims["layer"] == 1)
    assert 0 < selection.samples_s[0] < cut.samples_s[0]


def test_a_video_has_tower_projector_and_merging() -> None:
    run = load_run(
        {
            "model": VIDEO,
            "workload": {"frames": 3, "text_tokens": {"system": 4, "question": 9}},
            "method": {"name": "aim", "merge_ratio": 0.5},
            "precision": {"weights": "fp32", "activations": "fp32", "kv": "fp32"},
        }
    )
    found = by_op(measure_run(run, repeats=1))
    assert {"vision", "projector", "merge", "ttft", "prefill"} <= set(found)
    total = next(s for s in found["ttft"] if s.labels["variant"] == "reduced").samples_s[0]
    parts = [
        next(s for s in found[op] if s.labels["variant"] == "reduced").samples_s[0]
        for op in ("vision", "projector", "merge", "prefill")
    ]
    assert all(part > 0 for part in parts)
    assert sum(parts) < total
    assert [s.labels["variant"] for s in found["merge"]] == ["reduced"]


def test_the_probe_leaves_the_model_as_it_found_it() -> None:
    precision = {"weights": 32, "activations": 32, "kv": 32}
    run = load_run({"model": VIDEO, "workload": {"frames": 2, "text_tokens": 9}, "precision": precision})
    model = build(run, "cpu")
    family = locate(model)
    prompt = prompt_of(run, model)
    with torch.inference_mode():
        model(**prompt.inputs)  # transformers keeps notes of its own on the first pass
    modules = list(model.modules())
    before = [(len(m._forward_pre_hooks), len(m._forward_hooks), set(vars(m))) for m in modules]
    seconds: dict[tuple[str, int], float] = {}

    def timed_and_failed() -> None:
        with Probe(family, Stopwatch("cpu"), groups=True) as probe, torch.inference_mode():
            seconds.update(probe.time(lambda: model(**prompt.inputs)))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        timed_and_failed()
    assert seconds["vision", 0] > 0
    assert [(len(m._forward_pre_hooks), len(m._forward_hooks), set(vars(m))) for m in modules] == before


@pytest.mark.parametrize("method", ["pyramiddrop", "fastv", "dart", "sparsevlm", "vtw", "divprune"])
def test_methods_of_every_kind_are_timed(document: dict[str, Any], method: str) -> None:
    """One that looks at the next layer's queries runs parts of it twice: they count as selection alone."""
    run = load_run({**document, "method": {"name": method}})
    found = by_op(measure_run(run, repeats=1))
    tokens = [s.dims["tokens"] for s in found["layer"] if s.labels["variant"] == "reduced"]
    assert tokens == list(run.schedule.tokens)
    assert len(found.get("selection", [])) == len(run.schedule.layer_events)
    parts = sum(s.samples_s[0] for s in found["group"] if s.labels["variant"] == "reduced")
    assert parts > 0


def test_a_masked_run_computes_on_every_token(document: dict[str, Any]) -> None:
    found = by_op(measure_run(load_run({**document, "implementation": "masked"}), repeats=1))
    assert {s.dims["tokens"] for s in found["layer"]} == {60}


def test_what_is_timed_is_what_apply_runs(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reduced passes go through the executor, the dense ones do not."""
    entered = []
    enter = executor.Applied.__enter__
    monkeypatch.setattr(executor.Applied, "__enter__", lambda self: entered.append(self) or enter(self))
    measure_run(load_run(document), repeats=3)
    assert len(entered) == 1 + 3 + 1  # one to warm up, one for the parts
    assert all(applied.record.tokens == (60, 60, 40, 40) for applied in entered)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": {"weights": 8, "activations": 16, "kv": 16}}, "fp32, bf16, fp16 throughout"),
        ({"parallel": {"tp": 2}}, "one device"),
        ({"attention": "eager"}, "flash"),
        ({"execution": "cuda_graph"}, "eager"),
        ({"method": {"name": "cdpruner"}}, "ranks with CLIP's text tower"),
    ],
)
def test_runs_that_cannot_be_executed_are_refused_first(
    document: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    seeing = {"model": "llava-1.5-7b", "workload": {"images": 1}}
    base = {**document, **seeing} if "method" in changes else document
    with pytest.raises(AimcostError, match=says):
        measure_run(load_run({**base, **changes}))


def test_without_a_gpu_cuda_is_refused_in_one_line(cli: Any, document: dict[str, Any], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    done = cli("validate", "run.yaml", "--device", "cuda", "-o", "record.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "'device' must be 'cpu': " in done.stderr
    assert not (tmp_path / "record.json").exists()


def test_what_the_model_cannot_do_is_refused_before_anything_is_measured(
    document: dict[str, Any], tmp_path: Path
) -> None:
    runs = {"fine": load_run(document), "not": load_run({**document, "method": {"name": "visionzip"}})}
    with pytest.raises(AimcostError, match="cls_attention"):
        measure_validation(runs, path=tmp_path / "record.json")
    assert not (tmp_path / "record.json").exists()


def test_running_out_of_memory_is_noted_and_the_rest_kept(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, make_record: Any, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("too much")

    run = load_run({**document, "workload": {**document["workload"], "new_tokens": 3}})
    monkeypatch.setattr("aimcost.measure.measure.time_decode", refuse)
    writer = RecordWriter(tmp_path / "record.json", make_record(finished=None))
    samples = measure_run(run, repeats=1, label="tiny", writer=writer)
    assert {"prefill", "layer"} <= {s.op for s in samples}
    kept = load_record(tmp_path / "record.json")
    assert kept.samples == samples
    assert any("tiny: out of memory" in note for note in kept.notes)
    with pytest.raises(torch.OutOfMemoryError):
        measure_run(run, repeats=1)


@pytest.fixture
def folder(tmp_path: Path, document: dict[str, Any], profile: dict[str, Any]) -> Path:
    """A run file and a profile file."""
    for name, content in (("first", document), ("second", document), ("machine", profile)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path


def test_the_record_gives_the_digits_of_the_comparison_that_was_printed(folder: Path) -> None:
    path = folder / "record.json"
    record = measure_validation(
        load_runs([folder / "first.yaml"]), profile=folder / "machine.yaml", repeats=1, path=path
    )
    online = compare_record(record)
    for name in ("first.yaml", "machine.yaml"):
        (folder / name).unlink()  # the record needs neither
    assert json.dumps(compare_record(load_record(path)).to_dict()) == json.dumps(online.to_dict())
    assert record.complete
    assert {p.repeats for p in online.points} == {2}  # one in each of two rounds
    assert len({p.part for p in online.points}) == 4
    assert json.loads(json.dumps(record.settings)) == record.settings


def test_a_profile_in_pieces_is_put_together(tmp_path: Path, profile: dict[str, Any]) -> None:
    tables = {"gemm/bf16": {}}
    (tmp_path / "tables.json").write_text(json.dumps(tables), encoding="utf-8")
    block = {**profile["calibration"], "tables": "tables.json"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**profile, "calibration": block}), encoding="utf-8")
    assert read_profile(tmp_path / "mine.yaml")["calibration"]["tables"] == tables


def test_two_runs_of_one_name_are_refused(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "first.yaml").write_text((folder / "first.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(AimcostError, match="distinct"):
        load_runs([folder / "first.yaml", other / "first.yaml"])


@pytest.mark.check
def test_a_killed_run_leaves_a_record_that_compares(folder: Path) -> None:
    command = [sys.executable, "-m", "aimcost", "validate", "first.yaml", "second.yaml"]
    command += ["--profile", "machine.yaml", "--repeats", "60", "-o", "record.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    path = folder / "record.json"
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not (path.exists() and '"prefill"' in path.read_text(encoding="utf-8")):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    record = load_record(path)
    assert not record.complete
    comparison = compare_record(record)
    assert {p.run for p in comparison.points} == {"first"}
    assert any("not measured: second" in note for note in comparison.notes)
