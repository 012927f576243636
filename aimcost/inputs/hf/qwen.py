"""Configurations of Qwen-VL, Qwen2-VL, Qwen2.5-VL and Qwen3-VL → ModelSpec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...types import ModelSpec, ProjectorSpec, ResamplerSpec, ResolutionSpec, SamplingSpec, VisionSpec
from .decoder import decoder_spec, text_section
from .preprocessor import pixel_limits, sampling_of
from .reader import Reader

__all__ = ["qwen_processor", "qwen_vit", "qwen_vl"]

# Qwen-VL's resampler has a head for every 128 units.
HEAD_WIDTH = 128


def _qwen_tower(reader: Reader, generation: str) -> VisionSpec:
    """The ViT of Qwen2-VL, Qwen2.5-VL or Qwen3-VL: any grid, rotary positions, no class token."""
    layers = reader.count("depth")
    merge = reader.count("spatial_merge_size", 2)
    patch = reader.count("patch_size")
    common: dict[str, Any] = {
        "layers": layers,
        "stored_layers": layers,
        "heads": reader.count("num_heads"),
        "image_size": 0,
        "patch_size": patch,
        "channels": reader.count("in_channels", reader.count("in_chans", 3)),
        "temporal_patch": reader.count("temporal_patch_size", 2),
        "fused_qkv": True,
        "rope": True,
        "post_norm": False,
        "window_unit": merge,
    }
    if generation == "qwen2_vl":
        width = reader.count("embed_dim")
        inner = width * reader.count("mlp_ratio", 4)
        return VisionSpec(hidden=width, intermediate=inner, patch_bias=False, position_rows=0, **common)
    width, inner = reader.count("hidden_size"), reader.count("intermediate_size")
    if generation == "qwen2_5_vl":
        window = reader.count("window_size")
        if window % (patch * merge):
            raise reader.fail("window_size", f"a multiple of {patch * merge} pixels")
        return VisionSpec(
            hidden=width,
            intermediate=inner,
            norm="rms",
            gated_mlp=True,
            patch_bias=False,
            position_rows=0,
            window=window // patch,
            full_layers=reader.layer_list("fullatt_block_indexes", layers, beyond=True),
            **common,
        )
    rows = reader.count("num_position_embeddings")
    return VisionSpec(hidden=width, intermediate=inner, position_rows=rows, **common)


# (least, most) pixels of an image, and of a frame or (Qwen3-VL) of all frames together, by the
# preprocessor_config.json of each generation's checkpoints. Frames of the older two: VIDEO_MIN_PIXELS
# and VIDEO_MAX_PIXELS of qwen-vl-utils.
QWEN_PIXELS = {
    "qwen2_vl": ((56 * 56, 16384 * 28 * 28), (128 * 28 * 28, 768 * 28 * 28)),
    "qwen2_5_vl": ((56 * 56, 16384 * 28 * 28), (128 * 28 * 28, 768 * 28 * 28)),
    "qwen3_vl": ((256 * 256, 4096 * 4096), (64 * 64, 24576 * 32 * 32)),
    # of a frame: `videos_kwargs` of Qwen3OmniMoeProcessor
    "qwen3_omni": ((56 * 56, 16384 * 28 * 28), (128 * 32 * 32, 768 * 32 * 32)),
}
# Frames sampled from a video at a rate: the class attributes of transformers' Qwen2VLVideoProcessor and
# Qwen3VLVideoProcessor, FPS_MIN_FRAMES and FPS_MAX_FRAMES of qwen-vl-utils.
MIN_FRAMES, MAX_FRAMES = 4, 768
QWEN3_FPS = 2.0
# MODEL_SEQ_LEN of qwen-vl-utils, `max_video_tokens` of Qwen2VLVideoProcessor: the tokens of a whole video, of
# which 90 % are spent. Qwen3-VL's processor knows the key as tokens of one frame, and limits none by default.
VIDEO_TOKENS, VIDEO_SHARE = 128_000, 0.9
QWEN3_FRAME_TOKENS = 768


def qwen_vit(reader: Reader, name: str, source: str) -> ModelSpec:
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL: tokens follow from the size of the image."""
    kind = str(reader.data["model_type"])
    generation = kind.removesuffix("_moe")
    nested = isinstance(reader.get("text_config"), Mapping)
    # the first checkpoints keep the language model's figures at the top level
    decoder, notes = text_section(reader) if nested else decoder_spec(reader)
    section = reader.part("vision_config")
    vision = _qwen_tower(section, generation)
    merge = section.count("spatial_merge_size", 2)
    merged = vision.hidden * merge * merge
    out = section.count("out_hidden_size", decoder.hidden)
    if out != decoder.hidden:
        raise section.fail("out_hidden_size", f"the language model's hidden_size ({decoder.hidden})")
    third = generation == "qwen3_vl"
    deepstack = section.layer_list("deepstack_visual_indexes", vision.layers, beyond=True) if third else ()
    projector = ProjectorSpec(
        linears=((merged, merged), (merged, decoder.hidden)),
        tokens_per_image=0,
        tokens_per_frame=0,
        merge=merge,
        norm="rms" if generation == "qwen2_5_vl" else "layer",
        deepstack=len(deepstack),
        idle_deepstack=len(section.get("deepstack_visual_indexes")) - len(deepstack) if third else 0,
    )
    limits = reader.optional_section("preprocessor")
    rule, sampling = qwen_processor(limits, generation, side=vision.patch_size * merge, temporal=vision.temporal_patch)
    parts: dict[str, Any] = {"decoder": decoder, "vision": vision, "projector": projector, "resolution": rule}
    return ModelSpec(name=name, family=kind, source=source, notes=notes, sampling=sampling, **parts)


