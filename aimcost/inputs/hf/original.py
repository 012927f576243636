"""config.json of the original repositories (LLaVA, LLaVA-NeXT, LongVA, InternVL chat) → transformers' layout.

Their checkpoints state the language model's figures at the top level (LLaVA) or under ``llm_config`` (InternVL),
and name the vision tower by its checkpoint. Meaning of the keys: haotian-liu/LLaVA ``llava/model``,
LLaVA-VL/LLaVA-NeXT ``llava/model``, EvolvingLMMs-Lab/LongVA, OpenGVLab/InternVL ``internvl_chat``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import InvalidValueError, UnknownNameError

__all__ = ["TEXT_KEYS", "TOWERS", "in_transformers_layout"]

_CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
# Towers by the last part of their checkpoint's name. SigLIP: the loader drops the last of 27 layers and takes
# what the others return.
TOWERS: Mapping[str, Mapping[str, Any]] = {
    "clip-vit-large-patch14-336": {**_CLIP_L, "image_size": 336},
    "clip-vit-large-patch14": {**_CLIP_L, "image_size": 224},
    "siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
}
_LLAVA = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral", "llava_qwen": "qwen2"}
_ARCHITECTURES = {"Llama": "llama", "Mistral": "mistral", "Qwen2": "qwen2", "Qwen": "qwen2"}
# Keys that describe the language model as transformers' own classes do.
TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "attention_bias",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "tie_word_embeddings",
)


def in_transformers_layout(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The same model as transformers would write it; `config` itself where it is in that layout already.

    Raises
    ------
    UnknownNameError, InvalidValueError
        A tower, projector or language model that has no counterpart here.
    """
    kind = config.get("model_type")
    if kind == "internvl_chat":
        return {**_formats(config, config.get("llm_config")), **_internvl(config, where)}
    if isinstance(kind, str) and kind in _LLAVA and "mm_vision_tower" in config:
        return {**_formats(config), **_llava(config, kind, where)}
    if isinstance(kind, str) and kind in _LLAVA and kind != "llava":
        # NVILA goes by the same name
        raise InvalidValueError("mm_vision_tower", f"given in LLaVA's own layout ({kind})", None, where=where)
    return config


def _formats(*configs: Any) -> dict[str, Any]:
    """The first ``quantization_config`` of the given mappings: both layouts state it alike."""
    found = (config.get("quantization_config") for config in configs if isinstance(config, Mapping))
    return next(({"quantization_config": each} for each in found if each), {})


