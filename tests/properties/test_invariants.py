"""What must hold whatever prices the run: every estimator that is found, the calibrated one included."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aimcost
from aimcost.inputs import discover
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.model import load_model
from aimcost.pricing.priced import BOUNDS
from aimcost.types.stages import STAGES

from . import grids

ESTIMATORS = discover.estimator_names()
FIXED = settings(max_examples=25, derandomize=True, deadline=None, database=None)
H100, A100 = "nvidia_h100_sxm", "nvidia_a100_sxm_40gb"
# Measured products dip a little where a library changes its kernel; counts and bounds never do.
DIP = {"calibrated": 0.02}
CONTRACT = {
    "": {
        "schema_version",
        "model",
        "hardware",
        "estimator",
        "notes",
        "totals",
        "stages",
        "layers",
        "ops",
        "memory",
    },
    "totals": {"flops", "bytes", "time_s", "time_low_s", "time_high_s", "extrapolated"},
    "stages": set(STAGES),
    "layers": {"index", "tokens", "flops", "bytes", "time_s", "bound"},
    "ops": {"stage", "layer", "name", "flops", "bytes", "time_s", "bound"},
    "memory": {"weights_bytes", "kv_bytes", "peak_bytes"},
}
# One prompt for each way of giving visual tokens; a method that has nothing to work on names it.
PROMPTS: dict[str, dict[str, Any]] = {
    "video": {"model": "llava-onevision-qwen2-7b", "workload": {"frames": 8, "text_tokens": 60, "new_tokens": 3}},
    "image": {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 60, "new_tokens": 3}},
    "tokens": {"model": "qwen3-8b", "workload": {"visual_tokens": 900, "text_tokens": {"system": 20, "question": 40}}},
}
REQUIRED: dict[str, dict[str, Any]] = {
    "explicit": {"tokens_per_layer": [[500, 3], [300, 7]], "select": "aim"},
    "pre_llm": {"ratio": 0.5},
}


def method_of(name: str, layers: int) -> dict[str, Any]:
    if name == "explicit":
        return {"name": name, "tokens_per_layer": [[500, 3], [300, 7], [60, layers - 10]], "select": "aim"}
    return {"name": name, **REQUIRED.get(name, {})}


def numbers(value: Any) -> Iterator[float]:
    left = [value]
    while left:
        one = left.pop()
        if type(one) is dict:
            left += one.values()
        elif type(one) is list:
            left += one
        elif type(one) in (int, float):
            yield float(one)


def check(document: dict[str, Any]) -> None:
    """The contract's keys, finite and non-negative figures, sums of sums, a band around the time."""
    json.dumps(document, allow_nan=False)
    assert all(number >= 0 and math.isfinite(number) for number in numbers(document))
    for key, wanted in CONTRACT.items():
        part = document[key] if key else document
        for entry in part if isinstance(part, list) else [part]:
            assert wanted <= entry.keys(), key
    for stage in document["stages"].values():
        assert {"flops", "bytes", "time_s"} <= stage.keys()
    assert {"steps", "tpot_s"} <= document["stages"]["decode"].keys()
    assert [layer["index"] for layer in document["layers"]] == list(range(len(document["layers"])))
    assert {entry["bound"] for entry in document["ops"] + document["layers"]} <= set(BOUNDS)
    for key in ("flops", "bytes", "time_s"):
        whole = sum(document["stages"][name][key] for name in document["included"])
        assert document["totals"][key] == pytest.approx(whole, rel=1e-9)
        by_stage = dict.fromkeys(document["stages"], 0.0)
        outside = 0.0
        for op in document["ops"]:
            by_stage[op["stage"]] += op[key]
            if op["stage"] == "prefill" and op["layer"] is None:
                outside += op[key]
        stages = {name: stage[key] for name, stage in document["stages"].items()}
        assert stages == pytest.approx(by_stage, rel=1e-9)
        in_layers = sum(layer[key] for layer in document["layers"])
        assert in_layers + outside == pytest.approx(document["stages"]["prefill"][key], rel=1e-9)
    for op in document["ops"]:
        assert op["time_s"] > 0
        if "flops_full_square" in op and document["estimator"] != "llm_viewer":  # which adds its softmax
            assert op["flops_full_square"] >= op["flops"] or op["name"] == "softmax"
    totals = document["totals"]
    assert totals["time_low_s"] <= totals["time_s"] * (1 + 1e-9)
    assert totals["time_high_s"] is None or totals["time_high_s"] >= totals["time_s"] * (1 - 1e-9)
    assert document["memory"]["peak_bytes"] >= document["memory"]["weights_bytes"] + document["memory"]["kv_bytes"]


