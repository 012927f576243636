"""Models of which transformers has the language model alone, or no way to features of images: Phi-3-Vision, Kimi-VL,
DeepSeek-VL2, Phi-4-multimodal.

The language model is priced as its configuration is (`language`); tower, projector and what the processor makes of an
image are read here (`with_tower`). Sources: transformers' phi4_multimodal; microsoft/Phi-3.5-vision-instruct
modeling_phi3_v.py and processing_phi3_v.py; moonshotai/Kimi-VL-A3B-Instruct configuration_kimi_vl.py,
modeling_kimi_vl.py and image_processing_kimi_vl.py; deepseek-ai/DeepSeek-VL2 deepseek_vl2/models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

from ...errors import UnsupportedModelError
from ...types import DecoderSpec, ModelSpec, ProjectorSpec, ResolutionSpec, VisionSpec
from .original import TEXT_KEYS, TOWERS
from .reader import Reader
from .vision import clip_or_siglip, feature_layer, two_linears

__all__ = ["CAUSAL", "COMPOSITES", "WITHOUT_TOWER", "language", "with_tower"]

Parts = tuple[VisionSpec, ProjectorSpec, ResolutionSpec]

# Defaults of the released configuration classes: DeepseekV2Config, VisionEncoderConfig and MlpProjectorConfig of
# DeepSeek-VL2; MoonViTConfig.
DEEPSEEK_LANGUAGE: Mapping[str, Any] = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "moe_intermediate_size": 1407,
    "num_hidden_layers": 30,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "topk_method": "greedy",
    "first_k_dense_replace": 0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_mla": True,
}
DEEPSEEK_VISION = {
    "image_size": 384,
    "patch_size": 16,
    "width": 1024,
    "layers": 24,
    "heads": 16,
    "mlp_ratio": 4,
    "global_pool": "map",
    "class_token": False,
}
DEEPSEEK_PROJECTOR = {
    "projector_type": "downsample_mlp_gelu",
    "input_dim": 1152,
    "n_embed": 2048,
    "depth": 2,
    "mlp_ratio": 1,
    "downsample_ratio": 2,
}
MOONVIT = {
    "patch_size": 14,
    "init_pos_emb_height": 64,
    "init_pos_emb_width": 64,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "merge_kernel_size": [2, 2],
}
# Kimi-VL: patches of an image, which is padded to merged ones, by the checkpoint's preprocessor_config.json; "image"
# and three markers around it, by its chat template.
KIMI_PATCHES, KIMI_MARKERS = 4096, 4
# Patches of a side that are merged, at the most.
MAX_MERGE = 64
# Phi-3-Vision: tiles of an image, by the model card for single images and Phi-3-vision's preprocessor_config.json.
PHI_TILES = 16

# Configuration class and image processor of Phi-4-multimodal.
PHI4_VISION = {
    "model_type": "siglip_vision_model",
    "image_size": 448,
    "crop_size": 448,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "feature_layer": -2,
}
PHI4_TILES = 36
PHI4_NOTE = "speech, and the adapters (LoRA) that the checkpoint has for images and speech, are not priced"
# How the note of a trace begins that has a language model alone; what a trace says of every image-text model.
WITHOUT_TOWER, CAUSAL = "traced without its tower", "visual tokens attend causally, as text does"


class Composite(NamedTuple):
    """How a family's language model and its other parts are read."""

    language: Callable[[Reader], dict[str, Any]]
    parts: Callable[[Reader, DecoderSpec], Parts]
    # what else there is to say
    note: str = ""


