"""Keys that a config.json leaves out are what transformers' configuration classes fill in."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.errors import AimcostError
from aimcost.inputs.hf.class_defaults import CLASS_DEFAULTS, SECTION_TYPES
from aimcost.inputs.model import load_model, model_config
from aimcost.models import decoder, projector, vit

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("kind", CLASS_DEFAULTS)
def test_the_table_is_that_of_the_class(kind: str) -> None:
    """A field's default, or what the class derives from None where that is a list."""
    fields = {field.name: field.default for field in dataclasses.fields(transformers.CONFIG_MAPPING[kind])}
    built = transformers.CONFIG_MAPPING[kind]()
    for key, value in CLASS_DEFAULTS[kind].items():
        own = getattr(built, key) if fields[key] is None and isinstance(value, list) else fields[key]
        assert _plain(own) == value, key


@pytest.mark.parametrize("kind", SECTION_TYPES)
def test_the_parts_of_a_composite(kind: str) -> None:
    built = transformers.CONFIG_MAPPING[kind]()
    assert {key: getattr(built, key).model_type for key in SECTION_TYPES[kind]} == dict(SECTION_TYPES[kind])


# A checkpoint of each shape of config.
FAMILIES = [
    "llama-3.2-1b",
    "mistral-7b-v0.3",
    "qwen2-0.5b",
    "qwen3-4b",
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "llava-1.5-7b",
    "llava-next-mistral-7b",
    "llava-onevision-qwen2-7b",
    "internvl3-8b",
    "llama-3.2-11b-vision",
    "qwen2-vl-7b",
    "qwen2.5-vl-7b",
    "qwen3-vl-8b",
    "qwen3-vl-30b-a3b",
]
ENOUGH, TRIES = 3, 20
# Left out, transformers' class is another one, or no config.json of that model.
STATED = {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}

# Left out, these take a default that other sizes do not fit: transformers builds what it could not run.
CANNOT_RUN = ("num_key_value_heads", "num_attention_heads", "out_hidden_size")


def _thinned(config: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The config without some of its keys; of a language model by itself the sizes stay."""
    composite = "text_config" in config
    result = {}
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config"):
            left = {k: v for k, v in value.items() if rng.random() < 0.7}
            result[key] = left or value
        elif key in STATED or key == "preprocessor" or composite or rng.random() < 0.7:
            result[key] = value
    if rng.random() < 0.5:
        result.pop("tie_word_embeddings", None)
    return result


def _parameters(folder: Path) -> float:
    spec = load_model(str(folder))
    tower = vit.parameters(spec.vision) if spec.vision is not None else 0
    return decoder.parameters(spec.decoder) + tower + projector.parameters(spec)


def _built_parameters(config: dict[str, Any], folder: Path) -> int:
    (folder / "config.json").write_text(json.dumps(config))
    read = transformers.AutoConfig.from_pretrained(folder)
    kind = "AutoModelForImageTextToText" if "text_config" in config else "AutoModelForCausalLM"
    with torch.device("meta"):
        model = getattr(transformers, kind).from_config(read)
    # SigLIP's pooling head, where a release builds it, is not part of the model that runs
    heads = {
        id(p)
        for name, part in model.named_modules()
        if name.endswith(("vision_tower.head", "vision_tower.vision_model.head"))
        for p in part.parameters()
    }
    return sum({id(p): p.numel() for p in model.parameters() if id(p) not in heads}.values())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thinned_config_has_the_parameters_that_transformers_builds(name: str, tmp_path: Path) -> None:
    rng, checked = random.Random(name), 0
    config = model_config(name)
    for _ in range(TRIES):
        if checked == ENOUGH:
            return
        thinned = _thinned(config, rng)
        try:
            expected = _built_parameters(thinned, tmp_path)
        except Exception:  # sizes that fit no model: transformers refuses them in many ways
            continue
        try:
            assert _parameters(tmp_path) == expected, thinned
            checked += 1
        except AimcostError as error:
            if not any(key in str(error) for key in CANNOT_RUN):
                raise
    pytest.fail(f"{checked} configs that transformers builds among {TRIES}")


def test_what_a_composite_does_not_obey_is_not_said_to_be_assumed() -> None:
    """Qwen3-VL-30B-A3B states its tie beside text_config, whose class would tie."""
    config = model_config("qwen3-vl-30b-a3b")
    text = {key: value for key, value in config["text_config"].items() if key != "tie_word_embeddings"}
    spec = load_model({**config, "text_config": text, "tie_word_embeddings": False})
    assert not spec.decoder.tied_embeddings
    assert not [note for note in spec.notes if "tie_word_embeddings" in note]


@pytest.mark.parametrize(("depth", "layers", "added"), [(9, 4, 1), (5, 4, 0), (17, 1, 1)])
def test_features_of_layers_that_a_shallow_tower_does_not_have(
    depth: int, layers: int, added: int, tmp_path: Path
) -> None:
    """Qwen3-VL's class takes features of tower layers 8, 16 and 24: all mergers are stored, those of layers that
    there are run, and each is added to a decoder layer that there is."""
    config = {
        "model_type": "qwen3_vl",
        "text_config": {"hidden_size": 256, "num_hidden_layers": layers, "vocab_size": 512},
        "vision_config": {"hidden_size": 64, "num_heads": 4, "depth": depth, "out_hidden_size": 256},
    }
    built = _built_parameters(config, tmp_path)
    assert _parameters(tmp_path) == built
    workload = {"images": 1, "image_size": 448, "text_tokens": 5}
    estimate = aimcost.estimate({"model": str(tmp_path), "hardware": "nvidia_h100_sxm", "workload": workload})
    rows = {row["name"] for row in estimate.ops()}
    assert ("deepstack_1" in rows, "deepstack_add" in rows) == (added > 0, added > 0)
    # an addition is one FLOP an element of the visual tokens' stream
    found = sum(row["flops"] for row in estimate.ops() if row["name"] == "deepstack_add")
    assert found == added * estimate.run.workload.visual_tokens * 256
