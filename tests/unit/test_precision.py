"""Weights, activations and cache in formats of their own: bytes, conversions and peaks."""

from __future__ import annotations

import itertools

import pytest

import aimcost
from aimcost.errors import InvalidValueError

RUN = {
    "model": "llama-3.1-8b",
    "workload": {"text_tokens": 2000, "new_tokens": 17},
    "hardware": "nvidia_h100_sxm",
    "estimator": "roofline",
}


def at(**precision: object) -> aimcost.Estimate:
    return aimcost.estimate({**RUN, "precision": precision})


def ops(estimate: aimcost.Estimate, name: str, stage: str = "prefill") -> list[dict]:
    return [op for op in estimate.ops() if op["name"] == name and op["stage"] == stage]


LAYER_WEIGHTS = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336


def test_sixteen_bits_convert_nothing() -> None:
    names = {op["name"] for op in at().ops()}
    assert not names & {"dequantize_weights", "dequantize_kv"}
    assert not any("dequantized" in note for note in at().notes)


def test_int4_weights_are_read_packed_with_their_scales() -> None:
    wide, narrow = at(), at(weights="int4")
    up_16, up_4 = ops(wide, "up_proj", "decode")[0], ops(narrow, "up_proj", "decode")[0]
    assert up_16["bytes"] - up_4["bytes"] == 16 * 4096 * 14336 * 1.5
    (first, *_) = ops(narrow, "dequantize_weights")
    # of 128 weights a 16-bit scale and a 4-bit zero point
    assert first["bytes"] == LAYER_WEIGHTS / 128 * 2.5
    assert first["flops"] == 2 * LAYER_WEIGHTS
    assert narrow.stages["decode"].time_s < 0.4 * wide.stages["decode"].time_s
    # prefill computes in bf16 either way
    assert ops(narrow, "up_proj")[0]["time_s"] == ops(wide, "up_proj")[0]["time_s"]
    assert narrow.matrix_flops(["prefill"]) == wide.matrix_flops(["prefill"])


def test_int4_decoder_layers_take_half_a_byte_and_scales_and_the_rest_sixteen_bits() -> None:
    packed = 32 * LAYER_WEIGHTS
    rest = 2 * 128256 * 4096 + 32 * 2 * 4096 + 4096
    assert at().memory.weights_bytes == 2 * (packed + rest)
    assert at(weights="int4").memory.weights_bytes == packed * (0.5 + 2.5 / 128) + 2 * rest


def test_qwen_awq_takes_6_92_gb() -> None:
    """28 layers of 2·3584² + 2·3584·512 + 3·3584·18944 weights at 4 bits, with 20 bits a group of 128: 3.390 GB.

    Embedding and lm_head, 2·152064·3584, and the tower's 676,550,144 parameters stay 16 bit: 2.180 and 1.353 GB;
    norms and biases 1 MB. Qwen/Qwen2.5-VL-7B-Instruct-AWQ's safetensors hold 6.92 GB.
    """
    run = {"model": "qwen2.5-vl-7b", "workload": {"images": 1}, "hardware": "nvidia_h100_sxm"}
    linear = 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    vectors = 28 * (2 * 3584 + 3584 + 2 * 512) + 3584
    rest = 2 * 152064 * 3584 + 676_550_144 + vectors
    found = aimcost.estimate(run, precision={"weights": "int4"}).memory.weights_bytes
    assert found == linear * (0.5 + 2.5 / 128) + 2 * rest
    assert found == pytest.approx(6.92e9, rel=1e-3)


def test_parts_that_are_not_named_stay_sixteen_bits() -> None:
    """The tower's linear layers alone in 8 bits: 32 layers of 4·1280² + 3·1280·3420, a byte each less."""
    run = {"model": "qwen2.5-vl-7b", "workload": {"images": 1}, "hardware": "nvidia_h100_sxm"}
    wide = aimcost.estimate(run)
    narrow = aimcost.estimate(run, precision={"weights": {"tower": "int8"}})
    assert wide.memory.weights_bytes - narrow.memory.weights_bytes == 32 * (4 * 1280**2 + 3 * 1280 * 3420)
    converted = {op["stage"] for op in narrow.ops() if op["name"] == "dequantize_weights"}
    assert converted == {"vision"}
    assert narrow.stages["prefill"] == wide.stages["prefill"]


def test_each_part_computes_in_its_own_format() -> None:
    """W8A8: the decoder's products at the fp8 peak, lm_head at the bf16 one, half as fast."""
    wide, narrow = at(), at(weights="fp8", activations="fp8")
    assert ops(wide, "up_proj")[0]["time_s"] / ops(narrow, "up_proj")[0]["time_s"] == pytest.approx(2.0, rel=1e-3)
    head_16, head = ops(wide, "lm_head")[0], ops(narrow, "lm_head")[0]
    # its weights are 99.9 % of its bytes, and 16 bit in both
    assert head["bytes"] == pytest.approx(head_16["bytes"], rel=1e-3)


