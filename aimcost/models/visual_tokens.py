"""What the tower computes on, and how many tokens reach the language model, from sizes in pixels.

Sizes are (width, height). The rules are those of each family's own processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import InvalidValueError
from ..types import ModelSpec, ProjectorSpec, ResolutionSpec, TowerLoad, VisionSpec, Workload
from .resizing import Size, best_grid, smart_resize, tile_grid, unpadded

__all__ = ["VisualLayout", "image_layout", "tower_load", "video_layout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualLayout:
    """Visual tokens of a request as equal groups, and the tower's work for them."""

    groups: int
    tokens_per_group: int
    newline_tokens: int = 0
    load: TowerLoad | None = None
    cross_tokens: int = 0
    notes: tuple[str, ...] = ()


def tower_load(model: ModelSpec, workload: Workload) -> TowerLoad | None:
    """What the tower computes on for one request; None where it does not run."""
    if workload.tower is not None or model.vision is None or model.projector is None:
        return workload.tower
    count = workload.frames or workload.images
    tokens = model.projector.tokens_per_frame if workload.frames else model.projector.tokens_per_image
    return _fixed_load(model.vision, count, tokens) if count and model.vision.image_size else None


def _fixed_load(vision: VisionSpec, count: int, tokens: int) -> TowerLoad:
    side = vision.image_size // vision.patch_size
    pooled = tokens < side * side
    return TowerLoad(
        sequences=count,
        rows=side,
        columns=side,
        pooled_in=count * side * side if pooled else 0,
        pooled_out=count * tokens if pooled else 0,
    )


def image_layout(model: ModelSpec, images: int, size: Size | None) -> VisualLayout:
    """Tokens of `images` images of one size.

    Raises
    ------
    InvalidValueError
        The model takes no image of that shape.
    """
    projector, vision, rule = model.projector, model.vision, model.resolution
    assert projector is not None
    if model.decoder.cross_layers and vision is not None:
        return _crossed(vision, images, size)
    if vision is None or rule is None:
        tile_notes = () if size is None or vision is None else _resized(size, vision.image_size)
        return VisualLayout(groups=images, tokens_per_group=projector.tokens_per_image, notes=tile_notes)
    if size is None and rule.default_size is None:
        tokens = projector.tokens_per_image
        note = f"images are counted at the base resolution ({tokens} tokens), without tiles"
        return VisualLayout(groups=images, tokens_per_group=tokens, notes=(note,))
    notes: tuple[str, ...] = ()
    if size is None:
        assert rule.default_size is not None
        size = rule.default_size
        notes = (f"workload.image_size not given: assuming images of {size[0]} x {size[1]}",)
    layout = _IMAGES[rule.kind](projector, vision, rule, images, size)
    return VisualLayout(
        groups=images,
        tokens_per_group=layout.tokens_per_group,
        load=layout.load,
        notes=(*notes, *layout.notes),
    )


def video_layout(model: ModelSpec, frames: int, size: Size | None, *, newline: bool | str | None) -> VisualLayout:
    """Tokens of a video of `frames` frames.

    Parameters
    ----------
    newline
        Whether the model's newline tokens count: ``row``, one for each row of a frame; true, one
        for the video; None, as the model has it.
    """
    projector, vision, rule = model.projector, model.vision, model.resolution
    assert projector is not None
    if model.decoder.cross_layers:
        raise InvalidValueError("workload.frames", f"omitted: {model.name} takes images only", frames)
    if vision is not None and rule is not None and rule.kind == "dynamic":
        if newline == "row":
            raise InvalidValueError("workload.newline", "true or false: its frames have no fixed rows", newline)
        layout = _dynamic_video(projector, vision, rule, frames, size)
        extra = int(bool(newline))
        return VisualLayout(
            groups=layout.groups,
            tokens_per_group=layout.tokens_per_group,
            newline_tokens=extra,
            load=layout.load,
            notes=layout.notes,
        )
    tokens = projector.tokens_per_frame
    notes: tuple[str, ...] = ()
    if size is not None and vision is not None:
        notes = _resized(size, vision.image_size)
    if newline == "row" or (newline is None and projector.row_newline):
        tokens += math.isqrt(tokens)
        load = None if vision is None else _fixed_load(vision, frames, projector.tokens_per_frame)
        return VisualLayout(groups=frames, tokens_per_group=tokens, load=load, notes=notes)
    own = projector.newline_token and not projector.row_newline
    extra = int(own if newline is None else bool(newline))
    return VisualLayout(groups=frames, tokens_per_group=tokens, newline_tokens=extra, notes=notes)


def _resized(size: Size, side: int) -> tuple[str, ...]:
    """Said where a tower of one size is given an image of more pixels."""
    if max(size) <= side:
        return ()
    return (f"an image of {size[0]} x {size[1]} exceeds the model's input size: resized to {side} x {side}",)


def _crossed(vision: VisionSpec, images: int, size: Size | None) -> VisualLayout:
    """Llama-3.2-Vision: always all tiles, used or not; tokens stay outside the sequence."""
    side = vision.image_size // vision.patch_size
    tokens = vision.tiles * vision.tokens
    most = vision.tiles * vision.image_size
    notes = [f"{tokens} tower tokens per image ({vision.tiles} tiles, padded) feed the cross-attention layers only"]
    if size is not None and (max(size) > most or size[0] * size[1] > vision.tiles * vision.image_size**2):
        notes.append(
            f"an image of {size[0]} x {size[1]} exceeds the model's input size: resized to at most "
            f"{vision.tiles} tiles of {vision.image_size} x {vision.image_size}"
        )
    return VisualLayout(
        groups=0,
        tokens_per_group=0,
        load=TowerLoad(sequences=images, rows=side, columns=side),
        cross_tokens=images * tokens,
        notes=tuple(notes),
    )


