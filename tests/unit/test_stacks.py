"""Software stacks: their files, what a run takes from them, and every term of a price, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import aimcost
from aimcost.errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError
from aimcost.inputs import discover
from aimcost.inputs.hardware import load_hardware
from aimcost.inputs.run import load_run
from aimcost.inputs.stack import load_stack
from aimcost.machine.coefficients import Coefficients
from aimcost.machine.libraries import library_factor
from aimcost.types import Precision
from aimcost.types.stages import STAGES

A100, H100 = "nvidia_a100_sxm_80gb", "nvidia_h100_sxm"
TEXT: dict[str, Any] = {"model": "llama-2-7b", "workload": {"text_tokens": 512}, "hardware": A100}
IMAGE: dict[str, Any] = {"model": "llava-1.5-7b", "workload": {"images": 1, "text_tokens": 60}, "hardware": A100}
PLAIN: dict[str, Any] = {"name": "plain", "host_us_per_launch": 0, "sources": ["a test"]}
NAMES = sorted(discover.names("stack"))


def stacked(run: dict[str, Any], **keys: Any) -> Any:
    """The run under `PLAIN` with other keys."""
    return aimcost.estimate(run, stack={**PLAIN, **keys})


def rows_named(estimate: Any, stage: str, *names: str) -> list[slice]:
    return [
        slice(s.start, s.stop) for name in names for s in estimate.table.segments if (s.stage, s.name) == (stage, name)
    ]


# files


def test_the_contract_names_these() -> None:
    assert [
        *("aimcost_graph", "llava", "tensorrt_llm", "torch_compile", "transformers"),
        *("vllm", "vllm_2023", "vllm_v0"),
    ] == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", ["", "volta", "ampere", "hopper"])
def test_every_file_loads_on_every_architecture(name: str, architecture: str) -> None:
    stack = load_stack(name, architecture)
    assert (stack.name, bool(stack.summary)) == (name, True)
    assert stack.host_s.low <= stack.host_s.value <= stack.host_s.high < 1e-4


def test_the_documented_example_is_read() -> None:
    given = yaml.safe_load(
        """
        name: transformers
        sources: ["counted in transformers 5"]
        implementation: fused
        attention: flash
        host_us_per_launch: {value: 12, low: 6, high: 30, source: a fit}
        kernels: {rms_norm: 7, rope: 12}
        traffic: {rms_norm: 9}
        fused: []
        graph: false
        request_ms: {fixed: 0, per_image: 0, per_frame: 0, low: 0, high: 10, at: vision}
        step_ms: {fixed: 0, per_sequence: 0}
        tower: {attention: eager, loop: window}
        collectives: nccl
        selection: {sync_us: 20}
        """
    )
    stack = load_stack(given)
    assert (stack.host_s.value, stack.host_s.high) == pytest.approx((12e-6, 30e-6))
    assert (stack.tower_attention, stack.tower_loop, stack.graph) == ("eager", "window", "none")
    assert stack.request_s.high == pytest.approx(0.010)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"kernel": {"rope": 2}}, UnknownNameError, "unknown key 'kernel'"),
        ({"kernels": {"rms_norm": 5e-324}}, InvalidValueError, "'kernels.rms_norm' must be at least 1e-06"),
        ({"kernels": {"rmsnorm": 7}}, UnknownNameError, "unknown kind in 'kernels' 'rmsnorm'; did you mean 'rms_norm'"),
        ({"scale": {"gemm": 2}}, UnknownNameError, "kind in 'scale' 'gemm'"),
        ({"fused": ["qkvo"]}, InvalidValueError, "fused"),
        ({"products": "2019"}, UnknownNameError, "2023"),
        ({"graph": "prefill"}, InvalidValueError, "graph"),
        ({"host_us_per_launch": {"value": 5, "low": 6, "high": 7}}, InvalidValueError, "low ≤ value ≤ high"),
        ({"request_ms": {"fixed": -1}}, InvalidValueError, "request_ms.fixed"),
        ({"spread": [1.1, 1.2]}, InvalidValueError, "around 1"),
        ({"sources": []}, InvalidValueError, "'sources.step_ms' must be given"),
        ({"sources": {"kernels": "x"}}, InvalidValueError, "'sources.step_ms' must be given"),
        ({"sources": {"steps_ms": "x"}}, UnknownNameError, "sources.steps_ms"),
        ({"architectures": {"hoper": {"scale": {"all": 2}}}}, UnknownNameError, "architectures.hopper"),
        ({"attention": {"trng": "eager", "turin": "eager"}}, UnknownNameError, "attention.turing"),
        ({"architectures": {"hopper": {"scale": {"gemm": 2}}}}, UnknownNameError, "kind in 'scale' 'gemm'"),
        ({"architectures": {"hopper": {"host_us_per_launch": {"value": 1, "high": 0.5}}}}, InvalidValueError, "high"),
    ],
)
def test_mistakes_in_a_file_are_one_line(changes: dict[str, Any], error: type[AimcostError], says: str) -> None:
    with pytest.raises(error) as caught:
        load_stack({**PLAIN, "step_ms": {"fixed": 1}, **changes})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs" / "stacks"
    folder.mkdir(parents=True)
    (folder / "ours.yaml").write_text(yaml.safe_dump({**PLAIN, "name": "ours"}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert "ours" in discover.names("stack")
    by_name, by_path = (load_run({**TEXT, "stack": given}).stack for given in ("ours", str(folder / "ours.yaml")))
    assert by_name == by_path
    with pytest.raises(FileFormatError, match="no such stack file"):
        load_stack("gone.yaml")
    with pytest.raises(UnknownNameError, match="unknown stack 'our'"):
        load_run({**TEXT, "stack": "our"})


def test_a_section_of_an_architecture_is_laid_over_the_file() -> None:
    ampere, hopper = load_stack("vllm_2023", "ampere"), load_stack("vllm_2023", "hopper")
    assert (ampere.host_s.value, hopper.host_s.value) == pytest.approx((39.5e-6, 23e-6))
    assert (ampere.scale, hopper.scale) == ({}, {"product_prefill": 1.24, "attention_prefill": 1.24})
    assert hopper.step_s == ampere.step_s


# what a run takes


@pytest.mark.parametrize(
    ("execution", "stack"), [("eager", "transformers"), ("compiled", "torch_compile"), ("cuda_graph", "aimcost_graph")]
)
def test_execution_is_another_name(execution: str, stack: str) -> None:
    old, new = (aimcost.estimate(TEXT, **given) for given in ({"execution": execution}, {"stack": stack}))
    assert old.run.stack == new.run.stack
    assert old.totals == new.totals


def test_both_names_are_an_error_and_an_override_replaces_either() -> None:
    with pytest.raises(InvalidValueError, match="'execution' must be omitted with 'stack'"):
        load_run({**TEXT, "stack": "vllm", "execution": "eager"})
    old = load_run({**TEXT, "execution": "compiled"})
    assert old.with_(stack="vllm").stack.name == "vllm"
    assert load_run({**TEXT, "stack": "vllm"}, {"execution": "compiled"}).stack.name == "torch_compile"
    assert load_run(TEXT).stack.name == "transformers"
    assert not load_run(TEXT).stack_given


def test_a_run_wins_over_its_stack() -> None:
    run = load_run({**IMAGE, "stack": "llava"})
    assert (run.implementation, run.attention, run.tower_attention) == ("eager", "flash", "eager")
    run = load_run({**IMAGE, "stack": "llava", "implementation": "fused", "attention": "flash"})
    assert (run.implementation, run.attention, run.tower_attention) == ("fused", "flash", "flash")


@pytest.mark.parametrize("estimator", ["roofline", "llm_viewer"])
def test_other_estimators_ignore_a_stack_and_say_so(estimator: str) -> None:
    run = {**TEXT, "model": "llama-2-7b", "estimator": estimator}
    plain, llava = (aimcost.estimate(run, **given) for given in ({}, {"stack": "llava"}))
    assert (llava.totals, llava.stages["overhead"].time_s) == (plain.totals, 0.0)
    assert llava.run.implementation == "fused"
    added = set(llava.notes) - set(plain.notes)
    assert added == {f"stack llava ignored: {estimator} prices no software stack"}
    assert llava.to_dict()["summary"]["stack"] is None


# what a stack adds


def test_a_request_costs_beside_the_tower() -> None:
    """40 ms, and 5.2 a frame; nothing where the tower's output is given or the tower is left out."""
    estimate = aimcost.estimate(IMAGE, stack="llava")
    assert estimate.stages["overhead"].time_s == pytest.approx(0.040)
    without = aimcost.estimate(IMAGE, stack="llava", include=["vision", "projector", "prefill"])
    assert estimate.ttft_s - without.ttft_s == pytest.approx(0.040)
    video = {**IMAGE, "model": "llava-onevision-qwen2-7b", "workload": {"frames": 8, "batch": 2, "text_tokens": 60}}
    assert aimcost.estimate(video, stack="llava").stages["overhead"].time_s == pytest.approx(0.040 + 2 * 8 * 0.0052)
    given = {**IMAGE, "workload": {"visual_tokens": 576, "text_tokens": 60}}
    assert aimcost.estimate(given, stack="llava").stages["overhead"].time_s == 0.0
    assert aimcost.estimate(IMAGE, stack="llava", include=["prefill", "overhead"]).totals.time_s == pytest.approx(
        estimate.stages["prefill"].time_s
    )


