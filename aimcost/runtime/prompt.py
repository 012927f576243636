"""What a prompt must look like under a schedule, and what happens to it before layer 0.

Shapes: B rows, P prompt tokens, p of them after the events before the model, V and v visual ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import InvalidValueError, ScheduleError, UnsupportedModelError
from ..kernels import _dispatch
from ..kernels.select.reference import gather_mask, gather_rows
from ..methods.registry import reads_tower
from ..types import Schedule
from . import attention, compat, layout, policies
from .families import Family, locate
from .layout import Boundaries, Expectation
from .pre_llm import Reduced, reduce_visuals
from .steps import Prefill
from .tower import TowerAttention

__all__ = ["Plan", "make_plan", "start"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A schedule checked against a model: all that is known before a prompt arrives."""

    family: Family
    schedule: Schedule
    expected: Expectation
    boundaries: Boundaries | None
    tower: TowerAttention | None

    @property
    def seed(self) -> int:
        """Seed of whatever is drawn at random: ``seed`` of the method's parameters, else 0."""
        return int(self.schedule.params.get("seed", 0))


def make_plan(model: nn.Module, schedule: Schedule, boundaries: Boundaries | None) -> Plan:
    """Check everything that can be known without a prompt; nothing is changed.

    Raises
    ------
    UnsupportedModelError, ScheduleError, InvalidValueError, UnknownNameError
        For models, schedules, boundaries and scorers that do not go together.
    """
    family = locate(model)
    attention.check_attention(family.decoder)
    expected = layout.check_schedule(schedule, len(family.layers))
    boundaries = layout.check_boundaries(boundaries, expected)
    _check_reach(family, schedule, expected, boundaries)
    tower = TowerAttention(family) if reads_tower(schedule) else None
    return Plan(family=family, schedule=schedule, expected=expected, boundaries=boundaries, tower=tower)


def _check_reach(family: Family, schedule: Schedule, expected: Expectation, boundaries: Boundaries | None) -> None:
    if family.window is not None and expected.prompt >= family.window:
        raise UnsupportedModelError(
            f"a prompt of {expected.prompt} tokens exceeds the sliding window of {family.window}: "
            "dropping inside a sliding window is not supported"
        )
    if isinstance(boundaries, torch.Tensor):
        return
    text, after = expected.prompt - expected.visual, schedule.text_after
    if boundaries is not None:
        first = boundaries if isinstance(boundaries[0], int) else boundaries[0]
        text, after = expected.prompt - first[1], first[2]
    policies.check_policies(schedule, text)
    if schedule.layer_events and after == 0 and (family.container is None or boundaries is not None):
        raise ScheduleError("the prompt must end in text: its last token yields the next one")


def start(plan: Plan, kwargs: dict[str, Any], placeholders: torch.Tensor | None) -> Prefill:
    """Check a prompt, run the events before layer 0 on it, and say what is live.

    Parameters
    ----------
    kwargs
        The decoder's arguments by name, changed in place to fit the shorter prompt.
    placeholders
        (B, P) where ``input_ids`` hold image or video placeholders, None if no ids were passed.

    Raises
    ------
    ScheduleError, InvalidValueError, UnsupportedModelError
        The prompt is not the one that the schedule was planned for, or holds NaN or infinity (looked
        for on a CPU alone, where it costs no synchronisation).
    """
    ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
    tokens = ids if ids is not None else embeds
    rows, prompt = tokens.shape[:2]
    if prompt != plan.expected.prompt:
        raise ScheduleError(
            f"the prompt has {prompt} tokens, the schedule was planned for {plan.expected.prompt} "
            f"({plan.expected.visual} visual)"
        )
    if embeds is not None and _dispatch.should_check(None, embeds) and not bool(torch.isfinite(embeds).all()):
        raise InvalidValueError("inputs_embeds", "finite", "NaN or infinite values")
    mask = kwargs.get("attention_mask")
    if isinstance(mask, dict):
        raise UnsupportedModelError("masks prepared by layer type are not supported: pass the 2D mask")
    real = layout.padding_of(mask, rows, prompt)
    visual = _visual(plan, rows, real, tokens.device, placeholders)
    extras = _deepstack(kwargs, rows, prompt)
    origin = torch.arange(prompt, device=tokens.device).expand(rows, -1)
    following = _next_position(kwargs.get("position_ids"), origin) if plan.family.mrope else None
    if plan.schedule.pre_llm_events:
        reduced = _reduce(plan, kwargs, visual, extras)
        origin, visual = reduced.origin, reduced.visual
        extras = [_spread(extra, visual, origin.shape[1]) for extra in reduced.extras]
        real = None if real is None else gather_rows(real, origin, 1)
    protected = torch.ones(origin.shape, dtype=torch.bool, device=tokens.device).scatter(1, visual, False)
    alive = torch.arange(origin.shape[1], device=tokens.device).expand(rows, -1)
    return Prefill(
        origin=origin,
        alive=alive,
        protected=protected,
        real=real,
        visual=~protected,
        extras=extras,
        next_position=following,
    )


