"""An op is known everywhere by what it declares where its layer yields it, and nowhere by its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.inputs.model import load_model
from aimcost.inputs.run import load_run
from aimcost.measure.validate.joining import _grouped
from aimcost.models import decoder as decoder_ops
from aimcost.models import vit
from aimcost.models.parallel import decoder_ranks
from aimcost.ops import gemm, pointwise
from aimcost.ops.cost import Cost
from aimcost.ops.op import ONE, Op, OpCost, Ranks, divided
from aimcost.pricing import operations
from aimcost.pricing.host_queue import execution_order
from aimcost.pricing.pricing import estimate_run
from aimcost.pricing.result import Estimate
from aimcost.report.tree import breakdown
from aimcost.types import DecoderSpec, Parallel, Precision, TowerLoad
from aimcost.types.formats import Widths

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "aimcost"
NARROW = 512
RUN = {
    "model": "llava-onevision-qwen2-7b",
    "workload": {"frames": 8, "text_tokens": 100, "new_tokens": 5, "batch": 2},
    "hardware": "nvidia_a100_sxm_80gb",
    "estimator": "roofline",
}
HIDDEN, LAYERS, TOKENS = 3584, 28, 8 * 196 + 1 + 100


def adapters(decoder: DecoderSpec, widths: Widths, rows: Any, ranks: Ranks) -> Iterator[OpCost]:
    """A newcomer: a narrow branch beside the MLP, as a layer would yield it."""
    down = Op("adapter_in", "mlp", "column", reads=("mlp_norm",))
    yield ranks.one_rank(down, gemm.linear, rows, decoder.hidden, NARROW, widths, bias=True)
    yield ranks.one_rank(
        Op("adapter_act", "mlp", "column", reads=("adapter_in",)), pointwise.gelu, rows * NARROW, widths
    )
    up = Op("adapter_out", "mlp", "row", reads=("adapter_act", "mlp_norm"))
    yield ranks.one_rank(up, gemm.linear, rows, NARROW, decoder.hidden, widths)
    # gate and table: parameters that no formula reads
    gate = Op("adapter_gate", "rest", "linear", reads=("adapter_out",), weight=7.0)
    yield ranks.one_rank(gate, pointwise.scale, rows * decoder.hidden, widths)


@pytest.fixture
def adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = decoder_ops._mlp_ops

    def with_adapters(spec: DecoderSpec, widths: Widths, rows: Any, ranks: Ranks) -> Iterator[OpCost]:
        yield from adapters(spec, widths, rows, ranks)
        yield from plain(spec, widths, rows, ranks)

    monkeypatch.setattr(decoder_ops, "_mlp_ops", with_adapters)
    for forget in (decoder_ops.layer_parameters.cache_clear, operations.forget):
        forget()
    yield
    for forget in (decoder_ops.layer_parameters.cache_clear, operations.forget):
        forget()


def ops(estimate: Estimate, name: str, stage: str = "prefill") -> list[dict[str, Any]]:
    return [op for op in estimate.ops() if op["name"] == name and op["stage"] == stage]


@pytest.mark.usefixtures("adapted")
def test_a_new_op_is_split_over_ranks() -> None:
    one, rank = aimcost.estimate(RUN), aimcost.estimate({**RUN, "parallel": {"tp": 4}})
    for name in ("adapter_in", "adapter_act", "adapter_out"):
        whole, share = ops(one, name), ops(rank, name)
        assert len(whole) == len(share) == LAYERS
        assert [op["flops"] for op in whole] == [4 * op["flops"] for op in share]
    assert [op["flops"] for op in ops(one, "adapter_gate")] == [op["flops"] for op in ops(rank, "adapter_gate")]
    # its partial sums pass the gate and are reduced: 2 requests of TOKENS tokens in bf16
    reduced = ops(rank, "all_reduce_adapter_out")
    assert [op["bytes"] for op in reduced] == [2.0 * TOKENS * HIDDEN * 2] * LAYERS
    assert len(ops(rank, "all_reduce_mlp")) == LAYERS
    assert len(ops(rank, "adapter_in", "decode")) == LAYERS


def test_a_new_op_is_counted_in_parameters(request: pytest.FixtureRequest) -> None:
    spec = load_model(RUN["model"]).decoder
    before = decoder_ops.parameters(spec)
    weights = aimcost.estimate(RUN).memory.weights_bytes
    shared = aimcost.estimate({**RUN, "parallel": {"tp": 4}}).memory.weights_bytes
    request.getfixturevalue("adapted")
    added = HIDDEN * NARROW + NARROW + NARROW * HIDDEN + 7
    assert decoder_ops.parameters(spec) - before == LAYERS * added
    assert aimcost.estimate(RUN).memory.weights_bytes - weights == 2 * LAYERS * added
    of_rank = (added - 7) / 4 + 7
    assert aimcost.estimate({**RUN, "parallel": {"tp": 4}}).memory.weights_bytes - shared == 2 * LAYERS * of_rank


def test_a_new_op_is_alive_in_memory(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    before = [s.activation_bytes for s in aimcost.estimate(RUN).memory.stages if s.stage.startswith("prefill")]
    request.getfixturevalue("adapted")
    plain = decoder_ops._down

    def reads_adapter(name: str, *reads: str) -> Op:
        return plain(name, *reads, "adapter_in")

    monkeypatch.setattr(decoder_ops, "_down", reads_adapter)
    after = [s.activation_bytes for s in aimcost.estimate(RUN).memory.stages if s.stage.startswith("prefill")]
    # held until down_proj: beside gate, up and their product, where the layer peaks
    assert np.subtract(after, before).tolist() == [2.0 * TOKENS * NARROW * 2] * LAYERS


@pytest.mark.usefixtures("adapted")
def test_a_new_op_is_filed_where_it_says() -> None:
    estimate = aimcost.estimate(RUN)
    table = estimate.table
    for name, group in (("adapter_in", "mlp"), ("adapter_out", "mlp"), ("adapter_gate", "rest")):
        rows = np.concatenate([np.arange(s.start, s.stop) for s in table.segments if s.name == name])
        for other in ("projections", "attention", "norms", "mlp", "rest", "selection"):
            assert _grouped(estimate, other)[rows].all() == (other == group)
    layers = next(branch for branch in breakdown(estimate) if branch.name == "layers")
    inside = estimate.rows(["prefill"]) & (table.layer >= 0)
    assert layers.flops == pytest.approx(table.flops[inside].sum(), rel=1e-12)
    # and before the last residual of its layer in the listing
    names = [op["name"] for op in estimate.ops() if op["stage"] == "prefill" and op["layer"] == 0]
    assert names.index("mlp_norm") < names.index("adapter_in") < names.index("mlp_add")


def test_conversions_are_filed_with_the_op_they_serve() -> None:
    every = dict.fromkeys(("decoder", "embedding", "lm_head", "tower", "projector"), "int4")
    estimate = aimcost.estimate({**RUN, "precision": {"weights": every, "kv": "fp8"}})
    table = estimate.table
    groups = {(s.stage, s.name, int(table.layer[s.start]) >= 0): (s.group, s.place) for s in table.segments}
    for stage in ("prefill", "decode"):
        assert groups[stage, "dequantize_weights", True] == ("mlp", "layer")
        assert groups[stage, "dequantize_weights", False] == ("head", "after")
        assert groups[stage, "dequantize_kv", True] == ("attention", "layer")
    # the patches' convolution is not packed
    assert ("vision", "dequantize_weights", False) not in groups
    assert groups["vision", "dequantize_weights", True] == ("mlp", "layer")
    # lm_head's weights are unpacked after the last layer, and shown with it
    order, decode = execution_order(table)
    names = np.array([s.name for s in table.segments])[table.spread(range(len(table.segments)))][order]
    assert list(names[~decode[order]][-3:]) == ["final_norm", "dequantize_weights", "lm_head"]
    head = next(branch for branch in breakdown(estimate) if branch.name == "lm_head")
    outside = [
        op for op in estimate.ops() if op["stage"] == "prefill" and op["layer"] is None and op["name"] != "embed"
    ]
    assert head.bytes == pytest.approx(sum(op["bytes"] for op in outside), rel=1e-12)
    assert next(op["name"] for op in estimate.ops() if op["stage"] == "vision") == "patch_embed"


def test_gates_are_outside_the_modules_that_are_timed() -> None:
    run = {**RUN, "model": "llama-3.2-11b-vision", "workload": {"images": 1, "text_tokens": 50}}
    table = aimcost.estimate(run).table
    assert {s.group for s in table.segments if s.name in ("attn_gate", "mlp_gate") and s.stage == "prefill"} == {"rest"}


def test_what_is_fused_is_what_ops_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that runs gate and up as one product runs a newcomer inside it that says so, in one launch less."""
    run = {**RUN, "estimator": "calibrated", "attention": "flash"}
    stack = {
        "name": "fusing",
        "host_us_per_launch": {"value": 10, "low": 5, "high": 20},
        "fused": ["gate_up"],
        "sources": {"all": "a test"},
    }

    def issued(**changes: Any) -> float:
        estimate = aimcost.estimate({**run, **changes})
        prefill = estimate.rows(["prefill"])
        return float(estimate.priced.host_seconds[prefill].sum())

    apart, fused = issued(stack={**stack, "fused": []}), issued(stack=stack)
    assert apart - fused == pytest.approx(LAYERS * 10e-6, rel=1e-9)
    plain = decoder_ops._mlp_ops

    def with_a_third(spec: DecoderSpec, widths: Widths, rows: Any, ranks: Ranks) -> Iterator[OpCost]:
        third = Op("third_proj", "mlp", "column", reads=("mlp_norm",), fusion="gate_up")
        yield ranks.one_rank(third, gemm.linear, rows, spec.hidden, NARROW, widths)
        yield from plain(spec, widths, rows, ranks)

    monkeypatch.setattr(decoder_ops, "_mlp_ops", with_a_third)
    operations.forget()
    try:
        assert issued(stack=stack) == pytest.approx(fused, rel=1e-9)
        assert issued(stack={**stack, "fused": []}) == pytest.approx(apart + LAYERS * 10e-6, rel=1e-9)
    finally:
        operations.forget()