def test_a_step_costs_by_sequence_and_counts_in_tpot() -> None:
    """vllm_v0: 1.2 ms a step and 0.062 a sequence; 8 sequences and 10 decode steps, a prefill is one more step."""
    run = {**TEXT, "workload": {"text_tokens": 512, "batch": 8, "new_tokens": 11}}
    estimate = aimcost.estimate(run, stack="vllm_v0")
    each = 1.2e-3 + 8 * 0.062e-3
    decode = estimate.stages["decode"]
    assert decode.tpot_s == pytest.approx(decode.time_s / 10 + each)
    assert estimate.stages["overhead"].time_s == pytest.approx(11 * each)
    assert estimate.ttft_s == pytest.approx(estimate.stages["prefill"].time_s + each)
    assert estimate.totals.time_s == pytest.approx(estimate.ttft_s + 10 * decode.tpot_s)
    kernels = aimcost.estimate(run, stack="vllm_v0", include=["prefill", "decode"])
    assert kernels.stages["decode"].tpot_s == pytest.approx(decode.time_s / 10)


@pytest.mark.parametrize(
    ("changes", "exposed"),
    [
        ({}, False),
        ({"method": {"name": "fastv"}}, True),
        ({"method": {"name": "fastv"}, "implementation": "fused"}, False),
        ({"method": {"name": "pyramiddrop"}}, False),
        ({"attention": "eager"}, True),
    ],
)
def test_reading_attention_maps_costs_where_they_are_exposed(changes: dict[str, Any], exposed: bool) -> None:
    estimate = aimcost.estimate({**IMAGE, "stack": "llava", **changes})
    names = {s.name for s in estimate.table.segments if s.stage == "overhead"}
    assert ("attention_maps" in names) == exposed
    assert estimate.stages["overhead"].time_s == pytest.approx(0.040 + (0.0195 if exposed else 0.0))


