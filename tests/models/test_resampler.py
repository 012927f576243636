"""Qwen-VL's tower and resampler, which transformers does not have: by hand, and by its own report's sizes."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs.model import load_model, model_config
from aimcost.models import projector, resampler, vit
from aimcost.ops.op import stored_parameters
from aimcost.types import Precision, ResamplerSpec
from aimcost.types.formats import Widths

SPEC = ResamplerSpec(queries=4, heads=2, tower_width=6, width=8)
WIDTHS = Widths.of(Precision(weights="bf16", activations="bf16", kv="bf16"))


def test_operations_by_hand() -> None:
    costs = {op.name: cost for op, cost in resampler.ops(SPEC, WIDTHS, inputs=3, patches=9)}
    assert costs["resampler_kv_in"].flops == 2 * 27 * 6 * 8
    assert costs["resampler_q_proj"].flops == 2 * 12 * 8 * 8
    assert costs["resampler_k_proj"].flops == costs["resampler_v_proj"].flops == 2 * 27 * 8 * 8
    # 4 queries by 9 keys, 8 wide, for each of three images
    assert costs["resampler_fused_attention"].flops == 4 * 3 * 4 * 9 * 8
    assert costs["resampler_o_proj"].flops == costs["resampler_proj"].flops == 2 * 12 * 8 * 8


def test_parameters_by_hand() -> None:
    # kv_in 48; q, k, v, o 64 + 8 each; proj 64; three norms of 16; four queries of 8
    assert stored_parameters(resampler.ops(SPEC, WIDTHS, inputs=3, patches=9)) == 48 + 4 * 72 + 64 + 3 * 16 + 32


def test_sizes_are_those_of_the_report() -> None:
    """arXiv 2308.12966, Table 1: a tower of 1.9 B, an adapter of 0.08 B, 9.6 B in all."""
    model = load_model("qwen-vl-chat")
    assert model.vision is not None
    tower = vit.parameters(model.vision)
    assert tower == pytest.approx(1.9e9, rel=0.04)
    assert projector.parameters(model) == pytest.approx(0.08e9, rel=0.2)
    weights = aimcost.estimate({"model": "qwen-vl-chat", "workload": {"text_tokens": 5}}, hardware="nvidia_l4")
    assert weights.memory.weights_bytes / 2 == pytest.approx(9.6e9, rel=0.02)


def test_an_image_is_256_tokens_of_1024_patches() -> None:
    run = {"model": "qwen-vl-chat", "workload": {"images": 2, "text_tokens": 20}, "hardware": "nvidia_a100_sxm_80gb"}
    estimate = aimcost.estimate(run)
    assert estimate.run.schedule.visual_tokens == 512
    ops = {op["name"]: op for op in estimate.ops() if op["stage"] == "projector"}
    assert ops["resampler_k_proj"]["flops"] == 2 * 2048 * 4096 * 4096
    assert ops["resampler_q_proj"]["flops"] == 2 * 512 * 4096 * 4096
    blocks = [op for op in estimate.ops() if op["stage"] == "vision" and op["name"] == "up_proj"]
    assert len(blocks) == 48
    assert blocks[0]["flops"] == 2 * 2048 * 1664 * 8192


@pytest.mark.parametrize(
    ("key", "value"), [("mlp_ratio", "4"), ("output_dim", 100), ("heads", 7), ("patch_size", 1000), ("width", 0)]
)
def test_towers_that_cannot_be(key: str, value: Any) -> None:
    config = model_config("qwen-vl-chat")
    config["visual"] = {**config["visual"], key: value}
    with pytest.raises(InvalidValueError, match=key):
        load_model(config)