def test_a_split_that_divides_nothing_is_refused() -> None:
    widths = Widths(weights=2.0, activations=2.0, kv=2.0)
    op = Op("odd", "mlp", "row")
    assert ONE.one_rank(op, pointwise.add, 8.0, widths)[0] is op
    with pytest.raises(TypeError, match="add declares no sizes that split 'row' divides"):
        Ranks(2, 2).one_rank(op, pointwise.add, 8.0, widths)
    with pytest.raises(ValueError, match="'features' is not in list"):
        divided(row=("features",))(lambda in_features: Cost(kind="gemm"))


def test_ranks_of_a_sharded_tower_rotate_their_heads_once() -> None:
    """Half of the FLOPs with two ranks: no size is divided twice."""
    run = {"model": "qwen2.5-vl-7b", "workload": {"images": 1, "text_tokens": 9}, "hardware": "nvidia_a100_sxm_80gb"}
    flops = []
    for tp in (1, 2):
        found = load_run({**run, "parallel": {"tp": tp, "tower": "sharded"}})
        flops.append(
            sum(o["flops"] for o in estimate_run(found).ops() if (o["stage"], o["name"]) == ("vision", "rope"))
        )
    assert flops[1] == flops[0] / 2 > 0


def test_kv_columns_are_copied_beyond_the_kv_heads() -> None:
    spec = load_model("mistral-7b-v0.3").decoder
    ranks = decoder_ranks(spec, Parallel(tp=16))
    assert (ranks.count, ranks.kv) == (16, 8)
    assert (ranks.share(spec.heads), ranks.kv_share(spec.kv_heads)) == (2, 1)


