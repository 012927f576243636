"""Figures of configurations that leave keys out, each worked out: class defaults, and what a stack makes of them."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost
from aimcost.inputs.model import load_model, model_config
from aimcost.models import decoder

MOE = {
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "intermediate_size": 2048,
    "moe_intermediate_size": 256,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 1000,
}
DENSE = {"hidden_size": 1024, "num_hidden_layers": 2, "intermediate_size": 2048, "vocab_size": 1000}


def _estimate(model: Any, **run: Any) -> aimcost.Estimate:
    return aimcost.estimate({"model": model, "hardware": "nvidia_h100_sxm", **run})


def test_a_head_is_hidden_over_heads_wide_where_no_key_says() -> None:
    """qwen3_moe's class has no head_dim of 128: 1024 / 16, and four KV heads."""
    spec = load_model(MOE).decoder
    assert (spec.head_dim, spec.kv_heads) == (1024 // 16, 4)
    assert load_model({**MOE, "head_dim": 128}).decoder.head_dim == 128
    # qwen3's class does have one
    assert load_model({**DENSE, "model_type": "qwen3", "num_attention_heads": 32}).decoder.head_dim == 128


@pytest.mark.parametrize(("kind", "heads", "kv_heads"), [("qwen2", 64, 32), ("mistral", 16, 8), ("llama", 16, 16)])
def test_kv_heads_that_are_left_out_are_the_classes(kind: str, heads: int, kv_heads: int) -> None:
    spec = load_model({**DENSE, "model_type": kind, "num_attention_heads": heads}).decoder
    assert spec.kv_heads == kv_heads


def test_internvl_ties_its_embeddings_where_no_key_says() -> None:
    """151,674 rows of 3,584: stored once, not twice."""
    config = dict(model_config("internvl3-8b"))
    stated = [section for section in (config, config["text_config"]) if "tie_word_embeddings" in section]
    assert stated
    bare = {k: v for k, v in config.items() if k != "tie_word_embeddings"}
    bare["text_config"] = {k: v for k, v in config["text_config"].items() if k != "tie_word_embeddings"}
    tied, own = load_model(bare).decoder, load_model(config).decoder
    assert (tied.tied_embeddings, own.tied_embeddings) == (True, False)
    assert decoder.parameters(own) - decoder.parameters(tied) == own.vocab * 3584


def test_experts_under_either_name() -> None:
    """`num_local_experts` is Mixtral's name, and how transformers 5 writes num_experts."""
    named = {key: value for key, value in MOE.items() if key != "num_experts"}
    assert load_model({**named, "num_local_experts": 8}).decoder == load_model(MOE).decoder


def test_visual_tokens_of_a_cross_attending_model_stay_outside_its_sequence() -> None:
    """Llama 3.2 11B Vision, 6,404 tower tokens and 100 of text, layer by layer.

    Of 40 layers 32 attend to themselves. Weights of such a layer: 2 · 4096² + 2 · 4096 · 1024 in attention,
    3 · 4096 · 14336 in the MLP. The 8 others have queries and output of the text alone, keys and values of the tower.
    """
    mlp, square, narrow = 3 * 4096 * 14336, 4096**2, 4096 * 1024
    own = 32 * (2 * 100 * (2 * square + 2 * narrow + mlp) + 4 * 4096 * (100 * 101 / 2))
    crossing = 8 * (2 * 100 * (2 * square + mlp) + 2 * 6404 * 2 * narrow + 4 * 4096 * 100 * 6404)
    head = 2 * 4096 * 128_256
    estimate = _estimate("llama-3.2-11b-vision", workload={"visual_tokens": 6404, "text_tokens": 100})
    assert own + crossing + head == pytest.approx(2.68e12, rel=1e-3)
    # norms, rotation and activations are the rest
    assert 1 < estimate.totals.flops / (own + crossing + head) < 1.0005


@pytest.mark.parametrize(
    ("stack", "layers", "said"), [("transformers", 24, "all of them are"), ("vllm", 23, "no others")]
)
def test_layers_of_a_clip_tower_behind_the_features_are_run_by_some_stacks(stack: str, layers: int, said: str) -> None:
    """Features of LLaVA-1.5 are taken after layer 23 of 24."""
    estimate = _estimate("llava-1.5-7b", workload={"images": 1}, stack=stack)
    ran = {op["layer"] for op in estimate.ops() if op["stage"] == "vision" and op["layer"] is not None}
    assert len(ran) == layers
    assert any("features are taken after layer 23 of the tower's 24" in n and said in n for n in estimate.notes)


def test_llm_viewer_says_that_it_ignores_head_dim() -> None:
    config = {**DENSE, "model_type": "llama", "num_attention_heads": 16, "head_dim": 128}
    estimate = aimcost.estimate(
        {"model": config, "hardware": "nvidia_h100_sxm", "estimator": "llm_viewer", "workload": {"text_tokens": 10}}
    )
    assert "llm_viewer ignores head_dim 128: its heads are hidden / heads = 64 wide" in estimate.notes


def test_a_newline_a_row_of_a_video() -> None:
    """LLaVA-Video, 64 frames: 14 rows of 14 pooled tokens and a newline each; LLaVA-OneVision's has one in all."""
    for model, tokens in (("llava-video-7b-qwen2", 64 * 14 * 15), ("llava-onevision-qwen2-7b", 64 * 14 * 14 + 1)):
        assert _estimate(model, workload={"frames": 64}).run.workload.visual_tokens == tokens
