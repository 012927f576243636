"""What the processor of a traced family makes of an image or a video: tiles, grids of patches, text around them.

Sizes come from the tower's trace, limits from the checkpoint's processor files, else from the processor's class in
transformers 5.24. tests/tracing/test_image_tokens.py and test_videos.py hold the counts equal to transformers'
processors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidValueError
from ..types import ModelSpec, ProjectorSpec, ResolutionSpec, SamplingSpec, VisionSpec
from .hf.composites import COMPOSITES, WITHOUT_TOWER
from .hf.preprocessor import MAX_PATCHES, pixel_limits, sampling_of, tile_limits
from .hf.qwen import qwen_processor
from .hf.reader import Reader
from .hf.vision import NEXT_GRIDS, ONEVISION_GRIDS, onevision_tiles, pinpoints

__all__ = [
    "BY_PIXELS",
    "QWEN_GENERATIONS",
    "WITHOUT_TOWER",
    "check_video",
    "projector_of",
    "resolution_of",
    "with_images_alone",
    "with_video_processor",
    "without_tower",
]

# Families of which transformers gives images and videos to a processor of Qwen-VL's, and which.
QWEN_GENERATIONS = {
    "qwen3_5": "qwen3_vl",
    "qwen3_5_moe": "qwen3_vl",
    "qwen2_5_omni_thinker": "qwen2_5_vl",
    "qwen3_omni_moe_thinker": "qwen3_omni",
}
# temporal_patch_size of their configuration classes
QWEN_TEMPORAL = 2
GLM = ("glm4v", "glm4v_moe", "glm46v")
# Families whose limits are numbers of pixels.
BY_PIXELS = (*GLM, *QWEN_GENERATIONS)
# Glm4vImageProcessor: limits are of a temporal patch of two frames, of which an image fills both.
GLM_PIXELS = (112 * 112 // 2, 28 * 28 * 15000 // 2)
# Glm4vVideoProcessor and Glm46VVideoProcessor: pixels of all frames; frames a second, and seconds of which frames are
# taken; digits that are one token.
GLM_VIDEO_PIXELS = (112 * 112, 28 * 28 * 2 * 30000)
GLM_FPS, GLM_SECONDS, GLM_DIGITS = 2.0, 300, 3
# Glm46VVideoProcessor.sample_frames: (seconds, frames a second), two frames a temporal patch, at most so many.
GLM46_RATES, GLM46_FRAMES = ((30.0, 6.0), (300.0, 2.0), (2400.0, 1.0)), 640
# Families of transformers without a video processor; the others that have no rule here are refused as not known.
IMAGES_ONLY = (
    *("aria", "aya_vision", "cohere2_vision", "deepseek_vl", "gemma3", "gemma3n", "idefics3", "lfm2_vl", "llama4"),
    "llava",
    *("llava_next", "mistral3", "ovis2", "paligemma", "shieldgemma2", "vipllava", *COMPOSITES),
)
# Llama4ImageProcessor
CANVAS_TILES = 16
# Lfm2VlImageProcessor: tokens of an image that is not cut, tiles of one that is, and their side.
LFM_TOKENS, LFM_TILES, LFM_SIDE = (64, 256), (2, 10), 512
# Kimi_K25ImageProcessor: patches of an image, and of a side.
KIMI_PATCHES, KIMI_SIDE = 16384, 512
# Checkpoints of Idefics3 and SmolVLM make the longest edge four tiles.
EDGE_TILES = 4

# Tokens of text around an image that is one input of the tower: Gemma 3 puts two markers and two blank lines.
_FIXED = {
    "gemma3": 4,
    "shieldgemma2": 4,
    "paligemma": 0,
    "gemma3n": 4,
    "aria": 0,
    "deepseek_vl": 0,
    "vipllava": 0,
    "llava": 0,
}
# Families whose tower is of a library that is not installed, and the key that says how many tokens an image is.
_WITHOUT_LIBRARY = {"gemma3n": ("vision_soft_tokens_per_image", 256)}
_CUTS = ("do_pan_and_scan", "split_image")


def without_tower(model: ModelSpec) -> str:
    """Why images of a model without a tower cannot be counted."""
    note = next((note for note in model.notes if note.startswith(WITHOUT_TOWER)), "")
    return f"{model.name} is {note.rpartition(': workload')[0]}" if note else f"{model.name} has no vision tower"


def projector_of(vision: VisionSpec, merge: int) -> ProjectorSpec:
    """What leaves a traced tower: so many tokens of an image of the one size, else one of each merged square."""
    tokens = 0
    if vision.traced is not None and vision.image_size:
        tokens = vision.traced.tokens_of(vision.patches)
    return ProjectorSpec(linears=(), tokens_per_image=tokens, tokens_per_frame=0, merge=merge)


def with_images_alone(model: ModelSpec, config: Mapping[str, Any], where: str) -> ModelSpec:
    """A model traced without its tower, with what an image is to its language model, where that is one number."""
    known = _WITHOUT_LIBRARY.get(model.family)
    if known is None or not any(note.startswith(WITHOUT_TOWER) for note in model.notes):
        return model
    tokens = Reader(config, where).count(*known)
    notes = tuple(
        f"{note.rpartition(': workload')[0]}: its time and memory are not priced, images cost the language model alone"
        if note.startswith(WITHOUT_TOWER)
        else note
        for note in model.notes
    )
    projector = ProjectorSpec(linears=(), tokens_per_image=tokens, tokens_per_frame=0)
    rule = ResolutionSpec(kind="fixed", markers=_FIXED[model.family])
    return replace(model, projector=projector, resolution=rule, notes=notes)


def check_video(model: ModelSpec, frames: int) -> None:
    """Refuse a video that a traced family's processor does not take, or of which nothing is known here."""
    vision, rule, projector = model.vision, model.resolution, model.projector
    read_here = vision is not None and vision.traced is None and model.family not in COMPOSITES
    if read_here or rule is None or projector is None:
        return
    if any(rule.video_pixels) or projector.tokens_per_frame:
        return
    what = f"omitted: what {model.family}'s processor makes of a video is not known here (images or visual_tokens)"
    if model.family in IMAGES_ONLY:
        what = f"omitted: {model.family}'s processor takes images only (images or visual_tokens)"
    elif model.family == "llava_next_video":
        what = "omitted: llava_next_video pools frames before its projector, which was traced on images (visual_tokens)"
    raise InvalidValueError("workload.frames", what, frames)