@pytest.mark.parametrize(
    "estimator", [pytest.param(name, marks=[] if name == "calibrated" else [pytest.mark.check]) for name in ESTIMATORS]
)
@pytest.mark.parametrize("method", discover.method_names())
def test_every_method_under_every_estimator(method: str, estimator: str) -> None:
    priced = 0
    for prompt in PROMPTS.values():
        layers = len(aimcost.schedule(prompt).tokens)
        run = {**prompt, "method": method_of(method, layers), "hardware": A100, "estimator": estimator}
        try:
            estimate = aimcost.estimate(run)
        except aimcost.errors.AimcostError:
            continue  # said in one line, and tested elsewhere: no frames, no class token, …
        priced += 1
        document = estimate.to_dict()
        check(document)
        schedule = estimate.run.schedule
        tokens = [layer["tokens"] for layer in document["layers"]]
        assert tokens == list(schedule.tokens)
        assert all(later <= earlier for earlier, later in itertools.pairwise(tokens))
        reductions = {op["name"] for op in document["ops"]} & {"score", "select", "gather", "merge"}
        assert bool(reductions) == (bool(schedule.events) and estimator != "llm_viewer")
    assert priced


@pytest.mark.parametrize("name", grids.cards())
def test_every_profile_under_every_estimator(name: str) -> None:
    run = {"model": "qwen2-0.5b", "workload": {"visual_tokens": 600, "text_tokens": 50, "new_tokens": 3}}
    run |= {"method": {"name": "aim"}, "hardware": name}
    for estimator, bits in itertools.product(ESTIMATORS, (16, 4)):
        precision = {"weights": bits, "activations": 16, "kv": max(bits, 8)}
        check(aimcost.estimate({**run, "estimator": estimator, "precision": precision}).to_dict())


@pytest.mark.parametrize("name", grids.models())
def test_every_model_under_every_estimator(name: str) -> None:
    run = {"model": name, "workload": {"visual_tokens": 300, "text_tokens": 60, "new_tokens": 2}, "hardware": H100}
    decoder = load_model(name).decoder
    for estimator in ESTIMATORS:
        if estimator == "llm_viewer" and (decoder.cross_layers or decoder.moe is not None):
            continue  # refused in one line: LLM-Viewer knows neither
        check(aimcost.estimate({**run, "estimator": estimator}).to_dict())


