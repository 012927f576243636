"""Keys of a config.json that change what a model computes are priced or spoken of, never lost."""

from __future__ import annotations

from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError

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
        "max_position_embeddings": 4096,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "attention_dropout": 0.0,
        "num_hidden_groups": 1,
    }
    assert outcome({**tiny_model, **keys}) == outcome(tiny_model)
