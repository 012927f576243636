"""Every text model of configs/models computes exactly what torch counts, and stores as much."""

from __future__ import annotations

import pytest

import aimcost
from aimcost.inputs import discover
from aimcost.inputs.model import load_model, model_config
from aimcost.models import decoder
from aimcost.ops.gemm import distinct_experts

from ..properties.grids import one_of_each

HARDWARE = "nvidia_a100_sxm_80gb"
TEXT = [
    name
    for name in discover.names("model")
    if load_model(name).vision is None and load_model(name).family != "qwen"  # Qwen-1 is not in transformers
]


# The layers of a model are alike: two of each, and whole models of each family's smallest.
WHOLE = ("llama-3.2-1b", "mistral-7b-v0.3", "mixtral-8x7b", "qwen2-0.5b", "qwen3-0.6b", "qwen3-30b-a3b")


def _check_flops(config, work, oracle):
    model = oracle.build(config)
    for batch, tokens in work:
        run = {"hardware": HARDWARE, "model": config, "workload": {"batch": batch, "text_tokens": tokens}}
        priced = aimcost.estimate(run).matrix_flops(["prefill"], full_square=True)
        assert priced == oracle.text_flops(model, batch=batch, tokens=tokens)


@pytest.mark.torch
@pytest.mark.parametrize("name", one_of_each(TEXT, lambda name: load_model(name).family))
def test_parameters_and_the_flops_of_two_layers(name, oracle):
    config = model_config(name)
    assert decoder.parameters(load_model(name).decoder) == oracle.parameter_count(oracle.build(config))
    _check_flops({**config, "num_hidden_layers": 2}, [(1, 333), (3, 40)], oracle)


@pytest.mark.torch
@pytest.mark.check
@pytest.mark.parametrize("name", WHOLE)
def test_the_flops_of_a_whole_model(name, oracle):
    _check_flops(model_config(name), [(2, 57)], oracle)


def test_every_family_has_a_whole_model():
    assert {load_model(name).family for name in WHOLE} == {load_model(name).family for name in TEXT}


@pytest.mark.torch
def test_a_shared_expert_is_priced_for_every_token(oracle):
    config = {
        "model_type": "qwen2_moe",
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
        "decoder_sparse_step": 1,
        "tie_word_embeddings": False,
    }
    model = oracle.build(config)
    run = {"hardware": HARDWARE, "model": config, "workload": {"batch": 2, "text_tokens": 30}}
    priced = aimcost.estimate(run).matrix_flops(["prefill"], full_square=True)
    assert priced == oracle.text_flops(model, batch=2, tokens=30)
    spec = load_model(config).decoder
    assert decoder.parameters(spec) == oracle.parameter_count(model)


@pytest.mark.check
@pytest.mark.torch
@pytest.mark.parametrize("dense", [{"decoder_sparse_step": 2}, {"mlp_only_layers": [0, 1]}])
def test_experts_in_some_of_the_layers_are_traced(dense, oracle, monkeypatch, tmp_path):
    """The reader has experts in every layer or in none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = {
        "model_type": "qwen3_moe",
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 24,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 50,
        **dense,
    }
    model = oracle.build(config)
    run = {"hardware": HARDWARE, "model": config, "workload": {"batch": 2, "text_tokens": 30}}
    estimate = aimcost.estimate(run)
    assert estimate.matrix_flops(["prefill"], full_square=True) == oracle.text_flops(model, batch=2, tokens=30)
    assert estimate.to_dict()["summary"]["parameters"] == oracle.parameter_count(model)


def test_experts_loaded_in_expectation():
    # one token loads its k; many load all; two of 8 by two tokens: 8 · (1 − (6/8)²) = 3.5
    assert distinct_experts(1.0, experts=8, active=2) == pytest.approx(2)
    assert distinct_experts(2.0, experts=8, active=2) == pytest.approx(3.5)
    assert distinct_experts(1e4, experts=128, active=8) == pytest.approx(128)


def test_decoding_loads_active_experts_only():
    run = {"hardware": HARDWARE, "model": "mixtral-8x7b", "workload": {"text_tokens": 100, "new_tokens": 2}}
    table = aimcost.estimate(run).table
    weights = {
        segment.name: float(table.costs[2, segment.start]) for segment in table.segments if segment.stage == "decode"
    }
    assert weights["up_proj"] == pytest.approx(2 * 4096 * 14336 * 2)
    assert weights["router"] == 4096 * 8 * 2


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok. must be at most the 8 experts"),
        ({"num_local_experts": None}, "num_local_experts"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({"mlp_only_layers": [0]}, "mlp_only_layers"),
    ],
)
def test_experts_that_fit_no_model_are_named(change, part):
    with pytest.raises(aimcost.errors.InvalidValueError, match=part):
        load_model({**model_config("mixtral-8x7b"), **change})


@pytest.mark.parametrize("ratios", [7, 1.5, "1x2", {}, [], [4], [[1, 2, 3]], [[1, 0]], [[1, True]]])
def test_arrangements_of_tiles_are_pairs(ratios):
    config = model_config("llama-3.2-11b-vision")
    tower = {**config["vision_config"], "supported_aspect_ratios": ratios}
    with pytest.raises(aimcost.errors.InvalidValueError, match="supported_aspect_ratios' must be a list of pairs"):
        load_model({**config, "vision_config": tower})


@pytest.mark.parametrize("step", [-1, 0, True, 1.5, "2"])
def test_what_is_no_step_between_layers_with_experts_is_refused_before_a_trace(step):
    """Traced, -1 gives a model, and 0 an error of arithmetic."""
    with pytest.raises(aimcost.errors.InvalidValueError, match="'decoder_sparse_step' must be a whole number"):
        load_model({**model_config("qwen3-30b-a3b"), "decoder_sparse_step": step})
