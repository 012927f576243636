"""Models as people write them: Hub ids, cached checkpoints, config.json of the original repositories."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aimcost.errors import AimcostError, FileFormatError, UnknownNameError
from aimcost.inputs import discover
from aimcost.inputs.files import read_once
from aimcost.inputs.model import load_model, model_config
from aimcost.inputs.run import load_run
from aimcost.pricing.summary import model_parameters
from aimcost.types import ModelSpec

QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
VICUNA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
MISTRAL_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "sliding_window": None,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
CLIP = {"mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu"}
SIGLIP = {"mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_projector_type": "mlp2x_gelu"}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
# What the original repositories' checkpoints state, and the bundled model of the same checkpoint.
ORIGINALS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava-v1.5-7b": (
        "llava-1.5-7b",
        {
            "model_type": "llava",
            "architectures": ["LlavaLlamaForCausalLM"],
            **VICUNA_7B,
            **CLIP,
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "image_aspect_ratio": "pad",
        },
    ),
    "llava-v1.6-vicuna-7b": (
        "llava-next-vicuna-7b",
        {
            "model_type": "llava_llama",
            **VICUNA_7B,
            **CLIP,
            "mm_vision_select_layer": -2,
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "spatial_unpad",
            "image_grid_pinpoints": PINPOINTS,
        },
    ),
    "llava-v1.6-mistral-7b": (
        "llava-next-mistral-7b",
        {
            "model_type": "llava_mistral",
            **MISTRAL_7B,
            **CLIP,
            "mm_vision_select_layer": -2,
            "image_aspect_ratio": "anyres",
            "mm_patch_merge_type": "spatial_unpad",
            "image_grid_pinpoints": PINPOINTS,
        },
    ),
    "llava-onevision-qwen2-7b-ov": (
        "llava-onevision-qwen2-7b",
        {
            "model_type": "llava",
            "architectures": ["LlavaQwenForCausalLM"],
            **QWEN2_7B,
            **SIGLIP,
            "mm_vision_select_layer": -2,
            "image_aspect_ratio": "anyres_max_9",
            "mm_patch_merge_type": "spatial_unpad",
            "mm_newline_position": "one_token",
        },
    ),
    "LongVA-7B": (
        "longva-7b",
        {
            "model_type": "llava_qwen",
            **QWEN2_7B,
            "max_position_embeddings": 224000,
            **CLIP,
            "mm_resampler_type": "spatial_pool",
            "mm_spatial_pool_stride": 2,
            "mm_vision_select_layer": -2,
        },
    ),
    "InternVL3-8B": (
        "internvl3-8b",
        {
            "model_type": "internvl_chat",
            "downsample_ratio": 0.5,
            "force_image_size": 448,
            "max_dynamic_patch": 12,
            "select_layer": -1,
            "use_thumbnail": True,
            "dynamic_image_size": True,
            "llm_config": {"model_type": "qwen2", **QWEN2_7B, "vocab_size": 151674},
            "vision_config": {
                "model_type": "intern_vit_6b",
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 448,
                "patch_size": 14,
                "norm_type": "layer_norm",
                "qkv_bias": True,
                "qk_normalization": False,
            },
        },
    ),
}


def _bare(model: ModelSpec) -> ModelSpec:
    """Without where it is from; its grids in one order, which the two layouts state by width and by height."""
    rule = model.resolution
    if rule is not None:
        rule = replace(rule, grids=tuple(sorted(rule.grids)))
    return replace(model, name="", source="", notes=(), resolution=rule)


@pytest.mark.parametrize("name", ORIGINALS)
def test_an_original_config_is_the_bundled_model(name: str, tmp_path: Path) -> None:
    bundled, config = ORIGINALS[name]
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    ours, own = (_bare(load_model(one)) for one in (str(folder), bundled))
    assert ours == own
    assert model_config(str(folder))["model_type"] == own.family


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"mm_vision_tower": "EVA02-CLIP-L"}, "unknown mm_vision_tower 'EVA02-CLIP-L'"),
        ({"mm_projector_type": "ldpv2"}, "mm_projector_type"),
        ({"mm_vision_select_feature": "all"}, "mm_vision_select_feature"),
        ({"model_type": "internvl_chat"}, "llm_config"),
    ],
)
def test_what_has_no_counterpart_is_one_line(change: dict[str, Any], part: str) -> None:
    with pytest.raises(AimcostError, match=part):
        load_model({**ORIGINALS["llava-v1.5-7b"][1], **change})


def test_experts_of_an_original_layout_are_those_it_states() -> None:
    """InternVL3.5-241B-A28B: 235.1 billion of Qwen3-235B-A22B, 5.6 of tower and projector; 22.2 + 5.6 run."""
    config = {
        **ORIGINALS["InternVL3-8B"][1],
        "llm_config": {
            "model_type": "qwen3_moe",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 94,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "vocab_size": 151936,
        },
        "vision_config": {
            "hidden_size": 3200,
            "intermediate_size": 12800,
            "num_hidden_layers": 45,
            "num_attention_heads": 25,
            "image_size": 448,
            "patch_size": 14,
            "norm_type": "rms_norm",
            "qkv_bias": False,
            "qk_normalization": True,
        },
    }
    model = load_model(config)
    assert model.decoder.moe is not None
    assert (model.decoder.moe.intermediate, model.decoder.moe.active) == (1536, 8)
    stored, active = model_parameters(model)
    assert (f"{stored / 1e9:.1f}", f"{active / 1e9:.1f}") == ("240.7", "27.8")
    assert not any("moe_intermediate_size" in note for note in model.notes)


@pytest.mark.torch
@pytest.mark.check
def test_an_original_layout_on_a_traced_language_model() -> None:
    """InternVL3.5 on gpt-oss, as its repository writes it, is transformers' layout of it."""
    pytest.importorskip("transformers")
    text = {
        "model_type": "gpt_oss",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "vocab_size": 1000,
        "sliding_window": 128,
    }
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {**ORIGINALS["InternVL3-8B"][1], "llm_config": text}
    config["vision_config"] = {**config["vision_config"], **sizes}
    run = load_run({"model": config, "workload": {"images": 1, "image_size": [900, 440]}})
    assert run.model.family == "internvl"
    assert run.model.decoder.traced is not None
    # 2 x 1 tiles and the thumbnail
    assert run.workload.visual_tokens == 3 * 256


