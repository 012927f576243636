"""What a checkpoint's processor does: its files beside config.json, and a run's own limits.

Three files say it: ``preprocessor_config.json`` (images), ``video_preprocessor_config.json`` and, as
transformers 5 writes it, ``processor_config.json``, whose sections win over the other two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidValueError
from ..types import ModelSpec, ResolutionSpec, SamplingSpec
from . import discover
from .files import Stamp, read_mapping, stamp_of
from .hf.reader import Reader
from .schema import MAX_COUNT, WorkloadFile
from .traced_images import BY_PIXELS

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = [
    "preprocessor_section",
    "processor_keys",
    "processor_stamps",
    "sampled_frames",
    "sampling_rate",
    "with_limits",
]

IMAGE_FILE, VIDEO_FILE, PROCESSOR_FILE = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
# Families whose `size` is a number of pixels (the Qwen-VL processors); elsewhere it is the tower's input.
_BY_PIXELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
MAX_PIXELS = 10**13
# Whether images are cut at all; Kimi-VL: padded to merged patches.
_FLAGS = ("crop_to_patches", "use_thumbnail", "do_image_splitting", "do_pan_and_scan", "split_image", "pad_input")
# Limits of one family's processor each.
_COUNTS = ("num_crops", "in_token_limit", "dynamic_hd")
# A run's own limits.
_LIMITS = ("min_pixels", "max_pixels", "total_pixels", "min_frames", "max_frames")


def processor_stamps(folder: Path) -> tuple[Stamp | None, ...]:
    """Stamps of the processor's files, None for one that is absent: a model read with others is another."""
    paths = [folder / name for name in (IMAGE_FILE, VIDEO_FILE, PROCESSOR_FILE)]
    return tuple(stamp_of(path) if discover.is_file(path) else None for path in paths)


def processor_keys(folder: Path, kind: str) -> dict[str, Any]:
    """What the processor's files say, as the keys of a configuration's ``preprocessor`` section.

    Parameters
    ----------
    kind
        The model's ``model_type``.

    Raises
    ------
    FileFormatError, InvalidValueError
        A file that is no mapping, or a figure that makes no sense, named by file and key.
    """
    image, video = _section(folder, "image_processor", IMAGE_FILE), _section(folder, "video_processor", VIDEO_FILE)
    keys: dict[str, Any] = {}
    # of a model that speaks, the config.json is of thinker and talker
    by_pixels = bool({kind, f"{kind}_thinker"} & {*_BY_PIXELS, *BY_PIXELS})
    if image is not None:
        if by_pixels:
            keys.update(_pixels(image, ""))
        elif image.get("size") is not None:
            _edges(keys, image)
        _copy(keys, image, "min_patches", "max_patches", "image_grid_pinpoints", *_COUNTS, *_FLAGS)
    if video is not None:
        if by_pixels:
            keys.update(_pixels(video, "video_"))
        _copy(keys, video, "min_frames", "max_frames", "max_video_tokens", "num_frames", "fps", "cap_pixels_per_frame")
        _copy(keys, video, "max_duration", "video_processor_type")
    for section in (image, video):
        # SmolVLM, whose first checkpoints have one file for images and videos
        if section is not None and isinstance(section.get("video_sampling"), Mapping):
            _copy(keys, section.section("video_sampling"), "max_frames", "fps")
    return keys


def _section(folder: Path, key: str, name: str) -> Reader | None:
    whole = folder / PROCESSOR_FILE
    if discover.is_file(whole):
        reader = Reader(read_mapping(whole), str(whole))
        if reader.get(key) is not None:
            return reader.section(key)
    path = folder / name
    return Reader(read_mapping(path), str(path)) if discover.is_file(path) else None


def _pixels(reader: Reader, prefix: str) -> dict[str, int]:
    """Limits in pixels: `min_pixels` and `max_pixels`, before the two ends of `size`."""
    keys = {}
    size = reader.optional_section("size")
    for end, edge in (("min", "shortest_edge"), ("max", "longest_edge")):
        for source, key in ((reader, f"{end}_pixels"), (size, edge), (size, f"{end}_pixels")):
            if source.get(key) is not None:
                keys[f"{end}_{prefix}pixels"] = source.count(key, most=MAX_PIXELS)
                break
    return keys


