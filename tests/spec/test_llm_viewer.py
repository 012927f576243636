"""`llm_viewer` against a second implementation: plain loops over one number at a time.

The reference below is written from the published formulas alone and shares nothing with the
package; both must agree to 1e-9 on any model, schedule, batch, width, kernel and stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import aimcost

SEEDS = yaml.safe_load(Path(__file__).with_name("seed_rows.yaml").read_text(encoding="utf-8"))
FP16, INT8 = 312e12, 624e12
BANDWIDTH = 1555e9


@dataclass(frozen=True)
class Case:
    """One request in the reference's own terms; `w`, `a`, `c` in bytes an element."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int
    tokens: tuple[int, ...]
    batch: int = 1
    w: float = 2.0
    a: float = 2.0
    c: float = 2.0
    flash: bool = False
    skip_mlp_add: bool = False
    onchip: float = 27648e3
    new_tokens: int = 0

    @property
    def peak(self) -> float:
        return INT8 if self.w <= 1 and self.a <= 1 and self.c <= 1 else FP16


def layer_kernels(case: Case, n: int, *, decode: bool) -> dict[str, tuple[float, float]]:
    """(FLOPs, bytes) of each kernel of one layer with n tokens, prefill or one decode step."""
    b, h, heads, kv_heads = case.batch, case.hidden, case.heads, case.kv_heads
    d, kv_width = h // heads, h * kv_heads // heads
    rows = 1 if decode else n  # query tokens
    square = rows * n
    kernels: dict[str, tuple[float, float]] = {}
    shapes = {
        "q_proj": (h, h),
        "k_proj": (h, kv_width),
        "v_proj": (h, kv_width),
        "out_proj": (h, h),
        "gate_proj": (h, case.intermediate),
        "up_proj": (h, case.intermediate),
        "down_proj": (case.intermediate, h),
    }
    for name, (fan_in, fan_out) in shapes.items():
        stored = case.c if name in ("k_proj", "v_proj") else case.a
        kernels[name] = (
            2 * b * rows * fan_in * fan_out,
            fan_in * fan_out * case.w + b * rows * fan_in * case.a + b * rows * fan_out * stored,
        )
    product, softmax = 2 * b * square * d * heads, 5 * b * heads * square
    scores = b * square * heads * case.a
    keys = b * n * d * kv_heads * case.c
    if case.flash:
        block = min(math.ceil(case.onchip / (case.c * d)), d)
        reloads = math.ceil(rows / block)
        kernels["fused_attention"] = (
            2 * product + softmax,
            b * rows * d * heads * case.a + 2 * scores + 2 * reloads * keys,
        )
    else:
        query_heads = heads if decode else kv_heads
        kernels["qk_matmul"] = (product, b * rows * d * query_heads * case.a + scores + keys)
        kernels["softmax"] = (softmax, 2 * scores)
        kernels["sv_matmul"] = (product, scores + b * rows * d * heads * case.a + keys)
    elements = b * h * rows
    for name in ("attn_norm", "mlp_norm"):
        kernels[name] = (7 * elements, 2 * elements * case.a)
    for name in ("attn_add", "mlp_add"):
        kernels[name] = (elements, 2 * elements * case.a)
    kernels["mlp_act"] = (2 * elements, 3 * elements * case.a)
    if case.skip_mlp_add:
        del kernels["mlp_add"]
    return kernels


def head_kernel(case: Case) -> tuple[float, float]:
    weights = case.hidden * case.vocab
    return case.batch * weights, weights * case.w + case.hidden * case.a + case.vocab * case.a


def reference(case: Case, stage: str) -> tuple[float, float, float]:
    """FLOPs, bytes, seconds of one stage."""
    passes = [0] if stage == "prefill" else range(case.new_tokens)
    flops = size = seconds = 0.0
    for step in passes:
        kernels = [head_kernel(case)]
        for n in case.tokens:
            kernels += layer_kernels(case, n + step, decode=stage == "decode").values()
        for work, moved in kernels:
            flops, size = flops + work, size + moved
            seconds += max(work / case.peak, moved / BANDWIDTH)
    return flops, size, seconds