def _dynamic(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size
) -> VisualLayout:
    factor = vision.patch_size * projector.merge
    wide, high = smart_resize(size, factor=factor, pixels=rule.pixels)
    notes: tuple[str, ...] = ()
    if size[0] * size[1] > rule.pixels[1]:
        notes = (_shrunk(size, (wide, high), rule.pixels[1]),)
    rows, columns = high // vision.patch_size, wide // vision.patch_size
    return VisualLayout(
        groups=images,
        tokens_per_group=rows * columns // projector.merge**2,
        load=TowerLoad(sequences=images, rows=rows, columns=columns),
        notes=notes,
    )


def _shrunk(size: Size, to: Size, most: int) -> str:
    return f"{size[0]} x {size[1]} exceeds the model's limit ({most} pixels): resized to {to[0]} x {to[1]}"


def _dynamic_video(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, frames: int, size: Size | None
) -> VisualLayout:
    notes: tuple[str, ...] = ()
    if size is None:
        assert rule.default_size is not None
        size = rule.default_size
        notes = (f"workload.image_size not given: assuming frames of {size[0]} x {size[1]}",)
    factor = vision.patch_size * projector.merge
    if rule.video_volume and min(size) < factor:
        scale = max(factor / size[0], factor / size[1])
        size = (int(size[0] * scale), int(size[1] * scale))
    counted = max(frames, vision.temporal_patch) if rule.video_volume else 1
    wide, high = smart_resize(size, factor=factor, pixels=rule.video_pixels, frames=counted)
    if counted * size[0] * size[1] > rule.video_pixels[1]:
        what = "all frames together" if rule.video_volume else "a frame"
        notes = (*notes, f"{what}: " + _shrunk(size, (wide, high), rule.video_pixels[1]))
    if frames % vision.temporal_patch:
        notes = (
            *notes,
            f"the last frame is repeated to fill a temporal patch of {vision.temporal_patch} frames",
        )
    rows, columns = high // vision.patch_size, wide // vision.patch_size
    steps = math.ceil(frames / vision.temporal_patch)
    return VisualLayout(
        groups=steps,
        tokens_per_group=rows * columns // projector.merge**2,
        load=TowerLoad(sequences=steps, rows=rows, columns=columns),
        notes=notes,
    )


def _tiles(projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size) -> VisualLayout:
    """InternVL: the grid of tiles nearest to the image's shape, and a thumbnail beside several."""
    side = vision.image_size
    width, height = size
    best = tile_grid(size, side, rule.max_tiles)
    tiles = best[0] * best[1]
    notes: tuple[str, ...] = ()
    if width > best[0] * side and height > best[1] * side:
        notes = (_shrunk(size, (best[0] * side, best[1] * side), tiles * side * side),)
    views = tiles + 1 if tiles > 1 else 1
    return VisualLayout(
        groups=images,
        tokens_per_group=views * projector.tokens_per_image,
        load=TowerLoad(sequences=images * views, rows=side // vision.patch_size, columns=side // vision.patch_size),
        notes=notes,
    )


def _anyres(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size
) -> VisualLayout:
    """LLaVA-NeXT and OneVision: the whole image, tiles without their padding, a newline a row."""
    side = vision.image_size // vision.patch_size
    if rule.max_tiles and images > 1:
        # OneVision cuts an image into tiles only where it is the only one
        note = "several images: each counted at the base resolution with a newline, without tiles"
        load = TowerLoad(sequences=images, rows=side, columns=side)
        return VisualLayout(groups=images, tokens_per_group=side * side + 1, load=load, notes=(note,))
    if not rule.grids:
        raise InvalidValueError(
            "workload.image_size", "omitted: the model's image_grid_pinpoints are not whole tiles of its tower", size
        )
    grid = best_grid(size, rule.grids)
    tile_rows, tile_columns = grid[0] // vision.image_size, grid[1] // vision.image_size
    rows, columns = unpadded(size, side * tile_rows, side * tile_columns)
    packed = rows * columns
    ratio = math.sqrt(packed / (rule.max_tiles * side**2)) if rule.max_tiles else 0.0
    pooled = ratio > 1.1
    if pooled:
        rows, columns = int(rows // ratio), int(columns // ratio)
    notes: tuple[str, ...] = ()
    if size[0] > grid[1] or size[1] > grid[0]:
        notes = (_shrunk(size, (grid[1], grid[0]), grid[0] * grid[1]),)
    return VisualLayout(
        groups=images,
        tokens_per_group=side * side + rows * (columns + 1),
        load=TowerLoad(
            sequences=images * (1 + tile_rows * tile_columns),
            rows=side,
            columns=side,
            pooled_in=images * packed if pooled else 0,
            pooled_out=images * rows * columns if pooled else 0,
        ),
        notes=notes,
    )


_IMAGES: Mapping[str, Callable[[ProjectorSpec, VisionSpec, ResolutionSpec, int, Size], VisualLayout]] = {
    "dynamic": _dynamic,
    "tiles": _tiles,
    "anyres": _anyres,
}
