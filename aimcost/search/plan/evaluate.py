"""Figures of many candidates at once, from the tables of their base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .band import Rows
from .blocks import Blocks, Tables

__all__ = ["Figures", "after_tail", "evaluate", "highest_memory", "root_of", "upper_seconds", "visual_of"]

Floats = NDArray[np.float64]
Counts = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Figures:
    """One entry a candidate.

    Attributes
    ----------
    ttft, tpot
        Seconds to the first token, and of a mean decode step.
    flops, kv, peak
        FLOPs of the included stages, bytes of the cache, bytes of peak memory.
    kept, depth
        Sums over layers: visual tokens, and the root of the share of the first layer's (feature x2
        of `aimcost.search.plan.accuracy`, times layers).
    """

    ttft: Floats
    tpot: Floats
    flops: Floats
    kv: Floats
    peak: Floats
    kept: Floats
    depth: Floats


def evaluate(t: Tables, text: int, blocks: Counts) -> Figures:
    """Figures of schedules given as blocks, shape (candidates, layers)."""
    size = len(blocks)
    end, issued = np.full(size, t.start[1]), np.full(size, t.start[0])
    held, peak = np.zeros(size), np.full(size, t.elsewhere_bytes)
    for layer in blocks.T:
        end = np.maximum(end + t.prefill.work[layer], issued + t.prefill.wait[layer])
        issued = t.prefill.sent(layer, issued, end)
        held += t.prompt_kv[layer]
        peak = np.maximum(peak, held + t.alive[layer])
    tpot = np.zeros(size)
    if t.decode is not None:
        late, sent = np.full(size, t.decode_start[1]), np.full(size, t.decode_start[0])
        for layer in blocks.T:
            late = np.maximum(late + t.decode.work[layer], sent + t.decode.wait[layer])
            sent += t.decode.issue[layer]
        tpot = _decoded(t, late, sent)
    visual = visual_of(t, text)
    kv = t.kv[blocks].sum(axis=1)
    return Figures(
        ttft=after_tail(t.tail, end, issued) - t.left_out_s,
        tpot=tpot,
        flops=t.flops[blocks].sum(axis=1) + t.fixed_flops,
        kv=kv,
        peak=highest_memory(t, peak, held, kv),
        kept=visual[blocks].sum(axis=1),
        depth=root_of(visual)[blocks].sum(axis=1),
    )


def after_tail(tail: Blocks | None, end: Floats, issued: Floats) -> Floats:
    """The end once what follows the last layer is done."""
    if tail is None:
        return end
    later: Floats = np.maximum(end + tail.work[0], issued + tail.wait[0])
    return later


def _decoded(t: Tables, end: Floats, issued: Floats) -> Floats:
    return np.asarray((after_tail(t.decode_tail, end, issued) + t.decode_added_s) / t.steps)


def highest_memory(t: Tables, peak: Floats, held: Floats, kv: Floats) -> Floats:
    """Peak memory: `peak` and `held` while the prompt is processed, `kv` the cache at the end.

    The first two count what the prompt adds to the cache alone.
    """
    peak = np.maximum(peak, held + t.head_bytes) + t.cached_bytes
    if t.decode_bytes is not None:
        peak = np.maximum(peak, kv + t.decode_bytes)
    return np.asarray(peak + t.weights_bytes)


def visual_of(t: Tables, text: int) -> Floats:
    """Visual tokens of each block."""
    counts = np.array([before for before, _ in t.pairs], dtype=np.float64)
    return np.asarray(np.maximum(counts - text, 0.0))


def root_of(visual: Floats) -> Floats:
    """The root of each block's share of the most visual tokens."""
    return np.sqrt(visual / max(float(visual.max()), 1.0))


def upper_seconds(t: Tables, blocks: Counts, spread: float) -> Floats:
    """Upper end of the band of each candidate's time to first token.

    The same sums as `aimcost.pricing.result.Band.around`: errors are shared inside a group of operations
    and independent between groups. `spread` scales the distance from the middle.
    """
    rows, tail = t.rows, t.tail_rows
    if rows is None or tail is None:
        raise ValueError("priced without a band")
    size = len(blocks)
    end, issued = np.full(size, t.start[1]), np.full(size, t.start[0])
    middle = rows.head_s - end
    above = rows.head_above[:, None] + _busy_above(rows) @ _times(blocks, len(t.pairs)).T
    above += _busy_above(tail)
    last = np.zeros(size, dtype=np.int64)
    for part, step, layers in ((rows, t.prefill, blocks.T), (tail, t.tail, [last])):
        queue = _Queue.of(part)
        for layer in layers:
            lead = end - issued
            waits = np.flatnonzero(lead < queue.busy_from[layer])
            if len(waits):
                above[:, waits] += queue.waiting(layer[waits], lead[waits])
            end = np.maximum(end + step.work[layer], issued + step.wait[layer])
            issued = step.sent(layer, issued, end)
    middle = middle + end
    squares = np.square(above).sum(axis=0) + np.square(rows.scale_above * middle)
    return np.asarray(middle + spread * np.sqrt(squares))


def _times(blocks: Counts, count: int) -> Floats:
    """How often each block occurs, shape (candidates, blocks)."""
    size = len(blocks)
    cells = blocks + count * np.arange(size)[:, None]
    times = np.bincount(cells.ravel(), minlength=size * count)
    return np.asarray(times.reshape(size, count), dtype=np.float64)


def _by_group(rows: Rows) -> Floats:
    """[group, operation]: 1 where the operation is of the group."""
    return np.asarray(rows.group == np.arange(len(rows.head_above))[:, None], dtype=np.float64)


def _busy_above(rows: Rows) -> Floats:
    """[group, block]: what the upper end adds to a block in which the device never waits."""
    return np.asarray(_by_group(rows) @ (rows.work * rows.above))


@dataclass(frozen=True, slots=True)
class _Queue:
    """Blocks operation by operation, as `aimcost.pricing.host_queue` runs them; arrays are [operation, block].

    A block that starts with the device `lead` seconds behind the host finishes operation r at
    ``done[r] + max(lead, ready[r])``, counted from when the host starts to issue it.
    """

    rows: Rows
    done: Floats
    ready: Floats
    busy: Floats
    groups: Floats

    @classmethod
    def of(cls, rows: Rows) -> _Queue:
        """The queue of each block."""
        done = np.cumsum(rows.work, axis=0)
        ready = np.maximum.accumulate(np.cumsum(rows.issue, axis=0) + rows.last - done, axis=0)
        return cls(rows=rows, done=done, ready=ready, busy=_busy_above(rows), groups=_by_group(rows))

    @property
    def busy_from(self) -> Floats:
        """By block: the lead from which the device never waits."""
        return np.asarray(self.ready[-1])

    def waiting(self, block: Counts, lead: Floats) -> Floats:
        """[group, cell]: what the upper end adds beyond that of busy blocks."""
        rows = self.rows
        finished = self.done[:, block] + np.maximum(lead, self.ready[:, block])
        spent = np.diff(finished, axis=0, prepend=lead[None])
        waits = spent > 1.05 * rows.work[:, block]
        added = self.groups @ np.where(waits, 0.0, spent * rows.above[:, block])
        added[rows.host_group] += np.where(waits, spent * rows.above_waiting[:, block], 0.0).sum(axis=0)
        return np.asarray(added - self.busy[:, block])
