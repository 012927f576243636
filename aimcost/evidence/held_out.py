"""Stack figures refitted without the rows that they are judged on.

A stack that three or more sources show has each source left out whole. One that fewer show is fitted on half of its
batch and prompt sizes and judged on the other half, both ways: that says nothing of another source, and is marked.
Only figures are held out. Which terms there are was decided with all rows in view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inputs import discover
from ..inputs.files import read_mapping
from ..inputs.run import Run, load_run
from ..inputs.stack import load_stack
from ..inputs.strict_json import canonical
from ..machine.fitting.stacks import FITTED, figures_of, fit_figures, with_figures
from ..pricing.host_queue import execution_order
from ..pricing.overhead import overheads
from ..pricing.priced import PricedTable
from ..pricing.pricing import estimate_run
from ..types import Figure, Stack
from ..types.stages import STAGES
from .timings import TPOT, Timing

__all__ = ["SOURCES_TO_LEAVE_OUT", "Refit", "held_out", "refit"]

Floats = NDArray[np.float64]
# Stacks with fewer sources are judged on half of their sizes.
SOURCES_TO_LEAVE_OUT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """Figures of one stack, fitted to some of its rows.

    Attributes
    ----------
    left_out
        A source, ``half A`` or ``half B`` (of the sizes); empty where all rows were fitted.
    shipped, figures
        By path in the stack file, in its units; empty for a stack without fitted figures.
    file
        The stack file with `figures`; empty where there are none.
    judged
        Ids of the rows that were left out.
    """

    stack: str
    left_out: str
    shipped: Mapping[str, float]
    figures: Mapping[str, float]
    file: Mapping[str, Any]
    judged: frozenset[str]


def held_out(timings: Sequence[Timing]) -> list[Refit]:
    """Every stack of `timings`, refitted without each part of its rows."""
    refits = []
    for stack in sorted({timing.stack for timing in timings}):
        rows = [timing for timing in timings if timing.stack == stack]
        model = _Model(stack, rows)
        for name, out in _splits(rows):
            refits.append(model.fit(name, np.array([out(timing) for timing in rows])))
    return refits


def refit(timings: Sequence[Timing]) -> list[Refit]:
    """Every stack of `timings` fitted to all of its rows: what ``configs/stacks`` ships."""
    stacks = sorted({timing.stack for timing in timings if FITTED.get(timing.stack)})
    models = [_Model(stack, [timing for timing in timings if timing.stack == stack]) for stack in stacks]
    return [model.fit("", np.zeros(len(model.rows), dtype=bool)) for model in models]


def _splits(rows: Sequence[Timing]) -> list[tuple[str, Callable[[Timing], bool]]]:
    sources = sorted({timing.group for timing in rows})
    if len(sources) >= SOURCES_TO_LEAVE_OUT:
        return [(source, lambda timing, source=source: timing.group == source) for source in sources]  # type: ignore[misc]
    return [("half A", _is_even), ("half B", lambda timing: not _is_even(timing))]


def _is_even(timing: Timing) -> bool:
    """Which half: log2 of the batch, or of the prompt of a single request, is even."""
    workload = timing.run.get("workload", {})
    batch = workload.get("batch", 1)
    size = batch if batch > 1 else workload.get("text_tokens", 0)
    return round(math.log2(max(1, size))) % 2 == 0


class _Model:
    """The rows of one stack as functions of its fitted figures."""

    def __init__(self, stack: str, rows: Sequence[Timing]) -> None:
        self.stack, self.rows = stack, rows
        self.figures = FITTED.get(stack, ())
        self.data = {"name": stack, **read_mapping(discover.find("stack", stack))} if self.figures else {}
        self.start = figures_of(stack, self.data)
        self.parts = _decomposed(stack, self.data, rows) if self.figures else []

    def fit(self, name: str, out: NDArray[np.bool_]) -> Refit:
        """Without the rows that `out` marks."""
        x = self.start
        if self.figures and not out.all():
            fitted = [row for row, left in zip(self.rows, out, strict=True) if not left]
            parts = [part for part, left in zip(self.parts, out, strict=True) if not left]
            x = fit_figures(
                self.figures,
                self.start,
                lambda x: np.array([part.seconds(x - self.start) for part in parts]),
                np.array([row.value_s for row in fitted]),
                [row.group for row in fitted],
                np.array([row.weight for row in fitted]),
            )
        return Refit(
            stack=self.stack,
            left_out=name,
            shipped={figure.path: float(value) for figure, value in zip(self.figures, self.start, strict=True)},
            figures={figure.path: float(value) for figure, value in zip(self.figures, x, strict=True)},
            file=with_figures(self.stack, self.data, x),
            judged=frozenset(row.id for row, left in zip(self.rows, out, strict=True) if left),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decomposed:
    """Seconds of one timing: linear in the figures' changes, but for stretches that host or device may bound.

    Attributes
    ----------
    linear
        Value, and derivative by each figure, shape (1 + figures,).
    queues
        (sign, candidates) of the finish time of a stretch: the largest of its candidates, each linear in the
        figures, shape (1 + figures, rows).
    """

    linear: Floats
    queues: tuple[tuple[float, Floats], ...]
    per: float

    def seconds(self, change: Floats) -> float:
        """With the figures changed."""
        at = np.concatenate([[1.0], change])
        return float(at @ self.linear + sum(sign * (at @ each).max() for sign, each in self.queues)) / self.per


def _decomposed(stack: str, data: Mapping[str, Any], rows: Sequence[Timing]) -> list[_Decomposed]:
    """Every row priced once as the file says, and once with each figure moved."""
    start = figures_of(stack, data)
    steps = np.maximum(0.1 * np.abs(start), 0.05)
    files = [dict(data)]
    for index, step in enumerate(steps):
        moved = start.copy()
        moved[index] += step
        files.append(with_figures(stack, data, moved))
    stacks: dict[str, list[Stack]] = {}
    known: dict[str, _Slopes] = {}
    found = []
    for timing in rows:
        key = canonical(timing.run)
        if key not in known:
            run = load_run({**timing.run, "stack": stack})
            architecture = run.hardware.architecture if run.hardware is not None else ""
            if architecture not in stacks:
                stacks[architecture] = [load_stack(file, architecture) for file in files]
            known[key] = _slopes(run, stacks[architecture], steps)
        found.append(_parts(known[key], timing))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slopes:
    """A priced run, by row the value and the derivatives by each figure, shape (1 + figures, rows).

    `added` is what the stack adds beside each stage, shape (1 + figures,).
    """

    priced: PricedTable
    device: Floats
    last: Floats
    host: Floats
    added: Mapping[str, Floats]


def _slopes(run: Run, stacks: Sequence[Stack], steps: Floats) -> _Slopes:
    first = stacks[0]
    base = estimate_run(replace(run, stack=first)).priced

    def columns(stack: Stack) -> tuple[Floats, ...]:
        # with the same kernels and launches, only what the stack adds beside them moves
        priced = base if _bare(stack) == _bare(first) else estimate_run(replace(run, stack=stack)).priced
        added = dict.fromkeys(STAGES, 0.0)
        for each in overheads(replace(run, stack=stack), base.table.steps):
            added[each.beside] += each.seconds.value
        last = _device(priced) if priced.after_issue_seconds is None else priced.after_issue_seconds
        return _device(priced), last, _host(priced), np.array(list(added.values()))

    values = [columns(stack) for stack in stacks]
    device, last, host, added = (
        np.stack([own[0], *((each - own[0]) / step for each, step in zip(own[1:], steps, strict=True))])
        for own in zip(*values, strict=True)
    )
    return _Slopes(priced=base, device=device, last=last, host=host, added=dict(zip(STAGES, added.T, strict=True)))


def _bare(stack: Stack) -> Stack:
    """The stack without what it adds beside the operations."""
    none = Figure()
    return replace(
        stack, request_s=none, per_image_s=0.0, per_frame_s=0.0, step_s=none, per_sequence_s=0.0, attention_map_s=none
    )


def _device(priced: PricedTable) -> Floats:
    return priced.seconds if priced.device_seconds is None else priced.device_seconds


def _host(priced: PricedTable) -> Floats:
    return np.zeros_like(priced.seconds) if priced.host_seconds is None else priced.host_seconds


def _parts(slopes: _Slopes, timing: Timing) -> _Decomposed:
    """The interval of one timing: stretches of rows between host syncs, and what the stack adds beside them."""
    base, device, host = slopes.priced, slopes.device, slopes.host
    columns = np.stack([device, slopes.last, host])
    table = base.table
    wanted = ("decode",) if timing.stages == TPOT else timing.stages
    included = base.rows(wanted)
    linear = np.sum([slopes.added[stage] for stage in wanted], axis=0)
    queues: list[tuple[float, Floats]] = []
    order, decode = execution_order(table)
    syncs = np.zeros(len(table), dtype=bool) if base.waits is None else base.waits
    for part in (order[~decode[order]], order[decode[order]]):
        for stretch in np.split(part, np.flatnonzero(syncs[part]) + 1):
            inside = included[stretch]
            if not inside.any():
                continue
            if not host[:, stretch].any():
                linear += device[:, stretch][:, inside].sum(axis=1)
                continue
            edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
            for first, last in edges.reshape(-1, 2):
                queues.append((1.0, _ending(*columns[:, :, stretch[:last]])))
                if first:
                    queues.append((-1.0, _ending(*columns[:, :, stretch[:first]])))
    per = float(table.steps) if timing.stages == TPOT else 1.0
    return _Decomposed(linear=linear, queues=tuple(queues), per=per)


def _ending(device: Floats, last: Floats, host: Floats) -> Floats:
    """Finish time of a stretch of rows, as in `aimcost.pricing.host_queue.with_host`: the latest of these.

    All work, one row after another; or row j issued, what is left of it then, and the work after it.
    """
    whole = device.sum(axis=1, keepdims=True)
    after = whole - np.cumsum(device, axis=1)
    candidates: Floats = np.concatenate([np.cumsum(host, axis=1) + last + after, whole], axis=1)
    return candidates