def with_video_processor(model: ModelSpec, config: Mapping[str, Any], merge: int, where: str) -> ModelSpec:
    """A model with what its processor makes of videos, where that is known; else as it is."""
    vision = model.vision
    if vision is None:
        return model
    reader = Reader(config, where)
    limits = reader.optional_section("preprocessor")
    if model.family in QWEN_GENERATIONS:
        return _with_qwen_processor(model, vision, reader, merge)
    if model.family in GLM:
        return _with_glm_video(model, vision, reader)
    rule = model.resolution
    if model.projector is None or rule is None or model.family not in ("internvl", "smolvlm") or rule.kind == "unknown":
        return model
    if model.family == "internvl":
        # o200k_base of gpt-oss holds up to three digits in a token
        digits = 3 if reader.optional_section("text_config").get("model_type") == "gpt_oss" else 1
        rule, sampling = replace(rule, markup="numbers", digits=digits), sampling_of(limits)
    else:
        rule, sampling = replace(rule, markup="clock"), replace(sampling_of(limits), nearest=True)
    # a frame is one input of the tower
    projector = replace(model.projector, tokens_per_frame=model.projector.tokens_per_image)
    return replace(model, projector=projector, resolution=rule, sampling=sampling)


def _with_qwen_processor(model: ModelSpec, vision: VisionSpec, reader: Reader, merge: int) -> ModelSpec:
    """One whose images and videos one of Qwen's processors takes."""
    temporal = reader.optional_section("vision_config").count("temporal_patch_size", QWEN_TEMPORAL)
    rule, sampling = qwen_processor(
        reader.optional_section("preprocessor"),
        QWEN_GENERATIONS[model.family],
        side=vision.patch_size * merge,
        temporal=temporal,
    )
    return replace(model, vision=replace(vision, temporal_patch=temporal), resolution=rule, sampling=sampling)


