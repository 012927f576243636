"""The free form, evaluated in halves: the upper levels from the start, the lower ones up to the end.

A layer takes the state (end, issued) of device and host to ``end' = max(end + work, issued + wait)``,
``issued' = issued + issue``, or to ``issued' = end'`` where the host waits for the device. Two such
steps in a row are one again, so whole stretches of layers are priced once: C(25, 4) ways through each
half in place of C(28, 7) schedules of eight levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..compositions import compositions
from .blocks import Blocks, Tables
from .evaluate import Figures, highest_memory, root_of, visual_of

__all__ = ["LevelTables", "level_tables"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Step:
    """What layers in a row do to (end, issued), one entry a way; x_y is what y is later than x was, at least.

    ``end' = max(end + end_end, issued + issued_end)``, and issued' likewise: linear in (max, +).
    """

    end_end: Floats
    issued_end: Floats
    end_issued: Floats
    issued_issued: Floats

    @classmethod
    def none(cls, size: int) -> _Step:
        """The steps that change nothing."""
        never = np.full(size, -np.inf)
        return cls(np.zeros(size), never, never, np.zeros(size))

    def then(self, other: _Step) -> _Step:
        """One step in place of two."""
        return _Step(
            np.maximum(self.end_end + other.end_end, self.end_issued + other.issued_end),
            np.maximum(self.issued_end + other.end_end, self.issued_issued + other.issued_end),
            np.maximum(self.end_end + other.end_issued, self.end_issued + other.issued_issued),
            np.maximum(self.issued_end + other.end_issued, self.issued_issued + other.issued_issued),
        )

    def after(self, start: tuple[float, float], ways: slice) -> tuple[Floats, Floats]:
        """(issued, end) of some of the ways from a state (issued, end)."""
        issued, end = start
        return (
            np.maximum(end + self.end_issued[ways], issued + self.issued_issued[ways]),
            np.maximum(end + self.end_end[ways], issued + self.issued_end[ways]),
        )


def _repeated(blocks: Blocks, index: Indices, times: Floats) -> _Step:
    """Each block as often as `times` says.

    Idle first, k of them end ``wait + (k − 1) · max(work, issue)`` after the first is issued; where each
    waits for the one before, ``wait + (k − 1) · max(work, wait)``.
    """
    work, issue, wait, sync = blocks.work[index], blocks.issue[index], blocks.wait[index], blocks.sync[index]
    some, more = times > 0, times - 1
    end = np.where(sync & some, work + more * np.maximum(work, wait), times * work)
    idle = np.where(some, wait + more * np.maximum(work, np.where(sync, wait, issue)), -np.inf)
    return _Step(end, idle, np.where(sync & some, end, -np.inf), np.where(sync & some, idle, times * issue))


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Layers in a row; one entry a way to choose their levels.

    Attributes
    ----------
    prefill, decode
        The step that they are, in the prompt and in all decode steps together.
    flops, kv, kept, depth
        Sums over the layers, as in `Figures`.
    held, peak
        Cache after the prompt, and the highest sum of cache (from 0) and activations on the way.
    """

    prefill: _Step
    decode: _Step
    flops: Floats
    kv: Floats
    kept: Floats
    depth: Floats
    held: Floats
    peak: Floats

    @classmethod
    def none(cls, size: int) -> _Stretch:
        """Stretches without a layer."""
        zero = np.zeros(size)
        never = np.full(size, -np.inf)
        return cls(_Step.none(size), _Step.none(size), zero, zero, zero, zero, zero, never)

    def then(self, t: Tables, text: int, index: Indices, times: NDArray[np.integer]) -> _Stretch:
        """With each block of `index` behind it, as often as `times` says."""
        number = times.astype(np.float64)
        visual = visual_of(t, text)
        held = self.held + number * t.prompt_kv[index]
        decode = self.decode if t.decode is None else self.decode.then(_repeated(t.decode, index, number))
        return _Stretch(
            prefill=self.prefill.then(_repeated(t.prefill, index, number)),
            decode=decode,
            flops=self.flops + number * t.flops[index],
            kv=self.kv + number * t.kv[index],
            kept=self.kept + number * visual[index],
            depth=self.depth + number * root_of(visual)[index],
            held=held,
            peak=np.maximum(self.peak, np.where(times > 0, held + t.alive[index], -np.inf)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelTables:
    """Free shapes of a base: every non-increasing choice of levels, with `first` layers at the highest.

    Attributes
    ----------
    cut
        [i, j]: block of a layer at level i whose output is cut to j; j = i and the last column: of one
        that no cut follows.
    starts
        Position of the first candidate of each upper half, and their number at the end.
    upper_counts, lower_counts
        Layers at each level of a half.
    upper, lower
        Upper halves without their last block, which depends on what follows; lower halves with it.
    below
        What to add to a candidate's position to get its lower half, by upper half.
    """

    tables: Tables
    cut: Indices
    starts: Indices
    upper_counts: Indices
    lower_counts: Indices
    upper: _Stretch
    lower: _Stretch
    below: Indices

    def __len__(self) -> int:
        return int(self.starts[-1])

    def counts(self, positions: Indices) -> Indices:
        """Layers at each level of some candidates, shape (candidates, levels)."""
        half = np.searchsorted(self.starts, positions, side="right") - 1
        return np.concatenate([self.upper_counts[half], self.lower_counts[positions + self.below[half]]], axis=1)

    def blocks(self, positions: Indices) -> Indices:
        """Blocks layer by layer of some candidates."""
        counts, levels = self.counts(positions), len(self.cut)
        flat = np.repeat(np.tile(np.arange(levels), len(positions)), counts.ravel())
        level = flat.reshape(len(positions), -1)
        after = np.concatenate([level[:, 1:], np.full((len(level), 1), levels)], axis=1)
        return np.asarray(self.cut[level, after])

    def figures(self, start: int, stop: int) -> Figures:
        """Figures of the candidates from `start` up to `stop`."""
        t, stop = self.tables, min(stop, len(self))
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        halves = slice(int(first), int(last) + 1)
        bounds = np.clip(self.starts[halves.start : halves.stop + 1], start, stop)
        sizes = bounds[1:] - bounds[:-1]
        low = np.arange(start, stop) + np.repeat(self.below[halves], sizes)

        def both(upper: Floats, lower: Floats) -> Floats:
            # `low` is in range; the default mode copies through a buffer
            total = lower.take(low, mode="clip")
            total += upper.repeat(sizes)
            return total

        up, down = self.upper, self.lower
        issued, end = up.prefill.after(t.start, halves)
        ttft = np.maximum(both(end, down.prefill.end_end), both(issued, down.prefill.issued_end))
        tpot = np.zeros(len(low))
        if t.decode is not None:
            issued, end = up.decode.after(t.decode_start, halves)
            late = np.maximum(both(end, down.decode.end_end), both(issued, down.decode.issued_end))
            tpot = (late + t.decode_added_s) / t.steps
        held, kv = both(up.held[halves], down.held), both(up.kv[halves], down.kv)
        peak = np.maximum(np.repeat(up.peak[halves], sizes), both(up.held[halves], down.peak))
        return Figures(
            ttft=ttft - t.left_out_s,
            tpot=tpot,
            flops=both(up.flops[halves], down.flops) + t.fixed_flops,
            kv=kv,
            peak=highest_memory(t, np.maximum(peak, t.elsewhere_bytes), held, kv),
            kept=both(up.kept[halves], down.kept),
            depth=both(up.depth[halves], down.depth),
        )


def level_tables(
    t: Tables, counts: tuple[int, ...], text: int, *, layers: int, first: int, stride: int = 1
) -> LevelTables:
    """The tables of levels with these token counts, the first the fullest.

    Parameters
    ----------
    first
        At least one: layers that stay at the fullest level. The others go together in groups of `stride`.
    """
    index, levels = t.index, len(counts)
    cut = np.array([[index[a, b] if b < a else index[a, a] for b in (*counts, a)] for a in counts])
    free, split = (layers - first) // stride, levels // 2
    above = compositions(free, split + 1).all()
    upper_counts, left = above[:, :-1] * stride, above[:, -1]
    upper_counts[:, 0] += first
    upper, entered = _walk(t, text, cut, 0, upper_counts, np.full(len(above), -1))
    ways = [compositions(number, levels - split).all() for number in range(free + 1)]
    sizes = np.array([len(way) for way in ways])
    once = np.concatenate(ways) * stride
    lower_counts = np.tile(once, (split, 1))
    lower, leaving = _walk(t, text, cut, split, lower_counts, np.repeat(np.arange(split), len(once)))
    lower = _ended(lower.then(t, text, cut[leaving, levels], np.ones(len(leaving), dtype=np.int64)), t)
    starts = np.concatenate([[0], np.cumsum(sizes[left])])
    below = entered * len(once) + (np.cumsum(sizes) - sizes)[left] - starts[:-1]
    return LevelTables(
        tables=t,
        cut=cut,
        starts=starts,
        upper_counts=upper_counts,
        lower_counts=lower_counts,
        upper=upper,
        lower=lower,
        below=below,
    )


def _walk(
    t: Tables, text: int, cut: Indices, level: int, counts: Indices, entered: Indices
) -> tuple[_Stretch, Indices]:
    """Down the levels from `level` on: the layers but for the last one, and the level that it is at.

    Parameters
    ----------
    entered
        Level of the next layer to lower, −1 if none is left.
    """
    stretch, last = _Stretch.none(len(counts)), entered
    for column, times in enumerate(counts.T, start=level):
        used = times > 0
        stretch = stretch.then(t, text, cut[last, column], used & (last >= 0))
        stretch = stretch.then(t, text, np.full(len(counts), cut[column, column]), times - used)
        last = np.where(used, column, last)
    return stretch, last


def _ended(stretch: _Stretch, t: Tables) -> _Stretch:
    """With what follows the last layer."""
    one, only = np.ones(len(stretch.held)), np.zeros(len(stretch.held), dtype=np.int64)
    decode = stretch.decode
    if t.decode_tail is not None:
        decode = decode.then(_repeated(t.decode_tail, only, one))
    return replace(stretch, prefill=stretch.prefill.then(_repeated(t.tail, only, one)), decode=decode)
