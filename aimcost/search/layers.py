"""A run with one layer for every case: one estimate of it is a table, and no formula is written twice.

Two kinds of table are read off it, since no one table answers both questions. A sum (`aimcost.search.bulk`, for sweeps)
looks up schedules of any of N counts: device seconds alone, a cut from a to b as f(a) + g(b), 3·N entries. A queue
(`aimcost.search.plan.blocks`) carries the host's lead from layer to layer, which is no sum, and with it memory and the
band: a block for each pair (a, b) that is named beforehand, since N counts have N² of them. The explorer's tables
(`aimcost.search.explorer.tables`) hold single operations, for a page that queues them itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidValueError, ScheduleError
from ..inputs.run import Run
from ..pricing.pricing import estimate_run
from ..pricing.result import Estimate
from ..pricing.table import NO_LAYER
from ..types import ReductionEvent

__all__ = ["WIDE", "Pair", "PricedLayers", "price_layers", "with_layers"]

WIDE = "linear layers in 16 bit beside quantized ones"

# Tokens that a layer computes on, and those that are left after it.
Pair = tuple[int, int]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PricedLayers:
    """An estimate whose layers are the pairs, in order; `stage` is the one that is looked at."""

    pairs: tuple[Pair, ...]
    estimate: Estimate
    stage: Literal["prefill", "decode"] = "prefill"

    @cached_property
    def _inside(self) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = self.estimate.table.layer != NO_LAYER
        return inside & self.estimate.rows([self.stage])

    def by_pair(self, values: NDArray[np.float64], group: str = "") -> NDArray[np.float64]:
        """Sums over the rows of each layer, or over those of one group of operations."""
        rows = self._inside
        if group:
            rows = rows & self.estimate.table.spread(
                [segment.group == group for segment in self.estimate.table.segments]
            )
        layer = self.estimate.table.layer[rows]
        return np.asarray(np.bincount(layer, values[rows], len(self.pairs)), dtype=np.float64)

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Rows of the stage that belong to no layer: embedding and lm_head."""
        return self.estimate.rows([self.stage]) & ~self._inside

    @cached_property
    def in_order(self) -> tuple[Rows, Rows, Rows]:
        """Rows in execution order: before the layers (the whole prompt, for prefill), in them, after them."""
        order, decode = self.estimate.table.order, self.estimate.table.decode
        rows = order[decode[order] == (self.stage == "decode")]
        at = np.flatnonzero(self._inside[rows])
        if not len(at):
            return rows, rows[:0], rows[:0]
        first, last = int(at[0]), int(at[-1]) + 1
        return rows[:first], rows[first:last], rows[last:]


def with_layers(run: Run, pairs: Sequence[Pair], scorer: str) -> Run:
    """The run on a model with a layer for each of `pairs`, and a cut after it where the two differ."""
    cuts = tuple(
        ReductionEvent(action="prune", scorer=scorer, after_layer=i, tokens_in=before, tokens_out=after)
        for i, (before, after) in enumerate(pairs)
        if after < before
    )
    schedule = replace(
        run.schedule, tokens=tuple(before for before, _ in pairs), events=(*run.schedule.pre_llm_events, *cuts)
    )
    decoder = replace(run.model.decoder, layers=len(pairs))
    # what is left in 16 bit is the same in every layer
    wide = tuple((i, op, size) for layer, op, size in run.precision.wide if not layer for i in range(len(pairs)))
    precision = replace(run.precision, wide=wide)
    return replace(run, model=replace(run.model, decoder=decoder), schedule=schedule, precision=precision)


def _variety(run: Run) -> str:
    """What tells a run's decoder layers apart; empty where they are alike."""
    found = {(layer, op) for layer, op, _ in run.precision.wide}
    every = {(layer, op) for _, op in found for layer in range(run.model.decoder.layers)}
    return run.model.decoder.variety or ("" if found == every else WIDE)


def price_layers(run: Run, pairs: Sequence[Pair], scorer: str, *, purpose: str) -> PricedLayers:
    """Price the run `with_layers`.

    Parameters
    ----------
    purpose
        Who asks, for messages.

    Raises
    ------
    InvalidValueError, ScheduleError
        Cross attention or several kinds of layer, or pipeline stages: layers are then not alike.
    """
    unlike = _variety(run)
    if unlike:
        raise ScheduleError(f"{purpose} needs uniform decoder layers: {run.model.name} has {unlike}")
    if run.parallel.pp > 1:
        raise InvalidValueError("parallel.pp", f"1 for {purpose}", run.parallel.pp)
    return PricedLayers(tuple(pairs), estimate_run(with_layers(run, pairs, scorer)))
