"""What a prompt must look like under a schedule, and what happens to it before layer 0.

Shapes: B rows, P prompt tokens, p of them after the events before the model, V and v visual ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import InvalidValueError, ScheduleError, UnsupportedModelError
from ..kernels import _dispatch
from ..kernels.select.reference import gather_mask, gather_rows
from ..methods.base import RENUMBERED
from ..methods.registry import find_scorer, reads_tower
from ..types import ReductionEvent, Schedule
from . import attention, compat, layout, policies
from .families import Family, locate
from .layout import Boundaries, Expectation, Observed
from .pre_llm import Reduced, reduce_visuals
from .question import ClipQuestion, check_question
from .steps import Prefill
from .tower import Tower, TowerAttention
from .tower_merging import TowerMerging

__all__ = ["Arrived", "FixedPlan", "Plan", "Planner", "behind_under_mrope", "check_schedule_on", "make_plan", "start"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A schedule checked against a model: all that is known before a prompt arrives."""

    family: Family
    schedule: Schedule
    expected: Expectation
    boundaries: Boundaries | None
    tower: Tower | None

    @property
    def seed(self) -> int:
        """Seed of whatever is drawn at random: ``seed`` of the method's parameters, else 0."""
        return int(self.schedule.params.get("seed", 0))

    @functools.cached_property
    def events(self) -> Mapping[int, ReductionEvent]:
        """The cuts inside the language model, by the layer whose output they cut."""
        return {event.after_layer: event for event in self.schedule.layer_events if event.after_layer is not None}

    @functools.cached_property
    def reads(self) -> Mapping[int, str]:
        """What each cut is decided from, by layer."""
        return {layer: find_scorer(event.scorer).reads for layer, event in self.events.items()}

    @functools.cached_property
    def scorers(self) -> Mapping[int, policies.Policy]:
        """What ranks the tokens of each cut, by layer."""
        return {layer: policies.layer_policy(event.scorer) for layer, event in self.events.items()}

    @property
    def reads_attention(self) -> bool:
        """Whether any cut needs the queries and keys of a layer."""
        return any(reads != "positions" for reads in self.reads.values())


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """What can be said of a prompt without its values; `prompts` of the rows differ, beams of one are alike."""

    rows: int
    prompt: int
    past: int
    tokens: torch.Tensor
    marks: torch.Tensor | None
    real: torch.Tensor | None
    media: Mapping[str, torch.Tensor]
    prompts: int


class Planner(Protocol):
    """Where the plan of a prompt comes from."""

    family: Family
    boundaries: Boundaries | None
    tower: Tower | None
    reads_attention: bool

    def check(self, arrived: Arrived) -> None:
        """Raise where the prompt's shape alone rules it out."""

    def grids(self, arrived: Arrived) -> Sequence[torch.Tensor]:
        """Numbers that the plan depends on, to be read together with the counts."""

    def plan(self, arrived: Arrived, observed: Observed) -> Plan:
        """What is to happen to the prompt."""


class FixedPlan:
    """One schedule for every prompt."""

    def __init__(self, plan: Plan) -> None:
        self.fixed = plan
        self.family, self.boundaries, self.tower = plan.family, plan.boundaries, plan.tower
        self.reads_attention = plan.reads_attention

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedPlan) and self.fixed.schedule == other.fixed.schedule

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"a schedule of method {self.fixed.schedule.method!r}"

    def check(self, arrived: Arrived) -> None:
        """The prompt is as long as the schedule's."""
        expected = self.fixed.expected
        if arrived.prompt != expected.prompt:
            behind = f" behind {arrived.past} cached ones" if arrived.past else ""
            raise ScheduleError(
                f"the prompt has {arrived.prompt} tokens{behind}, the schedule was planned for {expected.prompt} "
                f"({expected.visual} visual)"
            )

    def grids(self, arrived: Arrived) -> Sequence[torch.Tensor]:
        """None are needed."""
        return ()

    def plan(self, arrived: Arrived, observed: Observed) -> Plan:
        """The schedule as given."""
        return self.fixed