def _next_position(positions: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor:
    """(B,) the position after the largest of a prompt's (3 or 4, B, P) positions, its places where none are given.

    What releases store as ``rope_deltas`` counts padding in some and not in others.
    """
    if positions is None or positions.ndim != 3:
        return (places if positions is None else positions.expand_as(places)).amax(1) + 1
    return (positions[-3:].amax((0, 2)) + 1).expand(places.shape[0])


def _visual(
    plan: Plan,
    rows: int,
    real: torch.Tensor | None,
    device: torch.device,
    placeholders: torch.Tensor | None,
) -> torch.Tensor:
    """(B, V) positions of the visual tokens: as the caller says, else by placeholder, else as planned."""
    schedule, expected = plan.schedule, plan.expected
    given: Boundaries = (
        schedule.text_before,
        expected.visual,
        schedule.text_tokens - schedule.text_before,
    )
    if plan.boundaries is not None:
        given = plan.boundaries
    elif placeholders is not None:
        given = placeholders
    if isinstance(given, torch.Tensor) and given.shape[1] != expected.prompt:
        raise ScheduleError(f"input_ids cover {given.shape[1]} tokens, the prompt has {expected.prompt}")
    if real is not None and not isinstance(given, torch.Tensor) and isinstance(given[0], int):
        given = _shorter_rows(given, real)
    visual = layout.visual_positions(rows, expected, boundaries=given, real=real, device=device)
    count = visual.shape[1]
    if count != expected.visual and (plan.boundaries is None or schedule.pre_llm_events):
        raise ScheduleError(
            f"the prompt has {count} visual tokens a row, the schedule was planned for {expected.visual}"
        )
    if isinstance(given, torch.Tensor):
        left = schedule.visual_tokens if schedule.pre_llm_events else count
        policies.check_policies(schedule, schedule.tokens[0] - left)
        if schedule.layer_events and count and bool((visual[:, -1] == expected.prompt - 1).any()):
            raise ScheduleError("the prompt must end in text: its last token yields the next one")
    return visual


def _shorter_rows(triple: tuple[int, int, int], real: torch.Tensor) -> list[tuple[int, int, int]]:
    """The triple for each row of a padded batch: the text after the visual tokens is what is shorter."""
    before, visual, _ = triple
    counts = real.sum(1).tolist()
    if min(counts) < before + visual:
        raise ScheduleError(
            f"a row of {min(counts)} tokens cannot hold {before} text and {visual} visual tokens: "
            "give boundaries row by row, or as a mask"
        )
    return [(before, visual, count - before - visual) for count in counts]


def _reduce(plan: Plan, kwargs: dict[str, Any], visual: torch.Tensor, extras: list[torch.Tensor]) -> Reduced:
    """Run the events before layer 0, and make the decoder's arguments fit the shorter prompt."""
    embeds = kwargs.get("inputs_embeds")
    if embeds is None:
        embeds = plan.family.decoder.get_input_embeddings()(kwargs["input_ids"])
    reduced = reduce_visuals(
        embeds,
        visual,
        plan.schedule,
        seed=plan.seed,
        extras=[gather_rows(extra, visual, 1) for extra in extras],
        tower=plan.tower,
    )
    if plan.tower is not None:
        plan.tower.forget()
    origin, mask, positions = reduced.origin, kwargs.get("attention_mask"), kwargs.get("position_ids")
    steps = torch.arange(embeds.shape[1], device=origin.device)
    kwargs["input_ids"], kwargs["inputs_embeds"] = None, reduced.embeds
    if mask is not None:
        kwargs["attention_mask"] = gather_mask(mask, origin) if mask.ndim == 4 else gather_rows(mask, origin, 1)
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