def language(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration of a composite's language model, as transformers writes it.

    Raises
    ------
    InvalidValueError, UnsupportedModelError
        A key that no such model has, or a model that is built otherwise.
    """
    named = config.get("architectures")
    if isinstance(named, list) and any("OCR" in str(name) for name in named):
        what = "DeepSeek-OCR under this model_type, whose towers (SAM and CLIP) are not known here"
        raise UnsupportedModelError(f"{where}: {what}: transformers' deepseek_ocr2 layout is traced")
    return COMPOSITES[str(config["model_type"])].language(Reader(config, where))


def with_tower(model: ModelSpec, config: Mapping[str, Any], where: str) -> ModelSpec:
    """A language model with the composite's tower, projector and rule for images."""
    reader, family = Reader(config, where), str(config["model_type"])
    vision, projector, rule = COMPOSITES[family].parts(reader, model.decoder)
    parts: dict[str, Any] = {"vision": vision, "projector": projector, "resolution": rule}
    sections = dict.fromkeys(note for part in (reader, *reader.sections) for note in _filled(part))
    notes = [note for note in model.notes if not note.startswith(WITHOUT_TOWER) and note != CAUSAL]
    own = COMPOSITES[family].note
    whole = replace(model, family=family, notes=(*notes, *sections, CAUSAL, *([own] if own else ())), **parts)
    return _apart(whole, vision) if len(notes) < len(model.notes) else whole


def _apart(model: ModelSpec, vision: VisionSpec) -> ModelSpec:
    """A model whose language model was traced with the tower around it: its parameters are the tower's."""
    from ...models import projector, vit

    traced = model.decoder.traced
    assert traced is not None
    outer = traced.outer_parameters - vit.parameters(vision) - projector.parameters(model)
    return replace(model, decoder=replace(model.decoder, traced=replace(traced, outer_parameters=outer)))


def _filled(reader: Reader) -> tuple[str, ...]:
    return tuple(note.replace("transformers' defaults", "its class's defaults") for note in reader.notes())


def _phi3(reader: Reader) -> dict[str, Any]:
    return {**_phi_text(reader), "model_type": "phi3", "pad_token_id": None}


def _phi_text(reader: Reader) -> dict[str, Any]:
    """A language model's keys at the top level, but for how its angles are scaled, which costs nothing."""
    text = {key: reader.data[key] for key in TEXT_KEYS if key in reader.data and key != "rope_scaling"}
    window, limit = text.get("sliding_window"), text.get("max_position_embeddings")
    if isinstance(window, int) and isinstance(limit, int) and window >= limit:
        del text["sliding_window"]  # it never binds
    return text


def _phi3_parts(reader: Reader, decoder: DecoderSpec) -> Parts:
    """CLIP ViT-L/14-336, 2 x 2 patches merged, two linear layers."""
    image, order = reader.section("img_processor"), reader.section("embd_layer")
    name = str(image.get("model_name", "")).rpartition("/")[2]
    if name != "clip-vit-large-patch14-336":
        raise image.fail("model_name", "clip-vit-large-patch14-336")
    if not order.flag("use_hd_transform", False) or not order.flag("with_learnable_separator", False):
        raise order.fail("use_hd_transform", "true, as with_learnable_separator")
    layer = feature_layer(image, -2, "layer_idx")
    vision = clip_or_siglip(Reader(TOWERS[name], reader.where, "img_processor."), layer)
    merged = 4 * vision.hidden
    projector = ProjectorSpec(
        linears=((merged, decoder.hidden), (decoder.hidden, decoder.hidden)),
        tokens_per_image=0,
        tokens_per_frame=0,
        merge=2,
        separators=merged,
    )
    tiles = reader.optional_section("preprocessor").count("num_crops", PHI_TILES)
    return vision, projector, ResolutionSpec(kind="hd", max_tiles=tiles)


def _phi4(reader: Reader) -> dict[str, Any]:
    """Phi-4-multimodal as transformers has it; the checkpoint's own configuration is named phi4mm."""
    if reader.data["model_type"] == "phi4_multimodal":
        return {key: value for key, value in reader.data.items() if key not in ("name", "preprocessor")}
    return {**_phi_text(reader), "model_type": "phi4_multimodal"}


def _phi4_parts(reader: Reader, decoder: DecoderSpec) -> Parts:
    """SigLIP on tiles of 448 pixels, patches averaged 2 x 2, two linear layers."""
    given = reader.data.get("vision_config")
    section = _section(reader, "vision_config", PHI4_VISION) if given else Reader({}, reader.where, "", PHI4_VISION)
    for key in ("image_size", "crop_size", "patch_size"):
        # its processor counts by these
        if section.get(key) != PHI4_VISION[key]:
            raise section.fail(key, str(PHI4_VISION[key]))
    vision = clip_or_siglip(section, feature_layer(section, -2, "feature_layer"))
    projector = ProjectorSpec(
        linears=two_linears(vision, decoder),
        tokens_per_image=0,
        tokens_per_frame=0,
        pools_first=True,
        separators=vision.hidden,
    )
    tiles = reader.optional_section("preprocessor").count("dynamic_hd", PHI4_TILES)
    return replace(vision, idle_head=True), projector, ResolutionSpec(kind="masked", max_tiles=tiles)


def _kimi(reader: Reader) -> dict[str, Any]:
    text = dict(reader.section("text_config").data)
    return {**text, "model_type": "deepseek_v3"}


def _kimi_parts(reader: Reader, decoder: DecoderSpec) -> Parts:
    """MoonViT on any grid of patches, 2 x 2 merged behind a norm, two linear layers."""
    section = _section(reader, "vision_config", MOONVIT)
    kernel, heads = section.get("merge_kernel_size"), section.count("num_attention_heads")
    sides: Any = kernel if isinstance(kernel, list | tuple) and len(kernel) == 2 else [None]
    if any(type(side) is not int or not 1 <= side <= MAX_MERGE or side != sides[0] for side in sides):
        raise section.fail("merge_kernel_size", "a square: two equal whole numbers")
    hidden, layers, merge = section.count("hidden_size"), section.count("num_hidden_layers"), sides[0]
    if hidden % heads:
        raise section.fail("num_attention_heads", f"a divisor of hidden_size ({hidden})")
    vision = VisionSpec(
        hidden=hidden,
        intermediate=section.count("intermediate_size"),
        layers=layers,
        stored_layers=layers,
        heads=heads,
        image_size=0,
        patch_size=section.count("patch_size"),
        fused_qkv=True,
        rope=True,
        position_rows=section.count("init_pos_emb_height") * section.count("init_pos_emb_width"),
    )
    merged = hidden * merge**2
    projector = ProjectorSpec(
        linears=((merged, merged), (merged, decoder.hidden)),
        tokens_per_image=0,
        tokens_per_frame=0,
        merge=merge,
        norm="layer",
    )
    limits = reader.optional_section("preprocessor")
    rule = ResolutionSpec(
        kind="blocks",
        max_tiles=limits.count("in_token_limit", KIMI_PATCHES),
        crops=not limits.flag("pad_input", True),
        markers=KIMI_MARKERS,
    )
    return vision, projector, rule


def _deepseek(reader: Reader) -> dict[str, Any]:
    """DeepSeekMoE with latent attention, or with heads as any (VL2-Tiny), as transformers' GLM-4-MoE has it.

    transformers' deepseek_v2 has no attention but the latent one; its glm4_moe without norms of queries and keys is
    the same as DeepSeekMoE's layers.
    """
    given = reader.section("language_config").data
    text = {**DEEPSEEK_LANGUAGE, **given}
    section = Reader(text, reader.where, "language_config.")
    if section.flag("use_mla", True):
        # its bias on the choice of experts is that of V3
        kind = "deepseek_v3" if text["topk_method"] == "noaux_tc" else "deepseek_v2"
        return {**text, "model_type": kind, "rope_scaling": None}
    heads, hidden = section.count("num_attention_heads"), section.count("hidden_size")
    if hidden % heads:
        raise section.fail("num_attention_heads", f"a divisor of hidden_size ({hidden})")
    names = (
        *("intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_key_value_heads", "vocab_size"),
        *("n_shared_experts", "n_routed_experts", "num_experts_per_tok", "max_position_embeddings"),
    )
    return {
        **{name: section.count(name) for name in names},
        "model_type": "glm4_moe",
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "head_dim": hidden // heads,
        "partial_rotary_factor": 1.0,
        "first_k_dense_replace": text["first_k_dense_replace"],
        "tie_word_embeddings": text["tie_word_embeddings"],
        "attention_bias": text["attention_bias"],
        "use_qk_norm": False,
        "n_group": 1,
        "topk_group": 1,
    }


def _deepseek_parts(reader: Reader, decoder: DecoderSpec) -> Parts:
    """SigLIP on tiles, 2 x 2 patches merged (the grid padded to whole squares), linear layers."""
    if reader.get("tile_tag", "2D") != "2D":
        raise reader.fail("tile_tag", "2D")
    section, joins = (
        _section(reader, key, table)
        for key, table in (("vision_config", DEEPSEEK_VISION), ("projector_config", DEEPSEEK_PROJECTOR))
    )
    width, layers, heads = section.count("width"), section.count("layers"), section.count("heads")
    size, patch = section.count("image_size"), section.count("patch_size")
    if width % heads:
        raise section.fail("heads", f"a divisor of width ({width})")
    if patch > size:
        raise section.fail("patch_size", f"at most image_size ({size})")
    if section.get("class_token") is not False:
        raise section.fail("class_token", "false")
    vision = VisionSpec(
        hidden=width,
        intermediate=int(width * section.number("mlp_ratio")),
        layers=layers,
        stored_layers=layers,
        heads=heads,
        image_size=size,
        patch_size=patch,
        fused_qkv=True,
        idle_head=section.get("global_pool") == "map",
    )
    for key, expected in (("projector_type", "downsample_mlp_gelu"), ("input_dim", width), ("n_embed", decoder.hidden)):
        if joins.get(key) != expected:
            raise joins.fail(key, str(expected))
    words = _section(reader, "language_config", DEEPSEEK_LANGUAGE)
    sizes = {key: value for key, value in DEEPSEEK_LANGUAGE.items() if type(value) is int}
    words.filled.update({key: value for key, value in sizes.items() if key not in words.data})
    merge, inner = joins.count("downsample_ratio"), decoder.hidden * joins.count("mlp_ratio")
    ends = (width * merge**2, *[inner] * (max(2, joins.count("depth")) - 1), decoder.hidden)
    projector = ProjectorSpec(
        linears=tuple(pairwise(ends)),
        tokens_per_image=0,
        tokens_per_frame=0,
        merge=merge,
        separators=decoder.hidden,
    )
    return vision, projector, ResolutionSpec(kind="candidates", grids=_candidates(reader, size))


def _candidates(reader: Reader, side: int) -> tuple[tuple[int, int], ...]:
    """``candidate_resolutions``, [width, height] in pixels, as (height, width)."""
    given = reader.get("candidate_resolutions", [[384, 384]])
    right = isinstance(given, list | tuple) and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(n) is int and 0 < n <= 100 * side and n % side == 0 for n in pair)
        for pair in given
    )
    if not right or not given or tuple(given[0]) != (side, side):
        what = f"a list of [width, height] in whole tiles of {side} pixels, the first one tile"
        raise reader.fail("candidate_resolutions", what)
    return tuple((pair[1], pair[0]) for pair in given)


def _section(reader: Reader, key: str, defaults: Mapping[str, Any]) -> Reader:
    section = reader.section(key)
    section.defaults = defaults
    return section


COMPOSITES: Mapping[str, Composite] = {
    "phi3_v": Composite(_phi3, _phi3_parts),
    "kimi_vl": Composite(_kimi, _kimi_parts),
    "deepseek_vl_v2": Composite(_deepseek, _deepseek_parts),
    "phi4_multimodal": Composite(_phi4, _phi4_parts, PHI4_NOTE),
    "phi4mm": Composite(_phi4, _phi4_parts, PHI4_NOTE),
}