# launches, kernels, traffic


def test_launches_and_traffic_by_kind() -> None:
    """A chain of seven kernels that move nine times the bytes of one: host time and DRAM traffic say so."""
    one = stacked(TEXT, host_us_per_launch=10)
    chain = stacked(TEXT, host_us_per_launch=10, kernels={"rms_norm": 7}, traffic={"rms_norm": 9})
    (rows,) = rows_named(one, "prefill", "attn_norm")
    assert one.host_seconds is not None
    assert chain.host_seconds is not None
    assert one.host_seconds[rows] == pytest.approx(10e-6)
    assert chain.host_seconds[rows] == pytest.approx(70e-6)
    assert chain.priced.total_bytes[rows] == pytest.approx(9 * one.priced.total_bytes[rows])
    assert chain.priced.total_flops[rows] == pytest.approx(one.priced.total_flops[rows])


@pytest.mark.parametrize(("graph", "prefill", "decode"), [(False, 1, 1), ("decode", 1, 0), (True, 0, 0)])
def test_captured_launches_cost_the_host_nothing(graph: Any, prefill: int, decode: int) -> None:
    run = {**TEXT, "workload": {"text_tokens": 64, "new_tokens": 5}}
    estimate = stacked(run, host_us_per_launch=10, graph=graph)
    assert estimate.host_seconds is not None
    spent = [float(estimate.host_seconds[estimate.rows([stage])].sum()) for stage in ("prefill", "decode")]
    launches = sum(1 for s in estimate.table.segments if s.stage == "prefill" for _ in range(s.start, s.stop))
    assert spent[0] == pytest.approx(prefill * launches * 10e-6)
    assert (spent[1] > 0) == bool(decode)


