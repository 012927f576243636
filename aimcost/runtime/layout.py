"""What a schedule expects of a prompt, and where the visual tokens of one lie.

Shapes: B rows, P prompt tokens (padding included), V visual tokens in each row.
Padding is neither visual nor ever dropped, so that every row keeps the same number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import InvalidValueError, ScheduleError
from ..types import Schedule

__all__ = [
    "Boundaries",
    "Expectation",
    "check_boundaries",
    "check_schedule",
    "padding_of",
    "visual_positions",
]

Triple = tuple[int, int, int]
Boundaries = Triple | Sequence[Triple] | torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Token counts of a prompt before anything is reduced: all of them, and the visual ones."""

    prompt: int
    visual: int


def check_schedule(schedule: Schedule, layers: int) -> Expectation:
    """Check that events and counts agree with each other and with a model of `layers` layers.

    Raises
    ------
    ScheduleError
        Layer counts, event order, or token counts that contradict each other.
    """
    if len(schedule.tokens) != layers:
        raise ScheduleError(f"the schedule has {len(schedule.tokens)} layers, the model has {layers}")
    _check_layer_events(schedule)
    _check_events_before(schedule)
    return Expectation(prompt=schedule.prompt_tokens, visual=schedule.prompt_visual_tokens)


def _check_layer_events(schedule: Schedule) -> None:
    last = len(schedule.tokens) - 1
    cuts = {}
    for event in schedule.layer_events:
        layer = event.after_layer
        if layer is None or not 0 <= layer < last:
            raise ScheduleError(f"an event after layer {layer} cuts nothing: allowed are 0 to {last - 1}")
        if layer in cuts:
            raise ScheduleError(f"two events after layer {layer}: one is allowed")
        if event.action != "prune":
            raise ScheduleError(f"after layer {layer}: only pruning is possible there (got {event.action!r})")
        cuts[layer] = event
    live = schedule.tokens[0]
    for layer, count in enumerate(schedule.tokens):
        if count != live:
            raise ScheduleError(f"layer {layer} is to compute on {count} tokens, but the events leave {live}")
        event = cuts.get(layer)
        if event is None:
            continue
        if event.tokens_in != live or not 1 <= event.tokens_out <= live:
            raise ScheduleError(
                f"after layer {layer}: keeping {event.tokens_out} of {event.tokens_in} tokens is not "
                f"possible with {live} live tokens (1 to {live} can be kept)"
            )
        live = event.tokens_out


def _check_events_before(schedule: Schedule) -> None:
    events, loose = schedule.pre_llm_events, schedule.newline_tokens
    if not events:
        return
    live = events[0].groups * events[0].tokens_in
    for event in events:
        if event.untouched:
            raise ScheduleError("before the language model: groups of several sizes are priced, not executed")
        if event.groups * event.tokens_in != live or not 0 <= event.tokens_out <= event.tokens_in:
            raise ScheduleError(
                f"before the language model: {event.groups} x {event.tokens_in} tokens to {event.tokens_out} "
                f"does not follow on {live}"
            )
        live = event.groups * event.tokens_out
    if live + loose != schedule.visual_tokens:
        raise ScheduleError(
            f"the events before the language model leave {live} + {loose} visual tokens, "
            f"the schedule says {schedule.visual_tokens}"
        )


def check_boundaries(boundaries: Boundaries | None, expected: Expectation) -> Boundaries | None:
    """Boundaries as one triple, a list of triples (one a row), or a boolean (B, P) tensor.

    Raises
    ------
    InvalidValueError, ScheduleError
        Not of that form, or they do not cover the prompt that the schedule was planned for.
    """
    if boundaries is None:
        return None
    if isinstance(boundaries, torch.Tensor):
        mask = boundaries if boundaries.ndim == 2 else boundaries[None]
        if mask.dtype != torch.bool or mask.ndim != 2:
            raise InvalidValueError("boundaries", "a boolean mask of shape (rows, prompt)", boundaries.shape)
        if mask.shape[1] != expected.prompt:
            found = mask.shape[1]
            raise ScheduleError(f"boundaries cover {found} tokens, the schedule's prompt {expected.prompt}")
        return mask
    rows = [boundaries] if boundaries and isinstance(boundaries[0], int) else list(boundaries)
    triples = [_triple(row) for row in rows]
    if not triples:
        raise InvalidValueError("boundaries", "(text before, visual, text after)", boundaries)
    for before, visual, after in triples:
        total = before + visual + after
        # Rows of a padded batch may be shorter than the prompt, never longer; a lone row is the prompt.
        if total > expected.prompt or (len(triples) == 1 and total != expected.prompt):
            raise ScheduleError(
                f"boundaries ({before}, {visual}, {after}) cover {total} tokens, "
                f"the schedule's prompt has {expected.prompt}"
            )
    if len({visual for _, visual, _ in triples}) > 1:
        raise ScheduleError("boundaries: every row needs the same number of visual tokens")
    return triples[0] if len(triples) == 1 else triples


def _triple(row: object) -> Triple:
    fits = isinstance(row, (tuple, list)) and len(row) == 3
    if not fits or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in row):
        raise InvalidValueError("boundaries", "three counts (text before, visual, text after)", row)
    return (row[0], row[1], row[2])


def padding_of(attention_mask: torch.Tensor | None, rows: int, prompt: int) -> torch.Tensor | None:
    """(B, P) True where a token is real, or None where nothing is known to be padding."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
        return None
    real = attention_mask.bool()
    if real.shape != (rows, prompt):
        raise ScheduleError(f"attention_mask covers {tuple(real.shape)}, the prompt is {(rows, prompt)}")
    return None if bool(real.all()) else real


def visual_positions(
    rows: int,
    expected: Expectation,
    *,
    boundaries: Boundaries,
    real: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor:
    """Ascending positions of each row's visual tokens, (B, V).

    Triples count from the first real token of a row, so that left padding shifts them.

    Raises
    ------
    ScheduleError
        Rows that do not cover the prompt, or that hold different numbers of visual tokens.
    """
    if isinstance(boundaries, torch.Tensor):
        return _from_mask(boundaries.to(device).expand(rows, -1))
    triples = [boundaries] * rows if isinstance(boundaries[0], int) else list(boundaries)
    if len(triples) != rows:
        raise ScheduleError(f"boundaries are given for {len(triples)} rows, the batch has {rows}")
    if real is None and any(sum(triple) != expected.prompt for triple in triples):
        raise ScheduleError(f"boundaries do not cover the prompt of {expected.prompt} tokens")
    if isinstance(boundaries[0], int) and real is None:
        # No value travels to the device here, so that a CUDA graph can record it.
        start, count, _ = boundaries
        return torch.arange(start, start + count, device=device).expand(rows, -1)
    first = torch.zeros(rows, dtype=torch.long, device=device) if real is None else real.int().argmax(1)
    before = torch.tensor([triple[0] for triple in triples], device=device)
    count = triples[0][1]
    positions = (first + before)[:, None] + torch.arange(count, device=device)
    if real is not None and not bool(real.gather(1, positions.clamp(max=real.shape[1] - 1)).all()):
        raise ScheduleError("boundaries reach into padding: give them row by row, or as a mask")
    return positions


def _from_mask(mask: torch.Tensor) -> torch.Tensor:
    counts = mask.sum(1)
    if int(counts.min()) != int(counts.max()):
        raise ScheduleError(
            f"every row needs the same number of visual tokens (got {counts.tolist()}): split the batch"
        )
    return mask.nonzero()[:, 1].view(mask.shape[0], -1)