def _with_glm_video(model: ModelSpec, vision: VisionSpec, reader: Reader) -> ModelSpec:
    """Frames of GLM's video processors: limits are of all of them together."""
    limits = reader.optional_section("preprocessor")
    temporal = reader.optional_section("vision_config").count("temporal_patch_size", QWEN_TEMPORAL)
    # checkpoints of GLM-4.6V are glm4v_moe and name its processor
    later = limits.get("video_processor_type", "Glm46V" if model.family == "glm46v" else "")
    if str(later).startswith("Glm46V"):
        sampling = SamplingSpec(rates=GLM46_RATES, max_frames=GLM46_FRAMES, max_seconds=GLM46_RATES[-1][0])
    else:
        seconds = limits.count("max_duration", GLM_SECONDS)
        sampling = SamplingSpec(fps=limits.number("fps", GLM_FPS), max_seconds=seconds)
    rule = model.resolution
    assert rule is not None
    rule = replace(
        rule,
        video_pixels=pixel_limits(limits, "video_pixels", GLM_VIDEO_PIXELS),
        video_volume=True,
        markup="tenths" if sampling.rates else "seconds",
        digits=GLM_DIGITS,
    )
    sampling = replace(sampling, multiple=temporal, fills=True)
    return replace(model, vision=replace(vision, temporal_patch=temporal), resolution=rule, sampling=sampling)


def resolution_of(family: str, config: Mapping[str, Any], vision: VisionSpec, edge: int, where: str) -> ResolutionSpec:
    """The rule by which an image's size decides what the tower computes on.

    Parameters
    ----------
    config
        With the processor's own keys as its section ``preprocessor``.
    edge
        ``image_size`` of the tower's configuration: where it takes any grid, the longest edge.
    """
    limits = Reader(config, where).optional_section("preprocessor")
    rule = _RULES.get(family)
    if rule is not None:
        return rule(limits, vision, edge)
    if family in _JOINED:
        return _anyres(config, vision, where)
    if not vision.image_size:
        # one whose tower is Pixtral's is resized by Pixtral's rule
        section = config.get("vision_config")
        pixtral = isinstance(section, Mapping) and section.get("model_type") == "pixtral"
        return _edge(limits, vision, edge) if pixtral else ResolutionSpec(kind="unknown")
    if family in _FIXED and not any(limits.get(key) for key in _CUTS):
        return ResolutionSpec(kind="fixed", markers=_FIXED[family])
    return ResolutionSpec(kind="unknown")


def _edge(limits: Reader, _: VisionSpec, edge: int) -> ResolutionSpec:
    return ResolutionSpec(kind="edge", edge=limits.count("longest_edge", edge))


def _rows(limits: Reader, vision: VisionSpec, _: int) -> ResolutionSpec:
    side = vision.image_size
    if limits.count("max_image_size", side) != side:
        return ResolutionSpec(kind="unknown")
    if not limits.flag("do_image_splitting", True):
        return ResolutionSpec(kind="fixed", markers=3)
    return ResolutionSpec(kind="rows", edge=limits.count("longest_edge", EDGE_TILES * side), markers=3)


def _canvas(limits: Reader, _: VisionSpec, __: int) -> ResolutionSpec:
    return ResolutionSpec(kind="canvas", max_tiles=limits.count("max_patches", CANVAS_TILES), markers=3)


def _covering(limits: Reader, _: VisionSpec, __: int) -> ResolutionSpec:
    # Ovis2ImageProcessor cuts nothing unless its file says so, as those of the checkpoints do
    if not limits.flag("crop_to_patches", False):
        return ResolutionSpec(kind="fixed", markers=3)
    return ResolutionSpec(kind="covering", max_tiles=limits.count("max_patches", MAX_PATCHES), markers=3)