def test_a_fused_product_is_priced_as_one_and_shared_by_width() -> None:
    """gate and up of Llama-2-7B: one product (512, 22016, 4096), its two halves of the same time, one launch."""
    fused, apart = stacked(TEXT, fused=["gate_up"], host_us_per_launch=10), stacked(TEXT, host_us_per_launch=10)
    gate, up = rows_named(fused, "prefill", "gate_proj", "up_proj")
    hardware = load_hardware(A100)
    coefficients = Coefficients(hardware, Precision())
    model, _ = coefficients.products()
    m, n, k = np.array([512.0]), np.array([2 * 11008.0]), np.array([4096.0])
    moved = 2.0 * (m * k + k * n + m * n)
    one = model.seconds(
        *(m, n, k),
        bytes_moved=moved,
        weight_bytes=2.0 * k * n,
        peak=312e12,
        bandwidth=hardware.memory_bytes_per_s,
        sm_count=hardware.sm_count,
    )[0]
    assert fused.device_seconds is not None
    assert fused.host_seconds is not None
    assert apart.device_seconds is not None
    both = fused.device_seconds[gate] + fused.device_seconds[up]
    separate = apart.device_seconds[gate] + apart.device_seconds[up]
    assert both == pytest.approx(np.minimum(one, separate - model.launch_s))
    assert fused.device_seconds[gate] == pytest.approx(fused.device_seconds[up])
    assert fused.host_seconds[gate] == pytest.approx(5e-6)
    # the second part reads the activations of the first: 512 tokens of 4096 in 16 bit
    less = apart.priced.total_bytes[up] - fused.priced.total_bytes[up]
    assert less == pytest.approx(2 * 512 * 4096)
    assert fused.priced.total_bytes[gate] == pytest.approx(apart.priced.total_bytes[gate])


def test_grouped_queries_share_a_fused_product_by_width() -> None:
    run = {**TEXT, "model": "llama-3.1-8b"}
    estimate = stacked(run, fused=["qkv"])
    q, k, v = (estimate.seconds[rows] for rows in rows_named(estimate, "prefill", "q_proj", "k_proj", "v_proj"))
    assert q == pytest.approx(4 * k)
    assert k == pytest.approx(v)


