"""Planning a method anew for every prompt that arrives, from its ids, grids and padding.

One transfer to the host tells a prompt's visual tokens, their runs and the grids of its images; prompts that
agree in these share a plan.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from ..errors import InvalidValueError, ScheduleError
from ..inputs.model import load_model
from ..inputs.plain import plain
from ..inputs.run import method_params, plan_schedule
from ..methods.registry import planned_scorers
from ..types import Schedule, Workload
from . import attention, layout
from .families import Family, locate
from .layout import Boundaries, Expectation, Observed
from .prompt import Arrived, Plan, check_schedule_on
from .question import ClipQuestion, check_question
from .tower import Tower, TowerAttention
from .tower_merging import TowerMerging

__all__ = ["DENSE_NOTE", "MethodPlanner"]

DENSE_NOTE = "a prompt without visual tokens: passed dense"
DIFFERENT_ROWS = "rows of a batch that show images of different sizes"
_PLANS = 1024


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What a plan depends on.

    Attributes
    ----------
    sizes
        (groups, tokens of each) of a row's visual tokens, in order.
    unclear
        Why the groups are not known, so that nothing before the language model can reduce them; empty if they are.
    """

    prompt: int
    visual: int
    text_before: int
    sizes: tuple[tuple[int, int], ...]
    newline: int = 0
    images: int = 0
    frames: int = 0
    unclear: str = ""


