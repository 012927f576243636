"""Rules by which processors resize and cut images. Sizes are (width, height) in pixels."""

from __future__ import annotations

import math

from ..errors import InvalidValueError

__all__ = ["Size", "best_grid", "smart_resize", "tile_grid", "unpadded"]

Size = tuple[int, int]
# The ratio of sides above which Qwen-VL's processors refuse an image.
MAX_ASPECT_RATIO = 200


def smart_resize(size: Size, *, factor: int, pixels: tuple[int, int], frames: int = 1) -> Size:
    """The size nearest to `size` in whole blocks of `factor` pixels, inside limits of pixels.

    Qwen-VL's rule: each side rounds to a multiple (halves to even); outside the limits both are
    scaled alike, then rounded down, or up. `frames` counts towards the limits.
    """
    width, height = size
    least, most = pixels
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise InvalidValueError("workload.image_size", f"sides at most {MAX_ASPECT_RATIO}:1", list(size))
    # frames come in pairs: the limit sees the rounded number, the scale the given one
    counted = frames if frames == 1 else round(frames / 2) * 2
    high, wide = (round(side / factor) * factor for side in (height, width))
    if counted * high * wide > most:
        scale = math.sqrt(frames * height * width / most)
        high, wide = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    elif counted * high * wide < least:
        scale = math.sqrt(least / (frames * height * width))
        high, wide = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return wide, high


def tile_grid(size: Size, side: int, most: int) -> tuple[int, int]:
    """InternVL: (columns, rows) of at most `most` square tiles, nearest to the image's shape."""
    width, height = size
    grids = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most + 1) if columns * rows <= most]
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