def test_a_residual_inside_the_norm_moves_two_thirds_and_launches_nothing() -> None:
    inside, own = stacked(TEXT, fused=["add_norm"], host_us_per_launch=10), stacked(TEXT, host_us_per_launch=10)
    (rows,) = rows_named(inside, "prefill", "attn_add")
    assert inside.host_seconds is not None
    assert inside.device_seconds is not None
    assert own.device_seconds is not None
    assert inside.host_seconds[rows] == pytest.approx(0.0)
    assert inside.priced.total_bytes[rows] == pytest.approx(own.priced.total_bytes[rows] * 2 / 3)
    assert (inside.device_seconds[rows] < own.device_seconds[rows]).all()


def test_parts_of_a_fused_product_are_launch_bound_together_or_not_at_all() -> None:
    """Grouped queries: k and v by themselves would be short enough for the launch to be half of their time."""
    bits = {"weights": "int8", "activations": "int8", "kv": 16}
    run = {"model": "qwen2-7b", "workload": {"text_tokens": 300}, "hardware": A100, "precision": bits}
    ops = stacked(run, fused=["qkv"]).ops()
    parts = [op["bound"] for op in ops if op["stage"] == "prefill" and op["name"] in ("q_proj", "k_proj", "v_proj")]
    assert len(parts) == 3 * 28
    assert len({bound == "launch" for bound in parts}) == 1


def test_the_tower_is_never_fused() -> None:
    fused, apart = stacked(IMAGE, fused=["qkv", "gate_up", "add_norm"]), stacked(IMAGE)
    assert fused.stages["vision"] == apart.stages["vision"]


def test_a_library_of_another_year_is_a_factor_by_rows() -> None:
    # 16 is half way from 8 to 32 on a log scale
    rows = np.array([1.0, 8.0, 16.0, 32.0, 512.0, 1600.0, 5000.0])
    factor = library_factor("2023", "ampere")
    assert factor is not None
    half = (1 / 1.11 + 1 / 1.07) / 2
    assert list(factor(rows)) == pytest.approx([1 / 1.11, 1 / 1.11, half, 1 / 1.07, 1 / 1.01, 1 / 0.94, 1 / 0.92])
    assert library_factor("2023", "ada") is None
    assert library_factor("", "ampere") is None
    run = {**TEXT, "workload": {"text_tokens": 768}}
    old, new = stacked(run, products="2023"), stacked(run)
    (head,) = rows_named(new, "prefill", "lm_head")
    (down,) = rows_named(new, "prefill", "down_proj")
    assert old.seconds[head] == pytest.approx(new.seconds[head] / 1.11)  # the last token's row alone
    assert old.seconds[down] == pytest.approx(new.seconds[down] * factor(np.array([768.0])))
    int8 = {**TEXT, "precision": {"weights": {"decoder": "int8", "lm_head": "int8"}}}
    assert stacked(int8, products="2023").totals.time_s == stacked(int8).totals.time_s


def test_scale_by_kind_and_stage() -> None:
    run = {**TEXT, "workload": {"text_tokens": 512, "new_tokens": 5}}
    plain, scaled = stacked(run), stacked(run, scale={"product_prefill": 1.5, "attention": 2})
    for stage, name, factor in [
        *(("prefill", "q_proj", 1.5), ("decode", "q_proj", 1.0)),
        *(("prefill", "fused_attention", 2.0), ("decode", "fused_attention", 2.0), ("prefill", "rope", 1.0)),
    ]:
        (rows,) = rows_named(plain, stage, name)
        assert scaled.seconds[rows] == pytest.approx(factor * plain.seconds[rows])
    assert stacked(run, scale={"all": 1.1}).totals.time_s == pytest.approx(1.1 * plain.totals.time_s)


