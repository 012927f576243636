"""A user's mistake in a model is one readable line and exit status 2: never a traceback, never a NaN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bad_input import NAN, message

import aimcost
from aimcost.errors import InvalidValueError


@pytest.mark.parametrize(
    "key", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "model_type"]
)
def test_missing_fields_of_a_config_json(
    tmp_path: Path, run: dict[str, Any], tiny_model: dict[str, Any], key: str
) -> None:
    config = {name: value for name, value in tiny_model.items() if name != key}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = message({**run, "model": str(tmp_path)})
    assert key in text
    assert "config.json" in text


WRONG = ["64", None, 0, -4, 2.5, NAN, True, [64], {"a": 1}, 10**12]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_wrong_types_inside_a_config_json(
    tmp_path: Path, run: dict[str, Any], tiny_model: dict[str, Any], key: str, value: Any
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_model, key: value}))
    assert key in message({**run, "model": str(path)}, InvalidValueError)


@pytest.mark.parametrize(
    "change",
    [
        {"num_key_value_heads": 3},
        {"num_key_value_heads": 8},
        {"num_attention_heads": 5, "num_key_value_heads": 5},
        {"tie_word_embeddings": "no"},
        {"attention_bias": 1},
        {"head_dim": -1},
        {"model_type": 5},
        {"model_type": "vit"},
        {"model_type": "llava"},
        {"model_type": "llava", "text_config": {}, "vision_config": {}},
        {"model_type": "llava", "text_config": [], "vision_config": 3},
        {"model_type": "qwen", "intermediate_size": 1},
    ],
    ids=str,
)
def test_models_that_cannot_be(run: dict[str, Any], change: dict[str, Any]) -> None:
    run["model"].update(change)
    message(run)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 5},
        {"patch_size": 30},
        {"patch_size": 0},
        {"num_hidden_layers": 1},
        {"model_type": "dino"},
        {"hidden_size": "32"},
    ],
    ids=str,
)
def test_towers_that_cannot_be(run: dict[str, Any], tiny_model: dict[str, Any], change: dict[str, Any]) -> None:
    message({**run, "model": llava(tiny_model, **change), "workload": {"images": 1}})


@pytest.mark.parametrize("layer", [0, 4, -4, -5, "2", 1.5, None, [-2, -5], True])
def test_feature_layers(run: dict[str, Any], tiny_model: dict[str, Any], layer: Any) -> None:
    model = {**llava(tiny_model), "vision_feature_layer": layer}
    text = message({**run, "model": model, "workload": {"images": 1}})
    assert "vision_feature_layer" in text


def test_pooling_that_leaves_no_token(run: dict[str, Any], tiny_model: dict[str, Any]) -> None:
    model = {**llava(tiny_model), "spatial_pool_stride": 100}
    message({**run, "model": model, "workload": {"images": 1}})


def llava(text: dict[str, Any], **vision: Any) -> dict[str, Any]:
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    return {"model_type": "llava", "text_config": text, "vision_config": {**tower, **vision}}


def test_the_llava_that_is_spoilt_above_is_good(run: dict[str, Any], tiny_model: dict[str, Any]) -> None:
    estimate = aimcost.estimate({**run, "model": llava(tiny_model), "workload": {"images": 1}})
    assert estimate.stages["vision"].flops > 0
