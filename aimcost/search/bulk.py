"""Many schedules at once: a table of one layer's cost for every token count, then gathers.

A schedule's time is a sum over layers of a function of that layer's token count, so it can be
looked up. Time in which the device waits for launches is no such sum and is left out. The table is
made by the estimator itself, from one run whose layers take every count that is asked for, all from N down
to 1 by default: no formula is written twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InvalidValueError, ScheduleError
from ..inputs.run import Run
from .layers import Pair, PricedLayers, price_layers

__all__ = ["MAX_COUNTS", "MAX_TOKENS", "LayerTable", "layer_table"]

# Counts that are priced: each is a layer, which takes 9 kB while the table is made.
MAX_COUNTS = 1 << 16
# Entries of a column, of 8 bytes: counts that are not priced have theirs as well.
MAX_TOKENS = 1 << 21

# Gathers are written to a buffer that stays in the L2 cache; larger or smaller is slower. At most 2^16.
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Cost of one decoder layer by token count, of a cut, and of what lies outside the layers.

    Attributes
    ----------
    seconds, flops
        Entry n: prefill of one layer on n tokens (entry 0 is 0). No number where n was not asked for, nor up to the
        tokens of a cached prefix.
    cut_from, cut_to
        Seconds of scoring n tokens, and of keeping n: a cut from a to b adds
        ``cut_from[a] + cut_to[b]``. None where selection is free.
    fixed_s, fixed_flops
        Embedding and lm_head.
    """

    seconds: NDArray[np.float64]
    flops: NDArray[np.float64]
    fixed_s: float
    fixed_flops: float
    cut_from: NDArray[np.float64] | None = None
    cut_to: NDArray[np.float64] | None = None

    @property
    def max_tokens(self) -> int:
        """The largest token count in the table."""
        return len(self.seconds) - 1

    def prefill_seconds(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Seconds of each schedule's prefill.

        Parameters
        ----------
        tokens
            Whole numbers, shape (schedules, layers); uint16 is fastest.

        Raises
        ------
        InvalidValueError
            Not two dimensions of whole numbers, or counts outside 1 … `max_tokens`.
        """
        counts = self._checked(tokens)
        if self.cut_from is None or self.cut_to is None:
            return _gather_sum(self.seconds, counts) + self.fixed_s
        return _sum_with_cuts(self.seconds, self.cut_from, self.cut_to, counts) + self.fixed_s

    def prefill_flops(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """FLOPs of each schedule's prefill, selection left out; `tokens` as in `prefill_seconds`."""
        return _gather_sum(self.flops, self._checked(tokens)) + self.fixed_flops

    def _checked(self, tokens: ArrayLike) -> NDArray[np.integer]:
        counts = np.asarray(tokens)
        if counts.ndim != 2 or counts.dtype.kind not in "iu":
            raise InvalidValueError("tokens", "an integer array of shape (schedules, layers)", counts.dtype.name)
        if counts.size and not (counts.min() >= 1 and counts.max() <= self.max_tokens):
            found = f"{counts.min()} … {counts.max()}"
            raise InvalidValueError("tokens", f"from 1 to {self.max_tokens}", found)
        return np.ascontiguousarray(counts)


def layer_table(run: Run, max_tokens: int | None = None, counts: Collection[int] | None = None) -> LayerTable:
    """The table of a run's model, hardware, precision and estimator.

    Parameters
    ----------
    max_tokens
        The largest count to tabulate; by default the run's unreduced prompt.
    counts
        Token counts that a layer may have; all up to `max_tokens` by default.

    Raises
    ------
    InvalidValueError, ScheduleError
        More tokens than `MAX_TOKENS`, more counts than `MAX_COUNTS`, or a run whose layers cannot be priced one by one.
    """
    top = max_tokens if max_tokens is not None else run.workload.prompt_tokens
    if run.implementation != "fused":
        # which layers run eager, and on how much, then depends on the whole schedule
        raise InvalidValueError("implementation", "fused for a bulk table", run.implementation)
    low = _fewest(run)
    if not low <= top <= MAX_TOKENS:
        raise InvalidValueError("prompt tokens", f"from {low:,} to {MAX_TOKENS:,} for a bulk table", top)
    # a cut is a cost from its count to the fewest, and one from the whole prompt to its count: both are priced
    sizes = range(low, top + 1) if counts is None else sorted({low, top, *(n for n in counts if low <= n <= top)})
    if len(sizes) > MAX_COUNTS:
        raise InvalidValueError("schedules", f"of at most {MAX_COUNTS:,} token counts a layer", len(sizes))
    # the fullest first: what stands before the layers is of the whole prompt
    layers = _priced(run, [(n, n) for n in reversed(sizes)], "")
    estimate = layers.estimate

    def column(values: NDArray[np.float64]) -> NDArray[np.float64]:
        entries = np.full(top + 1, np.nan)
        entries[0] = 0.0
        entries[np.asarray(sizes)] = values
        return entries

    cut_from = cut_to = None
    scorers = {event.scorer for event in run.schedule.layer_events if event.selects}
    if len(scorers) > 1:
        raise ScheduleError("a bulk table needs one kind of selection, found: " + ", ".join(sorted(scorers)))
    if scorers:
        # what a cut costs is a function of the count before plus one of the count after
        scorer = scorers.pop()
        to_low = _cut_times(run, scorer, [(n, low) for n in sizes])
        from_top = _cut_times(run, scorer, [(top, n) for n in sizes])
        cut_from, cut_to = column(to_low), column(from_top - to_low[-1])
    return LayerTable(
        seconds=column(layers.by_pair(estimate.seconds)[::-1]),
        flops=column(layers.by_pair(estimate.table.flops)[::-1]),
        fixed_s=float(estimate.seconds[layers.outside].sum()),
        fixed_flops=float(estimate.priced.total_flops[layers.outside].sum()),
        cut_from=cut_from,
        cut_to=cut_to,
    )


def _fewest(run: Run) -> int:
    """The fewest tokens of a layer: one more than are cached; where visual tokens are, all that are not."""
    workload = run.workload
    return workload.prompt_tokens - workload.cached_tokens if workload.caches_visuals else workload.cached_tokens + 1


def _priced(run: Run, pairs: list[Pair], scorer: str) -> PricedLayers:
    """Layers of the prefill alone; waiting for the host is no sum over layers, so the table holds device time."""
    workload = replace(run.workload, frames=0, images=0, new_tokens=0)
    schedule = replace(run.schedule, events=())
    alone = replace(run, workload=workload, schedule=schedule, include=None, host_time=False)
    return price_layers(alone, pairs, scorer, purpose="a bulk table")


def _cut_times(run: Run, scorer: str, cuts: list[Pair]) -> NDArray[np.float64]:
    """Seconds of each cut; those from a count to itself are none."""
    priced = _priced(run, cuts, scorer)
    return priced.by_pair(priced.estimate.seconds, "selection")


def _gather_sum(table: NDArray[np.float64], counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Σ over layers of table[count]. A product with ones sums faster than a reduction."""
    schedules, layers = counts.shape
    total = np.empty(schedules)
    buffer, ones = np.empty((_CHUNK, layers)), np.ones(layers)
    for start in range(0, schedules, _CHUNK):
        part = counts[start : start + _CHUNK]
        values = buffer[: len(part)]
        table.take(part, out=values, mode="clip")
        np.dot(values, ones, out=total[start : start + len(part)])
    return total


def _sum_with_cuts(
    table: NDArray[np.float64],
    cut_from: NDArray[np.float64],
    cut_to: NDArray[np.float64],
    counts: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Σ over layers of table[count], and over the falls from a to b of cut_from[a] + cut_to[b].

    Layers of one count are priced together, once for each such run. Where the count changes more often than
    not, every step is taken for a cut (one gather of the sum of the tables) and the others are taken out again.
    """
    schedules, layers = counts.shape
    total = np.empty(schedules)
    every = table + cut_from + cut_to
    buffer, ones = np.empty((_CHUNK, layers)), np.ones(layers)
    # 16 bits a row: the chunk's numbers stay in the L2 cache
    marks, schedule = np.empty(_CHUNK * layers, dtype=bool), np.repeat(np.arange(_CHUNK, dtype=np.uint16), layers)
    for start in range(0, schedules, _CHUNK):
        part = counts[start : start + _CHUNK]
        size, flat = len(part), part.reshape(-1)
        mark, out = marks[: flat.size], total[start : start + size]
        # [i, l]: whether layer l is the last of its run; one comparison of the flat array is the fastest
        np.not_equal(flat[:-1], flat[1:], out=mark[:-1])
        after = mark.reshape(size, layers)
        after[:, -1] = True
        if 2 * np.count_nonzero(mark) > size * (layers + 1):
            values = buffer[:size]
            every.take(part, out=values, mode="clip")
            np.dot(values, ones, out=out)
            out -= cut_to.take(part[:, 0]) + cut_from.take(part[:, -1])
            np.less_equal(flat[:-1], flat[1:], out=mark[:-1])
            after[:, -1] = False
            step = np.flatnonzero(mark)
            cost = cut_from.take(flat.take(step))
            cost += cut_to.take(flat.take(step + 1))
            out -= np.bincount(schedule.take(step), cost, size)
        else:
            last = np.flatnonzero(mark)  # the last layer of each run, in the flat array
            count, row = flat.take(last).astype(np.intp), schedule.take(last)
            length = last.copy()
            length[1:] -= last[:-1]
            length[0] += 1
            cost = table.take(count)
            cost *= length
            falls = np.greater(count[:-1], count[1:])
            falls &= row[:-1] == row[1:]
            cut = cut_from.take(count[:-1])
            cut += cut_to.take(count[1:])
            cut *= falls
            cost[:-1] += cut
            out[:] = np.bincount(row, cost, size)
    return total
