"""What a schedule expects of a prompt, and where the visual tokens of one lie.

Shapes: B rows, P prompt tokens (padding included), V visual tokens in each row.
Padding is neither visual nor ever dropped, so that every row keeps the same number of tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import InvalidValueError, ScheduleError
from ..types import Schedule

__all__ = [
    "Boundaries",
    "Expectation",
    "Observed",
    "check_boundaries",
    "check_schedule",
    "equal_counts",
    "marked_positions",
    "observe",
    "padding_of",
    "run_lengths",
    "triple_positions",
]

Triple = tuple[int, int, int]
Boundaries = Triple | Sequence[Triple] | torch.Tensor
MOST_RUNS = 256
"""Runs of visual tokens whose lengths are told: images of InternVL, and frames, each of which is one."""


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
    events = [event for event in schedule.pre_llm_events if event.tower_layer is None]
    loose = schedule.newline_tokens
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


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one look at a prompt's values tells: the only ones that the host waits for.

    Attributes
    ----------
    counts
        Visual tokens of each row; None where nothing marks them.
    tokens
        Real tokens of each row.
    ends_visual
        Whether the last real token of any row is visual.
    first, runs
        Tokens of each row before its first visual one, and how many runs of visual tokens it holds; empty where
        nothing marks them.
    grids
        The numbers of each tensor that was to be read with them.
    """

    counts: tuple[int, ...] | None
    tokens: tuple[int, ...]
    ends_visual: bool
    first: tuple[int, ...] = ()
    runs: tuple[int, ...] = ()
    grids: tuple[tuple[int, ...], ...] = ()


def observe(
    rows: int,
    prompt: int,
    *,
    marks: torch.Tensor | None,
    real: torch.Tensor | None,
    grids: Sequence[torch.Tensor] = (),
) -> Observed:
    """Read what decides about a prompt, in one copy to the host; nothing is read where nothing is asked.

    Parameters
    ----------
    marks
        (B, P) True at visual tokens.
    real
        (B, P) True where a token is no padding.
    """
    parts = []
    if marks is not None:
        begins = marks[:, 1:] & ~marks[:, :-1]
        last = marks[:, -1] if real is None else marks.gather(1, _last(real)[:, None])
        parts += [marks.sum(1), last.any()[None], marks.int().argmax(1), begins.sum(1) + marks[:, 0]]
    if real is not None:
        parts.append(real.sum(1))
    parts += [grid.flatten() for grid in grids]
    if not parts:
        return Observed(counts=None, tokens=(prompt,) * rows, ends_visual=False)
    numbers = iter(torch.cat([part.to(parts[0].device, torch.long) for part in parts]).tolist())

    def take(count: int) -> tuple[int, ...]:
        return tuple(itertools.islice(numbers, count))

    counts, ends, first, runs = None, False, (), ()
    if marks is not None:
        counts, ends, first, runs = take(rows), bool(next(numbers)), take(rows), take(rows)
    return Observed(
        counts=counts,
        tokens=take(rows) if real is not None else (prompt,) * rows,
        ends_visual=ends,
        first=first,
        runs=runs,
        grids=tuple(take(grid.numel()) for grid in grids),
    )


def run_lengths(marks: torch.Tensor) -> torch.Tensor:
    """(B, `MOST_RUNS`) lengths of each row's runs of marks (B, P), 0 beyond them; further runs count to the last."""
    begins = marks.clone()
    begins[:, 1:] &= ~marks[:, :-1]
    run = (begins.long().cumsum(1) - 1).clamp_(0, MOST_RUNS - 1)
    return torch.zeros(marks.shape[0], MOST_RUNS, dtype=torch.long, device=marks.device).scatter_add_(
        1, run, marks.long()
    )


def _last(real: torch.Tensor) -> torch.Tensor:
    """(B,) the place of each row's last real token."""
    return (real * torch.arange(real.shape[1], device=real.device)).argmax(1)


def equal_counts(counts: Sequence[int]) -> int:
    """The visual tokens of every row.

    Raises
    ------
    ScheduleError
        Rows that hold different numbers of them.
    """
    if len(set(counts)) > 1:
        raise ScheduleError(f"every row needs the same number of visual tokens (got {list(counts)}): split the batch")
    return counts[0]


def marked_positions(marks: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending positions (B, count) of a (B, P) mask with `count` marks in every row."""
    return (~marks).int().argsort(dim=1, stable=True)[:, :count]


def triple_positions(
    rows: int,
    boundaries: Triple | Sequence[Triple],
    *,
    prompt: int,
    real: torch.Tensor | None,
    observed: Observed,
    device: torch.device,
) -> torch.Tensor:
    """Ascending positions (B, V) of the visual tokens that one triple, or one a row, says.

    Triples count from the first real token of a row, so that left padding shifts them. One triple for a padded
    batch holds for every row: the text after the visual tokens is what is shorter.

    Raises
    ------
    ScheduleError
        Rows that do not cover the prompt, or that hold different numbers of visual tokens.
    """
    one = isinstance(boundaries[0], int)
    if one and real is None:
        # No value travels to the device here, so that a CUDA graph can record it.
        start, count, after = boundaries
        if start + count + after != prompt:
            raise ScheduleError(f"boundaries do not cover the prompt of {prompt} tokens")
        return torch.arange(start, start + count, device=device).expand(rows, -1)
    triples = [_fitted(boundaries, tokens) for tokens in observed.tokens] if one else list(boundaries)
    if len(triples) != rows:
        raise ScheduleError(f"boundaries are given for {len(triples)} rows, the batch has {rows}")
    if real is None and any(sum(triple) != prompt for triple in triples):
        raise ScheduleError(f"boundaries do not cover the prompt of {prompt} tokens")
    count = equal_counts([triple[1] for triple in triples])
    if real is not None and any(
        before + visual > tokens for (before, visual, _), tokens in zip(triples, observed.tokens, strict=True)
    ):
        raise ScheduleError("boundaries reach into padding: give them row by row, or as a mask")
    first = torch.zeros(rows, dtype=torch.long, device=device) if real is None else real.int().argmax(1)
    before = torch.tensor([triple[0] for triple in triples], device=device)
    return (first + before)[:, None] + torch.arange(count, device=device)


def _fitted(triple: Triple, tokens: int) -> Triple:
    before, visual, _ = triple
    if tokens < before + visual:
        raise ScheduleError(
            f"a row of {tokens} tokens cannot hold {before} text and {visual} visual tokens: "
            "give boundaries row by row, or as a mask"
        )
    return before, visual, tokens - before - visual


def padding_of(attention_mask: torch.Tensor | None, rows: int, prompt: int) -> torch.Tensor | None:
    """(B, P) True where a token is real, or None where no mask says anything.

    A 4D mask, boolean or additive, hides padding from its last query.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim not in (2, 4):
        return None
    real = attention_mask
    if real.ndim == 4:
        real = real[:, 0, -1].expand(rows, -1)
        real = real if real.dtype == torch.bool else real >= 0
    real = real.bool()
    if real.shape != (rows, prompt):
        raise ScheduleError(f"attention_mask covers {tuple(real.shape)}, the prompt is {(rows, prompt)}")
    return real
