"""Text that processors write around images and frames, in tokens.

A marker (``<|vision_start|>``, ``<img>``) is one token, and so is a word with the blank before it. Numbers are split
into groups of digits, by tokenizer: one digit (Qwen, SmolLM2) or up to three (GLM-4, gpt-oss; the patterns of
llama.cpp's src/llama-vocab.cpp).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

__all__ = ["clock_markers", "frame_numbers", "image_markers", "second_markers", "time_markers"]

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


def frame_numbers(frames: int, *, digits: int = 1) -> int:
    """InternVL: ``Frame12: <img>…</img>``, a line a frame. Source: `replace_video_token` of InternVLProcessor."""
    # "Frame", the digits, ":", " "; a line break between two frames
    numbers = _sum_rising(lambda frame: math.ceil(len(str(frame + 1)) / digits), frames)
    return numbers + frames * (3 + MARKERS) + frames - 1


def second_markers(frames: int, *, seconds: float, temporal: int, digits: int, tenths: bool) -> int:
    """GLM-4.1V: two markers and ``12`` for each patch of `temporal` frames; GLM-4.6V: ``12.3 seconds``.

    The time is that of a patch's first frame. The template puts two markers around the video. Source:
    `replace_video_token` of transformers' Glm4vProcessor and Glm46VProcessor.
    """
    gap = seconds / (frames - 1) if frames > 1 else 0.0

    def number(patch: int) -> int:
        time = min(frames - 1, patch * temporal) * gap
        whole = f"{time:.1f}"[: -len(".0")] if tenths else str(int(time))
        return math.ceil(len(whole) / digits)

    steps = math.ceil(frames / temporal)
    # ".", the digit after it, " seconds"
    return _sum_rising(number, steps) + steps * (MARKERS + (3 if tenths else 0)) + MARKERS


def clock_markers(frames: int, *, seconds: float) -> int:
    """SmolVLM: a line that says how many frames of how long a video, then a line with the time and three markers a
    frame, two breaks at the end. Source: `replace_video_token` of transformers' SmolVLMProcessor.

    The number of frames is in words.
    """
    hours, rest = divmod(int(seconds), 3600)
    length = len(f"{hours}{rest // 60:02d}{rest % 60:02d}") + 2
    # "You are provided the following series of", " frames from a", a blank and the length, " [H:MM:SS] video.", a break
    opening = 7 + _words(frames) + 3 + 1 + length + 7 + 2 + 1
    # a break, "Frame from", a blank, "01:23", ":", three markers
    each = 1 + 2 + 1 + 5 + 1 + 3
    gap = seconds / (frames - 1) if frames > 1 else 0.0
    longer = _sum_rising(lambda frame: max(0, len(str(int(frame * gap // 60))) - 2), frames)
    return opening + frames * each + longer + 2


def _words(number: int) -> int:
    """Words of a number written out in English, with its hyphens and commas ("one thousand, two hundred and five")."""
    for unit in (1000, 100):
        whole, rest = divmod(number, unit)
        if whole:
            return _words(whole) + 1 + (1 + _words(rest) if rest else 0)
    return 1 if number <= 20 or number % 10 == 0 else 3
