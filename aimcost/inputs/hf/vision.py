"""HF configurations of multi-modal models → tower, projector and resolution rule, by family."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ...errors import InvalidValueError, UnknownNameError
from ...types import DecoderSpec, ModelSpec, ProjectorSpec, ResolutionSpec, VisionSpec
from .decoder import text_section
from .preprocessor import sampling_of, tile_limits
from .reader import MAX_SIZE, Reader

__all__ = [
    "NEWLINES",
    "NEXT_GRIDS",
    "ONEVISION_GRIDS",
    "clip_or_siglip",
    "feature_layer",
    "internvl",
    "llava",
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "mllama",
    "onevision_tiles",
    "pinpoints",
    "two_linears",
]

# preprocessor_config.json of LLaVA-NeXT and LLaVA-OneVision, where config.json leaves it out.
NEXT_GRIDS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
ONEVISION_GRIDS = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))

# ``mm_newline_position`` of LLaVA-NeXT's code (llava_arch.py): what of a video a newline token follows.
NEWLINES: Mapping[str, Literal["", "video", "frame", "row"]] = {
    "one_token": "video",
    "frame": "frame",
    "grid": "row",
    "no_token": "",
}


def _model(name: str, source: str, reader: Reader, **parts: Any) -> ModelSpec:
    sampling = sampling_of(reader.optional_section("preprocessor"))
    family = str(reader.data["model_type"])
    return ModelSpec(name=name, family=family, source=source, sampling=sampling, **parts)


def clip_or_siglip(reader: Reader, feature_layer: int) -> VisionSpec:
    """A CLIP or SigLIP tower whose features are taken at hidden state `feature_layer`."""
    kind = str(reader.get("model_type"))
    if kind not in ("siglip_vision_model", "clip_vision_model"):
        allowed = ("siglip_vision_model", "clip_vision_model")
        raise UnknownNameError("model_type", kind, allowed, where=f"{reader.where}: {reader.prefix}")
    stored = reader.count("num_hidden_layers")
    # hidden states are numbered from the embedding (0) to the last layer's output (stored)
    runs = feature_layer if feature_layer >= 0 else stored + 1 + feature_layer
    if not 0 < runs <= stored:
        raise InvalidValueError(
            "vision_feature_layer", f"within the tower's {stored} layers", feature_layer, where=reader.where
        )
    if reader.count("hidden_size") % reader.count("num_attention_heads"):
        raise reader.fail("num_attention_heads", f"a divisor of hidden_size ({reader.count('hidden_size')})")
    image, patch = reader.count("image_size"), reader.count("patch_size")
    if patch > image:
        raise reader.fail("patch_size", f"at most image_size ({image})")
    clip = kind == "clip_vision_model"
    return VisionSpec(
        hidden=reader.count("hidden_size"),
        intermediate=reader.count("intermediate_size"),
        layers=runs,
        stored_layers=stored,
        heads=reader.count("num_attention_heads"),
        image_size=image,
        patch_size=patch,
        class_token=clip,
        pre_norm=clip,
        patch_bias=not clip,
    )


def feature_layer(reader: Reader, default: int, key: str = "vision_feature_layer") -> int:
    """The hidden state of the tower that is taken, by a configuration's key."""
    value = reader.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise reader.fail(key, "a whole number")
    return value


def two_linears(vision: VisionSpec, decoder: DecoderSpec) -> tuple[tuple[int, int], ...]:
    """In and out features of a projector from the tower's width to the decoder's, and on at that width."""
    return ((vision.hidden, decoder.hidden), (decoder.hidden, decoder.hidden))


