"""A config.json as transformers writes it gives the parameters that transformers builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.inputs.model import load_model
from aimcost.models import decoder, projector, vit

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
TOWER = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}


def saved(config: Any, folder: Path) -> str:
    """The folder into which transformers wrote `config`."""
    config.save_pretrained(folder)
    assert (folder / "config.json").is_file()
    return str(folder)


def built(config: Any, kind: str) -> Any:
    with torch.device("meta"):
        return getattr(transformers, kind).from_config(config)


def elements(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Llama", {}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Llama", {"head_dim": 24}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Mistral", {"head_dim": 32}),
        ("Qwen2", {}),
        ("Qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("Qwen3", {}),
        ("Qwen3", {"head_dim": 20, "attention_bias": True}),
    ],
    ids=str,
)
def test_decoders_have_the_parameters_that_transformers_builds(
    kind: str, change: dict[str, Any], tmp_path: Path
) -> None:
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **change})
    spec = load_model(saved(config, tmp_path)).decoder
    assert decoder.parameters(spec) == elements(built(config, "AutoModelForCausalLM"))


@pytest.mark.parametrize(
    ("kind", "tower"),
    [
        ("Llava", "clip_vision_model"),
        ("LlavaOnevision", "siglip_vision_model"),
    ],
)
def test_multimodal_models_too(kind: str, tower: str, tmp_path: Path) -> None:
    """Tower, projector, newline and language model, part by part."""
    vision = transformers.AutoConfig.for_model(tower, **TOWER)
    text = transformers.AutoConfig.for_model("qwen2", **SMALL)
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text)
    spec = load_model(saved(config, tmp_path))
    model = built(config, "AutoModelForImageTextToText")
    assert spec.vision is not None
    whole = decoder.parameters(spec.decoder) + vit.parameters(spec.vision) + projector.parameters(spec)
    assert projector.parameters(spec) == elements(model.model.multi_modal_projector) + (
        spec.decoder.hidden if kind == "LlavaOnevision" else 0
    )
    # SigLIP's pooling head, where a release builds it, is not part of the model that runs
    heads = [part for name, part in model.model.vision_tower.named_modules() if name.rpartition(".")[2] == "head"]
    assert elements(model) - sum(map(elements, heads)) == whole
    run = {"model": str(tmp_path), "workload": {"frames": 2, "text_tokens": 9}, "hardware": "nvidia_l4"}
    for bits, size in ((16, 2), (32, 4)):
        estimate = aimcost.estimate({**run, "precision": {"weights": bits}})
        assert estimate.memory.weights_bytes == size * whole
    # 8 bits are those of the language model's linear layers
    layers = [module for module in model.model.language_model.modules() if isinstance(module, torch.nn.Linear)]
    packed = sum(module.weight.numel() for module in layers)
    assert aimcost.estimate({**run, "precision": {"weights": 8}}).memory.weights_bytes == 2 * whole - packed
    # and of everything linear by name: tables and linear layers, not the patches' convolution
    every = [m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding)]
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    positions = [m for m in model.model.vision_tower.modules() if isinstance(m, torch.nn.Embedding)]
    inside = [m for head in heads for m in head.modules()]
    packed = sum(m.weight.numel() for m in every if not any(m is other for other in (*positions, *inside)))
    packed -= model.lm_head.weight.numel() if tied else 0
    parts = dict.fromkeys(("decoder", "embedding", "lm_head", "tower", "projector"), 8)
    assert aimcost.estimate({**run, "precision": {"weights": parts}}).memory.weights_bytes == 2 * whole - packed


@pytest.mark.parametrize("tower", ["clip_vision_model", "siglip_vision_model"])
@pytest.mark.parametrize("layer", [-1, -2, 2])
def test_the_tower_runs_up_to_the_feature_layer(tower: str, layer: int, tmp_path: Path) -> None:
    """Hidden state `layer` of a tower of four: -1 is after all of them, -2 after three, 2 after two."""
    vision = transformers.AutoConfig.for_model(tower, **TOWER)
    text = transformers.AutoConfig.for_model("llama", **SMALL)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, vision_feature_layer=layer)
    spec = load_model(saved(config, tmp_path)).vision
    assert spec is not None
    assert (spec.layers, spec.stored_layers) == ({-1: 4, -2: 3, 2: 2}[layer], 4)


def test_what_a_config_leaves_out_is_what_transformers_fills_in(tmp_path: Path) -> None:
    """Optional keys only; sizes that are missing are refused."""
    for kind in ("llama", "qwen2", "qwen3"):
        given = {"model_type": kind, **SMALL, "num_key_value_heads": 4}
        config = transformers.AutoConfig.for_model(**given)
        (tmp_path / "config.json").write_text(json.dumps(given))
        spec = load_model(str(tmp_path)).decoder
        assert decoder.parameters(spec) == elements(built(config, "AutoModelForCausalLM"))
