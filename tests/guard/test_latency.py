"""The measured gate: its decision on timings recorded on a busy machine, its bands, and the pytest plugin."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aimcost.errors import AimcostError, FileFormatError, InvalidValueError
from aimcost.guard import history
from aimcost.guard.bands import Band, Update, figure_of, load_bands, merged, paired_limit, save_bands
from aimcost.guard.latency import judge, judge_pairs, median_ratio, predict, shape_of
from aimcost.inputs.run import load_run

pytest_plugins = ("pytester",)

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDED = json.loads((ROOT / "tests" / "baselines" / "gate_timings.json").read_text(encoding="utf-8"))
SHAPE = {"tokens": 8, "layers": 2, "hidden": 64, "intermediate": 96, "heads": 4, "kv_heads": 2, "head_dim": 16}
HAS_BENCHMARK = importlib.util.find_spec("pytest_benchmark") is not None
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
ROUNDS = 15
_spec = importlib.util.spec_from_file_location("noise", Path(__file__).with_name("noise.py"))
assert _spec is not None
assert _spec.loader is not None
noise = importlib.util.module_from_spec(_spec)
sys.modules["noise"] = noise  # its dataclasses look themselves up
_spec.loader.exec_module(noise)


def update(*ratios: float, cpu: str = "") -> Update:
    return Update(cpu=cpu, ratios=ratios)


def band(*ratios: float) -> Band:
    return Band(reference=SHAPE, updates=(update(*ratios),))


def blocks(process: dict[str, Any], what: str, generator: random.Random, factor: float = 1.0) -> float:
    """Ratio of a measurement that begins anywhere in a process' recorded samples."""
    start = generator.randrange(len(process[what]) - ROUNDS)
    rows = slice(start, start + ROUNDS)
    return factor * median_ratio(process[what][rows], process["yardstick"][rows])


def recorded_run(processes: Any, what: str, generator: random.Random, factor: float = 1.0) -> tuple[float, ...]:
    """Ten processes, of blocks of the recorded ones."""
    return tuple(blocks(generator.choice(processes), what, generator, factor) for _ in range(10))


def recorded_band() -> Band:
    """What three updates in the first three processes would store."""
    generator = random.Random(0)
    processes = RECORDED["processes"][:3]
    updates = tuple(update(*recorded_run(processes, "prefill", generator)) for _ in range(3))
    return Band(reference=SHAPE, updates=updates)


def alarms(what: str, gates: int, seed: int, factor: float = 1.0) -> int:
    """Alarms of gates in the other processes."""
    generator, normal, count = random.Random(seed), recorded_band(), 0
    for _ in range(gates):
        run = recorded_run(RECORDED["processes"][3:], what, generator, factor)
        count += not judge(lambda run=run: run, normal, slowdown=0.05).ok
    return count


def test_no_false_alarms_on_timings_of_a_busy_machine() -> None:
    assert sum(alarms("prefill", 50, seed) for seed in range(4)) <= 2


def test_a_layer_in_ten_more_is_caught_on_timings_of_a_busy_machine() -> None:
    assert sum(alarms("slower", 50, seed) for seed in range(4)) >= 190


def test_ten_per_cent_are_caught_and_one_is_not() -> None:
    assert sum(alarms("prefill", 50, seed, 1.10) for seed in range(4)) >= 190
    assert sum(alarms("prefill", 50, seed, 1.01) for seed in range(4)) <= 10


def meets_the_bars(model: Any, gates: int, against: Any) -> None:
    outcome = against(model, (0.0, 0.10, 0.20), gates)
    assert outcome.alarms[0.0] <= max(0.01, 1 / gates)
    assert outcome.alarms[0.20] >= 0.95
    assert outcome.visible < 0.125
    if model.quiet:
        assert outcome.alarms[0.10] >= 0.90
    assert outcome.at_visible >= 0.80


@pytest.mark.parametrize("name", list(noise.MODELS)[::3])
def test_bars_on_simulated_noise(name: str) -> None:
    meets_the_bars(noise.MODELS[name], 60, noise.simulated)


@pytest.mark.check_all
@pytest.mark.parametrize("against", [noise.simulated, noise.simulated_pairs])
@pytest.mark.parametrize("name", noise.MODELS)
def test_bars_on_every_simulated_noise(name: str, against: Any) -> None:
    meets_the_bars(noise.MODELS[name], 2000, against)


@pytest.mark.check_all
@pytest.mark.parametrize("name", noise.MODELS)
def test_a_rise_is_seen_over_runs_and_rarely_where_there_is_none(name: str) -> None:
    found = noise.risen(noise.MODELS[name], 400)
    assert found.false <= 0.0135  # 0.4 % and three standard deviations of 400 draws
    assert found.after[5] >= 0.85


def test_a_slow_machine_is_no_regression() -> None:
    """Everything half as fast: the ratio does not see it, seconds would."""
    one = RECORDED["processes"][0]
    rows = slice(0, ROUNDS)
    slow = median_ratio([2 * s for s in one["prefill"][rows]], [2 * s for s in one["yardstick"][rows]])
    assert slow == pytest.approx(median_ratio(one["prefill"][rows], one["yardstick"][rows]))