def _edges(keys: dict[str, Any], image: Reader) -> None:
    """The longest edge in pixels, and that of a tile."""
    for key, name in (("longest_edge", "size"), ("max_image_size", "max_image_size")):
        section = image.get(name)
        if isinstance(section, Mapping) and section.get("longest_edge") is not None:
            keys[key] = image.section(name).count("longest_edge")


def _copy(keys: dict[str, Any], reader: Reader, *names: str) -> None:
    for name in names:
        value = reader.get(name)
        if value is None:
            continue
        if name == "fps":
            keys[name] = reader.number(name)
        elif name == "cap_pixels_per_frame" or name in _FLAGS:
            keys[name] = reader.flag(name, False)
        else:
            keys[name] = value if name in ("image_grid_pinpoints", "video_processor_type") else reader.count(name)


def with_limits(model: ModelSpec, file: WorkloadFile) -> ModelSpec:
    """The model with a run's own limits in place of its processor's.

    Raises
    ------
    InvalidValueError
        A limit that the model's processor does not know, or a least above its most.
    """
    if all(getattr(file, key) is None for key in _LIMITS):
        return model
    rule = model.resolution
    given = {key: getattr(file, key) for key in ("min_pixels", "max_pixels", "total_pixels")}
    video = file.frames is not None or file.seconds is not None
    for key, value in given.items():
        if value is None:
            continue
        if file.images is None and not video:
            raise InvalidValueError(f"workload.{key}", "omitted without images, frames or seconds", value)
        if rule is None or rule.kind != "dynamic":
            raise InvalidValueError(f"workload.{key}", f"omitted: {model.name} has no limits in pixels", value)
    if file.total_pixels is not None and not video:
        raise InvalidValueError("workload.total_pixels", "omitted without a video", file.total_pixels)
    for key in ("min_frames", "max_frames"):
        if getattr(file, key) is not None and not video:
            raise InvalidValueError(f"workload.{key}", "omitted without a video", getattr(file, key))
    sampling = model.sampling or SamplingSpec()
    sampling = replace(
        sampling,
        min_frames=file.min_frames or sampling.min_frames,
        max_frames=file.max_frames or sampling.max_frames,
    )
    if sampling.max_frames and sampling.min_frames > sampling.max_frames:
        key, other = ("min", "max") if file.min_frames else ("max", "min")
        most = getattr(sampling, f"{other}_frames")
        what = f"at {'most' if key == 'min' else 'least'} {other}_frames ({most})"
        raise InvalidValueError(f"workload.{key}_frames", what, getattr(sampling, f"{key}_frames"))
    if rule is not None and any(value is not None for value in given.values()):
        rule = _limited(rule, file, images=file.images is not None, video=video)
    return replace(model, resolution=rule, sampling=sampling)


def _limited(rule: ResolutionSpec, file: WorkloadFile, *, images: bool, video: bool) -> ResolutionSpec:
    least, most = file.min_pixels, file.max_pixels
    if images:
        rule = replace(rule, pixels=_ordered(least or rule.pixels[0], most or rule.pixels[1], file))
    if not video:
        return rule
    if rule.video_volume:
        # the processor's own limits are of all frames together, a run's are of one
        volume = (rule.video_pixels[0], file.total_pixels or rule.video_pixels[1])
        frame = (least or rule.frame_pixels[0], most or rule.frame_pixels[1])
        _ordered(frame[0], frame[1] or volume[1], file)
        return replace(rule, video_pixels=volume, frame_pixels=frame)
    pixels = _ordered(least or rule.video_pixels[0], most or rule.video_pixels[1], file)
    return replace(rule, video_pixels=pixels, video_budget=file.total_pixels or rule.video_budget)