def _tiles(markers: int, each: int) -> Callable[[Reader, VisionSpec, int], ResolutionSpec]:
    def rule(limits: Reader, _: VisionSpec, __: int) -> ResolutionSpec:
        if not limits.flag("crop_to_patches", True):
            return ResolutionSpec(kind="fixed", markers=markers + each)
        least, most = tile_limits(limits)
        return ResolutionSpec(
            kind="tiles",
            min_tiles=least if least > 1 else 0,
            max_tiles=most,
            without_thumbnail=not limits.flag("use_thumbnail", True),
            markers=markers,
            tile_markers=each,
        )

    return rule


def _glm(limits: Reader, _: VisionSpec, __: int) -> ResolutionSpec:
    least, most = pixel_limits(limits, "pixels", (2 * GLM_PIXELS[0], 2 * GLM_PIXELS[1]))
    # the template writes a marker before and after an image
    return ResolutionSpec(kind="dynamic", pixels=(least // 2, most // 2), grows=True, markers=2)


def _kimi(limits: Reader, _: VisionSpec, __: int) -> ResolutionSpec:
    return ResolutionSpec(
        kind="patches",
        max_tiles=limits.count("max_patches", KIMI_PATCHES),
        edge=limits.count("max_height", KIMI_SIDE),
    )


def _lfm(limits: Reader, vision: VisionSpec, _: int) -> ResolutionSpec:
    if limits.count("tile_size", LFM_SIDE) != vision.image_size or limits.number("max_pixels_tolerance", 2.0) != 2.0:
        return ResolutionSpec(kind="unknown")
    merge = math.isqrt(vision.patches // projector_of(vision, 1).tokens_per_image)
    block = (vision.patch_size * merge) ** 2
    least, most = (
        limits.count(f"{end}_image_tokens", tokens) for end, tokens in zip(("min", "max"), LFM_TOKENS, strict=True)
    )
    if most > vision.patches // merge**2:
        return ResolutionSpec(kind="unknown")  # inputs are padded to more patches than were traced
    cut = limits.flag("do_image_splitting", True)
    tiles = tuple(limits.count(f"{end}_tiles", tiles) for end, tiles in zip(("min", "max"), LFM_TILES, strict=True))
    return ResolutionSpec(
        kind="split" if cut else "unknown",
        pixels=(least * block, most * block),
        min_tiles=tiles[0],
        max_tiles=tiles[1],
        without_thumbnail=not limits.flag("use_thumbnail", True),
        markers=2,
        tile_markers=1,
    )


def _anyres(config: Mapping[str, Any], vision: VisionSpec, where: str) -> ResolutionSpec:
    """LLaVA-NeXT's rule, whose tiles are joined at one token a patch."""
    if projector_of(vision, 1).tokens_per_image != vision.patches:
        return ResolutionSpec(kind="unknown")
    reader = Reader(config, where)
    if config.get("model_type") == "llava_onevision":
        grids = pinpoints(reader, ONEVISION_GRIDS, vision.image_size)
        return ResolutionSpec(kind="anyres", grids=grids, max_tiles=onevision_tiles(reader))
    return ResolutionSpec(kind="anyres", grids=pinpoints(reader, NEXT_GRIDS, vision.image_size))


_JOINED = ("llava_next", "llava_next_video", "llava_onevision")


_RULES: Mapping[str, Callable[[Reader, VisionSpec, int], ResolutionSpec]] = {
    "mistral3": _edge,
    "idefics3": _rows,
    "smolvlm": _rows,
    "llama4": _canvas,
    "ovis2": _covering,
    "internvl": _tiles(2, 0),
    "aya_vision": _tiles(2, 1),
    "cohere2_vision": _tiles(2, 1),
    "glm4v": _glm,
    "glm4v_moe": _glm,
    "glm46v": _glm,
    "kimi_k25": _kimi,
    "lfm2_vl": _lfm,
}