def test_an_alarm_is_looked_at_again_where_attempts_say_so() -> None:
    given = iter([1.3, 1.2, 1.02, 1.0])
    normal = band(*[1.0] * 10)
    verdict = judge(lambda: [next(given)] * 10, normal, slowdown=0.05, attempts=3)
    assert verdict.ok
    assert [run[0] for run in verdict.runs] == [1.3, 1.2, 1.02]
    verdict = judge(lambda: [1.12] * 10, normal, slowdown=0.05)
    assert not verdict.ok
    assert verdict.slowdown == pytest.approx(0.12)


def test_a_limit_is_students_quantile_of_what_varies() -> None:
    """Three updates of equal processes: what is assumed alone, 1 % between processes and runs, six degrees of freedom.

    Processes (winsorized) have the variance 4·1 %² / (4 + 3·6), a figure of 7 of 10 that times 10/49; runs add
    4·(1 %² + figure) / 6, and a centre of three updates a third of that. t(0.996, 6) = 3.924.
    """
    same = Band(reference=SHAPE, updates=(update(*[1.0] * 10),) * 3)
    figure = 4 * 0.01**2 / 22 * 10 / 49
    error = math.sqrt(4 * (0.01**2 + figure) / 6 * (1 + 1 / 3))
    assert math.log(same.limit(0.0).ratio) == pytest.approx(3.924 * error, rel=0.01)
    assert same.limit(0.05).ratio == pytest.approx(1.05)
    assert same.limit(0.05).visible == pytest.approx(1.05 * math.exp(1.2816 * error) - 1, rel=1e-4)


def test_a_neighbour_of_some_processes_is_left_out() -> None:
    assert figure_of([1.0] * 7 + [1.5, 1.6, 3.0]) == pytest.approx(1.0)


def test_noisier_updates_and_processes_are_a_wider_band() -> None:
    processes = (1.0, 1.01, 0.99, 1.005, 0.995, 1.0, 1.01, 0.99, 1.0, 1.0)
    calm = Band(reference=SHAPE, updates=(update(*processes),) * 3)
    spread = Band(reference=SHAPE, updates=(update(*(ratio**6 for ratio in processes)),) * 3)
    levels = tuple(update(*(ratio * level for ratio in processes)) for level in (1.0, 1.06, 1.0))
    for wider in (spread, Band(reference=SHAPE, updates=levels)):
        assert wider.limit(0.0).ratio / wider.limit(0.0).center > calm.limit(0.0).ratio / calm.limit(0.0).center
        assert wider.limit(0.05).visible > calm.limit(0.05).visible


def test_a_limit_is_that_of_the_cpu_model() -> None:
    two = Band(reference=SHAPE, updates=(update(*[1.0] * 10, cpu="a"), update(*[1.08] * 10, cpu="b")))
    assert two.limit(0.05, cpu="a").center == pytest.approx(1.0)
    assert two.limit(0.05, cpu="b").center == pytest.approx(1.08)
    unknown = two.limit(0.05, cpu="c")
    assert not unknown.known_cpu
    assert unknown.ratio >= 1.12 * unknown.center
    assert band(1.0).limit(0.05, cpu="c").known_cpu  # files of before name none


def test_a_base_commit_is_compared_without_a_band() -> None:
    base = (1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 0.99, 1.0, 1.0, 1.0)
    assert judge_pairs(base, base, slowdown=0.05).ok
    assert not judge_pairs([1.1 * ratio for ratio in base], base, slowdown=0.05).ok
    assert judge_pairs([2 * ratio for ratio in base], [2 * ratio for ratio in base], slowdown=0.05).ok
    noisy = paired_limit(base, [ratio**8 for ratio in base], 0.0)
    calm = paired_limit(base, base, 0.0)
    assert noisy.ratio / noisy.center > calm.ratio / calm.center


def test_a_rise_is_called_from_runs_together() -> None:
    generator = random.Random(0)
    level = [1 + generator.gauss(0, 0.02) for _ in range(20)]
    assert history.rise_of(level) is None
    assert history.rise_of([1.0] * 30) is None
    assert history.rise_of([1.0] * 7 + [2.0] * 3) is None  # fewer than a test needs
    rise = history.rise_of([*level, *(1.06 * ratio for ratio in level[:6])])
    assert rise is not None
    assert rise.runs in (5, 6, 7)
    assert rise.by == pytest.approx(0.06, abs=0.02)
    assert rise.p <= history.ALARM
    assert history.rise_of([*level, *(0.9 * ratio for ratio in level[:6])]) is None