DECODER = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 12,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 5000,
}


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Modes of execution, implementation, precision and several devices, which other files hold fixed."""
    method = draw(st.sampled_from(["none", "aim", "fastv", "pyramiddrop", "vtw", "prumerge_plus", "sparsevlm"]))
    bits = st.sampled_from([16, 8, 4])
    return {
        "model": {**DECODER, "num_attention_heads": 14, "num_key_value_heads": draw(st.sampled_from([2, 14]))},
        "workload": {
            "batch": draw(st.integers(1, 8)),
            "visual_tokens": draw(st.integers(900, 6000)),
            "text_tokens": draw(st.integers(1, 200)),
            "new_tokens": draw(st.integers(0, 5)),
        },
        "method": {"name": method},
        "precision": {"weights": draw(bits), "activations": draw(st.sampled_from([16, 8])), "kv": draw(bits)},
        "attention": draw(st.sampled_from(["flash", "eager"])),
        "execution": draw(st.sampled_from(["eager", "compiled", "cuda_graph"])),
        "implementation": draw(st.sampled_from(["fused", "eager", "masked"])),
        "parallel": {"tp": draw(st.sampled_from([1, 2])), "pp": draw(st.sampled_from([1, 3]))},
        "hardware": draw(st.sampled_from([A100, H100])),
        "estimator": draw(st.sampled_from([name for name in ESTIMATORS if name != "llm_viewer"])),
    }


@FIXED
@given(runs())
def test_figures_add_up(run: dict[str, Any]) -> None:
    before = copy.deepcopy(run)
    document = aimcost.estimate(run).to_dict()
    check(document)
    assert run == before, "the caller's mapping is left alone"
    assert aimcost.estimate(run).to_dict() == document


@FIXED
@given(runs(), st.integers(2, 9))
def test_a_batch_is_as_many_requests(run: dict[str, Any], factor: int) -> None:
    one, many = (aimcost.estimate(run, workload={"batch": batch}) for batch in (1, factor))
    for small, large in zip(one.ops(), many.ops(), strict=True):
        times = 1 if small["name"] == "dequantize_weights" else factor
        assert large["flops"] == pytest.approx(times * small["flops"], rel=1e-9)
        assert small["bytes"] <= large["bytes"] * (1 + 1e-12) <= factor * small["bytes"] * (1 + 1e-9)
    assert many.memory.kv_bytes == pytest.approx(factor * one.memory.kv_bytes, rel=1e-12)
    # up to the first token as a whole: a host ahead of the device in one stage gains in the next
    for low, high in ((one.ttft_s, many.ttft_s), (one.stages["decode"].time_s, many.stages["decode"].time_s)):
        assert low <= high * (1 + DIP.get(run["estimator"], 1e-9))
        # computed together, requests take no longer than one after another, but for uneven waves
        assert high <= factor * low * 1.05


@FIXED
@given(runs())
def test_no_faster_than_the_lower_bound(run: dict[str, Any]) -> None:
    bound, estimate = (aimcost.estimate({**run, "estimator": name}) for name in ("roofline", run["estimator"]))
    hardware = load_hardware(run["hardware"])
    peak = max(hardware.dense_flops_per_s.values())
    for stage in STAGES:
        floor = bound.stages[stage]
        assert estimate.stages[stage].time_s >= floor.time_s * (1 - 1e-9)
        assert floor.time_s >= max(floor.bytes / hardware.memory_bytes_per_s, floor.flops / peak) * (1 - 1e-9)


@FIXED
@given(runs())
def test_a_host_that_does_less_is_never_slower(run: dict[str, Any]) -> None:
    """Captured, a transformers model runs the same kernels without its host; a compiler runs other kernels."""
    times = [aimcost.estimate({**run, "execution": mode}).totals.time_s for mode in ("cuda_graph", "eager")]
    assert times[0] <= times[1] * (1 + 1e-9)


@FIXED
@given(runs(), st.floats(1.0, 4.0))
def test_a_faster_machine_is_never_slower(run: dict[str, Any], factor: float) -> None:
    hardware = {"name": "one", "memory_gb_per_s": 900, "dense_tflops": {"bf16": 100, "int8": 200}, "memory_gb": 40}
    hardware |= {"interconnect_gb_per_s": 300}
    run = {**run, "estimator": "roofline"}
    slow = aimcost.estimate({**run, "hardware": hardware})
    for change in ("memory_gb_per_s", "dense_tflops"):
        value = hardware[change]
        faster = {key: v * factor for key, v in value.items()} if isinstance(value, dict) else value * factor
        fast = aimcost.estimate({**run, "hardware": {**hardware, change: faster}})
        assert fast.totals.time_s <= slow.totals.time_s * (1 + 1e-12)
        assert fast.totals.time_s >= slow.totals.time_s / factor * (1 - 1e-9)


@FIXED
@given(runs(), st.lists(st.integers(1, 4000), min_size=24, max_size=24), st.sampled_from(ESTIMATORS))
def test_fewer_tokens_never_cost_more(run: dict[str, Any], counts: list[int], estimator: str) -> None:
    """Before overhead: tokens are chosen for free."""
    more = sorted(counts[:12], reverse=True)
    fewer = [min(pair) for pair in zip(more, sorted(counts[12:], reverse=True), strict=True)]
    workload = {"visual_tokens": more[0], "text_tokens": 1, "new_tokens": 4, "batch": run["workload"]["batch"]}
    run = {**run, "workload": workload, "implementation": "fused", "parallel": {}, "estimator": estimator}
    high, low = (
        aimcost.estimate({**run, "method": {"name": "explicit", "tokens_per_layer": tokens}})
        for tokens in (more, fewer)
    )
    for key in ("flops", "bytes", "time_s"):
        slack = 1 + (DIP.get(estimator, 1e-9) if key == "time_s" else 1e-9)
        for stage in STAGES:
            assert getattr(low.stages[stage], key) <= getattr(high.stages[stage], key) * slack, (stage, key)
        assert getattr(low.totals, key) <= getattr(high.totals, key) * slack
    assert low.memory.kv_bytes <= high.memory.kv_bytes
    assert low.memory.peak_bytes <= high.memory.peak_bytes


@pytest.mark.parametrize("name", grids.cards())
def test_one_more_token_never_makes_prefill_faster(name: str) -> None:
    """Around the tile edges of products; without a host, which would hide it."""
    card = load_hardware(name)
    estimators = [e for e in ESTIMATORS if e != "calibrated" or not card.hidden]
    execution = "eager" if card.vendor == "apple" else "cuda_graph"  # Metal replays no graphs
    for estimator, model in itertools.product(estimators, ("qwen2-0.5b", "qwen2-7b")):
        run = {"model": model, "hardware": name, "estimator": estimator, "execution": execution}
        longest = 0.0
        for tokens in (32, 64, 65, 128, 129, 192, 193, 256, 257, 384, 385, 512, 513, 1024, 1025, 2048, 2049):
            time_s = aimcost.estimate({**run, "workload": {"text_tokens": tokens}}).ttft_s
            assert time_s >= longest * (1 - DIP.get(estimator, 1e-9)), f"{model}, {tokens} tokens"
            longest = max(longest, time_s)


@pytest.mark.parametrize("execution", ["eager", "compiled", "cuda_graph"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_longer_prompt_never_makes_decode_steps_faster(estimator: str, execution: str) -> None:
    """A step waits for the token before it, so a long prefill gives the host no lead into decode."""
    run = {"model": "llama-2-7b", "hardware": H100, "estimator": estimator, "execution": execution}
    steps = [
        aimcost.estimate({**run, "workload": {"text_tokens": tokens, "new_tokens": 4}}).stages["decode"].tpot_s
        for tokens in (100, 1000, 4000, 16_000)
    ]
    assert all(earlier <= later * (1 + 1e-9) for earlier, later in itertools.pairwise(steps)), steps


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("tokens", [64, 256, 1024, 6372])
def test_an_inline_machine_is_priced_like_its_profile(estimator: str, tokens: int) -> None:
    """A datasheet's few figures, without SM count or calibration: the same card within a few per cent."""
    inline = {"name": "x", "memory_gb_per_s": 1555, "dense_tflops": {"fp16": 312, "int8": 624}, "memory_gb": 40}
    run = {"model": "qwen2-7b", "workload": {"text_tokens": tokens}, "estimator": estimator}
    times = [
        aimcost.estimate({**run, "hardware": machine, "execution": "cuda_graph"}).ttft_s for machine in (inline, A100)
    ]
    assert times[0] == pytest.approx(times[1], rel=0.05)


