"""Every hand-written family is its own trace: text models op for op, towers by FLOPs, both by parameters and cache.

Qwen-VL, which transformers does not have, is counted by hand in test_resampler.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import aimcost
from aimcost.errors import InvalidValueError, UnsupportedModelError
from aimcost.inputs.hf.from_hf import FAMILIES as READERS
from aimcost.inputs.model import load_model, model_config
from aimcost.models import decoder, projector, traced, vit
from aimcost.pricing.pricing import estimate_run

pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# One of each family that is a text model; two layers say what all do.
TEXT = ("mixtral-8x7b", "qwen3-0.6b")
MORE_TEXT = ("llama-3.2-1b", "mistral-7b-v0.3", "qwen2-0.5b", "qwen3-30b-a3b", "qwen2_moe")
# Qwen1.5-MoE-A2.7B
INLINE = {
    "qwen2_moe": {
        "model_type": "qwen2_moe",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "vocab_size": 151936,
        "max_position_embeddings": 8192,
    },
    # LLaVA-NeXT-Video-7B-hf
    "llava_next_video": {**model_config("llava-next-vicuna-7b"), "model_type": "llava_next_video"},
}
# Windows in the tower; tiles; features in between; experts.
SEEING = ("qwen2.5-vl-3b",)
MORE_SEEING = (
    *("llava-1.5-7b", "llava-next-mistral-7b", "llava-onevision-qwen2-0.5b", "internvl3-8b", "qwen2-vl-2b"),
    *("qwen3-vl-8b", "qwen3-vl-30b-a3b", "llava_next_video"),
)
SHORT_TOWERS = {
    "qwen2_vl": {"depth": 2},
    "qwen2_5_vl": {"depth": 3, "fullatt_block_indexes": [1]},
    "qwen3_vl": {"depth": 4, "deepstack_visual_indexes": [0, 1, 2]},
    "qwen3_vl_moe": {"depth": 4, "deepstack_visual_indexes": [0, 1, 2]},
}
WORKLOADS = ({"batch": 3, "text_tokens": 77, "new_tokens": 5}, {"batch": 1, "text_tokens": 1000, "new_tokens": 2})
# transformers normalises every token, of which lm_head needs the last.
ALL_TOKENS = "final_norm"


def _checked(names, mark):
    return [pytest.param(name, marks=mark) for name in names]


@pytest.fixture(scope="module", params=[*TEXT, *_checked(MORE_TEXT, pytest.mark.check)])
def pair(request):
    """A configuration of two layers, and its trace."""
    from aimcost.tracing.trace import trace

    config = {**(INLINE.get(request.param) or model_config(request.param)), "num_hidden_layers": 2}
    return config, trace(config)


@pytest.fixture(params=range(len(WORKLOADS)))
def estimates(request, pair):
    return [
        aimcost.estimate({"model": model, "hardware": "nvidia_a100_sxm_80gb", "workload": WORKLOADS[request.param]})
        for model in pair
    ]


def test_parameters_and_memory(estimates, pair):
    ours, theirs = (estimate.to_dict() for estimate in estimates)
    for key in ("parameters", "active_parameters", "context_limit"):
        assert ours["summary"][key] == theirs["summary"][key]
    assert ours["memory"]["weights_bytes"] == theirs["memory"]["weights_bytes"]
    assert ours["memory"]["kv_by_layer"] == theirs["memory"]["kv_by_layer"]
    if "experts" not in str(pair[1]):  # copies of every token for each of its experts are in the trace alone
        # a trace holds positions, angles and ids too
        assert theirs["memory"]["peak_bytes"] == pytest.approx(ours["memory"]["peak_bytes"], rel=0.005)


def test_flops_of_products(estimates):
    ours, theirs = estimates
    for stage in ("prefill", "decode"):
        for full_square in (False, True):
            square = {"full_square": full_square}
            assert ours.matrix_flops([stage], **square) == theirs.matrix_flops([stage], **square)


def test_ops_of_the_same_name_are_the_same(estimates, pair):
    _compare_ops(*estimates, pair[0]["model_type"])


def _compare_ops(ours, theirs, kind):
    ours, theirs = (
        {(op["stage"], op["layer"], op["name"]): op for op in estimate.ops()} for estimate in (ours, theirs)
    )
    # experts: gate and up are one tensor in transformers, and the choice of experts is several ops
    experts, others = {"gate_proj", "up_proj", "gate_up_proj", "route", "mlp_act"}, ("gate_",)
    if kind == "qwen2_moe":  # where those of its shared expert have the names of the experts' here
        experts |= {"down_proj", "mlp_add"}
        others = ("gate_", "shared_", "mlp_", "down_proj_")
        shared = [key for key in ours if key in theirs and key[2] not in {ALL_TOKENS, *experts}]
    else:
        shared = [key for key in ours if key in theirs and key[2] != ALL_TOKENS]
    for key in shared:
        for figure in (
            "flops",
            "bytes",
            "read_weights_bytes",
            "read_activations_bytes",
            "read_kv_bytes",
            "write_kv_bytes",
        ):
            assert ours[key][figure] == pytest.approx(theirs[key][figure], rel=1e-12), (key, figure)
    apart = {key[2] for key in {*ours, *theirs} - {*shared}} - {ALL_TOKENS}
    assert all(name in experts or name.startswith(others) for name in apart)


# as many ranks as a configuration has KV heads or fewer; more: two hold the same one
@pytest.mark.parametrize("tp", [2, pytest.param(16, marks=pytest.mark.check)])
def test_one_rank_of_several(pair, tp):
    run = {"hardware": "nvidia_a100_sxm_80gb", "workload": WORKLOADS[0], "parallel": {"tp": tp}}
    if pair[0]["num_attention_heads"] % tp:
        for model in pair:
            with pytest.raises(InvalidValueError, match=r"parallel.tp"):
                aimcost.estimate({"model": model, **run})
        return
    ours, theirs = (aimcost.estimate({"model": model, **run}) for model in pair)
    _compare_ops(ours, theirs, pair[0]["model_type"])
    for stage in ("prefill", "decode"):
        assert ours.matrix_flops([stage]) == pytest.approx(theirs.matrix_flops([stage]), rel=1e-12)
    assert theirs.memory.weights_bytes == pytest.approx(ours.memory.weights_bytes, rel=1e-12)
    assert theirs.memory.kv_by_layer == pytest.approx(ours.memory.kv_by_layer, rel=1e-12)
    if "experts" not in str(pair[1]):
        # the positions, angles and ids of a trace are whole on every rank
        assert theirs.memory.peak_bytes == pytest.approx(ours.memory.peak_bytes, rel=0.005 if tp == 2 else 0.02)


@pytest.fixture(scope="module", params=[*SEEING, *_checked(MORE_SEEING, pytest.mark.check)])
def seeing(request):
    """A configuration of a short tower and language model, and its trace."""
    from aimcost.tracing.trace import trace

    config = INLINE.get(request.param) or model_config(request.param)
    short = {
        **config,
        "text_config": {**config["text_config"], "num_hidden_layers": 2},
        "vision_config": {
            **config["vision_config"],
            **SHORT_TOWERS.get(config["model_type"], {"num_hidden_layers": 3}),
        },
    }
    return short, load_model(trace(short))


# windows cut off at both edges; several requests of several images
@pytest.mark.parametrize(
    ("images", "size", "batch"), [(1, [500, 333], 1), pytest.param(2, [700, 240], 3, marks=pytest.mark.check)]
)
def test_towers_are_their_traces(seeing, images, size, batch):
    config, its = seeing
    workload = {"images": images, "image_size": size, "batch": batch, "text_tokens": 20, "new_tokens": 3}
    ours = aimcost.estimate({"model": config, "hardware": "nvidia_a100_sxm_80gb", "workload": workload})
    mine = ours.run.model
    tower = its.vision.traced
    assert vit.parameters(mine.vision) + projector.parameters(mine) == tower.parameters
    model = replace(mine, vision=replace(its.vision, traced=tower), decoder=its.decoder)
    theirs = estimate_run(replace(ours.run, model=model))
    for stages in (["vision", "projector"], ["prefill"], ["decode"]):
        for full_square in (False, True):
            assert ours.matrix_flops(stages, full_square=full_square) == theirs.matrix_flops(
                stages, full_square=full_square
            )
    assert ours.memory.kv_by_layer == theirs.memory.kv_by_layer
    assert traced.parameters(its.decoder.traced, range(2), first=True, last=True) == decoder.parameters(mine.decoder)


@pytest.mark.check
def test_cross_attention_is_not_traced():
    """Its layers are those of test_flops_of_vision_models.py alone: on text they do nothing."""
    from aimcost.tracing.trace import trace

    config = model_config("llama-3.2-11b-vision")
    text = {**config["text_config"], "num_hidden_layers": 4, "cross_attention_layers": [3]}
    with pytest.raises(UnsupportedModelError, match=r"mllama: layer 3 does nothing on text alone"):
        trace({**config, "text_config": text})


def test_every_family_with_a_reader_is_compared():
    compared = {INLINE.get(name, {}).get("model_type") or load_model(name).family for name in (*TEXT, *MORE_TEXT)}
    compared |= {load_model(INLINE.get(name) or name).family for name in (*SEEING, *MORE_SEEING)}
    assert compared | {"qwen", "mllama"} == {*READERS}
