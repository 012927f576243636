"""The measured gate: its decision on timings recorded on a busy machine, its bands, and the pytest plugin."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from aimcost.errors import AimcostError, FileFormatError, InvalidValueError
from aimcost.guard.bands import Band, load_bands, merged, save_bands
from aimcost.guard.latency import judge, median_ratio, predict, shape_of
from aimcost.inputs.run import load_run

pytest_plugins = ("pytester",)

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDED = json.loads((ROOT / "tests" / "baselines" / "gate_timings.json").read_text(encoding="utf-8"))
SHAPE = {"tokens": 8, "layers": 2, "hidden": 64, "intermediate": 96, "heads": 4, "kv_heads": 2, "head_dim": 16}
HAS_BENCHMARK = importlib.util.find_spec("pytest_benchmark") is not None
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
ROUNDS = 15


def band(*ratios: float) -> Band:
    return Band(reference=SHAPE, ratios=ratios)


def blocks(process: dict[str, Any], what: str, generator: random.Random, factor: float = 1.0) -> Iterator[float]:
    """Ratios of measurements that begin anywhere in a process' recorded samples."""
    while True:
        start = generator.randrange(len(process[what]) - ROUNDS)
        rows = slice(start, start + ROUNDS)
        yield factor * median_ratio(process[what][rows], process["yardstick"][rows])


def recorded_band() -> Band:
    """What `--aimcost-update` in three of the processes would store."""
    generator = random.Random(0)
    ratios = [next(blocks(process, "prefill", generator)) for process in RECORDED["processes"][:3] for _ in range(5)]
    return band(*ratios)


def alarms(what: str, gates: int, seed: int, factor: float = 1.0) -> int:
    """Alarms of gates in the other processes."""
    generator, normal, count = random.Random(seed), recorded_band(), 0
    for _ in range(gates):
        ratios = blocks(generator.choice(RECORDED["processes"][3:]), what, generator, factor)
        count += not judge(lambda ratios=ratios: next(ratios), normal, slowdown=0.05).ok
    return count


def test_no_false_alarms_on_timings_of_a_busy_machine() -> None:
    assert statistics.mean(alarms("prefill", 200, seed) for seed in range(20)) <= 2


def test_a_layer_in_ten_more_is_caught_on_timings_of_a_busy_machine() -> None:
    assert statistics.mean(alarms("slower", 100, seed) for seed in range(20)) >= 95


def test_ten_per_cent_are_caught_and_one_is_not() -> None:
    assert statistics.mean(alarms("prefill", 100, seed, 1.10) for seed in range(20)) >= 95
    assert statistics.mean(alarms("prefill", 100, seed, 1.01) for seed in range(20)) <= 5


def test_a_slow_machine_is_no_regression() -> None:
    """Everything half as fast: the ratio does not see it, seconds would."""
    one = RECORDED["processes"][0]
    rows = slice(0, ROUNDS)
    slow = median_ratio([2 * s for s in one["prefill"][rows]], [2 * s for s in one["yardstick"][rows]])
    assert slow == pytest.approx(median_ratio(one["prefill"][rows], one["yardstick"][rows]))


def test_an_alarm_is_looked_at_again() -> None:
    given = iter([1.3, 1.2, 1.02, 1.0])
    verdict = judge(lambda: next(given), band(1.0, 1.0), slowdown=0.05)
    assert verdict.ok
    assert verdict.ratios == (1.3, 1.2, 1.02)
    verdict = judge(lambda: 1.08, band(1.0, 1.0), slowdown=0.05, attempts=4)
    assert not verdict.ok
    assert len(verdict.ratios) == 4
    assert verdict.slowdown == pytest.approx(0.08)


def test_a_noisy_band_is_wider() -> None:
    assert band(1.0, 1.001, 0.999).limit(0.05) == pytest.approx(1.05)
    assert band(0.95, 1.0, 1.05).limit(0.05) == pytest.approx(1.0 + 3 * 1.4826 * 0.05)


def test_ratios_need_pairs() -> None:
    with pytest.raises(InvalidValueError):
        median_ratio([1.0], [])
    with pytest.raises(InvalidValueError):
        median_ratio([1.0], [0.0])