def run_of(case: Case, head_dim: int | None = None) -> dict[str, Any]:
    model: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": case.hidden,
        "intermediate_size": case.intermediate,
        "num_hidden_layers": len(case.tokens),
        "num_attention_heads": case.heads,
        "num_key_value_heads": case.kv_heads,
        "vocab_size": case.vocab,
    }
    if head_dim is not None:
        model["head_dim"] = head_dim
    return {
        "model": model,
        "workload": {"batch": case.batch, "text_tokens": case.tokens[0], "new_tokens": case.new_tokens},
        "method": {"name": "explicit", "tokens_per_layer": list(case.tokens)},
        "precision": {
            "weights": int(case.w * 8),
            "activations": int(case.a * 8),
            "kv": int(case.c * 8),
        },
        "attention": "flash" if case.flash else "eager",
        "estimator": "llm_viewer",
        "estimator_options": {"skip_mlp_add": case.skip_mlp_add},
        "hardware": {
            "name": "a100 as LLM-Viewer has it",
            "memory_gb_per_s": BANDWIDTH / 1e9,
            "dense_tflops": {"fp16": FP16 / 1e12, "int8": INT8 / 1e12},
            "onchip_buffer_kb": case.onchip / 1e3,
        },
    }


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, int | None]:
    heads, ratio = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    head_dim = draw(st.none() | st.sampled_from([16, 64, 80, 128, 256]))
    heads *= ratio
    hidden = heads * draw(st.integers(1, 160))
    if head_dim is not None:  # a width of its own need not divide anything
        hidden += draw(st.integers(0, heads - 1))
    widths = st.sampled_from([0.5, 1.0, 2.0, 4.0])
    tokens = sorted(draw(st.lists(st.integers(1, 40_000), min_size=1, max_size=6)), reverse=True)
    case = Case(
        hidden=hidden,
        intermediate=draw(st.integers(1, 30_000)),
        heads=heads,
        kv_heads=heads // ratio,
        vocab=draw(st.integers(1, 200_000)),
        tokens=tuple(tokens),
        batch=draw(st.integers(1, 64)),
        w=draw(widths),
        a=draw(widths),
        c=draw(widths),
        flash=draw(st.booleans()),
        skip_mlp_add=draw(st.booleans()),
        # from blocks smaller than a head to a whole register file; eighths of a kB are exact in binary
        onchip=125.0 * draw(st.integers(1, 400) | st.sampled_from([8000, 221_184])),
        new_tokens=draw(st.integers(0, 6)),
    )
    return case, head_dim


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(cases())
def test_equals_the_formulas(drawn: tuple[Case, int | None]) -> None:
    case, head_dim = drawn
    stages = aimcost.estimate(run_of(case, head_dim)).stages
    for stage in ("prefill", "decode"):
        found = (stages[stage].flops, stages[stage].bytes, stages[stage].time_s)
        assert found == pytest.approx(reference(case, stage), rel=1e-9, abs=0.0)
    assert stages["decode"].steps == case.new_tokens
    assert {name for name, stage in stages.items() if stage.flops} <= {"prefill", "decode"}


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(cases())
def test_each_kernel_of_each_layer(drawn: tuple[Case, int | None]) -> None:
    case, head_dim = drawn
    ops = aimcost.estimate(run_of(case, head_dim)).ops()
    for layer, n in enumerate(case.tokens):
        expected = layer_kernels(case, n, decode=False)
        found = {op["name"]: op for op in ops if op["stage"] == "prefill" and op["layer"] == layer}
        assert found.keys() == expected.keys()
        for name, (flops, size) in expected.items():
            op = found[name]
            assert (op["flops"], op["bytes"]) == pytest.approx((flops, size), rel=1e-9)
            assert op["time_s"] == pytest.approx(max(flops / case.peak, size / BANDWIDTH), rel=1e-9)
            memory_bound = size / BANDWIDTH > flops / case.peak
            assert op["bound"] == ("memory" if memory_bound else "compute")