# Files that yield ops, beside each method's cost.py. LLM-Viewer's rows are its own.
YIELD = {
    "models/decoder.py",
    "models/vit.py",
    "models/projector.py",
    "models/resampler.py",
    "ops/attention.py",
    "ops/reduction.py",
    "pricing/derived.py",
    "pricing/operations.py",
    "pricing/estimators/llm_viewer.py",
    # the ops of a trace are named as the hand-written ones
    "tracing/aten.py",
    "tracing/naming.py",
    "tracing/recorder.py",
}
# Words that are something else as well: kinds of cost and of kernel, a stage, an event's action, a file's column, a
# part of a model.
AMBIGUOUS = {"embed", "gather", "lm_head", "merge", "pool", "rope", "score", "select", "softmax"}
REDUCTION = {"score", "select", "gather", "merge"}
# What is no op: modules of transformers, a norm of a checkpoint.
ELSEWHERE = {
    ("inputs/hf/qwen.py", "post_norm"),
    ("measure/probe.py", "q_proj"),
    ("measure/probe.py", "k_proj"),
    ("measure/probe.py", "v_proj"),
    ("runtime/tower.py", "q_proj"),
    # kinds of kernels that a campaign times
    ("measure/campaign/summary.py", "reduction"),
    ("measure/profile/curves.py", "reduction"),
    ("report/campaign.py", "reduction"),
    # kinds of kernels in published timings
    ("machine/fitting/attained.py", "reduction"),
    ("machine/fitting/memory_bound.py", "mlp_act"),
}