def test_bands_are_added_to_or_replaced(tmp_path: Path) -> None:
    first = merged(None, SHAPE, [1.0, 1.01, 0.99], 0.05)
    assert merged(first, {}, [1.0, 1.02], 0.05).ratios == (1.0, 1.01, 0.99, 1.0, 1.02)
    # a new kernel is a new normal; the reference kernel stays what it was
    assert merged(first, {}, [0.8, 0.8], 0.05) == band(0.8, 0.8)
    assert len(merged(first, {}, [1.0] * 60, 0.05).ratios) == 40
    save_bands(tmp_path / "b.json", {"b": first, "a": band(2.0)})
    text = (tmp_path / "b.json").read_bytes()
    assert load_bands(tmp_path / "b.json") == {"a": band(2.0), "b": first}
    save_bands(tmp_path / "b.json", load_bands(tmp_path / "b.json"))
    assert (tmp_path / "b.json").read_bytes() == text
    assert load_bands(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema_version": 2, "bands": {}}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "bands": {"a": {"ratios": [1.0]}}}',
        json.dumps({"schema_version": 1, "bands": {"a": {"ratios": [], "yardstick": SHAPE}}}),
        json.dumps({"schema_version": 1, "bands": {"a": {"ratios": [-1.0], "yardstick": SHAPE}}}),
        json.dumps({"schema_version": 1, "bands": {"a": {"ratios": [1.0], "yardstick": {**SHAPE, "layers": 0}}}}),
        '{"schema_version": 1, "bands": {"a": {"ratios": [NaN], "yardstick": {}}}}',
    ],
)
def test_damaged_bands_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError) as caught:
        load_bands(tmp_path / "b.json")
    assert "b.json" in str(caught.value)
    assert "\n" not in str(caught.value)


RUN = {
    "model": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    },
    "workload": {"visual_tokens": 40, "text_tokens": {"system": 4, "question": 12}},
    "method": {"name": "aim", "merge_ratio": 1.0, "l1": 1, "l2": 3},
    "precision": {"weights": 32, "activations": 32, "kv": 32},
    "hardware": {"name": "any", "memory_gb_per_s": 20, "dense_tflops": {"fp32": 0.1}},
    "estimator": "roofline",
}


def test_the_reference_kernel_has_the_runs_shape_and_is_priced_like_it() -> None:
    run = load_run({**RUN, "method": {"name": "none"}})
    shape = shape_of(run)
    assert shape == {**SHAPE, "tokens": 56, "layers": 4}
    prediction = predict(run, shape)
    # the same decoder but for embedding and lm_head
    assert prediction is not None
    assert 0.95 < prediction.ratio < 1.3
    assert prediction.deviation(prediction.ratio * 1.1) == pytest.approx(0.1)
    assert predict(load_run({k: v for k, v in RUN.items() if k != "hardware"}), shape) is None


PROBE = """
import sys
before = set(sys.modules)
import aimcost.pytest_plugin
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""


def test_the_plugin_imports_the_standard_library_alone() -> None:
    code = "import pytest\n" + PROBE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "['aimcost']"


INNER = """
import pytest

def loop(steps):
    import torch

    a = torch.ones(96, 96)

    def prefill():
        for _ in range(steps):
            a @ a

    return prefill

@pytest.mark.latency_budget("run.yaml", name="loop", rounds=9, slowdown=1.0)
def test_loop(aimcost):
    aimcost.check(prefill=loop(400))

@pytest.mark.latency_budget("run.yaml", name="model", rounds=9, slowdown=3.0, within=1000.0)
def test_model(aimcost):
    aimcost.check()
"""
FAILING = """
@pytest.mark.latency_budget("run.yaml", name="loop", rounds=9, slowdown=1.0)
def test_slower(aimcost):
    aimcost.check(prefill=loop(4000))

@pytest.mark.latency_budget("run.yaml", name="loop", rounds=9, slowdown=1.0, within=1e-9)
def test_off_the_prediction(aimcost):
    aimcost.check(prefill=loop(400))

@pytest.mark.latency_budget("run.yaml", name="new")
def test_no_band(aimcost):
    aimcost.check(prefill=loop(1))

