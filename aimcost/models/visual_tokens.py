"""What the tower computes on, and how many tokens reach the language model, from sizes in pixels.

Sizes are (width, height). The rules are those of each family's own processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ..errors import InvalidValueError
from ..frozen import dataclass
from ..types import ModelSpec, ProjectorSpec, ResolutionSpec, TowerLoad, VisionSpec, Workload
from .markup import clock_markers, frame_numbers, image_markers, second_markers, time_markers
from .resizing import (
    Size,
    best_grid,
    block_resize,
    block_scale,
    canvas_grid,
    covering_grid,
    edge_grid,
    frame_share,
    hd_grid,
    masked_grid,
    patch_resize,
    smart_resize,
    tile_grid,
    unpadded,
    volume_share,
    within_edge,
)

__all__ = [
    "DEFAULT_SIZE",
    "CachedInputs",
    "VisualLayout",
    "cached_inputs",
    "images_layout",
    "joined",
    "tower_load",
    "video_layout",
    "whole_load",
]

# Where the count depends on the size of an image or frame and a run gives none: one 720p frame, in every family.
DEFAULT_SIZE: Size = (1280, 720)
# `max_pixels_tolerance` of transformers' Lfm2VlImageProcessor: how much larger than its most pixels an image is cut.
SPLIT_TOLERANCE = 2.0
# DeepSeek-VL2 cuts images into tiles where there are at most so many (`format_messages_v2` of its processor).
CUT_IMAGES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualLayout:
    """Visual tokens of a request as groups, and the tower's work for them.

    Attributes
    ----------
    sizes
        (groups, tokens of each), in order.
    template_tokens
        Text that the processor writes around them.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    newline_tokens: int = 0
    load: TowerLoad | None = None
    cross_tokens: int = 0
    template_tokens: int = 0
    notes: tuple[str, ...] = ()

    @property
    def visual_tokens(self) -> int:
        """Visual tokens, newlines among them."""
        return sum(groups * each for groups, each in self.sizes) + self.newline_tokens


def tower_load(model: ModelSpec, workload: Workload) -> TowerLoad | None:
    """What the tower computes on for one request; None where it does not run."""
    if workload.has_cached_inputs:
        return workload.encoded
    return whole_load(model, workload)


def whole_load(model: ModelSpec, workload: Workload) -> TowerLoad | None:
    """All inputs of a request, in the cache or not; None without any."""
    if workload.tower is not None or model.vision is None or model.projector is None:
        return workload.tower
    count = workload.frames or workload.images
    tokens = model.projector.tokens_per_frame if workload.frames else model.projector.tokens_per_image
    return _fixed_load(model.vision, model.projector, count, tokens) if count and model.vision.image_size else None


def _fixed_load(vision: VisionSpec, projector: ProjectorSpec, count: int, tokens: int) -> TowerLoad:
    side = vision.image_size // vision.patch_size
    # what the projector yields of an input, before any pooling
    projected = side * side // projector.merge**2
    pooled = tokens < projected
    return TowerLoad(
        sequences=count,
        rows=side,
        columns=side,
        pooled_in=count * projected if pooled else 0,
        pooled_out=count * tokens if pooled else 0,
        pooled_grids=count if pooled else 0,
    )


def joined(model: ModelSpec, layouts: Sequence[VisualLayout]) -> VisualLayout:
    """The layouts of a request's images and video as one."""
    if len(layouts) == 1:
        return layouts[0]
    groups: list[tuple[int, int]] = []
    for count, tokens in (size for layout in layouts for size in layout.sizes):
        if groups and groups[-1][1] == tokens:
            count += groups.pop()[0]
        groups.append((count, tokens))
    loads = [layout.load or _load_of(model, layout) for layout in layouts]
    return VisualLayout(
        sizes=tuple(groups),
        newline_tokens=sum(layout.newline_tokens for layout in layouts),
        load=_joined_load([load for load in loads if load is not None]),
        cross_tokens=sum(layout.cross_tokens for layout in layouts),
        template_tokens=sum(layout.template_tokens for layout in layouts),
        notes=tuple(dict.fromkeys(note for layout in layouts for note in layout.notes)),
    )


def _load_of(model: ModelSpec, layout: VisualLayout) -> TowerLoad | None:
    """The work of a tower of one size."""
    if model.vision is None or model.projector is None or not layout.sizes:
        return None
    ((count, tokens),) = layout.sizes
    return _fixed_load(model.vision, model.projector, count, tokens)


