"""Figures of many candidates at once, from the tables of their stem."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .band import Rows
from .blocks import Blocks, Tables

__all__ = ["Figures", "LevelTables", "evaluate", "evaluate_levels", "level_blocks", "upper_seconds"]

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
    visual = _visual(t, text)
    kv = t.kv[blocks].sum(axis=1)
    return Figures(
        ttft=_after(t.tail, end, issued) - t.left_out_s,
        tpot=tpot,
        flops=t.flops[blocks].sum(axis=1) + t.fixed_flops,
        kv=kv,
        peak=_peak(t, peak, held, kv),
        kept=visual[blocks].sum(axis=1),
        depth=_root(visual)[blocks].sum(axis=1),
    )


def _after(tail: Blocks | None, end: Floats, issued: Floats) -> Floats:
    if tail is None:
        return end
    later: Floats = np.maximum(end + tail.work[0], issued + tail.wait[0])
    return later


def _decoded(t: Tables, end: Floats, issued: Floats) -> Floats:
    return np.asarray((_after(t.decode_tail, end, issued) + t.decode_added_s) / t.steps)


def _peak(t: Tables, peak: Floats, held: Floats, kv: Floats) -> Floats:
    peak = np.maximum(peak, held + t.head_bytes)
    if t.decode_bytes is not None:
        peak = np.maximum(peak, kv + t.decode_bytes)
    return np.asarray(peak + t.weights_bytes)


def _visual(t: Tables, text: int) -> Floats:
    counts = np.array([before for before, _ in t.pairs], dtype=np.float64)
    return np.asarray(np.maximum(counts - text, 0.0))


def _root(visual: Floats) -> Floats:
    return np.sqrt(visual / max(float(visual.max()), 1.0))


@dataclass(frozen=True, slots=True)
class LevelTables:
    """A stem's tables by level: entry [i] is a layer that stays at level i, [i, j] one whose output is cut to j.

    Column `levels` is the last used level (no cut follows), column `levels` + 1 a level not used.
    """

    tables: Tables
    plain: NDArray[np.int64]
    cut: NDArray[np.int64]
    sums: Floats
    extra: Floats

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return len(self.plain)


def level_blocks(t: Tables, counts: tuple[int, ...], text: int) -> LevelTables:
    """The tables of non-increasing levels with these token counts, the first the fullest."""
    index, levels = t.index, len(counts)
    plain = np.array([index[n, n] for n in counts])
    cut = np.zeros((levels, levels + 2), dtype=np.int64)
    for i, before in enumerate(counts):
        cut[i] = plain[i]
        for j in range(i + 1, levels):
            cut[i, j] = index[before, counts[j]]
    visual = _visual(t, text)
    sums = np.stack([t.flops[plain], t.kv[plain], visual[plain], _root(visual)[plain]], axis=1)
    extra = t.flops[cut] - t.flops[plain][:, None]
    extra[:, levels:] = 0.0
    return LevelTables(t, plain, cut, sums, extra)


def evaluate_levels(levels: LevelTables, counts: Floats) -> Figures:
    """Figures of schedules given as layers at each level, shape (candidates, levels).

    A run of k equal blocks is one step: idle first, it ends ``wait + (k − 1) · max(work, issue)``
    after its start.
    """
    t, number = levels.tables, levels.levels
    sums = counts @ levels.sums
    flops = sums[:, 0]
    after: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * number
    following = np.full(len(counts), number)
    used = counts > 0
    for i in range(number - 1, -1, -1):
        after[i] = np.where(used[:, i], following, number + 1)
        following = np.where(used[:, i], i, following)
    end, issued = np.full(len(counts), t.start[1]), np.full(len(counts), t.start[0])
    held, peak = np.zeros(len(counts)), np.full(len(counts), t.elsewhere_bytes)
    for i in range(number):
        block = levels.plain[i]
        flops = flops + levels.extra[i][after[i]]
        alone = counts[:, i] - used[:, i]
        end, issued = _run(t.prefill, block, alone, end, issued)
        last = levels.cut[i][after[i]]
        work, wait = t.prefill.work[last] * used[:, i], np.where(used[:, i], t.prefill.wait[last], -np.inf)
        end = np.maximum(end + work, issued + wait)
        issued = np.where(used[:, i], t.prefill.sent(last, issued, end), issued)
        held = held + counts[:, i] * t.prompt_kv[block]
        # within a level the cache only grows; a cut block may hold more activations than a plain one
        peak = np.maximum(peak, held + np.where(used[:, i], np.maximum(t.alive[last], 0.0), 0.0))
        if t.alive[levels.cut[i]].min() < t.alive[block]:
            peak = np.maximum(peak, np.where(alone > 0, held - t.prompt_kv[block] + t.alive[block], 0.0))
    return Figures(
        ttft=_after(t.tail, end, issued) - t.left_out_s,
        tpot=_decode_levels(levels, counts),
        flops=flops + t.fixed_flops,
        kv=sums[:, 1],
        peak=_peak(t, peak, held, sums[:, 1]),
        kept=sums[:, 2],
        depth=sums[:, 3],
    )


def _run(blocks: Blocks, block: int, times: Floats, end: Floats, issued: Floats) -> tuple[Floats, Floats]:
    """`times` equal blocks after one another."""
    work, issue, wait = blocks.work[block], blocks.issue[block], blocks.wait[block]
    moved = end + times * work
    if issue:
        idle = issued + (wait - max(work, issue)) + times * max(work, issue)
        moved = np.where(times > 0, np.maximum(moved, idle), moved)
    return moved, issued + times * issue


def _decode_levels(levels: LevelTables, counts: Floats) -> Floats:
    t = levels.tables
    if t.decode is None:
        return np.zeros(len(counts))
    end, issued = np.full(len(counts), t.decode_start[1]), np.full(len(counts), t.decode_start[0])
    for i in range(levels.levels):
        end, issued = _run(t.decode, levels.plain[i], counts[:, i], end, issued)
    return _decoded(t, end, issued)


def upper_seconds(t: Tables, blocks: Counts, spread: float) -> Floats:
    """Upper end of the band of each candidate's time to first token.

    The same sums as `aimcost.pricing.result.Band.around`: errors are shared inside a group of operations
    and independent between groups. `spread` scales the distance from the middle.
    """
    rows, tail = t.rows, t.tail_rows
    if rows is None or tail is None:
        raise ValueError("priced without a band")
    # a layer that never waits for the host is a sum; only the others are followed row by row
    work = t.prefill.work[blocks].sum(axis=1) + t.start[1]
    figures_end, issued = np.full(len(blocks), t.start[1]), np.full(len(blocks), t.start[0])
    for layer in blocks.T:
        figures_end = np.maximum(figures_end + t.prefill.work[layer], issued + t.prefill.wait[layer])
        issued = t.prefill.sent(layer, issued, figures_end)
    idle = _after(t.tail, figures_end, issued) > (work + t.tail.work[0]) * (1 + 1e-12)
    upper = np.empty(len(blocks))
    upper[~idle] = _upper_busy(rows, tail, blocks[~idle], spread)
    upper[idle] = _upper_idle(t, rows, tail, blocks[idle], spread)
    return upper


def _upper_busy(rows: Rows, tail: Rows, blocks: Counts, spread: float) -> Floats:
    """Where the device never waits: sums over layers of a table by group."""
    groups, count = len(rows.head_above), rows.work.shape[1]
    above = np.zeros((groups, count))
    np.add.at(above, rows.group, rows.work * rows.above)
    after = np.bincount(tail.group, (tail.work * tail.above)[:, 0], groups)
    middle = rows.head_s + rows.work.sum(axis=0)[blocks].sum(axis=1) + tail.work.sum()
    squares = np.zeros(len(blocks))
    for group in range(groups):
        squares += np.square(above[group][blocks].sum(axis=1) + after[group] + rows.head_above[group])
    squares += np.square(rows.scale_above * middle)
    return np.asarray(middle + spread * np.sqrt(squares))


def _upper_idle(t: Tables, rows: Rows, tail: Rows, blocks: Counts, spread: float) -> Floats:
    """Row by row, as `aimcost.pricing.host_queue.with_host` does."""
    size = len(blocks)
    end, issued = np.full(size, t.start[1]), np.full(size, t.start[0])
    middle = np.full(size, rows.head_s)
    above = np.repeat(rows.head_above[:, None], size, axis=1)
    last = np.zeros(size, dtype=np.int64)
    for part, steps, layers in ((rows, t.prefill, blocks.T), (tail, t.tail, [last])):
        for layer in layers:
            for row, group in enumerate(part.group):
                work = part.work[row][layer]
                issued = issued + part.issue[row][layer]
                later = np.maximum(end + work, issued + part.last[row][layer])
                spent, end = later - end, later
                waits = spent > 1.05 * work
                middle += spent
                above[group] += np.where(waits, 0.0, spent * part.above[row][layer])
                above[rows.host_group] += np.where(waits, spent * part.above_waiting[row][layer], 0.0)
            issued = np.where(steps.sync[layer], end, issued)
    squares = np.square(above).sum(axis=0) + np.square(rows.scale_above * middle)
    return np.asarray(middle + spread * np.sqrt(squares))