def seed_case(row: dict[str, Any]) -> Case:
    shape = SEEDS["models"][row["model"]]
    return Case(
        hidden=shape["hidden"],
        intermediate=shape["intermediate"],
        heads=shape["heads"],
        kv_heads=shape["kv_heads"],
        vocab=shape["vocab"],
        tokens=tuple(count for count, layers in row["tokens"] for _ in range(layers)),
        skip_mlp_add=row["skip"],
    )


@pytest.mark.parametrize("row", SEEDS["rows"], ids=lambda row: row["id"])
def test_published_row(row: dict[str, Any]) -> None:
    """Both implementations give the released program's figures, to all six decimals kept of them."""
    case = seed_case(row)
    assert len(case.tokens) == SEEDS["models"][row["model"]]["layers"]
    prefill = aimcost.estimate(run_of(case)).stages["prefill"]
    for flops, seconds in ((prefill.flops, prefill.time_s), reference(case, "prefill")[::2]):
        assert flops / 1e12 == pytest.approx(row["tflops"], abs=5.1e-7)
        assert seconds * 1e3 == pytest.approx(row["ms"], abs=5.1e-7)


def test_eight_bit_peak_needs_all_three_tensor_classes() -> None:
    narrow = {"w": 1.0, "a": 1.0, "c": 1.0}
    times = {}
    for wide in (None, "w", "a", "c"):
        widths = {**narrow, **({wide: 2.0} if wide else {})}
        case = Case(4096, 11008, 32, 32, 32000, (8000,) * 2, flash=False, **widths)
        estimate = aimcost.estimate(run_of(case))
        op = next(op for op in estimate.ops() if op["name"] == "gate_proj")
        times[wide] = op["time_s"] / (op["flops"] / INT8)
    assert times == pytest.approx({None: 1.0, "w": 2.0, "a": 2.0, "c": 2.0})


def test_a_block_smaller_than_a_head_reloads_keys() -> None:
    """r = min(⌈1000 / (2·128)⌉, 128) = 4: 100 queries reload keys and values 25 times."""
    small = Case(256, 512, 2, 2, 100, (100,), flash=True, onchip=1000.0)
    large = Case(256, 512, 2, 2, 100, (100,), flash=True)
    moved = [aimcost.estimate(run_of(case)).stages["prefill"].bytes for case in (small, large)]
    keys = 100 * 128 * 2 * 2  # n·d·V·2 bytes
    assert moved[0] - moved[1] == 2 * (25 - 1) * keys


FROM_A_USERS_RUN = {
    "video_aim_32f": {"name": "aim", "convention": "paper"},
    "llava_ov_7b": {"name": "none", "convention": "paper"},
    "merge_only_50": {"name": "aim", "convention": "paper", "merge_ratio": 0.5, "l1": 28, "l2": 29},
    "merge_only_6.3": {"name": "aim", "convention": "paper", "merge_ratio": 0.0625, "l1": 28, "l2": 29},
    "retention_12.5": {"name": "aim", "convention": "paper", "merge_ratio": 0.125, "decay": 0.0125},
    "retention_1.6": {"name": "aim", "convention": "paper", "merge_ratio": 0.015625, "decay": 0.0125},
    "video_vtw": {"name": "vtw", "k": 6, "convention": "paper"},
    "video_fastv": {"name": "fastv", "k": 1, "keep_tokens": 1248, "convention": "paper"},
}


@pytest.mark.parametrize("identifier", FROM_A_USERS_RUN)
def test_a_users_run_gives_the_published_row(identifier: str) -> None:
    """32 frames and 100 text tokens by name, under the paper's convention; each slip comes with its decay."""
    row = next(row for row in SEEDS["rows"] if row["id"] == identifier)
    run = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 32, "text_tokens": 100},
        "method": FROM_A_USERS_RUN[identifier],
        "attention": "eager",
        "estimator": "llm_viewer",
        "estimator_options": {"skip_mlp_add": True},
        "hardware": "llm_viewer_nvidia_a100",
    }
    document = aimcost.estimate(run).to_dict()
    prefill = document["stages"]["prefill"]
    assert prefill["flops"] / 1e12 == pytest.approx(row["tflops"], abs=5.1e-7)
    assert prefill["time_s"] * 1e3 == pytest.approx(row["ms"], abs=5.1e-7)
    assert document["totals"]["flops"] == prefill["flops"]