def _joined_load(loads: Iterable[TowerLoad]) -> TowerLoad | None:
    """All inputs together, those of one grid counted as one load."""
    by_grid: dict[tuple[int, int], TowerLoad] = {}
    pooled_in = pooled_out = grids = projected = 0
    for load in loads:
        pooled_in, pooled_out = pooled_in + load.pooled_in, pooled_out + load.pooled_out
        grids, projected = grids + load.pooled_grids, projected + load.projected
        known = by_grid.get((load.rows, load.columns))
        sequences = load.sequences + (known.sequences if known is not None else 0)
        by_grid[load.rows, load.columns] = TowerLoad(sequences=sequences, rows=load.rows, columns=load.columns)
    if not by_grid:
        return None
    first, *others = by_grid.values()
    pooled = {"pooled_in": pooled_in, "pooled_out": pooled_out, "pooled_grids": grids}
    return replace(first, **pooled, projected=projected, beside=tuple(others))


def images_layout(model: ModelSpec, images: Sequence[tuple[Size | None, int]], *, newline: bool | None) -> VisualLayout:
    """Tokens of images, as (size, how many) in order; None for a size that is not given.

    Parameters
    ----------
    newline
        Whether newline tokens count; None, as the model has it.

    Raises
    ------
    InvalidValueError
        The model takes no image of that shape.
    """
    total = sum(count for _, count in images)
    layouts = [_image_layout(model, count, size, newline=newline, total=total) for size, count in images]
    if model.resolution is not None and model.resolution.kind == "masked":
        layouts = _to_the_most(layouts, [count for _, count in images])
    layout = joined(model, layouts)
    return _with_markers(model, layout)