def qwen_processor(limits: Reader, generation: str, *, side: int, temporal: int) -> tuple[ResolutionSpec, SamplingSpec]:
    """What a generation makes of images and videos, in tokens `side` pixels wide and `temporal` frames deep."""
    third, (still, moving) = generation == "qwen3_vl", QWEN_PIXELS[generation]
    capped = limits.flag("cap_pixels_per_frame", not third)
    block = side**2
    most = limits.count("max_video_tokens", QWEN3_FRAME_TOKENS if third else VIDEO_TOKENS)
    rule = ResolutionSpec(
        kind="dynamic",
        pixels=pixel_limits(limits, "pixels", still),
        video_pixels=pixel_limits(limits, "video_pixels", moving),
        video_volume=third,
        video_budget=int(most * block * VIDEO_SHARE) if capped and not third else 0,
        frame_pixels=(0, most * block) if capped and third else (0, 0),
        markup="times" if third else "",
    )
    sampling = sampling_of(
        limits,
        frames=(MIN_FRAMES, MAX_FRAMES),
        fps=QWEN3_FPS if third else 0.0,
        multiple=0 if third else temporal,
    )
    return rule, sampling


def qwen_vl(reader: Reader, name: str, source: str) -> ModelSpec:
    """Qwen and, where the config has a ``visual`` section, Qwen-VL: a ViT and a resampler of 256 queries."""
    decoder, notes = decoder_spec(reader)
    if not isinstance(reader.get("visual"), Mapping):
        return ModelSpec(name=name, family="qwen", decoder=decoder, source=source, notes=notes)
    section = reader.section("visual")
    width, layers, queries = section.count("width"), section.count("layers"), section.count("n_queries", 256)
    ratio = section.get("mlp_ratio", 4.0)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0.1 <= ratio <= 100:
        raise section.fail("mlp_ratio", "a number from 0.1 to 100")
    if section.count("output_dim") != decoder.hidden or decoder.hidden % HEAD_WIDTH:
        raise section.fail("output_dim", f"hidden_size ({decoder.hidden}), a multiple of {HEAD_WIDTH}")
    vision = VisionSpec(
        hidden=width,
        intermediate=int(width * ratio),
        layers=layers,
        stored_layers=layers,
        heads=section.count("heads"),
        image_size=section.count("image_size"),
        patch_size=section.count("patch_size"),
        pre_norm=True,
        post_norm=False,
        patch_bias=False,
        # one position a query's place, interpolated to the patches
        position_rows=queries,
    )
    if vision.hidden % vision.heads:
        raise section.fail("heads", f"a divisor of width ({vision.hidden})")
    if not vision.patches:
        raise section.fail("patch_size", f"at most image_size ({vision.image_size})")
    resampler = ResamplerSpec(
        queries=queries, heads=decoder.hidden // HEAD_WIDTH, tower_width=width, width=decoder.hidden
    )
    projector = ProjectorSpec(linears=(), tokens_per_image=queries, tokens_per_frame=queries, resampler=resampler)
    parts: dict[str, Any] = {"decoder": decoder, "vision": vision, "projector": projector}
    return ModelSpec(name=name, family="qwen", source=source, notes=notes, **parts)