class MethodPlanner:
    """A ``method:`` mapping, planned for each prompt."""

    def __init__(
        self,
        model: nn.Module,
        method: Mapping[str, Any] | str,
        boundaries: Boundaries | None,
        question: ClipQuestion | None = None,
    ) -> None:
        self.family: Family = locate(model)
        if not isinstance(method, Mapping | str):
            raise InvalidValueError("method", "a mapping, or the name of a method", method, where="apply")
        self.method: dict[str, Any] = {"name": method} if isinstance(method, str) else plain(method)
        check_question(question)
        module, self._params = method_params(self.method, where="apply")
        self.boundaries = _checked(boundaries)
        holder = self.family.container or self.family.decoder
        self._spec = load_model(plain(holder.config.to_dict()))  # type: ignore[union-attr, operator]
        self._planned = functools.lru_cache(_PLANS)(self._plan)
        scorers = planned_scorers(module, self._params)
        reads = {scorer.reads for scorer in scorers}
        self.reads_attention = bool(reads & {"layer", "next_layer"})
        self._before = bool(reads & {"embeddings", "tower", "inside_tower", "text_tower"})
        self.tower: Tower | None = None
        if "inside_tower" in reads:
            self.tower = TowerMerging(self.family, self._of_one_image().tower_events)
        elif reads & {"tower", "text_tower"}:
            self.tower = TowerAttention(self.family, scorers=scorers, question=question)
        # InternVL's processor writes text around each image, and its tiles without any between: neither sizes nor
        # the shape of its pixels tell images apart.
        self._an_image_is_a_run = self._spec.family == "internvl"
        attention.check_attention(self.family.decoder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MethodPlanner) and self._params.dump() == other._params.dump()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"a method {self.method.get('name')!r}, planned for each prompt,"

    def check(self, arrived: Arrived) -> None:
        """Any length will do, as long as it can be told what is visual."""
        if arrived.marks is None and self.boundaries is None:
            raise ScheduleError(
                "a method is planned from the placeholders in input_ids, of which there are none here: pass "
                "boundaries=(text before, visual, text after)"
            )

    def grids(self, arrived: Arrived) -> Sequence[torch.Tensor]:
        """Rows, columns and frames of images and videos (Qwen-VL), the sizes of images (LLaVA), runs (InternVL)."""
        names = ("image_grid_thw", "video_grid_thw") if self.family.mrope else ("image_sizes",)
        found = [arrived.media[name] for name in names if name in arrived.media]
        return [layout.run_lengths(arrived.marks)] if self._an_image_is_a_run and arrived.marks is not None else found

    def plan(self, arrived: Arrived, observed: Observed) -> Plan:
        """The plan of this prompt."""
        return self._planned(self._shape(arrived, observed))

    def _plan(self, shape: _Shape) -> Plan:
        try:
            schedule = self._schedule(shape)
        except InvalidValueError as error:
            if shape.unclear and self._before:
                raise ScheduleError(f"{shape.unclear}: {error}") from None
            raise
        if shape.unclear and (schedule.pre_llm_events or (self._before and not schedule.events)):
            raise ScheduleError(f"{shape.unclear}: method {schedule.method!r} needs to know them, one by one")
        return check_schedule_on(self.family, schedule, self.boundaries, self.tower)

    def _of_one_image(self) -> Schedule:
        """What the tower does is planned without a prompt: with any image, it is the same."""
        each = self._spec.projector.tokens_per_image if self._spec.projector is not None else 0
        return self._schedule(_Shape(prompt=each + 1, visual=each, text_before=0, sizes=((1, each),), images=1))

    def _schedule(self, shape: _Shape) -> Schedule:
        several = len(shape.sizes) > 1
        groups, each = shape.sizes[0] if shape.sizes else (0, 0)
        if several:
            groups, each = 1, shape.visual - shape.newline
        workload = Workload(
            images=shape.images,
            frames=shape.frames,
            groups=groups,
            tokens_per_group=each,
            newline_tokens=shape.newline,
            text_before=shape.text_before,
            text_after=shape.prompt - shape.visual - shape.text_before,
            sizes=shape.sizes if several else (),
        )
        if shape.visual:
            return plan_schedule(self._spec, workload, self.method, where="apply")
        dense = plan_schedule(self._spec, workload, {"name": "none"}, where="apply")
        return replace(dense, notes=(*dense.notes, DENSE_NOTE))

    def _shape(self, arrived: Arrived, observed: Observed) -> _Shape:
        prompt = arrived.prompt
        if arrived.marks is None:
            before, visual = self._given(prompt)
        else:
            visual = layout.equal_counts(observed.counts or ())
            before = min(observed.first) if visual else 0
        shape = _Shape(prompt=prompt, visual=visual, text_before=before, sizes=((1, visual),) if visual else ())
        if not visual:
            return shape
        if self.family.mrope and observed.grids:
            return self._by_grid(shape, arrived, observed)
        if "pixel_values_videos" in arrived.media:
            return self._by_frame(shape, arrived)
        return self._by_image(shape, arrived, observed)

    def _given(self, prompt: int) -> tuple[int, int]:
        """Text before the visual tokens, and those, as triples say."""
        given = self.boundaries
        assert given is not None
        assert not isinstance(given, torch.Tensor)
        before, visual, after = cast("layout.Triple", given if isinstance(given[0], int) else given[0])
        if before + visual > prompt:
            raise ScheduleError(f"boundaries ({before}, {visual}, {after}) do not fit a prompt of {prompt} tokens")
        return before, visual

    def _by_grid(self, shape: _Shape, arrived: Arrived, observed: Observed) -> _Shape:
        """Qwen-VL: an image is a group, and so is what a video shows at one time."""
        merge = self._spec.projector.merge if self._spec.projector is not None else 1
        if len(observed.grids) > 1:
            return replace(shape, unclear="images and videos in one prompt")
        (numbers,) = observed.grids
        grids = [tuple(numbers[at : at + 3]) for at in range(0, len(numbers), 3)]
        each, rest = divmod(len(grids), arrived.prompts)
        rows = {tuple(grids[at : at + each]) for at in range(0, len(grids), each)} if each and not rest else set()
        sizes = {tuple((t, high * wide // merge**2) for t, high, wide in row) for row in rows}
        if len(sizes) != 1:
            return replace(shape, unclear=DIFFERENT_ROWS)
        joined = _joined(sizes.pop())
        if sum(count * tokens for count, tokens in joined) != shape.visual:
            return replace(shape, unclear="grids that do not add up to the visual tokens")
        if "video_grid_thw" in arrived.media:
            temporal = self._spec.vision.temporal_patch if self._spec.vision is not None else 1
            frames = sum(count for count, _ in joined)
            return replace(shape, sizes=joined, frames=frames * temporal)
        return replace(shape, sizes=joined, images=each)

    def _by_frame(self, shape: _Shape, arrived: Arrived) -> _Shape:
        """A video of equal frames, and a newline token behind it where the model writes one."""
        pixels, projector = arrived.media["pixel_values_videos"], self._spec.projector
        newline = int(projector is not None and projector.video_newline == "video")
        if pixels.ndim != 5 or len(pixels) != arrived.prompts or "pixel_values" in arrived.media:
            return replace(shape, unclear="several videos in one prompt, or images beside one")
        frames = pixels.shape[1]
        if (shape.visual - newline) % frames:
            return replace(shape, unclear="frames of unequal token counts")
        sizes = ((frames, (shape.visual - newline) // frames),)
        return replace(shape, sizes=sizes, newline=newline, frames=frames)

    def _by_image(self, shape: _Shape, arrived: Arrived, observed: Observed) -> _Shape:
        """Images of one size in every prompt, as pixels and sizes tell them, else one run of placeholders an image."""
        projector, runs = self._spec.projector, set(observed.runs)
        each = projector.tokens_per_image if projector is not None else 0
        if each and self._spec.resolution is None:
            if shape.visual % each:
                return replace(shape, unclear=f"visual tokens that are not whole images of {each}")
            return replace(shape, sizes=((shape.visual // each, each),), images=shape.visual // each)
        if self._an_image_is_a_run and observed.grids:
            return self._by_run(shape, observed)
        count, alike = _images_of(arrived, observed)
        if count == 1:
            return replace(shape, images=1)
        if count and alike and shape.visual % count == 0:
            return replace(shape, sizes=((count, shape.visual // count),), images=count)
        if count is None and runs == {1}:
            return replace(shape, images=1)
        if count is None and not runs:  # boundaries beside embeddings: one run, of what nothing tells
            return shape
        return replace(shape, unclear="several images whose sizes cannot be told")

    def _by_run(self, shape: _Shape, observed: Observed) -> _Shape:
        """An image is a run of placeholders, of whole tiles."""
        (numbers,) = observed.grids
        each = len(numbers) // len(observed.runs)
        rows = {tuple(n for n in numbers[at : at + each] if n) for at in range(0, len(numbers), each)}
        if len(rows) != 1:
            return replace(shape, unclear=DIFFERENT_ROWS)
        (runs,) = rows
        if max(observed.runs) > each:
            return replace(shape, unclear=f"more than {each} images")
        return replace(shape, sizes=_joined([(1, run) for run in runs]), images=len(runs))


def _joined(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Neighbours of as many tokens each, together."""
    joined: list[tuple[int, int]] = []
    for count, tokens in sizes:
        if joined and joined[-1][1] == tokens:
            count += joined.pop()[0]
        joined.append((count, tokens))
    return tuple(joined)


def _images_of(arrived: Arrived, observed: Observed) -> tuple[int | None, bool]:
    """Images of each prompt, None where neither sizes nor pixels tell (crops of several may look alike); 0 where
    prompts differ. And whether all of them are known to be of one size."""
    pixels = arrived.media.get("pixel_values")
    if observed.grids:
        (numbers,) = observed.grids
        sizes = list(zip(numbers[::2], numbers[1::2], strict=True))
        images, alike = len(sizes), len(set(sizes)) == 1
    elif pixels is not None and pixels.ndim == 5:
        images, alike = len(pixels), False
    else:
        return None, False
    each, rest = divmod(images, arrived.prompts)
    return (0 if rest else each), alike


def _checked(boundaries: Boundaries | None) -> Boundaries | None:
    """Boundaries of the right form, whatever the prompt that they are of.

    Raises
    ------
    InvalidValueError, ScheduleError
        They are not.
    """
    if boundaries is None:
        return None
    if isinstance(boundaries, torch.Tensor):
        prompt = boundaries.shape[-1] if boundaries.ndim else 0
    elif not isinstance(boundaries, Sequence):
        raise InvalidValueError("boundaries", "(text before, visual, text after)", boundaries, where="apply")
    else:
        rows = [boundaries] if boundaries and isinstance(boundaries[0], int) else boundaries
        known = [row for row in rows if isinstance(row, tuple | list) and all(isinstance(n, int) for n in row)]
        prompt = max((sum(row) for row in known), default=0)
    return layout.check_boundaries(boundaries, Expectation(prompt=prompt, visual=0))