def llava(reader: Reader, name: str, source: str) -> ModelSpec:
    """LLaVA-1.5 and its kin: every patch of a fixed-size image becomes a token."""
    decoder, notes = text_section(reader)
    vision = clip_or_siglip(reader.part("vision_config"), feature_layer(reader, -2))
    side = math.isqrt(vision.patches)
    # LongVA pools each frame 2x2 before the language model; llava-hf configs do not.
    stride = reader.count("spatial_pool_stride", 1)
    if stride > side:
        raise reader.fail("spatial_pool_stride", f"at most the patch grid's side ({side})")
    whole = _keeps_class_token(reader) and vision.class_token
    tokens = (side // stride) ** 2 + (1 if whole else 0)
    projector = ProjectorSpec(
        linears=two_linears(vision, decoder),
        tokens_per_image=tokens,
        tokens_per_frame=tokens,
        keeps_class_token=whole,
    )
    return _model(name, source, reader, decoder=decoder, vision=vision, projector=projector, notes=notes)


def _keeps_class_token(reader: Reader) -> bool:
    """``vision_feature_select_strategy``: all features of the tower, or all but the class token's."""
    strategy = reader.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise reader.fail("vision_feature_select_strategy", "default or full")
    return bool(strategy == "full")


def pinpoints(reader: Reader, default: tuple[tuple[int, int], ...], side: int) -> tuple[tuple[int, int], ...]:
    """``image_grid_pinpoints``: (height, width) in pixels; none where they are no whole tiles of `side`,
    as in configurations that shrink the tower alone."""
    given = reader.get("image_grid_pinpoints")
    # the processor's own, where it says them: it is what cuts the image
    given = reader.optional_section("preprocessor").get("image_grid_pinpoints", given)
    if given is None:
        return default
    expected = "a list of [height, width] in pixels"
    if not isinstance(given, list | tuple) or not given:
        raise reader.fail("image_grid_pinpoints", expected)
    for pair in given:
        whole = isinstance(pair, list | tuple) and len(pair) == 2
        if not whole or not all(isinstance(n, int) and n > 0 for n in pair):
            raise reader.fail("image_grid_pinpoints", expected)
    grids = tuple((pair[0], pair[1]) for pair in given)
    return grids if all(n % side == 0 for pair in grids for n in pair) else ()


def llava_next(reader: Reader, name: str, source: str) -> ModelSpec:
    """LLaVA-NeXT (1.6): the whole image and tiles of it, a newline token after each row."""
    decoder, notes = text_section(reader)
    vision = clip_or_siglip(reader.part("vision_config"), feature_layer(reader, -2))
    if _keeps_class_token(reader) and vision.class_token:
        raise reader.fail("vision_feature_select_strategy", "default: tiles are joined without their class tokens")
    projector = ProjectorSpec(
        linears=two_linears(vision, decoder),
        tokens_per_image=vision.patches,
        tokens_per_frame=vision.patches,
        newline_token=True,
        video_newline="video",
    )
    side = vision.image_size
    rule = ResolutionSpec(kind="anyres", grids=pinpoints(reader, NEXT_GRIDS, side))
    parts = {"decoder": decoder, "vision": vision, "projector": projector, "resolution": rule}
    return _model(name, source, reader, notes=notes, **parts)


def llava_next_video(reader: Reader, name: str, source: str) -> ModelSpec:
    """LLaVA-NeXT-Video: images as LLaVA-NeXT; a frame's patches are pooled 2x2 before the projector."""
    model = llava_next(reader, name, source)
    vision, projector = model.vision, model.projector
    assert vision is not None
    assert projector is not None
    if reader.get("spatial_pool_mode") not in ("average", "max"):
        raise reader.fail("spatial_pool_mode", "average or max")
    # its processor writes a quarter of the patches, whatever the stride
    if reader.count("spatial_pool_stride") != 2:
        raise reader.fail("spatial_pool_stride", "2, which its processor counts by")
    side = math.isqrt(vision.patches)
    if side % 2:
        raise reader.fail("spatial_pool_stride", f"a divisor of the patch grid's side ({side})")
    projector = replace(projector, tokens_per_frame=(side // 2) ** 2, pools_first=True, video_newline="")
    return replace(model, projector=projector)


def onevision_tiles(reader: Reader) -> int:
    """``vision_aspect_ratio``: the tiles' worth of tokens above which features are interpolated down."""
    aspect = str(reader.get("vision_aspect_ratio", "anyres_max_9"))
    if not aspect.startswith("anyres_max_") or not aspect.removeprefix("anyres_max_").isdigit():
        raise reader.fail("vision_aspect_ratio", "anyres_max_ and a number")
    return int(aspect.removeprefix("anyres_max_"))


def llava_onevision(reader: Reader, name: str, source: str) -> ModelSpec:
    """LLaVA-OneVision: a frame's patch grid is pooled 2x2, a video is followed by a newline token.

    Interpolation, the default of LLaVA-NeXT's code, rounds the grid up; averages and maxima, which its configurations
    may state, round it down. The stride is 2 whatever they state.
    """
    decoder, notes = text_section(reader)
    vision = clip_or_siglip(reader.part("vision_config"), feature_layer(reader, -1))
    mode, side = reader.get("mm_spatial_pool_mode", "bilinear"), math.isqrt(vision.patches)
    if mode not in ("bilinear", "average", "max"):
        raise reader.fail("mm_spatial_pool_mode", "bilinear, average or max")
    pooled = math.ceil(side / 2) if mode == "bilinear" else side // 2
    position = reader.get("mm_newline_position", "one_token")
    if not isinstance(position, str) or position not in NEWLINES:
        raise reader.fail("mm_newline_position", ", ".join(NEWLINES))
    projector = ProjectorSpec(
        linears=two_linears(vision, decoder),
        tokens_per_image=vision.patches,
        tokens_per_frame=pooled * pooled,
        newline_token=True,
        video_newline=NEWLINES[position],
        bilinear=mode == "bilinear",
    )
    rule = ResolutionSpec(
        kind="anyres",
        grids=pinpoints(reader, ONEVISION_GRIDS, vision.image_size),
        max_tiles=onevision_tiles(reader),
    )
    parts = {"decoder": decoder, "vision": vision, "projector": projector, "resolution": rule}
    return _model(name, source, reader, notes=notes, **parts)


def _square(reader: Reader, key: str) -> int:
    """A side in pixels, given as one number or as two that are equal."""
    value = reader.get(key)
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return Reader({key: value[0]}, reader.where, reader.prefix).count(key)
    return reader.count(key)


def internvl(reader: Reader, name: str, source: str) -> ModelSpec:
    """InternVL: InternViT on tiles, pixel shuffle by half, LayerNorm and two linear layers."""
    decoder, notes = text_section(reader)
    section = reader.part("vision_config")
    layers = section.count("num_hidden_layers")
    if section.get("model_type") != "internvl_vision":
        kind = str(section.get("model_type"))
        raise UnknownNameError("model_type", kind, ("internvl_vision",), where=f"{reader.where}: vision_config.")
    bias = section.flag("attention_bias", False)
    vision = VisionSpec(
        hidden=section.count("hidden_size"),
        intermediate=section.count("intermediate_size"),
        layers=layers,
        stored_layers=layers,
        heads=section.count("num_attention_heads"),
        image_size=_square(section, "image_size"),
        patch_size=_square(section, "patch_size"),
        class_token=True,
        post_norm=False,
        norm="rms" if section.get("norm_type") == "rms_norm" else "layer",
        qk_norm=section.flag("use_qk_norm", False),
        qkv_bias=bias,
        layer_scale=True,
    )
    if reader.get("downsample_ratio", 0.5) != 0.5:
        raise reader.fail("downsample_ratio", "0.5")
    tokens = vision.patches // 4
    projector = ProjectorSpec(
        linears=((4 * vision.hidden, decoder.hidden), (decoder.hidden, decoder.hidden)),
        tokens_per_image=tokens,
        tokens_per_frame=tokens,
        merge=2,
        norm="layer",
        norm_merged=True,
    )
    limits = reader.optional_section("preprocessor")
    least, most = tile_limits(limits)
    rule = ResolutionSpec(
        kind="tiles",
        min_tiles=least if least > 1 else 0,
        max_tiles=most,
        without_thumbnail=not limits.flag("use_thumbnail", True),
        markup="numbers",
    )
    parts = {"decoder": decoder, "vision": vision, "projector": projector, "resolution": rule}
    return _model(name, source, reader, notes=notes, **parts)


def _aspect_ratios(section: Reader) -> list[list[int]]:
    """Arrangements of tiles that a Llama-3.2 tower has embeddings for."""
    given: list[list[int]] = section.get("supported_aspect_ratios")
    pairs = isinstance(given, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(type(side) is int and 1 <= side <= MAX_SIZE for side in pair)
        for pair in given
    )
    if not pairs or not given:
        raise section.fail("supported_aspect_ratios", "a list of pairs of whole numbers")
    return given


def mllama(reader: Reader, name: str, source: str) -> ModelSpec:
    """Llama-3.2-Vision: four tiles through a local and a global ViT, read by cross attention."""
    decoder, notes = text_section(reader)
    text, section = reader.part("text_config"), reader.part("vision_config")
    cross = text.layer_list("cross_attention_layers", decoder.layers, beyond=True)
    # the embedding holds eight reserved rows that lm_head does not
    decoder = replace(decoder, cross_layers=cross, extra_embeddings=8)
    layers = section.count("num_hidden_layers")
    taps = section.layer_list("intermediate_layers_indices", layers)
    vision = VisionSpec(
        hidden=section.count("hidden_size"),
        intermediate=section.count("intermediate_size"),
        layers=layers,
        stored_layers=layers,
        heads=section.count("attention_heads"),
        image_size=section.count("image_size"),
        patch_size=section.count("patch_size"),
        class_token=True,
        pre_norm=True,
        patch_bias=False,
        qkv_bias=False,
        out_bias=False,
        tiles=section.count("max_num_tiles"),
        pad_to=8,
        global_layers=section.count("num_global_layers"),
        tile_embeddings=1 + len(_aspect_ratios(section)),
    )
    projector = ProjectorSpec(
        # the last layer's features beside those of the tapped ones
        linears=(((1 + len(taps)) * vision.hidden, decoder.hidden),),
        tokens_per_image=vision.tiles * vision.tokens,
        tokens_per_frame=0,
        keeps_class_token=True,
    )
    return _model(name, source, reader, decoder=decoder, vision=vision, projector=projector, notes=notes)
