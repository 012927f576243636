"""A run file's workload on a model: token counts, and what was assumed for them."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InvalidValueError, UnsupportedModelError
from ..frozen import dataclass
from ..models import traced
from ..models.resizing import Size
from ..models.visual_tokens import VisualLayout, cached_inputs, images_layout, joined, video_layout
from ..types import ModelSpec, SamplingSpec, Workload, runs_of
from .hf.composites import COMPOSITES
from .processors import sampled_frames, sampling_rate, with_limits
from .schema import TextTokens, WorkloadFile
from .traced_images import check_video, without_tower

__all__ = ["DEFAULT_TEXT_TOKENS", "resolve_workload"]

# The text length of the video tables of arXiv 2412.03248; noted whenever it is used.
DEFAULT_TEXT_TOKENS = 100
# Frames a second at which given `frames` were taken where nothing says so: FPS of qwen-vl-utils, as Qwen3-VL's class.
DEFAULT_FPS = 2.0
# Text around frames that says their times.
_TIMED = ("times", "seconds", "tenths", "clock")
# What a request can show, each by its key.
_SOURCES = ("images", "frames", "visual_tokens", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSize:
    """Images, or frames, of one size in pixels; None where the run does not say."""

    frames: bool
    count: int
    size: Size | None


def input_sizes(file: WorkloadFile, frames: int) -> list[InputSize]:
    """What a request shows, by size: its images in order, then its `frames`."""
    file = _counted(file)
    found = [InputSize(frames=False, count=count, size=size) for size, count in _images(file, frames)]
    if frames:
        found.append(InputSize(frames=True, count=frames, size=_frame_size(file)))
    return found


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
    file = _counted(file)
    given = _source(file, model)
    joined = model.resolution is not None and model.resolution.kind == "anyres"
    traced_tower = model.vision is not None and model.vision.traced is not None
    if file.newline and not joined and (traced_tower or model.family in COMPOSITES):
        # what a traced projector appends is among the tokens that it leaves
        raise InvalidValueError("workload.newline", f"omitted: {model.family} has no newline tokens", file.newline)
    notes: list[str] = []
    text = file.text_tokens
    if text is None:
        text = DEFAULT_TEXT_TOKENS
        notes.append(f"workload.text_tokens not given: assuming {DEFAULT_TEXT_TOKENS}")
    before, after = (text.system, text.question) if isinstance(text, TextTokens) else (0, text)
    model = with_limits(model, file)
    frames, sampled = sampled_frames(model.sampling or SamplingSpec(), file)
    notes.extend(sampled)
    images = _images(file, frames)
    layout = VisualLayout()
    if file.visual_tokens is not None:
        layout = _stated(file.visual_tokens, file, model)
        if model.vision is not None:
            notes.append("visual_tokens given: the vision tower and projector are not priced")
        notes.extend(layout.notes)
    elif given is not None:
        layout = _layout(file, model, images, frames, given, without_newline=without_newline)
        notes.extend(layout.notes)
    elif file.newline:
        raise InvalidValueError("workload.newline", "omitted without visual tokens", file.newline)
    several = len(layout.sizes) > 1
    groups, each = layout.sizes[0] if layout.sizes else (0, 0)
    if several:
        groups, each = 1, sum(count * tokens for count, tokens in layout.sizes)
    visual = groups * each + layout.newline_tokens
    if visual + before + after < 1:
        raise InvalidValueError("workload.text_tokens", "at least 1 without visual tokens", 0)
    workload = Workload(
        batch=file.batch,
        frames=frames,
        images=file.images or 0,
        groups=groups,
        tokens_per_group=each,
        newline_tokens=layout.newline_tokens,
        text_before=before,
        text_after=after,
        new_tokens=file.new_tokens,
        tower=layout.load,
        cross_tokens=layout.cross_tokens,
        sizes=layout.sizes if several else (),
        template_tokens=layout.template_tokens,
    )
    if file.cached_tokens:
        workload, cached = _with_cache(workload, file, model, images, without_newline=without_newline)
        notes.append(cached)
    return workload, tuple(notes)


def _with_cache(
    workload: Workload,
    file: WorkloadFile,
    model: ModelSpec,
    images: list[tuple[Size | None, int]],
    *,
    without_newline: bool,
) -> tuple[Workload, str]:
    """The workload with a prefix in the cache, and the note that says what is left to compute.

    An image or a video of which the prefix holds a part is encoded as a whole.
    """
    tokens, prompt = file.cached_tokens, workload.prompt_tokens
    if tokens >= prompt:
        what = f"at most {prompt - 1}: the logits come from the last of the prompt's {prompt} tokens"
        raise InvalidValueError("workload.cached_tokens", what, tokens)
    if model.decoder.traced is not None:
        try:
            traced.check_prefix(model.decoder.traced, float(workload.batch))
        except UnsupportedModelError as error:
            raise InvalidValueError("workload.cached_tokens", f"omitted: {model.family}: {error}", tokens) from None
    if workload.cross_tokens:
        what = f"omitted: the visual tokens of {model.name} are outside its sequence"
        raise InvalidValueError("workload.cached_tokens", what, tokens)
    note = f"{tokens:,} of the prompt's {prompt:,} tokens are in the cache: queries are the other {prompt - tokens:,}"
    workload = replace(workload, cached_tokens=tokens)
    into = tokens - workload.text_before
    if model.projector is None or file.visual_tokens is not None or into <= 0 or not (images or workload.frames):
        return workload, note
    video = _video(file, model, workload.frames, without_newline=without_newline) if workload.frames else None
    newline = None if file.newline == "row" else file.newline
    found = cached_inputs(model, images, video, newline=newline, tokens=into)
    workload = replace(
        workload,
        cached_images=found.images,
        cached_frames=workload.frames if found.video else 0,
        cached_input_tokens=found.tokens,
        encoded=found.load,
    )
    inputs = [f"{found.images} of {workload.images} images"] if found.images else []
    inputs += [f"the video's {workload.frames} frames"] if found.video else []
    return workload, note + (f"; {' and '.join(inputs)} among them are not encoded" if inputs else "")


def _stated(tokens: int, file: WorkloadFile, model: ModelSpec) -> VisualLayout:
    """A count that the run states: part of the sequence, or what cross-attention layers read."""
    if model.decoder.cross_layers:
        if file.newline:
            raise InvalidValueError("workload.newline", f"omitted: {model.name} has no newline tokens", file.newline)
        note = f"{tokens:,} visual tokens feed the cross-attention layers of {model.name}, outside its sequence"
        return VisualLayout(cross_tokens=tokens, notes=(note,))
    newline = 1 if file.newline else 0
    return VisualLayout(sizes=((1, tokens - newline),), newline_tokens=newline)


def _source(file: WorkloadFile, model: ModelSpec) -> str | None:
    """The key that sets the visual input, if any; keys that contradict it must be omitted."""
    given = [key for key in _SOURCES if getattr(file, key) is not None]
    for one, other in (("frames", "seconds"), *(("visual_tokens", key) for key in ("images", "frames", "seconds"))):
        if one in given and other in given:
            first, second = sorted((one, other), key=given.index)
            raise InvalidValueError(f"workload.{second}", f"omitted when {first} is given", getattr(file, second))
    sampling = model.sampling or SamplingSpec()
    if file.seconds is not None and not (sampling_rate(sampling, file) or sampling.frames):
        raise InvalidValueError("workload.fps", "given together with seconds", None)
    timed = file.frames is not None and model.resolution is not None and model.resolution.markup in _TIMED
    if file.fps is not None and file.seconds is None and not timed:
        raise InvalidValueError("workload.fps", "omitted without seconds", file.fps)
    if file.image_size is not None and (not given or given[0] == "visual_tokens"):
        raise InvalidValueError("workload.image_size", "omitted without images, frames or seconds", file.image_size)
    return given[0] if given else None


def _counted(file: WorkloadFile) -> WorkloadFile:
    """A list of sizes says how many images there are, where nothing else does."""
    sizes = _sizes(file)
    if sizes is None or any(getattr(file, key) is not None for key in _SOURCES):
        return file
    return file.changed(images=len(sizes))


def _sizes(file: WorkloadFile) -> list[Size] | None:
    """The sizes of a list; None where there is one for all, or none."""
    given = file.image_size
    if not isinstance(given, list) or isinstance(given[0], int):
        return None
    return [(pair[0], pair[1]) for pair in given if isinstance(pair, list)]


def _size(file: WorkloadFile) -> Size | None:
    """The size of all images and frames."""
    given = file.image_size
    if isinstance(given, int):
        return given, given
    if given is None or not isinstance(given[0], int) or not isinstance(given[1], int):
        return None
    return given[0], given[1]


def _frame_size(file: WorkloadFile) -> Size | None:
    """The size of the frames: of all inputs, or the last of a list that is longer than the images."""
    sizes = _sizes(file)
    return _size(file) if sizes is None else sizes[-1] if len(sizes) > (file.images or 0) else None


def _images(file: WorkloadFile, frames: int) -> list[tuple[Size | None, int]]:
    """(size, how many) of the images in order, None for a size that is not given."""
    sizes, count = _sizes(file), file.images or 0
    if sizes is None:
        return [(_size(file), count)] if count else []
    most = count + (1 if frames else 0)
    if len(sizes) not in (count, most):
        what = f"{count} pairs, one an image" + (f", or {most} with that of the frames" if frames else "")
        raise InvalidValueError("workload.image_size", what, file.image_size)
    return runs_of(sizes[:count])


def _layout(
    file: WorkloadFile,
    model: ModelSpec,
    images: list[tuple[Size | None, int]],
    frames: int,
    given: str,
    *,
    without_newline: bool,
) -> VisualLayout:
    """Images and frames as the model's own processor would lay them out."""
    if model.projector is None:
        raise InvalidValueError(
            f"workload.{given}",
            f"omitted: {without_tower(model)} (use visual_tokens)",
            getattr(file, given),
        )
    layouts = []
    if images:
        if file.newline == "row" and not frames:
            raise InvalidValueError("workload.newline", "true or false for images", file.newline)
        layout = images_layout(model, images, newline=None if file.newline == "row" else file.newline)
        # a model whose images end in no newline of its own gets one
        if file.newline is True and not frames and not model.projector.newline_token:
            layout = replace(layout, newline_tokens=1)
        layouts.append(layout)
    if frames:
        layouts.append(_video(file, model, frames, without_newline=without_newline))
    return joined(model, layouts)


def _video(file: WorkloadFile, model: ModelSpec, frames: int, *, without_newline: bool) -> VisualLayout:
    check_video(model, frames)
    newline = False if file.newline is None and without_newline else file.newline
    rate = sampling_rate(model.sampling or SamplingSpec(), file) or DEFAULT_FPS
    seconds = file.seconds if file.seconds is not None else frames / rate
    return video_layout(model, frames, _frame_size(file), newline=newline, seconds=seconds)
