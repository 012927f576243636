"""Rules by which processors resize and cut images. Sizes are (width, height) in pixels."""

from __future__ import annotations

import math

from ..errors import InvalidValueError

__all__ = ["Size", "best_grid", "frame_share", "smart_resize", "tile_grid", "unpadded", "volume_share"]

Size = tuple[int, int]
# The ratio of sides above which Qwen-VL's processors refuse an image.
MAX_ASPECT_RATIO = 200
# Where frames share a budget, the most of a frame is at least this much of its least.
MARGIN = 1.05


def smart_resize(size: Size, *, factor: int, pixels: tuple[int, int], frames: int = 1, temporal: int = 1) -> Size:
    """The size nearest to `size` in whole blocks of `factor` pixels, inside limits of pixels.

    Qwen-VL's rule: each side rounds to a multiple (halves to even); outside the limits both are
    scaled alike, then rounded down, or up. `frames`, in patches of `temporal`, count towards the limits.
    """
    width, height = size
    least, most = pixels
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise InvalidValueError("workload.image_size", f"sides at most {MAX_ASPECT_RATIO}:1", list(size))
    # the limit applies to whole patches in time, the scale to the frames given
    counted = round(frames / temporal) * temporal
    high, wide = (round(side / factor) * factor for side in (height, width))
    if counted * high * wide > most:
        scale = math.sqrt(frames * height * width / most)
        high, wide = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    elif counted * high * wide < least:
        scale = math.sqrt(least / (frames * height * width))
        high, wide = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return wide, high


def frame_share(pixels: tuple[int, int], *, budget: int, frames: int, temporal: int) -> tuple[int, int]:
    """(least, most) pixels of a frame where all patches in time share `budget` pixels evenly (Qwen2-VL, 2.5).

    Source: `resize` of transformers' Qwen2VLVideoProcessor with ``cap_pixels_per_frame``; qwen-vl-utils
    `fetch_video`.
    """
    least, most = pixels
    return least, max(min(most, budget * temporal // frames), int(least * MARGIN))


def volume_share(pixels: tuple[int, int], *, frame: tuple[int, int], frames: int) -> tuple[int, int]:
    """(least, most) pixels of all frames together where one frame has limits too, zero for none (Qwen3-VL).

    Source: `resize` of transformers' Qwen3VLVideoProcessor with ``cap_pixels_per_frame``.
    """
    least, most = pixels
    floor = frame[0] or least
    if frame[1]:
        most = max(min(frame[1], most // frames), int(floor * MARGIN)) * frames
    return frame[0] * frames or least, most


def tile_grid(size: Size, side: int, most: int, least: int = 1) -> tuple[int, int]:
    """InternVL: (columns, rows) of `least` to `most` square tiles, nearest to the image's shape."""
    width, height = size
    grids = [
        (columns, rows)
        for columns in range(1, most + 1)
        for rows in range(1, most // columns + 1)
        if columns * rows >= least
    ]
    best, closest = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width / height - columns / rows)
        # of equal shapes the larger one, while the image fills over half of it
        if distance < closest or (distance == closest and width * height > 0.5 * side**2 * columns * rows):
            best, closest = (columns, rows), distance
    return best


def best_grid(size: Size, grids: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The (height, width) that keeps the most of the image's pixels, then wastes the fewest."""
    width, height = size
    best, most_useful, wasted = grids[0], 0, math.inf
    for grid_height, grid_width in grids:
        scale = min(grid_width / width, grid_height / height)
        useful = min(int(width * scale) * int(height * scale), width * height)
        waste = grid_width * grid_height - useful
        if useful > most_useful or (useful == most_useful and waste < wasted):
            best, most_useful, wasted = (grid_height, grid_width), useful, waste
    return best


def unpadded(size: Size, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a feature grid that show the image, its padding cut off."""
    width, height = size
    if width / height > columns / rows:
        used = int(round(height * (columns / width), 7))
        return rows - (rows - used) // 2 * 2, columns
    used = int(round(width * (rows / height), 7))
    return rows, columns - (columns - used) // 2 * 2