def _to_the_most(layouts: Sequence[VisualLayout], counts: Sequence[int]) -> list[VisualLayout]:
    """Images of a request as one batch: each has as many inputs as the one with the most tiles, padding among them."""
    loads = [layout.load for layout in layouts if layout.load is not None]
    most = max((load.sequences // count for load, count in zip(loads, counts, strict=True)), default=0)
    result = []
    for layout, load, count in zip(layouts, loads, counts, strict=True):
        share = count * most / load.sequences
        pooled_in, pooled_out = round(load.pooled_in * share), round(load.pooled_out * share)
        load = replace(load, sequences=count * most, pooled_in=pooled_in, pooled_out=pooled_out)
        result.append(replace(layout, load=load))
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedInputs:
    """Inputs whose tokens an earlier request left in the cache.

    Attributes
    ----------
    images, video
        How many images, the first ones; whether the video, which comes after them.
    tokens
        Their visual tokens.
    load
        The tower's work for the other inputs; None where there are none.
    """

    images: int
    video: bool
    tokens: int
    load: TowerLoad | None


def cached_inputs(
    model: ModelSpec,
    images: Sequence[tuple[Size | None, int]],
    video: VisualLayout | None,
    *,
    newline: bool | None,
    tokens: int,
) -> CachedInputs:
    """The inputs that lie in the first `tokens` tokens of images and video as a whole: the others are encoded.

    Parameters
    ----------
    images, newline
        As `images_layout` takes them.
    """
    total = sum(count for _, count in images)
    left, whole, visual = tokens, 0, 0
    loads: list[TowerLoad | None] = []
    for size, count in images:
        one = _image_layout(model, 1, size, newline=newline, total=total)
        cached = min(count, left // (one.visual_tokens + one.template_tokens))
        whole, visual = whole + cached, visual + cached * one.visual_tokens
        left -= cached * (one.visual_tokens + one.template_tokens)
        if cached < count:
            rest = _image_layout(model, count - cached, size, newline=newline, total=total)
            loads.append(rest.load or _load_of(model, rest))
            left = 0
    has_video = video is not None and left >= video.visual_tokens + video.template_tokens
    if video is not None and has_video:
        visual += video.visual_tokens
    elif video is not None:
        loads.append(video.load or _load_of(model, video))
    load = _joined_load([load for load in loads if load is not None])
    return CachedInputs(images=whole, video=has_video, tokens=visual, load=load)


def _with_markers(model: ModelSpec, layout: VisualLayout) -> VisualLayout:
    """The text that the processor writes around all images, noted after what is assumed of them."""
    written, numbered = layout.template_tokens, model.resolution is not None and model.resolution.markup == "numbers"
    if not written or model.decoder.cross_layers:
        return layout
    where = "around the images: two markers each" if numbered else "around and in the images: markers"
    assumed = [note for note in layout.notes if note == _assumed("images")]
    others = [note for note in layout.notes if note not in assumed]
    return replace(layout, notes=(*assumed, f"{written} tokens of text {where}, by the processor", *others))


def _image_layout(
    model: ModelSpec, images: int, size: Size | None, *, newline: bool | None, total: int
) -> VisualLayout:
    """Tokens of `images` images of one size, of `total` images in the request."""
    projector, vision, rule = model.projector, model.vision, model.resolution
    assert projector is not None
    if model.decoder.cross_layers and vision is not None:
        return _crossed(vision, images, size)
    if vision is None and rule is not None:
        # its tower is not priced
        return VisualLayout(sizes=((images, projector.tokens_per_image),), template_tokens=images * rule.markers)
    if vision is None or rule is None:
        notes: tuple[str, ...] = () if size is None or vision is None else _resized(size, vision.image_size)
        return VisualLayout(sizes=((images, projector.tokens_per_image),), notes=notes)
    if rule.kind == "unknown":
        what = f"omitted: how {model.family}'s processor sizes and cuts images is not known here (use visual_tokens)"
        raise InvalidValueError("workload.images", what, images)
    notes = ()
    if rule.kind == "fixed":
        return _fixed(projector, vision, rule, images, size)
    if size is None:
        size = DEFAULT_SIZE
        notes = (_assumed("images"),)
    if rule.kind == "candidates":
        layout = _candidates(projector, vision, rule, images, size, several=total > CUT_IMAGES)
    elif rule.kind == "anyres":
        layout = _anyres(projector, vision, rule, images, size, newline=newline is not False, alone=total == 1)
    else:
        layout = _IMAGES[rule.kind](projector, vision, rule, images, size)
    written = layout.template_tokens
    if rule.markup == "numbers":
        written = image_markers(images)
    return replace(layout, template_tokens=written, notes=(*notes, *layout.notes))


def _assumed(what: str) -> str:
    return f"workload.image_size not given: assuming {what} of {DEFAULT_SIZE[0]} x {DEFAULT_SIZE[1]}"


def video_layout(
    model: ModelSpec, frames: int, size: Size | None, *, newline: bool | str | None, seconds: float
) -> VisualLayout:
    """Tokens of a video of `frames` frames.

    Parameters
    ----------
    newline
        Whether the model's newline tokens count: ``row``, one for each row of a frame; true, one
        for the video; None, as the model has it.
    seconds
        From the first frame to the end of the video, for a processor that writes the times.
    """
    projector, vision, rule = model.projector, model.vision, model.resolution
    assert projector is not None
    if model.decoder.cross_layers:
        raise InvalidValueError("workload.frames", f"omitted: {model.name} takes images only", frames)
    if vision is not None and rule is not None and rule.kind == "dynamic":
        if newline == "row":
            raise InvalidValueError("workload.newline", "true or false: its frames have no fixed rows", newline)
        layout = _dynamic_video(projector, vision, rule, frames, size)
        written, notes = _frame_text(rule, frames, seconds=seconds, temporal=vision.temporal_patch)
        notes = (*layout.notes, *notes)
        return replace(layout, newline_tokens=int(bool(newline)), template_tokens=written, notes=notes)
    tokens = projector.tokens_per_frame
    notes = ()
    if size is not None and vision is not None:
        notes = _resized(size, vision.image_size)
    written = 0
    if rule is not None:
        written, said = _frame_text(rule, frames, seconds=seconds, temporal=1)
        notes = (*notes, *said)
    if vision is not None and vision.traced is not None:
        side = vision.image_size // vision.patch_size
        own = TowerLoad(sequences=frames, rows=side, columns=side)
        return VisualLayout(sizes=((frames, tokens),), load=own, template_tokens=written, notes=notes)
    where = projector.video_newline
    if newline is not None:
        where = "row" if newline == "row" else "video" if newline else ""
    if where in ("row", "frame"):
        tokens += math.isqrt(tokens) if where == "row" else 1
        load = None if vision is None else _fixed_load(vision, projector, frames, projector.tokens_per_frame)
        return VisualLayout(sizes=((frames, tokens),), load=load, template_tokens=written, notes=notes)
    extra = int(where == "video")
    return VisualLayout(sizes=((frames, tokens),), newline_tokens=extra, template_tokens=written, notes=notes)


def _frame_text(rule: ResolutionSpec, frames: int, *, seconds: float, temporal: int) -> tuple[int, tuple[str, ...]]:
    """Tokens of the text that the processor writes between the frames of a video, and the note on it."""
    steps = math.ceil(frames / temporal)
    if rule.markup == "times":
        written = time_markers(frames, seconds=seconds, temporal=temporal)
        what = f"the time of each {temporal} frames and two markers, {steps} times"
    elif rule.markup in ("seconds", "tenths"):
        tenths = rule.markup == "tenths"
        written = second_markers(frames, seconds=seconds, temporal=temporal, digits=rule.digits, tenths=tenths)
        what = f"the time of each {temporal} frames and two markers, {steps} times, two markers around all"
    elif rule.markup == "numbers":
        written = frame_numbers(frames, digits=rule.digits)
        what = "a number and two markers a frame"
    elif rule.markup == "clock":
        written = clock_markers(frames, seconds=seconds)
        what = "the video's length, then the time and three markers a frame"
    else:
        return 0, ()
    return written, (f"{written} tokens of text between the frames: {what}, by the processor",)


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
        load=TowerLoad(sequences=images, rows=side, columns=side),
        cross_tokens=images * tokens,
        notes=tuple(notes),
    )


def _dynamic(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size
) -> VisualLayout:
    factor = vision.patch_size * projector.merge
    wide, high = smart_resize(size, factor=factor, pixels=rule.pixels, grows=rule.grows)
    notes: tuple[str, ...] = ()
    if size[0] * size[1] > rule.pixels[1]:
        notes = (_shrunk(size, (wide, high), rule.pixels[1]),)
    rows, columns = high // vision.patch_size, wide // vision.patch_size
    return VisualLayout(
        sizes=((images, rows * columns // projector.merge**2),),
        load=TowerLoad(sequences=images, rows=rows, columns=columns),
        template_tokens=images * rule.markers,
        notes=notes,
    )


def _fixed(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size | None
) -> VisualLayout:
    """Every image is resized to the tower's one size."""
    side = vision.image_size // vision.patch_size
    return VisualLayout(
        sizes=((images, projector.tokens_per_image),),
        load=TowerLoad(sequences=images, rows=side, columns=side),
        template_tokens=images * rule.markers,
        notes=() if size is None else _resized(size, vision.image_size),
    )


def _edge(projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size) -> VisualLayout:
    """Pixtral: patches of the image itself, a marker after each row of merged ones."""
    wide, high = within_edge(size, edge=rule.edge, factor=vision.patch_size * projector.merge)
    rows, columns = high // vision.patch_size, wide // vision.patch_size
    merged = rows // projector.merge
    return VisualLayout(
        sizes=((images, merged * (columns // projector.merge)),),
        load=TowerLoad(sequences=images, rows=rows, columns=columns),
        template_tokens=images * merged,
        notes=(f"the longest edge is limited to {rule.edge} pixels",) if max(size) > rule.edge else (),
    )


def _grid_of_tiles(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size
) -> VisualLayout:
    """Idefics3, Llama 4, Ovis2: tiles, markers between them, and the whole image beside several."""
    side = vision.image_size
    if rule.kind == "rows":
        columns, rows = edge_grid(size, edge=rule.edge, side=side)
    else:
        grid = canvas_grid if rule.kind == "canvas" else covering_grid
        columns, rows = grid(size, side=side, most=rule.max_tiles)
    tiles = columns * rows
    views, written = (tiles + 1, _MARKERS[rule.kind](columns, rows)) if tiles > 1 else (1, 0)
    patches = side // vision.patch_size
    return VisualLayout(
        sizes=((images, views * projector.tokens_per_image),),
        load=TowerLoad(sequences=images * views, rows=patches, columns=patches),
        template_tokens=images * (rule.markers + written),
    )


def _padded(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size
) -> VisualLayout:
    """Kimi K2.5: patches of the image itself, padded to whole merged ones."""
    wide, high = patch_resize(
        size, patch=vision.patch_size, merge=projector.merge, patches=rule.max_tiles, edge=rule.edge
    )
    rows, columns = high // vision.patch_size, wide // vision.patch_size
    return VisualLayout(
        sizes=((images, rows * columns // projector.merge**2),),
        load=TowerLoad(sequences=images, rows=rows, columns=columns),
        template_tokens=images * rule.markers,
    )


def _blocks(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size
) -> VisualLayout:
    """Kimi-VL: patches of the image itself, padded to whole merged ones."""
    merge = projector.merge
    wide, high = block_scale(size, patch=vision.patch_size, merge=merge, patches=rule.max_tiles, crops=rule.crops)
    rows, columns = high // vision.patch_size, wide // vision.patch_size
    return VisualLayout(
        sizes=((images, rows * columns // merge**2),),
        load=TowerLoad(sequences=images, rows=rows, columns=columns),
        template_tokens=images * rule.markers,
    )


def _hd(projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size) -> VisualLayout:
    """Phi-3.5-V: tiles and the whole image, empty inputs up to the most; separators pass the projector as well."""
    columns, rows = hd_grid(size, most=rule.max_tiles)
    merged = math.isqrt(vision.patches) // projector.merge
    tokens = _separated(merged, rows * merged, columns * merged)
    note = f"at most {rule.max_tiles} tiles an image (num_crops): the tower runs on {rule.max_tiles + 1}, padding among"
    side = vision.image_size // vision.patch_size
    return VisualLayout(
        sizes=((images, tokens),),
        load=TowerLoad(sequences=images * (rule.max_tiles + 1), rows=side, columns=side, projected=images * tokens),
        notes=(f"{note} them",),
    )


def _candidates(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size, *, several: bool
) -> VisualLayout:
    """DeepSeek-VL2: the whole image and its tiles, or where there are more than two images one tile each."""
    height, width = rule.grids[0] if several else best_grid(size, rule.grids)
    columns, rows = width // vision.image_size, height // vision.image_size
    side, inputs = vision.image_size // vision.patch_size, images * (1 + columns * rows)
    merged = math.ceil(side / projector.merge)
    return VisualLayout(
        sizes=((images, _separated(merged, rows * merged, columns * merged)),),
        load=TowerLoad(sequences=inputs, rows=side, columns=side, projected=inputs * merged**2),
        notes=("more than two images: each counted whole and as one tile",) if several else (),
    )


def _masked(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size
) -> VisualLayout:
    """Phi-4-multimodal: tiles and the whole image, averaged 2 x 2; what shows padding alone is dropped."""
    side = vision.image_size // vision.patch_size
    columns, rows, high, wide = masked_grid(size, side=vision.image_size, patch=vision.patch_size, most=rule.max_tiles)
    tokens, inputs = _separated(side // 2, high, wide), images * (1 + columns * rows)
    return VisualLayout(
        sizes=((images, tokens),),
        load=TowerLoad(
            sequences=inputs,
            rows=side,
            columns=side,
            pooled_in=inputs * side**2,
            pooled_out=inputs * (side // 2) ** 2,
            projected=images * tokens,
        ),
        template_tokens=images * rule.markers,
    )


def _separated(side: int, rows: int, columns: int) -> int:
    """Tokens of the whole image and of the grid that its tiles form, a separator after each row and between the two."""
    return side * (side + 1) + 1 + rows * (columns + 1)


def _split(projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size) -> VisualLayout:
    """LFM2-VL: every input is padded to the tower's one number of patches, tokens are those of the image."""
    block, side = vision.patch_size * projector.merge, vision.image_size // vision.patch_size
    wide, high = block_resize(size, factor=block, pixels=rule.pixels)
    sizes = [(images, wide * high // block**2)]
    rounded = [max(vision.patch_size, round(length / block) * block) for length in size]
    views, marks = 1, 0
    if rounded[0] * rounded[1] > SPLIT_TOLERANCE * rule.pixels[1]:
        columns, rows = tile_grid(size, vision.image_size, rule.max_tiles, rule.min_tiles)
        views = marks = columns * rows
        tiles = (images * views, projector.tokens_per_image)
        if rule.without_thumbnail:
            sizes = [tiles]
        else:
            sizes, views, marks = [tiles, *sizes], views + 1, marks + 1
    return VisualLayout(
        sizes=tuple(sizes),
        load=TowerLoad(sequences=images * views, rows=side, columns=side),
        template_tokens=images * (rule.markers + rule.tile_markers * marks),
    )


# Between tiles: a marker and its place before each and the end of a row; one beside each; those between two.
_MARKERS: Mapping[str, Callable[[int, int], int]] = {
    "rows": lambda columns, rows: rows * (2 * columns + 1),
    "canvas": lambda columns, rows: rows * columns,
    "covering": lambda columns, rows: rows * columns - 1,
}


def _shrunk(size: Size, to: Size, most: int) -> str:
    return f"{size[0]} x {size[1]} exceeds the model's limit ({most} pixels): resized to {to[0]} x {to[1]}"


def _dynamic_video(
    projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, frames: int, size: Size | None
) -> VisualLayout:
    notes: tuple[str, ...] = ()
    if size is None:
        size = DEFAULT_SIZE
        notes = (_assumed("frames"),)
    factor, temporal = vision.patch_size * projector.merge, vision.temporal_patch
    pixels, what = rule.video_pixels, "a frame"
    if rule.video_volume:
        what = "all frames together"
        counted = max(frames, temporal)
        if any(rule.frame_pixels):
            pixels = volume_share(pixels, frame=rule.frame_pixels, frames=counted)
        wide, high = smart_resize(size, factor=factor, pixels=pixels, frames=counted, temporal=temporal, grows=True)
    else:
        counted = 1
        if rule.video_budget:
            pixels = frame_share(pixels, budget=rule.video_budget, frames=frames, temporal=temporal)
        if pixels != rule.video_pixels:
            what = f"a frame, its share of {rule.video_budget} pixels"
        wide, high = smart_resize(size, factor=factor, pixels=pixels)
    if counted * size[0] * size[1] > pixels[1]:
        notes = (*notes, f"{what}: " + _shrunk(size, (wide, high), pixels[1]))
    if frames % vision.temporal_patch:
        notes = (
            *notes,
            f"the last frame is repeated to fill a temporal patch of {vision.temporal_patch} frames",
        )
    rows, columns = high // vision.patch_size, wide // vision.patch_size
    steps = math.ceil(frames / vision.temporal_patch)
    return VisualLayout(
        sizes=((steps, rows * columns // projector.merge**2),),
        load=TowerLoad(sequences=steps, rows=rows, columns=columns),
        notes=notes,
    )


def _tiles(projector: ProjectorSpec, vision: VisionSpec, rule: ResolutionSpec, images: int, size: Size) -> VisualLayout:
    """InternVL: the grid of tiles nearest to the image's shape, and a thumbnail beside several."""
    side = vision.image_size
    width, height = size
    best = tile_grid(size, side, rule.max_tiles, rule.min_tiles)
    tiles = best[0] * best[1]
    notes: tuple[str, ...] = ()
    if width > best[0] * side and height > best[1] * side:
        notes = (_shrunk(size, (best[0] * side, best[1] * side), tiles * side * side),)
    views = tiles + 1 if tiles > 1 and not rule.without_thumbnail else tiles
    return VisualLayout(
        sizes=((images, views * projector.tokens_per_image),),
        load=TowerLoad(sequences=images * views, rows=side // vision.patch_size, columns=side // vision.patch_size),
        template_tokens=images * (rule.markers + rule.tile_markers * views),
        notes=notes,
    )


def _anyres(
    projector: ProjectorSpec,
    vision: VisionSpec,
    rule: ResolutionSpec,
    images: int,
    size: Size,
    *,
    newline: bool,
    alone: bool,
) -> VisualLayout:
    """LLaVA-NeXT and OneVision: the whole image, tiles without their padding, a newline a row."""
    side = vision.image_size // vision.patch_size
    if rule.max_tiles and not alone:
        # OneVision cuts an image into tiles only where it is the only one
        note = (
            f"several images: each counted at the base resolution{' with a newline' if newline else ''}, without tiles"
        )
        load = TowerLoad(sequences=images, rows=side, columns=side)
        return VisualLayout(sizes=((images, side * side + newline),), load=load, notes=(note,))
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
        sizes=((images, side * side + rows * (columns + newline)),),
        load=TowerLoad(
            sequences=images * (1 + tile_rows * tile_columns),
            rows=side,
            columns=side,
            pooled_in=images * packed if pooled else 0,
            pooled_out=images * rows * columns if pooled else 0,
            pooled_grids=images if pooled else 0,
        ),
        notes=notes,
    )


_IMAGES: Mapping[str, Callable[[ProjectorSpec, VisionSpec, ResolutionSpec, int, Size], VisualLayout]] = {
    "dynamic": _dynamic,
    "tiles": _tiles,
    "edge": _edge,
    "rows": _grid_of_tiles,
    "canvas": _grid_of_tiles,
    "covering": _grid_of_tiles,
    "patches": _padded,
    "split": _split,
    "blocks": _blocks,
    "hd": _hd,
    "masked": _masked,
}