def test_a_history_is_of_one_test_one_cpu_and_one_band(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    assert history.load(file, "a", "x") == []
    for test, cpu, ratio in [("a", "x", 1.0), ("a", "y", 2.0), ("b", "x", 3.0)]:
        history.add(file, test, cpu, ratio)
    assert history.load(file, "a", "x") == [1.0]
    history.add(file, "a", "y", 1.5, update=True)
    history.add(file, "a", "x", 1.1)
    assert history.load(file, "a", "x") == [1.1]
    file.write_text(file.read_text(encoding="utf-8") + "{", encoding="utf-8")
    with pytest.raises(FileFormatError, match="line 6"):
        history.load(file, "a", "x")


def test_ratios_need_pairs() -> None:
    with pytest.raises(InvalidValueError):
        median_ratio([1.0], [])
    with pytest.raises(InvalidValueError):
        median_ratio([1.0], [0.0])


def test_updates_widen_before_they_replace() -> None:
    def grown(*levels: float) -> list[float]:
        result: Band | None = None
        for level in levels:
            result = merged(result, SHAPE, update(*[level] * 10), 0.05)
        assert result is not None
        return [each.ratios[0] for each in result.updates]

    # how runs differ is what updates teach
    assert grown(1.0, 1.06, 1.0) == [1.0, 1.06, 1.0]
    assert grown(1.0, 1.2, 1.0, 1.2) == [1.0, 1.2, 1.0, 1.2]
    # two in a row are a new normal, up or down
    assert grown(1.0, 1.01, 0.8) == [1.0, 1.01, 0.8]
    assert grown(1.0, 1.01, 0.8, 0.8) == [0.8, 0.8]
    assert grown(1.0, 1.0, 1.3, 1.31) == [1.3, 1.31]
    assert grown(1.0, 1.0, 1.3, 2.0) == [1.0, 1.0, 1.3, 2.0]
    assert len(grown(*[1.0] * 20)) == 12


def test_bands_are_written_as_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    first = Band(reference=SHAPE, updates=(update(1.0, 1.01, cpu="x"), update(0.99)))
    save_bands(file, {"b": first, "a": band(2.0)})
    text = file.read_bytes()
    assert load_bands(file) == {"a": band(2.0), "b": first}
    save_bands(file, load_bands(file))
    assert file.read_bytes() == text
    assert load_bands(tmp_path / "none.json") == {}


def test_bands_of_before_are_one_update(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    old = {"schema_version": 1, "bands": {"a": {"ratios": [1.0, 1.02, 0.98], "yardstick": SHAPE}}}
    file.write_text(json.dumps(old), encoding="utf-8")
    assert load_bands(file) == {"a": band(1.0, 1.02, 0.98)}
    save_bands(file, load_bands(file))
    assert json.loads(file.read_text(encoding="utf-8"))["schema_version"] == 2
    assert load_bands(file) == {"a": band(1.0, 1.02, 0.98)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema_version": 3, "bands": {}}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "bands": {"a": {"ratios": [1.0]}}}',
        json.dumps({"schema_version": 1, "bands": {"a": {"ratios": [], "yardstick": SHAPE}}}),
        json.dumps({"schema_version": 2, "bands": {"a": {"updates": [], "yardstick": SHAPE}}}),
        json.dumps({"schema_version": 2, "bands": {"a": {"updates": [{"ratios": [1.0]}], "yardstick": SHAPE}}}),
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

@pytest.mark.latency_budget("run.yaml", name="loop", rounds=9, processes=2, slowdown=1.0)
def test_loop(aimcost):
    aimcost.check(prefill=loop(400))

@pytest.mark.latency_budget("run.yaml", name="model", rounds=9, processes=1, slowdown=3.0, within=1000.0)
def test_model(aimcost):
    aimcost.check()
"""
LOOP = """
@pytest.mark.latency_budget("run.yaml", name="loop", rounds=9, processes=2, slowdown=1.0)
def test_loop(aimcost):
    aimcost.check(prefill=loop({steps}))
"""
FAILING = """
@pytest.mark.latency_budget("run.yaml", name="loop", rounds=9, processes=1, slowdown=1.0)
def test_slower(aimcost):
    aimcost.check(prefill=loop(4000))

@pytest.mark.latency_budget("run.yaml", name="loop", rounds=9, processes=1, slowdown=1.0, within=1e-9)
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
    assert [len(each.ratios) for name in ("loop", "model") for each in held[name].updates] == [2, 1]
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


@needs_benchmark
@needs_torch
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.check_all
def test_a_commit_is_compared_with_its_base(inner: Any, pytester: pytest.Pytester) -> None:
    test = pytester.makepyfile(test_gate=INNER.split("@pytest.mark.latency_budget", 2)[0] + LOOP.format(steps=400))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        subprocess.run([*git, *arguments], cwd=pytester.path, check=True)
    result = inner("--aimcost-base=HEAD", "--aimcost-history=h.jsonl")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*limit +*; a slowdown of * shows nine times in ten*"])
    assert len((pytester.path / "h.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    test.write_text(test.read_text(encoding="utf-8").replace("loop(400)", "loop(4000)"), encoding="utf-8")
    result = inner("--aimcost-base=HEAD")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*slower than the base commit*"])
    inner("--aimcost-base=nowhere").stdout.fnmatch_lines(["*latency gate: git worktree add: *nowhere*"])
    trees = subprocess.run(["git", "worktree", "list"], cwd=pytester.path, capture_output=True, text=True, check=True)
    assert len(trees.stdout.splitlines()) == 1


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
