"""What must hold for every estimate: sums, scaling, lower bounds, finite figures."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aimcost
from aimcost.errors import AimcostError, InvalidValueError
from aimcost.inputs import discover
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.model import load_model
from aimcost.types.stages import STAGES

from . import grids

FIXED = settings(max_examples=40, derandomize=True, deadline=None, database=None)
ESTIMATORS = ("roofline", "llm_viewer")
REQUIRED: dict[str, dict[str, Any]] = {"pre_llm": {"ratio": 0.5}}


def plannable() -> list[str]:
    """Methods that need no more than visual tokens."""
    names = []
    for name in discover.method_names():
        method = {"name": name, **REQUIRED.get(name, {})}
        try:
            aimcost.schedule({"model": "qwen2-7b", "workload": {"visual_tokens": 900}, "method": method})
        except AimcostError:
            continue
        names.append(name)
    return names


METHODS = plannable()
A100 = "nvidia_a100_sxm_40gb"


def numbers(value: Any) -> list[float]:
    """Every number in a JSON-like value."""
    if isinstance(value, dict):
        return [n for inner in value.values() for n in numbers(inner)]
    if isinstance(value, list):
        return [n for inner in value for n in numbers(inner)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def check_document(document: dict[str, Any]) -> None:
    """Nothing negative, infinite or NaN; layers and stages add up."""
    json.dumps(document, allow_nan=False)
    assert all(math.isfinite(number) and number >= 0 for number in numbers(document))
    assert tuple(document["stages"]) == STAGES
    for key in ("flops", "bytes", "time_s"):
        stages = {name: stage[key] for name, stage in document["stages"].items()}
        assert document["totals"][key] == pytest.approx(sum(stages.values()), rel=1e-9)
        by_stage: Counter[str] = Counter()
        by_layer: Counter[int | None] = Counter()
        for op in document["ops"]:
            by_stage[op["stage"]] += op[key]
            if op["stage"] == "prefill":
                by_layer[op["layer"]] += op[key]
        assert dict(stages) == pytest.approx({name: by_stage[name] for name in STAGES}, rel=1e-9)
        layerless = by_layer.pop(None, 0)
        layers = {layer["index"]: layer[key] for layer in document["layers"]}
        assert sum(layers.values()) == pytest.approx(stages["prefill"] - layerless, rel=1e-9)
        assert layers == pytest.approx(dict(by_layer), rel=1e-9)
    totals, memory = document["totals"], document["memory"]
    assert totals["time_low_s"] <= totals["time_s"] * (1 + 1e-9)
    assert totals["time_high_s"] is None or totals["time_high_s"] >= totals["time_s"] * (1 - 1e-9)
    assert memory["peak_bytes"] >= memory["weights_bytes"] + memory["kv_bytes"]


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """A small decoder, a prompt and any of the planned methods."""
    layers, kv_heads = draw(st.integers(8, 30)), draw(st.sampled_from([1, 2, 4, 8]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 7]))
    method = draw(st.sampled_from(METHODS))
    bits = st.sampled_from([16, 8, 4, 32, "bf16", "fp16", "fp8", "int8"])
    return {
        "model": {
            "model_type": draw(st.sampled_from(["llama", "qwen2", "qwen3", "mistral"])),
            "hidden_size": heads * draw(st.sampled_from([8, 64, 128])),
            "intermediate_size": draw(st.integers(1, 20_000)),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": draw(st.sampled_from([16, 64, 128])),
            "vocab_size": draw(st.integers(1, 160_000)),
        },
        "workload": {
            "batch": draw(st.integers(1, 16)),
            "visual_tokens": draw(st.integers(600, 20_000)),
            "text_tokens": draw(st.integers(1, 500)),
            "new_tokens": draw(st.integers(0, 20)),
        },
        "method": {"name": method, **REQUIRED.get(method, {})},
        "precision": {"weights": draw(bits), "activations": draw(bits), "kv": draw(bits)},
        "attention": draw(st.sampled_from(["flash", "eager"])),
        "hardware": draw(st.sampled_from([A100, "nvidia_h100_sxm", "nvidia_t4", "amd_mi300x"])),
        "estimator": draw(st.sampled_from(ESTIMATORS)),
    }


@FIXED
@given(runs())
def test_sums_and_finite_figures(run: dict[str, Any]) -> None:
    check_document(aimcost.estimate(run).to_dict())


@FIXED
@given(runs(), st.integers(2, 50))
def test_flops_are_linear_in_batch(run: dict[str, Any], factor: int) -> None:
    one = aimcost.estimate(run, workload={"batch": 1})
    many = aimcost.estimate(run, workload={"batch": factor})
    small, large = one.ops(), many.ops()
    places = [[(op["stage"], op["layer"], op["name"]) for op in ops] for ops in (small, large)]
    assert places[0] == places[1]
    # narrow weights are unpacked once for the whole batch
    expected = [op["flops"] * (1 if op["name"] == "dequantize_weights" else factor) for op in small]
    np.testing.assert_allclose([op["flops"] for op in large], expected, rtol=1e-9)
    for stage in STAGES:
        # weights are read once for the whole batch
        assert one.stages[stage].bytes <= many.stages[stage].bytes <= factor * one.stages[stage].bytes * (1 + 1e-9)
        assert many.stages[stage].time_s >= one.stages[stage].time_s * (1 - 1e-12)
    assert many.memory.kv_bytes == factor * one.memory.kv_bytes
    assert many.memory.weights_bytes == one.memory.weights_bytes


@FIXED
@given(runs())
def test_time_respects_both_limits(run: dict[str, Any]) -> None:
    """No operation is faster than the memory, or than the fastest unit of the machine."""
    hardware = load_hardware(run["hardware"])
    estimate = aimcost.estimate(run)
    peak = max(hardware.dense_flops_per_s.values())
    for op in estimate.ops():
        assert op["time_s"] >= op["bytes"] / hardware.memory_bytes_per_s * (1 - 1e-9)
        assert op["time_s"] >= op["flops"] / peak * (1 - 1e-9)
        assert op["time_s"] > 0
        assert op["bound"] in ("memory", "compute", "launch")


@FIXED
@given(runs())
def test_operations_without_flops_take_time(run: dict[str, Any]) -> None:
    estimate = aimcost.estimate({**run, "estimator": "roofline"})
    free = [op for op in estimate.ops() if op["flops"] == 0]
    assert free
    assert all(math.isfinite(op["time_s"]) and op["time_s"] > 0 for op in free)
    assert {op["bound"] for op in free} == {"memory"}


KEEP_ALL: list[dict[str, Any]] = [  # of 196 tokens in each of 32 frames, a newline, 28 layers
    {"name": "aim", "merge_ratio": 1.0, "l1": 28, "l2": 40},
    {"name": "aim", "merge_ratio": 1.0, "decay": 0.0},
    {"name": "fastv", "ratio": 0.0},
    {"name": "fastv", "k": 28},
    {"name": "pyramiddrop", "ratios": [1.0, 1.0, 1.0]},
    {"name": "vtw", "k": 28},
    {"name": "prumerge", "ratio": 1.0},
    {"name": "prumerge_plus", "ratio": 1.0},
    {"name": "pre_llm", "ratio": 1.0},
    {"name": "pre_llm", "keep_tokens": 6273},
    {"name": "dart", "ratio": 0.0},
    {"name": "divprune", "ratio": 1.0},
    {"name": "evs", "q": 0.0},
    {"name": "sparsevlm", "layers": [2], "keep": [6273]},
    {"name": "visionzip", "dominant": 196},
    {"name": "cdpruner", "ratio": 1.0},
    {"name": "vispruner", "ratio": 1.0},
    {"name": "holov", "ratio": 1.0},
    {"name": "fastervlm", "ratio": 1.0},
    {"name": "vidcom2", "ratio": 1.0},
    {"name": "explicit", "tokens_per_layer": [[6373, 28]]},
    {"name": "explicit", "tokens_per_layer": [6373] * 28, "select": "aim"},
]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("method", KEEP_ALL, ids=lambda m: "-".join(str(v)[:12] for v in m.values()))
def test_keeping_all_equals_no_reduction(method: dict[str, Any], estimator: str) -> None:
    run = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 32, "text_tokens": 100, "new_tokens": 3},
        "hardware": A100,
        "estimator": estimator,
    }
    if method["name"] not in discover.method_names():
        pytest.skip(f"no method {method['name']}")
    kept, plain = aimcost.estimate({**run, "method": method}), aimcost.estimate(run)
    assert kept.run.schedule.events == ()
    found, expected = kept.to_dict(), plain.to_dict()
    assert found["summary"].pop("method") == method["name"]
    assert expected["summary"].pop("method") == "none"
    assert {**found, "notes": []} == {**expected, "notes": []}


def test_every_method_can_keep_all() -> None:
    """A newcomer adds its own line above. ToMe always merges: it has no way of keeping all."""
    assert {method["name"] for method in KEEP_ALL} | {"none", "tome"} >= set(discover.method_names())


@st.composite
def two_schedules(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """One schedule, and one that is nowhere above it."""
    upper = sorted(draw(st.lists(st.integers(1, 5000), min_size=6, max_size=6)), reverse=True)
    caps = sorted(draw(st.lists(st.integers(1, 5000), min_size=6, max_size=6)), reverse=True)
    return upper, [min(pair) for pair in zip(upper, caps, strict=True)]


@FIXED
@given(two_schedules(), st.sampled_from(ESTIMATORS), st.sampled_from(["flash", "eager"]), st.integers(0, 9))
def test_fewer_tokens_never_cost_more(
    schedules: tuple[list[int], list[int]], estimator: str, attention: str, new_tokens: int
) -> None:
    more, fewer = schedules
    run = {
        "model": {
            "model_type": "qwen2",
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 6,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 1000,
        },
        "workload": {"visual_tokens": more[0], "text_tokens": 1, "new_tokens": new_tokens, "newline": False},
        "attention": attention,
        "hardware": A100,
        "estimator": estimator,
    }
    costs = []
    for tokens in (more, fewer):
        method = {"name": "explicit", "tokens_per_layer": tokens}
        costs.append(aimcost.estimate({**run, "method": method}))
    for stage in STAGES:
        high, low = (cost.stages[stage] for cost in costs)
        for key in ("flops", "bytes", "time_s"):
            assert getattr(low, key) <= getattr(high, key) * (1 + 1e-12)
    assert costs[1].memory.kv_bytes <= costs[0].memory.kv_bytes
    assert costs[1].memory.peak_bytes <= costs[0].memory.peak_bytes


@FIXED
@given(runs(), st.sets(st.sampled_from(STAGES)))
def test_include_limits_totals_and_nothing_else(run: dict[str, Any], chosen: set[str]) -> None:
    wanted = sorted(chosen)
    whole = aimcost.estimate(run).to_dict()
    part = aimcost.estimate({**run, "include": wanted}).to_dict()
    for key in ("flops", "bytes", "time_s"):
        expected = sum(whole["stages"][stage][key] for stage in wanted)
        assert part["totals"][key] == pytest.approx(expected, rel=1e-9)
    for key in ("stages", "layers", "ops", "memory"):
        assert part[key] == whole[key]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", grids.cards())
def test_every_profile_estimates(name: str, estimator: str) -> None:
    hardware = load_hardware(name)
    assert hardware.name
    assert hardware.sources, "every number has a source"
    run = {
        "model": "qwen2-0.5b",
        "workload": {"visual_tokens": 600, "text_tokens": 50, "new_tokens": 2},
        "method": {"name": "aim"},
        "hardware": name,
        "estimator": estimator,
    }
    for bits in (16, 8, 4):
        precision = {"weights": bits, "activations": bits, "kv": bits}
        check_document(aimcost.estimate({**run, "precision": precision}).to_dict())


@pytest.mark.parametrize("name", grids.models())
def test_every_model_estimates(name: str) -> None:
    model = load_model(name)
    assert model.source
    workload: dict[str, Any] = {"text_tokens": 60, "new_tokens": 2}
    crossing = bool(model.decoder.cross_layers)  # visual tokens are attended to, not in the sequence
    seen = [{"visual_tokens": 500}]
    if model.vision is not None:
        seen += [{"images": 2}] if crossing else [{"frames": 3}, {"images": 2}]
    for visuals in seen:
        for estimator in ESTIMATORS:
            run = {
                "model": name,
                "workload": {**workload, **visuals},
                "method": {"name": "none"} if crossing else {"name": "aim", "merge_ratio": 0.5},
                "hardware": A100,
                "estimator": estimator,
            }
            if estimator == "llm_viewer" and (crossing or model.decoder.moe is not None):
                with pytest.raises(InvalidValueError, match="LLM-Viewer does not know"):
                    aimcost.estimate(run)
                continue
            document = aimcost.estimate(run).to_dict()
            check_document(document)
            priced = estimator == "roofline" and "visual_tokens" not in visuals
            assert (document["stages"]["vision"]["flops"] > 0) == priced
            assert (document["stages"]["merge"]["flops"] > 0) == (estimator == "roofline" and not crossing)