@pytest.mark.parametrize(
    ("config", "said"),
    [
        # of NVILA, which has LLaVA's name; Ovis; Moondream, whose `config` is not that of a model file
        ({"model_type": "llava_llama", "llm_cfg": {}}, "'mm_vision_tower' must be given in LLaVA's own layout"),
        (
            {"model_type": "ovis", "llm_config": {"model_type": "qwen2"}},
            r"alone is its llm_config \(qwen2\) as a file, images as workload.visual_tokens",
        ),
        (
            {"model_type": "moondream1", "architectures": ["HfMoondream"], "config": {}},
            "unknown model_type 'moondream1'",
        ),
    ],
)
def test_a_refusal_names_what_works(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if importlib.util.find_spec("torch") is None and config["model_type"] == "ovis":
        said = "pip install"
    with pytest.raises(AimcostError, match=said):
        load_model(str(tmp_path))


SIGLIP_TILES = {**ORIGINALS["llava-onevision-qwen2-7b-ov"][1], "image_aspect_ratio": "anyres"}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        # one padded view of 27 x 27 patches
        ({**SIGLIP_TILES, "image_aspect_ratio": "pad"}, 729),
        # (width, height) = (768, 384): two tiles beside the whole; 1280 x 720 fills 54 x 30 patches of 54 x 27, so
        # that 48 of 54 columns stay of 27 rows, each with a newline
        ({**SIGLIP_TILES, "image_grid_pinpoints": [[384, 384], [768, 384]]}, 729 + 27 * (48 + 1)),
        ({**SIGLIP_TILES, "image_grid_pinpoints": "[(384, 384), (768, 384)]"}, 729 + 27 * (48 + 1)),
        ({**SIGLIP_TILES, "image_grid_pinpoints": "(1x1),...,(2x1)"}, 729 + 27 * (48 + 1)),
        # its class cuts no image unless told to
        ({k: v for k, v in ORIGINALS["InternVL3-8B"][1].items() if k != "dynamic_image_size"}, 256),
    ],
)
def test_tiles_of_original_configs(config: dict[str, Any], tokens: int) -> None:
    run = load_run({"model": config, "workload": {"images": 1, "image_size": [1280, 720]}})
    assert run.workload.visual_tokens == tokens


