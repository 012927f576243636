"""A run file's workload on a model: token counts, and what was assumed for them."""

from __future__ import annotations

from ..errors import InvalidValueError
from ..models.visual_tokens import VisualLayout, image_layout, video_layout
from ..types import ModelSpec, Workload
from .schema import TextTokens, WorkloadFile

__all__ = ["DEFAULT_TEXT_TOKENS", "resolve_workload"]

# The text length of the video tables of arXiv 2412.03248; noted whenever it is used.
DEFAULT_TEXT_TOKENS = 100


def resolve_workload(
    file: WorkloadFile, model: ModelSpec, *, without_newline: bool = False
) -> tuple[Workload, tuple[str, ...]]:
    """The workload's token counts on `model`, and notes on what was assumed.

    Parameters
    ----------
    without_newline
        Leave out a newline token that the model has but the run does not ask for.

    Raises
    ------
    InvalidValueError
        Keys that exclude each other, or that this model has no use for.
    """
    given = _source(file)
    notes: list[str] = []
    text = file.text_tokens
    if text is None:
        text = DEFAULT_TEXT_TOKENS
        notes.append(f"workload.text_tokens not given: assuming {DEFAULT_TEXT_TOKENS}")
    before, after = (text.system, text.question) if isinstance(text, TextTokens) else (0, text)
    frames = _frames(file)
    layout = VisualLayout(groups=0, tokens_per_group=0)
    if file.visual_tokens is not None:
        newline = 1 if file.newline else 0
        layout = VisualLayout(groups=1, tokens_per_group=file.visual_tokens - newline, newline_tokens=newline)
        if model.vision is not None:
            notes.append("visual_tokens given: the vision tower and projector are not priced")
    elif given is not None:
        layout = _layout(file, model, frames, given, without_newline=without_newline)
        notes.extend(layout.notes)
    elif file.newline:
        raise InvalidValueError("workload.newline", "omitted without visual tokens", file.newline)
    visual = layout.groups * layout.tokens_per_group + layout.newline_tokens
    if visual + before + after < 1:
        raise InvalidValueError("workload.text_tokens", "at least 1 without visual tokens", 0)
    workload = Workload(
        batch=file.batch,
        frames=frames,
        images=file.images or 0,
        groups=layout.groups,
        tokens_per_group=layout.tokens_per_group,
        newline_tokens=layout.newline_tokens,
        text_before=before,
        text_after=after,
        new_tokens=file.new_tokens,
        tower=layout.load,
        cross_tokens=layout.cross_tokens,
    )
    return workload, tuple(notes)


def _source(file: WorkloadFile) -> str | None:
    """The key that sets the visual input, if any; the others must be omitted."""
    keys = ("images", "frames", "visual_tokens", "seconds")
    given = [key for key in keys if getattr(file, key) is not None]
    if len(given) > 1:
        raise InvalidValueError(f"workload.{given[1]}", f"omitted when {given[0]} is given", getattr(file, given[1]))
    if file.seconds is not None and file.fps is None:
        raise InvalidValueError("workload.fps", "given together with seconds", None)
    if file.fps is not None and file.seconds is None:
        raise InvalidValueError("workload.fps", "omitted without seconds", file.fps)
    if file.image_size is not None and (not given or given[0] == "visual_tokens"):
        raise InvalidValueError("workload.image_size", "omitted without images, frames or seconds", file.image_size)
    return given[0] if given else None


def _frames(file: WorkloadFile) -> int:
    if file.seconds is None or file.fps is None:
        return file.frames or 0
    frames = int(file.seconds * file.fps)
    if frames < 1:
        raise InvalidValueError("workload.fps", "high enough for one frame in the given seconds", file.fps)
    return frames


def _layout(file: WorkloadFile, model: ModelSpec, frames: int, given: str, *, without_newline: bool) -> VisualLayout:
    """Images or frames as the model's own processor would lay them out."""
    if model.projector is None:
        raise InvalidValueError(
            f"workload.{given}",
            f"omitted: {model.name} has no vision tower (use visual_tokens)",
            getattr(file, given),
        )
    size = file.image_size
    pair = None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1])
    if frames:
        newline = False if file.newline is None and without_newline else file.newline
        return video_layout(model, frames, pair, newline=newline)
    layout = image_layout(model, file.images or 0, pair)
    if file.newline == "row":
        raise InvalidValueError("workload.newline", "true or false for images", file.newline)
    if file.newline:
        return VisualLayout(
            groups=layout.groups,
            tokens_per_group=layout.tokens_per_group,
            newline_tokens=1,
            load=layout.load,
            cross_tokens=layout.cross_tokens,
            notes=layout.notes,
        )
    return layout