def test_one_shot_all_reduces_are_never_slower_and_large_ones_take_a_factor() -> None:
    run = {**TEXT, "parallel": {"tp": 8}, "workload": {"text_tokens": 512, "new_tokens": 3}}
    ring, one = stacked(run), stacked(run, collectives="one_shot")
    (small,) = rows_named(ring, "decode", "all_reduce_mlp")
    assert (one.seconds[small] < 0.5 * ring.seconds[small]).all()  # 8 KB among 8: 6 against 21 us
    (large,) = rows_named(ring, "prefill", "all_reduce_mlp")
    assert (one.seconds[large] <= ring.seconds[large]).all()
    # 512 tokens of 4096 in 16 bit: 4.19 MB
    for limit, factor in ((4.0, 5.0), (4.2, 1.0)):
        slow = stacked(run, collectives={"kind": "nccl", "large_mb": limit, "large_ranks": 4, "large_factor": 5})
        assert slow.seconds[large] == pytest.approx(factor * ring.seconds[large])
        assert slow.seconds[small] == pytest.approx(ring.seconds[small])


def test_windows_are_launched_one_by_one() -> None:
    """448 x 448 pixels: 32 x 32 patches in windows of 8 x 8, 16 windows an image, two launches each."""
    run = {"model": "qwen2.5-vl-7b", "workload": {"images": 1, "image_size": 448}, "hardware": A100}
    looped = stacked(run, host_us_per_launch=10, kernels={"attention": 2}, tower={"loop": "window"})
    whole = stacked(run, host_us_per_launch=10, kernels={"attention": 2})
    attention = rows_named(looped, "vision", "fused_attention")
    assert looped.host_seconds is not None
    assert whole.host_seconds is not None
    found = {round(float(looped.host_seconds[rows][0]) * 1e6) for rows in attention}
    assert found == {20, 16 * 20}
    assert {round(float(whole.host_seconds[rows][0]) * 1e6) for rows in attention} == {20}


def test_windows_of_eager_attention_are_launched_one_by_one() -> None:
    """The same 16 windows, for the two products and the softmax, at two launches for the softmax."""
    run = {"model": "qwen2.5-vl-7b", "workload": {"images": 1, "image_size": 448}, "hardware": A100}
    changes = {"host_us_per_launch": 10, "kernels": {"softmax": 2}, "attention": "eager"}
    tower = {"attention": "eager", "loop": "window"}
    looped = stacked(run, **changes, tower=tower)
    assert looped.host_seconds is not None
    for name, launches in (("qk_matmul", 1), ("softmax", 2), ("sv_matmul", 1)):
        found = {round(float(looped.host_seconds[rows][0]) * 1e6) for rows in rows_named(looped, "vision", name)}
        assert found == {10 * launches, 16 * 10 * launches}


def test_stages_are_always_all_there() -> None:
    document = aimcost.estimate(IMAGE).to_dict()
    assert tuple(document["stages"]) == STAGES
    assert document["stages"]["preprocess"]["time_s"] > 0.0
    assert document["included"] == [stage for stage in STAGES if stage != "preprocess"]


def test_queries_of_cross_attention_are_a_product_of_their_own() -> None:
    """Llama-3.2-Vision: q reads the text, k and v the tower's tokens: an engine's fused product is k and v's."""
    run = {"model": "llama-3.2-11b-vision", "workload": {"images": 1, "text_tokens": 60}, "stack": "vllm"}
    estimate = aimcost.estimate({**run, "hardware": "nvidia_a100_sxm_80gb"})
    own, crossing = 0, 3  # the first layer that attends to the sequence, and the first that attends across it
    times = {
        (op["layer"], op["name"]): op["time_s"]
        for op in estimate.ops()
        if op["stage"] == "prefill" and op["layer"] in (own, crossing)
    }
    assert estimate.run.model.decoder.cross_layers[0] == crossing
    # 60 rows of width 4096 in both: by itself it costs more than its share of one product with k and v
    assert times[crossing, "q_proj"] > 1.1 * times[own, "q_proj"]
    assert times[crossing, "k_proj"] == pytest.approx(times[crossing, "v_proj"], rel=1e-12)
    assert times[crossing, "k_proj"] > times[crossing, "q_proj"]  # 6,432 rows a quarter as wide
