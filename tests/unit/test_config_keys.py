"""Keys of a config.json that change what a model computes are priced or spoken of, never lost."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError
from aimcost.inputs.model import load_model, model_config
from aimcost.pricing.summary import summary_of

RUN = {"workload": {"text_tokens": 4000}, "hardware": "nvidia_h100_sxm", "estimator": "roofline"}


def outcome(model: dict[str, Any]) -> tuple[float, str]:
    """FLOPs of the prefill, and what a reader is told: the notes, or the error."""
    try:
        estimate = aimcost.estimate({**RUN, "model": model})
    except AimcostError as error:
        return 0.0, str(error)
    return estimate.stages["prefill"].flops, "; ".join(estimate.notes)


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "mistral", "sliding_window": 256},
        {"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": True, "max_window_layers": 0},
    ],
    ids=lambda keys: keys["model_type"],
)
def test_a_window_of_attention_is_priced_or_said(tiny_model: dict[str, Any], keys: dict[str, Any]) -> None:
    """A window shorter than the prompt: fewer pairs, or a note that it is left out."""
    plain, _ = outcome({**tiny_model, "model_type": keys["model_type"]})
    window, says = outcome({**tiny_model, **keys})
    assert window < plain or "sliding_window" in says


def test_a_window_that_is_off_says_nothing(tiny_model: dict[str, Any]) -> None:
    keys = {"model_type": "qwen2", "sliding_window": 256, "use_sliding_window": False}
    assert outcome({**tiny_model, **keys}) == outcome({**tiny_model, "model_type": "qwen2"})
    assert outcome({**tiny_model, "sliding_window": None}) == outcome(tiny_model)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_key_value_head", 2), ("head_dims", 32), ("tie_word_embedding", True), ("attention_biass", True)],
)
def test_a_misspelt_optional_key_is_not_lost(tiny_model: dict[str, Any], key: str, value: Any) -> None:
    """Most keys of a config.json do not matter here; one that nearly does is refused or noted."""
    model = {name: v for name, v in tiny_model.items() if name != "num_key_value_heads"}
    _, says = outcome({**model, key: value})
    assert key in says


def test_keys_that_do_not_matter_pass_in_silence(tiny_model: dict[str, Any]) -> None:
    keys = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "attention_dropout": 0.0,
        "num_hidden_groups": 1,
    }
    assert outcome({**tiny_model, **keys}) == outcome(tiny_model)


TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128}


@pytest.mark.parametrize(("depth", "full"), [(2, ()), (7, ()), (8, (7,)), (20, (7, 15)), (32, (7, 15, 23, 31))])
@pytest.mark.parametrize("given", [{}, {"fullatt_block_indexes": [7, 15, 23, 31]}])
def test_a_tower_made_shallow_runs_the_full_layers_that_it_has(depth: int, full: tuple, given: dict) -> None:
    """transformers looks up each layer's own index in ``fullatt_block_indexes``; those of deeper ones are idle."""
    tower = {"depth": depth, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64, **given}
    text = {**TEXT, "model_type": "qwen2_5_vl_text", "num_key_value_heads": 2}
    model = load_model({"model_type": "qwen2_5_vl", "text_config": text, "vision_config": tower})
    assert model.vision.full_layers == full


@pytest.mark.parametrize(("layers", "cross"), [(3, ()), (4, (3,)), (9, (3, 8)), (40, (3, 8, 13, 18, 23, 28, 33, 38))])
def test_a_decoder_made_shallow_has_the_cross_layers_that_it_reaches(layers: int, cross: tuple) -> None:
    config = copy.deepcopy(model_config("llama-3.2-11b-vision"))
    config["text_config"]["num_hidden_layers"] = layers
    assert load_model(config).decoder.cross_layers == cross


@pytest.mark.parametrize("given", [[7, -1], [1.5], "7", [True]])
def test_layers_that_are_none_are_refused(given: Any) -> None:
    tower = {"depth": 8, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64, "fullatt_block_indexes": given}
    text = {**TEXT, "model_type": "qwen2_5_vl_text", "num_key_value_heads": 2}
    with pytest.raises(AimcostError, match="fullatt_block_indexes"):
        load_model({"model_type": "qwen2_5_vl", "text_config": text, "vision_config": tower})


def test_a_tied_table_that_a_class_assumes_is_told() -> None:
    """InternVL's class ties lm_head to the embedding where a config.json says nothing: one table fewer."""
    stated = copy.deepcopy(model_config("internvl3-8b"))
    silent = {key: value for key, value in stated.items() if key != "tie_word_embeddings"}
    silent["text_config"] = {k: v for k, v in stated["text_config"].items() if k != "tie_word_embeddings"}
    run = {"workload": {"images": 1, "text_tokens": 5}, "hardware": "nvidia_h100_sxm"}
    own, assumed = (aimcost.estimate({**run, "model": each}) for each in (stated, silent))
    text = stated["text_config"]
    table = text["vocab_size"] * text["hidden_size"]
    assert summary_of(own)["parameters"] - summary_of(assumed)["parameters"] == table
    assert any("defaults assumed: tie_word_embeddings true" in note for note in assumed.notes)
    assert not any("tie_word_embeddings" in note for note in own.notes)


@pytest.mark.parametrize(("kind", "limit"), [("llama", 2048), ("qwen2", 32768), ("mistral", 131072)])
def test_an_absent_context_limit_is_the_class_default(tiny_model: dict[str, Any], kind: str, limit: int) -> None:
    """LlamaConfig, Qwen2Config and MistralConfig of transformers; the warning says where the limit is from."""

    def warned(model: dict[str, Any], tokens: int) -> list[str]:
        run = {"model": model, "hardware": "nvidia_l4", "workload": {"text_tokens": tokens, "new_tokens": 1}}
        estimate = aimcost.estimate(run).to_dict()
        assert estimate["summary"]["context_limit"] == model.get("max_position_embeddings", limit)
        return [note for note in estimate["notes"] if note.startswith("warning")]

    bare = {**tiny_model, "model_type": kind}
    assert warned(bare, limit - 1) == []
    assert warned(bare, limit) == [
        f"warning: {limit + 1:,} tokens exceed the context limit of inline by its class's default, "
        f"since its config states none, {limit:,}"
    ]
    stated = {**bare, "max_position_embeddings": 500}
    assert warned(stated, 500) == ["warning: 501 tokens exceed the context limit of inline, 500"]