def make_plan(
    model: nn.Module,
    schedule: Schedule,
    boundaries: Boundaries | None,
    *,
    only_sdpa: bool = False,
    question: ClipQuestion | None = None,
) -> Plan:
    """Check everything that can be known without a prompt; nothing is changed.

    Raises
    ------
    UnsupportedModelError, ScheduleError, InvalidValueError, UnknownNameError
        For models, schedules, boundaries and scorers that do not go together.
    """
    family = locate(model)
    attention.check_attention(family.decoder, only_sdpa=only_sdpa)
    if not isinstance(schedule, Schedule):
        raise InvalidValueError("schedule", "what aimcost.schedule() returns; a method goes to method=", schedule)
    check_question(question)
    tower: Tower | None = None
    if schedule.tower_events:
        tower = TowerMerging(family, schedule.tower_events)
    elif reads_tower(schedule):
        tower = TowerAttention(family, schedule, question=question)
    return check_schedule_on(family, schedule, boundaries, tower)


def check_schedule_on(family: Family, schedule: Schedule, boundaries: Boundaries | None, tower: Tower | None) -> Plan:
    """`schedule` on the parts of a model."""
    expected = layout.check_schedule(schedule, len(family.layers))
    if isinstance(tower, TowerMerging):
        expected = tower.expect(schedule)
    boundaries = layout.check_boundaries(boundaries, expected)
    _check_reach(family, schedule, expected, boundaries)
    return Plan(family=family, schedule=schedule, expected=expected, boundaries=boundaries, tower=tower)


def _check_reach(family: Family, schedule: Schedule, expected: Expectation, boundaries: Boundaries | None) -> None:
    _check_window(family, expected.prompt)
    if isinstance(boundaries, torch.Tensor):
        return
    text, after = expected.prompt - expected.visual, schedule.text_after
    if boundaries is not None:
        first = boundaries if isinstance(boundaries[0], int) else boundaries[0]
        text, after = expected.prompt - first[1], first[2]
    policies.check_policies(schedule, text)
    if schedule.layer_events and after == 0 and (family.container is None or boundaries is not None):
        raise ScheduleError("the prompt must end in text: its last token yields the next one")


def _check_window(family: Family, tokens: int) -> None:
    if family.window is not None and tokens >= family.window:
        raise UnsupportedModelError(
            f"a prompt of {tokens} tokens exceeds the sliding window of {family.window}: "
            "dropping inside a sliding window is not supported"
        )


def start(
    planner: Planner,
    kwargs: dict[str, Any],
    placeholders: torch.Tensor | None,
    *,
    past: int = 0,
    media: Mapping[str, torch.Tensor] | None = None,
    prompts: int | None = None,
) -> Prefill:
    """Check a prompt, run the events before layer 0 on it, and say what is live.

    Parameters
    ----------
    kwargs
        The decoder's arguments by name, changed in place to fit the shorter prompt.
    placeholders
        (B, P) where ``input_ids`` hold image or video placeholders, None if no ids were passed.
    past
        Tokens that the KV cache holds before the prompt.
    media
        Sizes and pixels of what the prompt shows, by argument of the container.
    prompts
        How many prompts the rows are of; None: each is one.

    Raises
    ------
    ScheduleError, InvalidValueError, UnsupportedModelError
        The prompt is not the one that the schedule was planned for, or holds NaN or infinity (looked
        for on a CPU alone, where it costs no synchronisation).
    """
    ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
    tokens = ids if ids is not None else embeds
    rows, prompt = tokens.shape[:2]
    prompts = prompts if prompts and rows % prompts == 0 else rows
    mask, family = kwargs.get("attention_mask"), planner.family
    if isinstance(mask, dict):
        raise UnsupportedModelError("masks prepared by layer type are not supported: pass the 2D mask")
    given_real = real = layout.padding_of(mask, rows, past + prompt)
    arrived = Arrived(
        rows=rows,
        prompt=prompt,
        past=past,
        tokens=tokens,
        marks=_marks(planner.boundaries, placeholders, tokens, prompts),
        real=None if real is None else real[:, past:],
        media=media or {},
        prompts=prompts,
    )
    planner.check(arrived)
    if embeds is not None and _dispatch.should_check(None, embeds) and not bool(torch.isfinite(embeds).all()):
        raise InvalidValueError("inputs_embeds", "finite", "NaN or infinite values")
    observed = layout.observe(rows, prompt, marks=arrived.marks, real=arrived.real, grids=planner.grids(arrived))
    plan = planner.plan(arrived, observed)
    if past and plan.schedule.events:
        _check_prefix(plan, past, prompt)
    real = None if all(count == prompt for count in observed.tokens) else arrived.real
    visual = _visual(plan, arrived, observed, real, embedded=ids is None)
    extras = _deepstack(kwargs, rows, prompt)
    origin = torch.arange(prompt, device=tokens.device).expand(rows, -1)
    given = kwargs.get("position_ids")
    following = _next_position(given, origin) if family.mrope or given is not None else None
    if plan.schedule.pre_llm_events:
        reduced = _reduce(plan, kwargs, visual, extras, past)
        origin, visual = reduced.origin, reduced.visual
        extras = [_spread(extra, visual, origin.shape[1]) for extra in reduced.extras]
        real = None if real is None else gather_rows(real, origin, 1)
    real_at_start = real
    if past and given_real is not None:
        real_at_start = torch.cat((given_real[:, :past], gather_rows(given_real[:, past:], origin, 1)), dim=1)
    protected = torch.ones(origin.shape, dtype=torch.bool, device=tokens.device).scatter(1, visual, False)
    alive = torch.arange(origin.shape[1], device=tokens.device).expand(rows, -1)
    return Prefill(
        plan=plan,
        length=prompt,
        visual_count=visual.shape[1],
        prefix=past,
        origin=origin,
        alive=alive,
        protected=protected,
        real=real,
        real_at_start=real_at_start,
        visual=~protected,
        extras=extras,
        next_position=following,
        closed_up=plan.schedule.params.get("positions") == RENUMBERED and not plan.family.mrope,
    )


