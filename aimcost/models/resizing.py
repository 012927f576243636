"""Rules by which processors resize and cut images. Sizes are (width, height) in pixels."""

from __future__ import annotations

import math

import numpy as np

from ..errors import InvalidValueError

__all__ = [
    "Size",
    "best_grid",
    "block_resize",
    "block_scale",
    "canvas_grid",
    "covering_grid",
    "edge_grid",
    "frame_share",
    "hd_grid",
    "masked_grid",
    "patch_resize",
    "smart_resize",
    "tile_grid",
    "unpadded",
    "volume_share",
    "within_edge",
]

Size = tuple[int, int]
# The ratio of sides above which Qwen-VL's processors refuse an image.
MAX_ASPECT_RATIO = 200
# Side of a tile in pixels, and patches of a side from which on an image is refused.
HD_SIDE, KIMI_SIDE = 336, 512
# Pixels of a scaled side below which Phi-4-multimodal's processor refuses an image.
LEAST_SIDE = 10
# Where frames share a budget, the most of a frame is at least this much of its least.
MARGIN = 1.05


def smart_resize(
    size: Size, *, factor: int, pixels: tuple[int, int], frames: int = 1, temporal: int = 1, grows: bool = False
) -> Size:
    """The size nearest to `size` in whole blocks of `factor` pixels, inside limits of pixels.

    Qwen-VL's rule: each side rounds to a multiple (halves to even); outside the limits both are
    scaled alike, then rounded down, or up. `frames`, in patches of `temporal`, count towards the limits.
    `grows`: a size less than a block wide or high is scaled up to one first.
    """
    width, height = _at_least(size, factor) if grows else size
    least, most = pixels
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
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


def _at_least(size: Size, factor: int) -> Size:
    """A size of which both sides have a block of `factor` pixels, scaled up where one had none."""
    if min(size) >= factor:
        return size
    scale = max(factor / size[0], factor / size[1])
    return int(size[0] * scale), int(size[1] * scale)


def block_resize(size: Size, *, factor: int, pixels: tuple[int, int]) -> Size:
    """As `smart_resize`, for any shape: a side has a block at the least. Source: ``smart_resize`` of
    transformers' Lfm2VlImageProcessor."""
    width, height = size
    least, most = pixels
    high, wide = (max(factor, round(side / factor) * factor) for side in (height, width))
    if high * wide > most:
        scale = math.sqrt(height * width / most)
        high, wide = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    elif high * wide < least:
        scale = math.sqrt(least / (height * width))
        high, wide = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return wide, high


