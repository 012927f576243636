"""Text that processors write around images and frames, in tokens of the Qwen tokenizers.

Their vocabulary splits numbers into digits and holds a blank with the word after it as one token; a
marker (``<|vision_start|>``, ``<img>``) is one token.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

__all__ = ["frame_numbers", "image_markers", "time_markers"]

MARKERS = 2


def _sum_rising(length: Callable[[int], int], count: int) -> int:
    """length(0) + … + length(count − 1), of lengths that never fall: a step for each that occurs."""
    total, start = 0, 0
    while start < count:
        here = length(start)
        end = bisect_right(range(count), here, lo=start, key=length)
        total, start = total + here * (end - start), end
    return total


def time_markers(frames: int, *, seconds: float, temporal: int) -> int:
    """Qwen3-VL: ``<12.3 seconds>`` and two markers for each patch of `temporal` frames.

    Frames lie evenly from the start of the video to its end; the time is the mean of a patch's first
    and last frame, the last frame repeated where one is missing. Source: `replace_video_token` and
    `_calculate_timestamps` of transformers' Qwen3VLProcessor.
    """
    gap = seconds / (frames - 1) if frames > 1 else 0.0

    def digits(patch: int) -> int:
        first, last = patch * temporal, min(frames - 1, patch * temporal + temporal - 1)
        return len(f"{(first + last) / 2 * gap:.1f}") - len(".0")

    steps = math.ceil(frames / temporal)
    # "<", the digits before the point, ".", the digit after it, " seconds", ">"
    return _sum_rising(digits, steps) + steps * (5 + MARKERS)


def image_markers(images: int) -> int:
    """InternVL: ``<img>`` and ``</img>`` around an image. Source: `replace_image_token` of InternVLProcessor."""
    return images * MARKERS


def frame_numbers(frames: int) -> int:
    """InternVL: ``Frame12: <img>…</img>``, a line a frame. Source: `replace_video_token` of InternVLProcessor."""
    # "Frame", the digits, ":", " "; a line break between two frames
    return _sum_rising(lambda frame: len(str(frame + 1)), frames) + frames * (3 + MARKERS) + frames - 1