@pytest.mark.parametrize(
    ("change", "tokens"),
    [
        # 27 x 27 patches: half a side rounds up where it is interpolated, down where it is averaged
        ({}, 8 * 14 * 14 + 1),
        ({"mm_spatial_pool_mode": "average"}, 8 * 13 * 13 + 1),
        ({"mm_spatial_pool_mode": "max", "mm_newline_position": "grid"}, 8 * 13 * 14),
        # llava_arch.py: add_token_per_frame appends one to each frame, no_token flattens what there is
        ({"mm_newline_position": "frame"}, 8 * (14 * 14 + 1)),
        ({"mm_newline_position": "no_token"}, 8 * 14 * 14),
        # released code pools by two whatever is stated
        ({"mm_spatial_pool_stride": 4}, 8 * 14 * 14 + 1),
    ],
)
def test_frames_of_original_configs(change: dict[str, Any], tokens: int) -> None:
    config = {**ORIGINALS["llava-onevision-qwen2-7b-ov"][1], **change}
    assert load_run({"model": config, "workload": {"frames": 8}}).workload.visual_tokens == tokens


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type"),
        # llava_arch.py: without "unpad", tiles stay whole and nothing is appended
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type"),
        ({"mm_newline_position": "column"}, "mm_newline_position"),
        ({"mm_projector_type": None}, "mm_pro"),
        ({"mm_spatial_pool_mode": "median"}, "mm_spatial_pool_mode"),
    ],
)
def test_what_is_not_priced_is_refused(change: dict[str, Any], part: str) -> None:
    with pytest.raises(AimcostError, match=part):
        load_model({**SIGLIP_TILES, **change})


def test_every_bundled_model_names_its_checkpoints() -> None:
    ids = [one for path in discover.names("model").values() for one in read_once(path)["hub"]]
    assert len(ids) == len({one.lower() for one in ids})
    for one in ids:
        assert load_model(one).decoder.layers


@pytest.mark.parametrize(
    "name",
    [
        "qwen/qwen2.5-vl-7b-INSTRUCT",
        "Qwen/Qwen2.5-VL-7B-Instruct/",
        "Qwen/Qwen2.5-VL-7B-Instruct@main",
        "https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct",
        "https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct/tree/main?library=transformers",
        "https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct/blob/main/config.json",
        "hf.co/Qwen/Qwen2.5-VL-7B-Instruct",
        "hf://Qwen/Qwen2.5-VL-7B-Instruct",
    ],
)
def test_ids_as_they_are_pasted(name: str) -> None:
    assert load_model(name) == load_model("qwen2.5-vl-7b")


@pytest.mark.parametrize("name", ["https://huggingface.co/datasets/a/b", "https://example.org/a/b", "a/b/c", "a/b@"])
def test_what_is_no_id_is_a_path(name: str) -> None:
    with pytest.raises(FileFormatError, match="no such file"):
        load_model(name)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_a_cached_checkpoint(variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid out as huggingface_hub does: blobs behind the commit that ``refs/main`` names."""
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    hub = tmp_path if variable == "HF_HUB_CACHE" else tmp_path / "hub"
    checkpoint = hub / "models--someone--Fine-Tune"
    for commit, layers in (("a" * 40, 2), ("b" * 40, 3)):
        snapshot = checkpoint / "snapshots" / commit
        snapshot.mkdir(parents=True)
        config = {"model_type": "qwen2", **QWEN2_7B, "num_hidden_layers": layers}
        (snapshot / "config.json").write_text(json.dumps(config))
    (checkpoint / "refs").mkdir()
    (checkpoint / "refs" / "main").write_text("b" * 40)
    (checkpoint / "refs" / "v1").write_text("a" * 40)
    names = {"": 3, "@v1": 2, f"@{'a' * 40}": 2, "/tree/v1": 2}
    found = {after: load_model(f"https://hf.co/someone/Fine-Tune{after}").decoder.layers for after in names}
    assert found == names
    # a bundled figure is that of the default revision alone
    for name in ("someone/Fine-Tune@v2", "Qwen/Qwen2.5-VL-7B-Instruct@v2"):
        with pytest.raises(FileFormatError, match=r"revision v2 of .* is not in the local Hugging Face cache"):
            load_model(name)


def test_a_miss_names_what_is_near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileFormatError, match=r"Qwen/Qwen2\.5-VL-32B-Instruct is neither .*Qwen/Qwen2\.5-VL-72B"):
        load_model("Qwen/Qwen2.5-VL-32B-Instruct")


def test_a_type_without_a_reader_says_what_would_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not another family whose name is alike; a slip of a letter is still named."""
    monkeypatch.setattr("aimcost.inputs.model.transformers_knows", lambda kind: False)
    found, extra = importlib.util.find_spec, {"torch", "transformers"}
    for installed, remedy in (
        (True, "nor has the installed transformers"),
        (False, r"any architecture .*aimcost\[torch\]"),
    ):
        there = found("json") if installed else None
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *at, there=there: there if name in extra else found(name, *at)
        )
        with pytest.raises(UnknownNameError, match=f"unknown model_type 'gemma3'; {remedy}"):
            load_model({"model_type": "gemma3"})
    # LLaVA-OneVision-1.5 has another tower, projector and language model
    with pytest.raises(UnknownNameError, match="unknown model_type 'llavaonevision1_5'; any architecture"):
        load_model({"model_type": "llavaonevision1_5"})
    with pytest.raises(UnknownNameError, match="did you mean 'llama'"):
        load_model({"model_type": "lama"})