def patch_resize(size: Size, *, patch: int, merge: int, patches: int, edge: int) -> Size:
    """Scaled down to at most `patches` patches and `edge` of them a side, then padded to whole merged ones.

    Source: ``navit_resize`` of transformers' Kimi_K25ImageProcessor.
    """
    width, height = size
    now = max(1, height // patch) * max(1, width // patch)
    scale = min(1.0, math.sqrt(patches / now), *(edge * patch / side for side in (height, width)))
    block = patch * merge
    high, wide = (min(max(1, int(side * scale)), edge * patch) for side in (height, width))
    return math.ceil(wide / block) * block, math.ceil(high / block) * block


def block_scale(size: Size, *, patch: int, merge: int, patches: int, crops: bool) -> Size:
    """Scaled down where it has over `patches` patches, then padded to whole merged ones, or cropped.

    Source: `rescale` of KimiVLImageProcessor (moonshotai/Kimi-VL-A3B-Instruct image_processing_kimi_vl.py), which
    refuses a side of 512 patches.
    """
    width, height = size
    now = (width // patch) * (height // patch)
    if now > patches:
        scale = math.sqrt(patches / now)
        width, height = int(width * scale), int(height * scale)
    block = patch * merge
    whole = math.floor if crops else math.ceil
    wide, high = (whole(side / block) * block for side in (width, height))
    if not min(wide, high):
        raise InvalidValueError("workload.image_size", f"sides of at least {block} pixels", list(size))
    if max(wide, high) // patch >= KIMI_SIDE:
        raise InvalidValueError("workload.image_size", f"sides of less than {KIMI_SIDE} patches", list(size))
    return wide, high


def hd_grid(size: Size, *, most: int) -> tuple[int, int]:
    """(columns, rows) of tiles: the longer side in as many as leave at most `most` in all at the image's shape.

    Source: `HD_transform` of microsoft/Phi-3.5-vision-instruct processing_phi3_v.py.
    """
    ratio = max(size) / min(size)
    longer = 1
    while (longer + 1) * math.ceil((longer + 1) / ratio) <= most:
        longer += 1
    height = int(longer * HD_SIDE / ratio)
    if not height:
        raise InvalidValueError("workload.image_size", f"sides at most {longer * HD_SIDE}:1", list(size))
    shorter = math.ceil(height / HD_SIDE)
    return (longer, shorter) if size[0] >= size[1] else (shorter, longer)


def masked_grid(size: Size, *, side: int, patch: int, most: int) -> tuple[int, int, int, int]:
    """Phi-4-multimodal: (columns, rows) of tiles, and (rows, columns) of pairs of patches that show the image.

    Tiles that cover the image as it is, or above `most` of them the grid nearest to its shape; scaled to fit, padded
    below and to the right. Of 2 x 2 patches the first says whether all are dropped. Source: `dynamic_preprocess` and
    `_preprocess` of transformers' Phi4MultimodalImageProcessor, which refuses sides of less than 10 pixels.
    """
    columns, rows = (math.ceil(length / side) for length in size)
    if columns * rows > most:
        columns, rows = tile_grid(size, side, most)
    width, height = side * columns, side * rows
    across, down = width / size[0], height / size[1]
    scaled = (width, int(size[1] * across)) if across < down else (int(size[0] * down), height)
    if min(scaled) < LEAST_SIDE:
        raise InvalidValueError("workload.image_size", "of a less extreme aspect ratio", list(size))
    left = ((whole - shown) // patch for whole, shown in zip((width, height), scaled, strict=True))
    wide, high = (math.ceil((whole // patch - cut) / 2) for whole, cut in zip((width, height), left, strict=True))
    return columns, rows, high, wide


def within_edge(size: Size, *, edge: int, factor: int) -> Size:
    """Pixtral: scaled down to a longest edge of `edge` pixels, then rounded up to whole blocks.

    Source: `get_resize_output_image_size` of transformers' PixtralImageProcessor, which fails where a side of less than
    a pixel is left.
    """
    if max(size) > edge * min(size):
        raise InvalidValueError("workload.image_size", f"sides at most {edge}:1", list(size))
    ratio = max(side / edge for side in size)
    if ratio > 1:
        size = (math.floor(size[0] / ratio), math.floor(size[1] / ratio))
    wide, high = ((side - 1) // factor * factor + factor for side in size)
    return wide, high


def edge_grid(size: Size, *, edge: int, side: int) -> tuple[int, int]:
    """Idefics3: (columns, rows) of tiles that cover the image, its longest edge scaled to `edge` pixels.

    Source: `get_number_of_image_patches` of transformers' Idefics3ImageProcessor.
    """
    width, height = size
    aspect = width / height
    if width >= height:
        width, height = edge, int(edge / aspect)
        height += height % 2
    else:
        width, height = int(edge * aspect), edge
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    # sides above 4096 are scaled down once more
    longest = 4096
    if max(width, height) > longest:
        aspect = width / height
        width, height = (longest, int(longest / aspect)) if width >= height else (int(longest * aspect), longest)
    return max(1, math.ceil(width / side)), max(1, math.ceil(height / side))


def canvas_grid(size: Size, *, side: int, most: int) -> tuple[int, int]:
    """Llama 4: (columns, rows) of at most `most` tiles that enlarges the image least, else shrinks it least.

    Of canvases with one scale the smallest; scales are compared in single precision. Source: `get_best_fit` of
    transformers' Llama4ImageProcessor.
    """
    width, height = size
    grids = [(columns, rows) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    single = np.float32
    scales = [min(single(g[0] * side) / single(width), single(g[1] * side) / single(height)) for g in grids]
    larger = [scale for scale in scales if scale >= 1]
    chosen = min(larger) if larger else max(scales)
    return min((g for g, scale in zip(grids, scales, strict=True) if scale == chosen), key=lambda g: g[0] * g[1])


def covering_grid(size: Size, *, side: int, most: int) -> tuple[int, int]:
    """Ovis2: the fewest tiles of which each, at `side` pixels, covers its part of the image to over nine tenths.

    Source: `get_min_tile_covering_grid` of transformers' Ovis2ImageProcessor, which takes the pair that it counts as
    (rows, columns) for (columns, rows); this returns what it returns.
    """
    width, height = size
    found = []
    for grid in sorted(
        ((i, j) for i in range(1, most + 1) for j in range(1, most // i + 1)), key=lambda grid: grid[0] * grid[1]
    ):
        area = sum(_covered(wide, high, side) for wide in _parts(width, grid[1]) for high in _parts(height, grid[0]))
        found.append((grid, area / (width * height)))
    enough = [(grid[0] * grid[1], -share, grid) for grid, share in found if share > 0.9]
    if enough:
        return min(enough, key=lambda entry: entry[:2])[2]
    return min(found, key=lambda entry: (-entry[1], entry[0][0] * entry[0][1]))[0]


def _parts(length: int, count: int) -> list[int]:
    """Whole parts of a length, the rest with the last one."""
    each = length // count
    return [*[each] * (count - 1), length - each * (count - 1)]


def _covered(wide: int, high: int, side: int) -> float:
    longer, shorter = max(wide, high), float(min(wide, high))
    return side * (shorter / longer * side) if longer > side else longer * shorter


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