def _marks(
    boundaries: Boundaries | None, placeholders: torch.Tensor | None, tokens: torch.Tensor, prompts: int
) -> torch.Tensor | None:
    """(B, P) True at visual tokens, where a mask or ``input_ids`` say so."""
    if isinstance(boundaries, torch.Tensor):
        marks = boundaries.to(tokens.device)
        rows, given = len(tokens), len(marks)
        if given == prompts != rows:  # beams of one prompt, side by side
            return marks.repeat_interleave(rows // prompts, dim=0)
        if given not in (1, rows):
            raise ScheduleError(f"boundaries are given for {given} rows, the batch has {rows}")
        return marks.expand(rows, -1)
    return placeholders if boundaries is None else None


def behind_under_mrope(past: int, prompt: int) -> UnsupportedModelError:
    """The refusal of a prompt behind a cached prefix whose positions have three parts."""
    return UnsupportedModelError(
        f"a prompt of {prompt} tokens behind {past} cached ones: not supported under mRoPE; empty the cache first"
    )


def _check_prefix(plan: Plan, past: int, prompt: int) -> None:
    """Raise where a prompt behind cached tokens cannot be reduced as planned.

    What ranks tokens by the queries of the whole prompt lacks those of the prefix, and mRoPE's positions are
    not known to go on from it.
    """
    if plan.family.mrope:
        raise behind_under_mrope(past, prompt)
    behind = f"a prompt of {prompt} tokens behind {past} cached ones"
    for event in plan.schedule.layer_events:
        if plan.reads[event.after_layer or 0] != "positions":
            raise UnsupportedModelError(
                f"{behind}: scorer {event.scorer!r} reads the queries of the whole prompt, which a cache does not "
                "hold; empty the cache first"
            )
    _check_window(plan.family, past + prompt)


def _next_position(positions: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor:
    """(B,) the position after the largest of a prompt's (B, P) or (3 or 4, B, P), its places where none are given.

    What releases store as ``rope_deltas`` counts padding in some and not in others.
    """
    if positions is None or positions.ndim != 3:
        return (places if positions is None else positions.expand_as(places)).amax(1) + 1
    return (positions[-3:].amax((0, 2)) + 1).expand(places.shape[0])


def _visual(
    plan: Plan, arrived: Arrived, observed: Observed, real: torch.Tensor | None, *, embedded: bool
) -> torch.Tensor:
    """(B, V) positions of the visual tokens: as the caller says, else by placeholder, else as planned."""
    schedule, expected = plan.schedule, plan.expected
    if arrived.marks is not None:
        if arrived.marks.shape[1] != arrived.prompt:
            raise ScheduleError(f"input_ids cover {arrived.marks.shape[1]} tokens, the prompt has {arrived.prompt}")
        count = layout.equal_counts(observed.counts or ())
        visual = layout.marked_positions(arrived.marks, count)
    else:
        given = plan.boundaries
        if given is None:
            if embedded and schedule.events and (not schedule.text_before or schedule.template_tokens):
                raise ScheduleError(
                    "inputs_embeds do not show which tokens are visual: pass boundaries=(text before, visual, "
                    "text after) to apply, or plan with workload.text_tokens {system, question}"
                )
            given = (schedule.text_before, expected.visual, schedule.text_tokens - schedule.text_before)
        assert not isinstance(given, torch.Tensor)
        if len(given) == arrived.prompts != arrived.rows and not isinstance(given[0], int):
            given = [triple for triple in given for _ in range(arrived.rows // arrived.prompts)]
        visual = layout.triple_positions(
            arrived.rows,
            given,
            prompt=arrived.prompt,
            real=real,
            observed=observed,
            device=arrived.tokens.device,
        )
        count = visual.shape[1]
    if count != expected.visual and (plan.boundaries is None or schedule.pre_llm_events):
        raise ScheduleError(
            f"the prompt has {count} visual tokens a row, the schedule was planned for {expected.visual}"
        )
    if arrived.marks is not None:
        left = schedule.visual_tokens if schedule.pre_llm_events else count
        policies.check_policies(schedule, schedule.tokens[0] - left)
        if schedule.layer_events and observed.ends_visual:
            raise ScheduleError("the prompt must end in text: its last token yields the next one")
    return visual


def _reduce(plan: Plan, kwargs: dict[str, Any], visual: torch.Tensor, extras: list[torch.Tensor], past: int) -> Reduced:
    """Run the events before layer 0, and make the decoder's arguments fit the shorter prompt."""
    embeds = kwargs.get("inputs_embeds")
    if embeds is None:
        embeds = plan.family.decoder.get_input_embeddings()(kwargs["input_ids"])
    with attention.exactly(embeds.device):
        reduced = reduce_visuals(
            embeds,
            visual,
            plan.schedule,
            seed=plan.seed,
            extras=[gather_rows(extra, visual, 1) for extra in extras],
            tower=plan.tower,
            own_places=plan.family.mrope,
        )
    if plan.tower is not None:
        plan.tower.forget()
    origin, mask, positions = reduced.origin, kwargs.get("attention_mask"), kwargs.get("position_ids")
    steps = torch.arange(embeds.shape[1], device=origin.device)
    kwargs["input_ids"], kwargs["inputs_embeds"] = None, reduced.embeds
    if mask is not None and mask.ndim == 4:
        if past:
            raise UnsupportedModelError("a 4D mask over a cached prefix is not supported: pass the 2D mask")
        kwargs["attention_mask"] = gather_mask(mask, origin)
    elif mask is not None:
        kwargs["attention_mask"] = torch.cat((mask[:, :past], gather_rows(mask[:, past:], origin, 1)), dim=1)
    if plan.family.mrope:
        positions = steps[None] if positions is None else positions
        kwargs["position_ids"] = gather_rows(positions, origin, positions.ndim - 1)
    elif positions is not None:
        # The p-th survivor moves down by the number of tokens that went away before it.
        kwargs["position_ids"] = gather_rows(positions, origin, 1) - (origin - steps[: origin.shape[1]])
    if kwargs.get(compat.CACHE_POSITIONS) is not None:
        kwargs[compat.CACHE_POSITIONS] = kwargs[compat.CACHE_POSITIONS][: origin.shape[1]]
    return reduced


def _deepstack(kwargs: dict[str, Any], rows: int, prompt: int) -> list[torch.Tensor]:
    """Take per-layer visual features (Qwen3-VL) out of the arguments, each spread to (B, P, D).

    Between layers the decoder would add them at positions of the whole prompt; the session adds
    them after each layer instead, where it knows which tokens are live.
    """
    features, mask = kwargs.get("deepstack_visual_embeds"), kwargs.get("visual_pos_masks")
    if not features:
        return []
    kwargs["deepstack_visual_embeds"] = kwargs["visual_pos_masks"] = None
    spread = []
    for feature in features:
        full = feature.new_zeros(rows, prompt, feature.shape[-1])
        spread.append(full.masked_scatter(mask.to(feature.device)[..., None], feature))
    return spread


def _spread(feature: torch.Tensor, visual: torch.Tensor, prompt: int) -> torch.Tensor:
    """(B, v, D) features at their places among `prompt` tokens, zeros elsewhere."""
    full = feature.new_zeros(feature.shape[0], prompt, feature.shape[-1])
    return full.scatter(1, visual[..., None].expand(-1, -1, feature.shape[-1]), feature)