def _ordered(least: int, most: int, file: WorkloadFile) -> tuple[int, int]:
    if least <= most:
        return least, most
    if file.max_pixels is not None:
        raise InvalidValueError("workload.max_pixels", f"at least min_pixels ({least})", file.max_pixels)
    raise InvalidValueError("workload.min_pixels", f"at most max_pixels ({most})", file.min_pixels)


def sampling_rate(sampling: SamplingSpec, file: WorkloadFile) -> float:
    """Frames a second, as the run says, else the processor; zero where neither does."""
    if sampling.rates:
        seconds = min(file.seconds or 0.0, sampling.rates[-1][0])
        return next(rate for longest, rate in sampling.rates if seconds <= longest)
    return file.fps or sampling.fps


def sampled_frames(sampling: SamplingSpec, file: WorkloadFile) -> tuple[int, tuple[str, ...]]:
    """Frames that the processor takes of the video, and notes on what it changed; zero without a video.

    ``seconds`` times ``fps`` is worked out in decimals: 100 s at 0.29 a second are 29 frames, where the
    product of binary fractions is below 29.
    """
    least, most = sampling.min_frames, sampling.max_frames
    if file.frames is not None:
        frames = max(min(file.frames, file.max_frames or file.frames), file.min_frames or 1)
        if frames == file.frames:
            return frames, ()
        return frames, (f"{frames} frames instead of {file.frames}: workload's own limit",)
    if file.seconds is None:
        return 0, ()
    rate, multiple = sampling_rate(sampling, file), max(1, sampling.multiple)
    if sampling.rates and file.fps:
        what = "omitted: the processor chooses the rate by the length of the video"
        raise InvalidValueError("workload.fps", what, file.fps)
    if not rate:
        frames = max(1, round(sampling.frames / multiple) * multiple)
        return frames, (f"workload.fps not given: the processor takes {frames} frames",)
    exact = _product(file.seconds, rate)
    taken = exact if not sampling.max_seconds else min(exact, _product(sampling.max_seconds, rate))
    if most:
        most = max(multiple, most // multiple * multiple)
    if exact < 1 and file.min_frames is None:
        raise InvalidValueError("workload.fps", "high enough for one frame in the given seconds", rate)
    # of halves, the even neighbour
    whole = round(_product(file.seconds, 2 * rate) / 2) if sampling.nearest else int(taken)
    if sampling.rates and file.seconds < 1:
        whole = 1  # frames are looked for in whole seconds
    frames = max(whole, least)
    frames = min(frames, most) if most else frames
    frames = max(1, (-(-frames // multiple) if sampling.fills else frames // multiple) * multiple)
    if frames > MAX_COUNT:
        raise InvalidValueError("workload.fps", f"at most {MAX_COUNT} frames in the given seconds", rate)
    notes = [] if file.fps else [f"workload.fps not given: the processor's {rate:g} a second"]
    if frames != int(exact):
        limits = f"{least or 1} to {most}" if most else f"at least {least or 1}"
        if sampling.max_seconds:
            limits += f", as many as of {sampling.max_seconds:g} s"
        even = f", in multiples of {multiple}" if multiple > 1 else ""
        near = ", of the nearest whole number" if sampling.nearest else ""
        notes.append(f"{frames} frames instead of {math.floor(exact)}: the processor takes {limits}{even}{near}")
    return frames, tuple(notes)


def _product(seconds: float, rate: float) -> Decimal:
    """Exactly, of the numbers as they are written; whole, where only the last digit of a float keeps it from it."""
    from decimal import Decimal

    exact = Decimal(str(seconds)) * Decimal(str(rate))
    whole = exact.to_integral_value()
    return whole if abs(exact - whole) <= whole * Decimal("1e-14") else exact


def preprocessor_section(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with what the files beside it say laid over its ``preprocessor`` section."""
    keys = processor_keys(folder, str(config.get("model_type")))
    if not keys:
        return dict(config)
    own = config.get("preprocessor")
    return {**config, "preprocessor": {**(own if isinstance(own, Mapping) else {}), **keys}}
