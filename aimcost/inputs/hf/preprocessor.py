"""The ``preprocessor`` section of a configuration: the limits of the checkpoint's image and video processors.

A file of configs/models states it; of a checkpoint's folder it holds what the processor's files say.
"""

from __future__ import annotations

from ...types import SamplingSpec
from .reader import Reader

__all__ = ["pixel_limits", "sampling_of", "tile_limits"]

# min_patches and max_patches of transformers' GotOcr2ImageProcessor, which InternVL uses
MIN_PATCHES, MAX_PATCHES = 1, 12


def pixel_limits(reader: Reader, key: str, default: tuple[int, int]) -> tuple[int, int]:
    """``min_KEY`` and ``max_KEY``."""
    least, most = (
        reader.count(f"{end}_{key}", figure, most=10**13) for end, figure in zip(("min", "max"), default, strict=True)
    )
    if least > most:
        raise reader.fail(f"min_{key}", f"at most max_{key} ({most})")
    return least, most


def tile_limits(reader: Reader) -> tuple[int, int]:
    """``min_patches`` and ``max_patches``: tiles of an image."""
    least, most = reader.count("min_patches", MIN_PATCHES), reader.count("max_patches", MAX_PATCHES)
    if least > most:
        raise reader.fail("min_patches", f"at most max_patches ({most})")
    return least, most


def sampling_of(
    reader: Reader, *, frames: tuple[int, int] = (0, 0), fps: float = 0.0, multiple: int = 0
) -> SamplingSpec:
    """How many frames of a video are taken; `frames` and `fps` are the processor class's own.

    Parameters
    ----------
    frames
        Fewest and most frames at a rate.
    multiple
        Frames come in multiples of this.
    """
    given = reader.count("num_frames") if reader.get("num_frames") is not None else 0
    least, most = (
        reader.count(key, default) if default or reader.get(key) is not None else 0
        for key, default in zip(("min_frames", "max_frames"), frames, strict=True)
    )
    if most and least > most:
        raise reader.fail("min_frames", f"at most max_frames ({most})")
    return SamplingSpec(
        fps=reader.number("fps", 0.0 if given else fps),
        frames=given,
        min_frames=least,
        max_frames=most,
        multiple=multiple,
    )
