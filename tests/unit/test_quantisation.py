"""``quantization_config`` of a config.json: what is quantised, in which format, and what the run says against it."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs.run import Run, load_run

TEXT = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
LINEAR = 4 * (4 * 1024**2 + 3 * 1024 * 4096)
REST = 2 * 32000 * 1024 + (4 * 2 + 1) * 1024
COMPRESSED = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": True},
            "input_activations": None,
        }
    },
    "ignore": ["lm_head", "re:.*visual.*"],
    "kv_cache_scheme": {"num_bits": 8, "type": "float"},
}


def resolved(quantised: dict[str, Any] | None, *, model: dict[str, Any] | None = None, **more: Any) -> Run:
    config = {**(model or TEXT), **({"quantization_config": quantised} if quantised else {})}
    return load_run({"model": config, "workload": {"text_tokens": 100}, "hardware": "nvidia_h100_sxm", **more})


def weights_bytes(quantised: dict[str, Any]) -> float:
    run = resolved(quantised)
    return aimcost.estimate(run.document()).memory.weights_bytes


@pytest.mark.parametrize(
    ("quantised", "each"),
    [
        # 4 bits, a 16-bit scale and a 4-bit zero point in 128
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 0.5 + 2.5 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False}, 0.5 + 2 / 64),
        # zero points are stored where they are all alike
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, 0.5 + 2.5 / 32),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0),
        # a 32-bit constant a block of 64
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5 + 4 / 64),
        # 8 bits a block of 64, and 32 bits a block of 256 of those: 0.127 bits a weight (arXiv 2305.14314)
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            0.5 + 1 / 64 + 4 / (64 * 256),
        ),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1.0),
        (COMPRESSED, 0.5 + 2 / 64),
    ],
)
def test_decoder_layers_take_the_bytes_that_the_method_stores(quantised: dict[str, Any], each: float) -> None:
    assert weights_bytes(quantised) == LINEAR * each + 2 * REST


def test_formats_of_activations_and_cache_are_read() -> None:
    assert resolved(COMPRESSED).precision.kv == "fp8"
    assert resolved(COMPRESSED).precision.activations == "bf16"
    assert resolved({"quant_method": "fp8"}).precision.activations == "fp8"


def test_what_the_run_says_wins_and_is_noted() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    run = resolved(awq, precision={"weights": 16})
    assert run.precision.weights == "bf16"
    assert "precision.weights replaces the quantization_config of inline (awq)" in run.notes
    # a format of the cache leaves the weights to the file
    assert resolved(awq, precision={"kv": "fp8"}).precision.weights == "int4"
    assert any("quantization_config (awq): weights int4" in note for note in resolved(awq).notes)


VISION = {
    "model_type": "qwen2_5_vl",
    "text_config": {**TEXT, "model_type": "qwen2_5_vl_text"},
    "vision_config": {
        "model_type": "qwen2_5_vl",
        "depth": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 1024,
        "fullatt_block_indexes": [1],
    },
}


@pytest.mark.parametrize(
    ("quantised", "tower", "projector"),
    [
        ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["visual"]}, None, None),
        ({"quant_method": "awq", "bits": 4}, None, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", "int4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["visual"]}, None, None),
        ({"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "model.visual.blocks"]}, None, "fp8"),
        (COMPRESSED, None, None),
        ({**COMPRESSED, "ignore": ["lm_head"]}, "int4", "int4"),
    ],
)
def test_towers_are_quantised_where_the_loader_quantises_them(
    quantised: dict[str, Any], tower: str | None, projector: str | None
) -> None:
    precision = resolved(quantised, model=VISION).precision
    assert (precision.tower, precision.projector, precision.lm_head) == (tower, projector, None)


def test_layers_that_stay_in_sixteen_bits_are_named() -> None:
    kept = {
        "quant_method": "fp8",
        "modules_to_not_convert": ["lm_head", "model.layers.0.self_attn", "model.layers.1.mlp.gate"],
    }
    notes = resolved(kept).notes
    assert (
        "quantization_config leaves model.layers.0.self_attn in 16 bit: priced as the decoder's other linear layers"
        in notes
    )


@pytest.mark.parametrize(
    ("quantised", "key"),
    [
        ({"quant_method": "gptq", "bits": 3}, "quantization_config.bits"),
        ({"quant_method": "awq", "bits": 4, "group_size": 0}, "quantization_config.group_size"),
        ({"quant_method": "bitsandbytes"}, "quantization_config.load_in_4bit"),
    ],
)
def test_what_has_no_format_here_is_refused(quantised: dict[str, Any], key: str) -> None:
    with pytest.raises(InvalidValueError, match=key):
        resolved(quantised)


def test_an_unknown_method_is_noted() -> None:
    run = resolved({"quant_method": "higgs"})
    assert "quantization_config (higgs) is not read: set precision.weights" in run.notes
    assert run.precision.weights == "bf16"


def test_float32_of_a_config_is_noted_unless_the_run_says_a_format() -> None:
    wide = {**TEXT, "torch_dtype": "float32"}
    assert any("stored in float32" in note for note in resolved(None, model=wide).notes)
    assert not any("float32" in note for note in resolved(None, model=wide, precision={"weights": 32}).notes)
    assert not any("float32" in note for note in resolved(None, model={**TEXT, "dtype": "bfloat16"}).notes)
