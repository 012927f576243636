"""A traced type beside the real model: what differs, by how much. For tests, and for docs/traced_models.py."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aimcost
from aimcost.models.visual_tokens import tower_load

__all__ = ["COUNTS", "EXACT", "TOWERS", "Compared", "compared", "compared_tower", "config_of"]

HERE = Path(__file__).parent
MACHINE = "nvidia_a100_sxm_80gb"
EXACT = (HERE / "architectures.txt").read_text(encoding="utf-8").split()
# What a default configuration leaves out, or sizes that put a boundary among the counts below.
KEYS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"num_hidden_layers": 8},
    "bamba": {"attn_layer_indices": [1, 3]},
    "deepseek_v2": {"num_experts_per_tok": 6, "topk_group": 3, "n_group": 8},
    "deepseek_v3": {"num_hidden_layers": 3, "first_k_dense_replace": 1},
    "dots1": {
        "n_routed_experts": 16,
        "n_shared_experts": 2,
        "num_experts_per_tok": 4,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 512,
    },
    "gemma2": {"sliding_window": 100},
    "gemma3n_text": {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0, 0.0, 0.0],
        "sliding_window": 100,
    },
    "gemma3_text": {
        "num_hidden_layers": 3,
        "sliding_window": 100,
        "layer_types": [*2 * ["sliding_attention"], "full_attention"],
    },
    "gpt_oss": {"num_hidden_layers": 3, "sliding_window": 100},
    "granitemoehybrid": {
        "layer_types": 2 * ["mamba", "attention"],
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "falcon_h1": {"num_hidden_layers": 2},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 8, "moe_topk": 2},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2},
    "kimi_linear": {"num_hidden_layers": 8},
    "lfm2_moe": {"layer_types": 2 * ["conv", "full_attention"]},
    "llama4_text": {"attention_chunk_size": 100},
    "ministral": {"head_dim": 128, "sliding_window": 100},
    "mistral": {"sliding_window": 100},
    "nemotron": {"num_key_value_heads": 8, "head_dim": 128},
    "phi3": {"num_hidden_layers": 2},
    "qwen3_next": {"num_hidden_layers": 3, "layer_types": [*2 * ["linear_attention"], "full_attention"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
}
# (requests, tokens): not traced, below and above every window and block.
COUNTS = ((2, 57), (1, 333))
# (requests, new tokens, cached tokens): the prefix above and below them
PREFIXES = ((2, 57, 150), (1, 333, 40))
# Falcon: copies of keys by strides, refused
WITHOUT_PREFIX = ("falcon",)

# (images a request, requests, width, height)
SIZES = ((3, 1, 1000, 700), (1, 4, 1000, 300), (2, 3, 420, 900))
# On a CPU, where eager attention takes the square of the patches.
SMALL_SIZES = ((3, 1, 300, 210), (1, 4, 430, 200), (2, 3, 180, 370))
# Towers whose masks meta tensors cannot pass: the real one runs on the CPU, with a small tower.
RUN = ("glm4v", "glm4v_moe", "aria", "qwen3_5", "qwen2_5_omni_thinker", "kimi_k25", "lfm2_vl")
# The language model is another test's.
TEXT_LAYERS = 2


def _file(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOWERS: dict[str, dict[str, Any]] = _file("configs").CONFIGS


@dataclass(frozen=True, slots=True)
class Compared:
    """(ours, transformers') of every figure, by name; `prefix`: FLOPs of a prefill that a cached prefix precedes."""

    kind: str
    parameters: tuple[tuple[float, float], ...]
    flops: tuple[tuple[float, float], ...]
    prefix: tuple[tuple[float, float], ...] = ()
    cache: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    notes: tuple[str, ...] = ()


def config_of(kind: str) -> dict[str, Any]:
    """A type's default configuration, of four layers or as few as have one of each kind and a repeat."""
    return {"model_type": kind, "num_hidden_layers": 4, **KEYS.get(kind, {})}


def _priced(traced: dict[str, Any], batch: int, tokens: int, new_tokens: int = 0, cached: int = 0) -> Any:
    workload = {"batch": batch, "text_tokens": cached + tokens, "new_tokens": new_tokens, "cached_tokens": cached}
    return aimcost.estimate({"model": traced, "hardware": MACHINE, "workload": workload})


def compared(kind: str) -> Compared:
    """A language model: prefill, and the step that follows it, at counts that were not traced."""
    from aimcost.tracing.trace import trace

    traced = trace(config_of(kind))
    real = _file("real_model").RealModel(config_of(kind))
    flops, cache = [], []
    for batch, tokens in COUNTS:
        theirs, _ = real.flops(batch, tokens)
        flops.append((_priced(traced, batch, tokens).matrix_flops(["prefill"], full_square=True), theirs))
        theirs, held = real.flops(batch, 1, cached=tokens)
        step = _priced(traced, batch, tokens, 2)
        flops.append((step.matrix_flops(["decode"], full_square=True), theirs))
        cache.append((tuple(step.memory.kv_by_layer), held))
        assert 0 < step.totals.time_s < 1
        assert not any("nan" in str(op) for op in step.ops())
    prefix = []
    for batch, tokens, cached in () if kind in WITHOUT_PREFIX else PREFIXES:
        after = _priced(traced, batch, tokens, cached=cached)
        theirs, held = real.flops(batch, tokens, cached=cached)
        prefix.append((after.matrix_flops(["prefill"], full_square=True), theirs))
        cache.append((tuple(after.memory.kv_by_layer), held))
    stored = _priced(traced, 1, 1).to_dict()["summary"]["parameters"]
    pairs = ((stored, real.parameters), (traced["parameters"], real.parameters))
    return Compared(kind, pairs, tuple(flops), tuple(prefix), tuple(cache), tuple(traced["notes"]))


def compared_tower(kind: str) -> Compared:
    """A tower with its projector, at numbers and sizes of images that were not traced."""
    from aimcost.tracing.trace import trace

    config = TOWERS[kind]
    if "text_config" in config:
        config = {**config, "text_config": {**config["text_config"], "num_hidden_layers": TEXT_LAYERS}}
    traced = trace(config)
    real = _file("real_model").RealTower(config, "cpu" if kind in RUN else "meta")
    flops = []
    for images, batch, width, height in SMALL_SIZES if kind in RUN else SIZES:
        shown = {"batch": batch, "images": images, "image_size": [width, height], "text_tokens": 20}
        estimate = aimcost.estimate({"model": traced, "hardware": MACHINE, "workload": shown})
        model, load = estimate.run.model, tower_load(estimate.run.model, estimate.run.workload)
        pixels = (load.rows * model.vision.patch_size, load.columns * model.vision.patch_size)
        if model.vision.image_size:
            pixels = (model.vision.image_size, model.vision.image_size)
        theirs = real.flops(batch * load.inputs, *pixels)
        flops.append((estimate.matrix_flops(["vision", "projector"], full_square=True), theirs))
    stored = traced["parts"]["tower"]["parameters"]
    return Compared(kind, ((stored, real.parameters),), tuple(flops), notes=tuple(traced["notes"]))