def _llava(config: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    name = str(config["mm_vision_tower"]).rstrip("/").rpartition("/")[2]
    if name not in TOWERS:
        raise UnknownNameError("mm_vision_tower", name, TOWERS, where=where)
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise InvalidValueError("mm_projector_type", "mlp2x_gelu", projector, where=where)
    tower = TOWERS[name]
    siglip = tower["model_type"] == "siglip_vision_model"
    aspect = str(config.get("image_aspect_ratio", "pad"))
    text = {"model_type": _text_type(config, kind), **{key: config[key] for key in TEXT_KEYS if key in config}}
    result: dict[str, Any] = {
        "text_config": text,
        "vision_config": dict(tower),
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "vision_feature_layer": -1 if siglip else config.get("mm_vision_select_layer", -2),
        "projector_hidden_act": "gelu",
    }
    tiled = aspect.startswith("anyres")
    if tiled:
        merge = str(config.get("mm_patch_merge_type", "flat"))
        # without "unpad" tiles stay whole and no newline follows; "nobase" drops the whole image, "maxpool2x2" pools
        if merge != "spatial_unpad":
            raise InvalidValueError("mm_patch_merge_type", "spatial_unpad with tiles", merge, where=where)
        grids = _grids(config, tower["image_size"], where)
        result |= {"image_grid_pinpoints": grids} if grids else {}
    if siglip and tiled:
        return result | {
            "model_type": "llava_onevision",
            "vision_feature_select_strategy": "full",
            # without a limit, every tile's tokens stay: more than its grids can make
            "vision_aspect_ratio": aspect if aspect.startswith("anyres_max_") else "anyres_max_36",
            "mm_newline_position": config.get("mm_newline_position", "one_token"),
            "mm_spatial_pool_mode": config.get("mm_spatial_pool_mode", "bilinear"),
        }
    strategy = {"patch": "default", "cls_patch": "full"}.get(str(config.get("mm_vision_select_feature", "patch")))
    if strategy is None:
        found = config["mm_vision_select_feature"]
        raise InvalidValueError("mm_vision_select_feature", "patch or cls_patch", found, where=where)
    result["vision_feature_select_strategy"] = strategy
    if config.get("mm_resampler_type") == "spatial_pool":
        return {**result, "model_type": "llava", "spatial_pool_stride": config.get("mm_spatial_pool_stride", 2)}
    return {**result, "model_type": "llava_next" if tiled else "llava"}


def _grids(config: Mapping[str, Any], side: int, where: str) -> list[list[int]] | None:
    """Grids of tiles as transformers writes them, [height, width], from the original's (width, height) in pixels.

    A list, the same as text, or ``(1x1),...,(6x6)``: all grids of tiles between two.
    """
    given = config.get("image_grid_pinpoints")
    if given is None:
        return None
    text = str(given)
    span = re.fullmatch(r"\((\d+)x(\d+)\),\.\.\.,\((\d+)x(\d+)\)", text.replace(" ", ""))
    if span is not None:
        first_wide, first_high, last_wide, last_high = map(int, span.groups())
        wides, highs = range(first_wide, last_wide + 1), range(first_high, last_high + 1)
        return [[high * side, wide * side] for wide in wides for high in highs]
    pairs = re.findall(r"[(\[]\s*(\d+)\s*,\s*(\d+)\s*[)\]]", text)
    if not pairs:
        raise InvalidValueError("image_grid_pinpoints", "a list of [width, height] in pixels", given, where=where)
    return [[int(high), int(wide)] for wide, high in pairs]


def _text_type(config: Mapping[str, Any], kind: str) -> str:
    """The language model: by the model_type, or where that is plain ``llava`` by the architecture's name."""
    named = config.get("architectures")
    if kind == "llava" and isinstance(named, list) and named:
        own = str(named[0]).removeprefix("Llava").removesuffix("ForCausalLM")
        return _ARCHITECTURES.get(own, _LLAVA[kind])
    return _LLAVA[kind]


def _internvl(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    text, vision = (_section(config, key, where) for key in ("llm_config", "vision_config"))
    text_type = text.get("model_type")
    # InternLM2 is Llama with q, k and v in one matrix; its bias is that of the attention's products
    inner = {"model_type": "llama", "attention_bias": text.get("bias", False)} if text_type == "internlm2" else {}
    tied = text.get("tie_word_embeddings", False)
    return {
        "model_type": "internvl",
        "tie_word_embeddings": tied,
        "downsample_ratio": config.get("downsample_ratio", 0.5),
        "projector_hidden_act": "gelu",
        "vision_feature_layer": config.get("select_layer", -1),
        "preprocessor": {
            "min_patches": config.get("min_dynamic_patch", 1),
            "max_patches": config.get("max_dynamic_patch", 6) if config.get("dynamic_image_size", False) else 1,
            "use_thumbnail": config.get("use_thumbnail", False),
        },
        # all of it: experts have keys of their own, and types that are traced any
        "text_config": {**text, **inner},
        "vision_config": {
            "model_type": "internvl_vision",
            **{
                key: vision[key]
                for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "norm_type")
                if key in vision
            },
            "attention_bias": vision.get("qkv_bias", False),
            "use_qk_norm": vision.get("qk_normalization", False),
            "image_size": [config.get("force_image_size") or vision.get("image_size", 448)] * 2,
            "patch_size": [vision.get("patch_size", 14)] * 2,
        },
    }


def _section(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = config.get(key)
    if not isinstance(found, Mapping):
        raise InvalidValueError(key, "given (a mapping)", found, where=where)
    return found