@pytest.mark.latency_budget("none.yaml")
def test_no_file(aimcost):
    aimcost.check()

def test_no_run(aimcost):
    aimcost.check()

@pytest.mark.latency_budget("run.yaml", slow=1)
def test_no_such_option(aimcost):
    aimcost.check()
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """pytest on tests of the gate, in a process of its own; the plugin is loaded once, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    installed = {point.value for point in importlib.metadata.entry_points(group="pytest11")}
    load = [] if "aimcost.pytest_plugin" in installed else ["-p", "aimcost.pytest_plugin"]
    pytester.makefile(".yaml", run=yaml.safe_dump(RUN))
    pytester.makepyfile(test_gate=INNER)

    def call(*arguments: str) -> Any:
        return pytester.runpytest_subprocess(*load, "-p", "no:cacheprovider", "--strict-markers", *arguments)

    return call


needs_benchmark = pytest.mark.skipif(not HAS_BENCHMARK, reason="needs pytest-benchmark")
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs torch and transformers")


def test_without_pytest_benchmark_it_skips(inner: Any) -> None:
    result = inner("-p", "no:benchmark", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*pytest-benchmark: pip install*"])


@needs_torch
@needs_benchmark
def test_with_benchmarks_disabled_it_skips(inner: Any) -> None:
    result = inner("--benchmark-disable", "-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*benchmarks are disabled*"])


@needs_benchmark
def test_without_torch_it_skips_and_names_the_extra(inner: Any, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import sys\nsys.modules['torch'] = None\n")
    result = inner("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*pip install 'aimcost?torch?'*"])


@needs_benchmark
@needs_torch
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.check
def test_bands_are_measured_kept_and_guarded(inner: Any, pytester: pytest.Pytester) -> None:
    bands = pytester.path / "latency_bands.json"
    inner("--aimcost-update").assert_outcomes(passed=2)
    first, held = bands.read_bytes(), load_bands(bands)
    assert [len(held[name].ratios) for name in ("loop", "model")] == [5, 5]
    assert held["model"].reference == shape_of(load_run(RUN))
    pytester.makepyfile(test_gate=INNER + FAILING)
    result = inner("--benchmark-json=out.json")
    result.assert_outcomes(passed=2, failed=5, errors=1)
    for line in (
        "*slower than its band*",
        "*off the prediction*",
        "*no noise band for 'new'*--aimcost-update*",
        "*no such file: none.yaml*",
        "*run' must be given*",
        "*latency_budget has no 'slow'*",
    ):
        result.stdout.fnmatch_lines([line])
    assert bands.read_bytes() == first
    (entry,) = (
        one
        for one in json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))["benchmarks"]
        if one["name"] == "test_model"
    )
    assert entry["stats"]["rounds"] == 9
    info = entry["extra_info"]["aimcost"]
    assert info["ratio"] <= info["limit"]
    assert info["predicted_ratio"] > 0
    bands.write_text("{", encoding="utf-8")
    inner("--aimcost-update", "-k", "test_loop").assert_outcomes(failed=1)
    assert bands.read_text(encoding="utf-8") == "{"


@needs_torch
@pytest.mark.torch
def test_the_real_prefill_runs_what_the_schedule_says() -> None:
    import torch

    from aimcost.runtime.compat import cache_of

    gate = importlib.import_module("aimcost.measure.gate")
    run = load_run(RUN)
    with gate.single_thread():
        assert torch.get_num_threads() == 1
        once = gate.prefill_of(RUN["model"], run.schedule)
        lengths = {cache.shape[2] for layer in cache_of(once()).layers for cache in [layer.keys]}
        assert lengths == set(run.schedule.tokens)
        assert gate.reference_kernel(shape_of(run))().shape == (1, shape_of(run)["tokens"], 64)


@needs_torch
@pytest.mark.torch
def test_methods_that_read_the_tower_are_refused() -> None:
    gate = importlib.import_module("aimcost.measure.gate")
    run = load_run({"model": "llava-1.5-7b", "workload": {"images": 1}, "method": {"name": "prumerge"}})
    with pytest.raises(AimcostError, match="tower"):
        gate.prefill_of({}, run.schedule)