def every_name() -> set[str]:
    """Names of ops over models, formats, splits and methods."""
    runs: list[dict[str, Any]] = []
    for model in (path.stem for path in (ROOT / "configs" / "models").glob("*.yaml")):
        workload: dict[str, Any] = {"text_tokens": 32, "new_tokens": 2}
        if load_model(model).vision is not None:
            workload["images"] = 1
        runs.append({"model": model, "workload": workload})
        runs.append({**runs[-1], "attention": "eager", "precision": {"weights": "int4", "kv": "fp8"}})
    for parallel in ({"tp": 2, "pp": 2, "tower": "sharded"}, {"tp": 2, "tower": "data"}):
        runs.append({**RUN, "method": {"name": "aim"}, "parallel": parallel})
    shared = {"model_type": "qwen2_moe", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    shared |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 64, "num_experts": 4}
    shared |= {"num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}
    runs.append({"model": shared, "workload": {"text_tokens": 32}})
    names: set[str] = set()
    for run in runs:
        priced = aimcost.estimate({**run, "hardware": "nvidia_a100_sxm_80gb", "estimator": "roofline"})
        names |= {segment.name for segment in priced.table.segments}
    return names


def test_names_of_ops_stand_only_where_ops_are_yielded() -> None:
    names = every_name()
    # or the search would find nothing
    assert names >= {"q_proj", "shared_add", "attn_gate", "attn_scale", "patch_embed", "proj_1", "resampler_kv_in"}
    assert names >= {"all_reduce_attn", "dequantize_kv", "send_stage", "deepstack_add", "sv_matmul", *AMBIGUOUS}
    offenders = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place not in YIELD and not place.startswith("data/") and path.name != "cost.py":
            found = _named_in(ast.parse(path.read_text(encoding="utf-8")), names)
            offenders += [f"{place}:{line} {what}" for line, what in found if (place, what) not in ELSEWHERE]
    assert not offenders


def _named_in(tree: ast.Module, names: set[str]) -> Iterator[tuple[int, str]]:
    """Names of ops in a file, alone or as a list of reduction ops, and tests of how an op's name begins."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names - AMBIGUOUS:
            yield node.lineno, node.value
        elif isinstance(node, ast.Tuple | ast.List | ast.Set) and len(node.elts) > 1:
            if {getattr(element, "value", None) for element in node.elts} <= REDUCTION:
                yield node.lineno, "reduction"
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("op.name", "segment.name"):
            yield node.lineno, ast.unparse(node)


def test_the_search_finds_names() -> None:
    source = 'wanted = {"q_proj", "up"}\nif segment.name.startswith("shared_"): pass\nx = ("score", "merge")'
    assert sorted(_named_in(ast.parse(source), {"q_proj", "score"})) == [
        (1, "q_proj"),
        (2, "segment.name.startswith"),
        (3, "reduction"),
    ]


@pytest.mark.parametrize("kernel", ["flash", "eager"])
@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "qwen3-30b-a3b", "qwen2.5-vl-7b", "internvl3-8b", "llama-3.2-11b-vision"]
)
def test_every_tensor_that_an_op_reads_is_made_before_it(name: str, kernel: str) -> None:
    """A misspelt read would move peaks and all-reduces without a word."""
    model = load_model(name)
    widths, shared = Widths.of(Precision()), {"batch": 1.0, "kernel": kernel, "onchip_bytes": 0.0}
    runs = [decoder_ops.layer_ops(model.decoder, widths, q_len=4.0, kv_len=9.0, **shared)]
    if model.decoder.cross_layers:
        runs.append(decoder_ops.cross_layer_ops(model.decoder, widths, q_len=4.0, kv_len=9.0, **shared))
    if model.vision is not None:
        load = TowerLoad(sequences=1, rows=8, columns=8)
        runs += [
            vit.layer_ops(
                model.vision, widths, inputs=1.0, load=load, kernel=kernel, onchip_bytes=0.0, windowed=w, gated=g
            )
            for _, w, g in vit.layer_groups(model.vision)
        ]
    for ops in runs:
        made = {"x"}
        for op, _ in ops:
            # nothing is repeated where there are as many KV heads as heads, and grouped heads read the cache
            assert set(op.reads) <= made | {"repeated_kv"}, op.name
            made |= {op.name, *op.extra}