@FIXED
@given(runs(), st.integers(2, 40))
def test_each_new_token_adds_one_step(run: dict[str, Any], new_tokens: int) -> None:
    fewer, more = (aimcost.estimate(run, workload={"new_tokens": n}) for n in (new_tokens, new_tokens + 1))
    assert (fewer.stages["decode"].steps, more.stages["decode"].steps) == (new_tokens - 1, new_tokens)
    assert fewer.stages["prefill"] == more.stages["prefill"]
    decode = [estimate.stages["decode"] for estimate in (fewer, more)]
    # the step added attends to the most tokens, so it costs at least what the ones before it do
    assert decode[1].flops - decode[0].flops >= decode[0].flops / (new_tokens - 1) * (1 - 1e-9)
    assert decode[1].time_s > decode[0].time_s
    none, first = (aimcost.estimate(run, workload={"new_tokens": n}) for n in (0, 1))
    assert none.stages["decode"].flops == first.stages["decode"].time_s == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_device_is_no_parallelism(estimator: str) -> None:
    run = {**PROMPTS["video"], "hardware": A100, "estimator": estimator}
    whole = aimcost.estimate(run).to_dict()
    assert aimcost.estimate({**run, "parallel": {"tp": 1, "pp": 1, "dp": 1}}).to_dict() == whole


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_overrides_equal_an_edited_run(estimator: str) -> None:
    run = {**PROMPTS["video"], "method": {"name": "aim"}, "hardware": A100, "estimator": estimator}
    edited = copy.deepcopy(run)
    edited["method"]["l1"] = 10
    edited["workload"]["frames"] = 4
    by_override = aimcost.estimate(run, workload={"frames": 4}, **{"method.l1": 10})
    assert by_override.to_dict() == aimcost.estimate(edited).to_dict()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("wanted", [[], ["prefill"], ["vision", "projector"], ["merge", "decode"]], ids=str)
def test_include_limits_the_totals_alone(wanted: list[str], estimator: str) -> None:
    run = {**PROMPTS["video"], "method": {"name": "aim"}, "hardware": A100, "estimator": estimator}
    whole, part = aimcost.estimate(run).to_dict(), aimcost.estimate({**run, "include": wanted}).to_dict()
    for key in ("flops", "bytes", "time_s"):
        expected = sum(whole["stages"][stage][key] for stage in wanted)
        assert part["totals"][key] == pytest.approx(expected, rel=1e-9)
    for key in ("stages", "layers", "ops", "memory"):
        assert part[key] == whole[key]