def test_a_router_is_never_packed() -> None:
    """Qwen3-30B-A3B in int4: 48 routers of 2048 x 128 stay 16 bit with norms, embedding and lm_head."""
    run = {"model": "qwen3-30b-a3b", "workload": {"text_tokens": 100}, "hardware": "nvidia_h100_sxm"}
    layer = 2048 * 4096 * 2 + 2 * 2048 * 512 + 128 * 3 * 2048 * 768
    rest = 2 * 151936 * 2048 + 48 * (2048 * 128 + 2 * 2048 + 2 * 128) + 2048
    found = aimcost.estimate(run, precision={"weights": "int4"}).memory.weights_bytes
    assert found == 48 * layer * (0.5 + 2.5 / 128) + 2 * rest


def test_a_tied_table_has_one_format() -> None:
    run = {"model": "qwen2.5-vl-3b", "workload": {"images": 1}, "hardware": "nvidia_h100_sxm"}
    with pytest.raises(InvalidValueError, match="one format for embedding and lm_head"):
        aimcost.estimate(run, precision={"weights": {"lm_head": 8}})
    both = aimcost.estimate(run, precision={"weights": {"lm_head": 8, "embedding": 8}}).memory.weights_bytes
    assert aimcost.estimate(run).memory.weights_bytes - both == 151936 * 2048


def test_eight_bits_throughout_use_the_eight_bit_peak() -> None:
    wide = ops(at(), "up_proj")[0]["time_s"]
    for dtype in ("fp8", "int8"):
        narrow = at(weights=dtype, activations=dtype, kv=dtype)
        # 1979 against 989.4 TFLOP/s
        assert wide / ops(narrow, "up_proj")[0]["time_s"] == pytest.approx(2.0, rel=1e-3)
        assert "dequantize_weights" not in {op["name"] for op in narrow.ops()}


def test_formats_that_no_unit_mixes_compute_in_sixteen_bits() -> None:
    mixed = at(weights="fp8", activations="int8")
    assert ops(mixed, "up_proj")[0]["time_s"] == ops(at(), "up_proj")[0]["time_s"]
    assert any("dequantized to bf16" in note for note in mixed.notes)


def test_a_narrow_cache_is_converted_in_attention() -> None:
    wide, narrow = at(), at(kv="int8")
    assert narrow.memory.kv_bytes == wide.memory.kv_bytes / 2 * (1 + 2 / 128)
    converted = ops(narrow, "dequantize_kv", "decode")
    read = 2 * 1024 * sum(2000 + g + 1 for g in range(16))
    assert [op["flops"] for op in converted] == [2.0 * read] * 32
    assert [op["bytes"] for op in converted] == [read / 128 * 2] * 32
    assert ops(narrow, "dequantize_weights") == []


def test_a_missing_peak_is_said() -> None:
    a100 = aimcost.estimate(
        {**RUN, "hardware": "nvidia_a100_sxm_80gb", "precision": {"weights": "fp8", "activations": "fp8"}}
    )
    assert any("no fp8 peak: computed at bf16" in note for note in a100.notes)


@pytest.mark.parametrize(
    ("weights", "activations", "kv"),
    list(itertools.product((16, "fp8", "int8", "int4"), (16, "fp8", "int8"), (16, "fp8", "int8", "int4"))),
)
def test_every_mixture_prints_finite_figures(weights: object, activations: object, kv: object) -> None:
    estimate = at(weights=weights, activations=activations, kv=kv)
    assert 0 < estimate.totals.time_s <= 1.02 * at().totals.time_s
    assert estimate.memory.peak_bytes <= at().memory.peak_bytes


def test_a_cache_in_fp8_has_a_scale_a_tensor() -> None:
    """Qwen3-30B-A3B: 48 layers · 2 · 4 KV heads · 128 = 49,152 bytes a token; in int8, 2 more a head: 49,920."""
    run = {"model": "qwen3-30b-a3b", "workload": {"text_tokens": 1000}, "hardware": "nvidia_h100_sxm"}
    assert aimcost.estimate(run, precision={"kv": "fp8"}).memory.kv_bytes == 49_152_000
    assert aimcost.estimate(run, precision={"kv": "int8"}).memory.kv_bytes == 49_920_000


@pytest.mark.parametrize(
    ("given", "key", "also"), [("int3", "", " or a mapping"), ({"decoder": "int3"}, ".decoder", "")]
)
def test_a_format_without_a_name_is_refused_with_all_that_have_one(given: object, key: str, also: str) -> None:
    names = "32, 16, 8, 4, 'fp32', 'bf16', 'fp16', 'fp8', 'int8', 'int4', 'fp4'"
    with pytest.raises(InvalidValueError) as refused:
        at(weights=given)
    assert f"'precision.weights{key}' must be one of {names}{also} (got 'int3')" in str(refused.value)
