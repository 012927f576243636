"""Estimate: an OpTable with a time on every row, and the sums that people ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inputs.run import Run
from ..summaries import step_range
from ..types.stages import STAGES
from .memory import Memory, memory_of
from .rows import json_form, layer_rows, op_rows
from .table import OpTable

__all__ = ["Band", "Estimate", "StageSum", "Totals"]

# A total is extrapolated where rows outside the measured range carry more of its time than this.
EXTRAPOLATED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class StageSum:
    """FLOPs, bytes and seconds of one stage. Decode adds its steps and the time of one."""

    flops: float
    bytes: float
    time_s: float
    steps: int = 0

    @property
    def tpot_s(self) -> float:
        """Mean seconds a decode step, zero where there is none."""
        return self.time_s / self.steps if self.steps else 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the stages included, with the band of the time."""

    flops: float
    bytes: float
    time_s: float
    time_low_s: float
    time_high_s: float | None
    extrapolated: bool


@dataclass(frozen=True, slots=True)
class Band:
    """Uncertainty of row times.

    Attributes
    ----------
    group
        Per row, which group its error is shared with (one a kind of operation): errors are fully
        correlated inside a group and independent between groups.
    low, high
        Per row, factors on its time at the two ends.
    """

    group: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def around(self, seconds: NDArray[np.float64]) -> tuple[float, float]:
        """The ends of the band of a sum of row times (zero for rows that are left out)."""
        total = float(seconds.sum())
        below, above = (
            math.sqrt(float(np.square(np.bincount(self.group, weights=seconds * distance)).sum()))
            for distance in (1.0 - self.low, self.high - 1.0)
        )
        return max(0.0, total - below), total + above


@dataclass(frozen=True)
class Estimate:
    """What a run costs. Row arrays are aligned with `table`; sums are made on demand.

    Attributes
    ----------
    seconds
        Time of each row, all its `count` runs together.
    bound
        Per row, an index into `aimcost.types.bounds.BOUNDS`.
    band
        None for a lower bound.
    extrapolated
        Per row, whether a dimension leaves the calibrated range.
    device_seconds, host_seconds
        Per row, the device's own time, and the host's for issuing it; None where not modelled.
    stages_priced
        Stages that this estimator prices.
    """

    run: Run
    estimator: str
    table: OpTable
    seconds: NDArray[np.float64]
    bound: NDArray[np.int64]
    band: Band | None = None
    extrapolated: NDArray[np.bool_] | None = None
    device_seconds: NDArray[np.float64] | None = None
    host_seconds: NDArray[np.float64] | None = None
    stages_priced: tuple[str, ...] = STAGES
    notes: tuple[str, ...] = ()

    @cached_property
    def _flops(self) -> NDArray[np.float64]:
        return self.table.flops * self.table.count

    @cached_property
    def _bytes(self) -> NDArray[np.float64]:
        return self.table.bytes * self.table.count

    @cached_property
    def included(self) -> tuple[str, ...]:
        """Stages in `totals`: those asked for, else all that were priced."""
        wanted = self.run.include if self.run.include is not None else STAGES
        return tuple(stage for stage in STAGES if stage in wanted and stage in self.stages_priced)

    def rows(self, stages: Iterable[str]) -> NDArray[np.bool_]:
        """Which rows belong to `stages`."""
        mask = np.zeros(len(self.table), dtype=bool)
        wanted = set(stages)
        for segment in self.table.segments:
            if segment.stage in wanted:
                mask[segment.start : segment.stop] = True
        return mask

    @cached_property
    def memory(self) -> Memory:
        """What the request keeps on the card; the same under every estimator."""
        run = self.run
        return memory_of(
            run.model,
            run.workload,
            run.computed,
            run.precision,
            run.hardware,
            attention=run.attention,
            implementation=run.implementation,
            parallel=run.parallel,
        )

    @cached_property
    def totals(self) -> Totals:
        """Sums over the included stages."""
        mask = self.rows(self.included)
        seconds = np.where(mask, self.seconds, 0.0)
        time_s = float(seconds.sum())
        low, high = (time_s, None) if self.band is None else self.band.around(seconds)
        return Totals(
            flops=float(self._flops[mask].sum()),
            bytes=float(self._bytes[mask].sum()),
            time_s=time_s,
            time_low_s=low,
            time_high_s=high,
            extrapolated=self._outside(seconds),
        )

    def _outside(self, seconds: NDArray[np.float64]) -> bool:
        """Whether rows beyond the measured range carry more than a little of these times."""
        if self.extrapolated is None:
            return False
        return bool(seconds[self.extrapolated].sum() > EXTRAPOLATED_SHARE * seconds.sum())

    @cached_property
    def stages(self) -> dict[str, StageSum]:
        """One sum a stage; zeros where a stage is absent."""
        sums = {}
        for stage in STAGES:
            mask = self.rows([stage])
            sums[stage] = StageSum(
                flops=float(self._flops[mask].sum()),
                bytes=float(self._bytes[mask].sum()),
                time_s=float(self.seconds[mask].sum()),
                steps=self.table.steps if stage == "decode" else 0,
            )
        return sums

    def matrix_flops(self, stages: Iterable[str], *, full_square: bool = False) -> float:
        """FLOPs of the matrix products alone, as papers and `torch.utils.flop_counter` count them.

        Scoring and other reduction operations are left out.
        """
        column, total = 1 if full_square else 0, 0.0
        wanted = set(stages)
        for segment in self.table.segments:
            if segment.stage in wanted and segment.kind in ("gemm", "attention", "bmm"):
                rows = slice(segment.start, segment.stop)
                total += float(self.table.costs[column, rows] @ self.table.count[rows])
        return total

    @property
    def ttft_s(self) -> float:
        """Time to first token: everything but decode, of what is included."""
        return sum(self.stages[stage].time_s for stage in self.included if stage != "decode")

    @cached_property
    def tpot_range_s(self) -> tuple[float, float]:
        """Seconds of the first and of the last decode step: each attends to one token more."""
        return step_range(self)

    @cached_property
    def tpot_band_s(self) -> tuple[float, float | None]:
        """The ends of the band of the mean decode step."""
        decode = self.stages["decode"]
        if self.band is None or not decode.steps:
            return decode.tpot_s, (None if self.band is None else decode.tpot_s)
        low, high = self.band.around(np.where(self.rows(["decode"]), self.seconds, 0.0))
        return low / decode.steps, high / decode.steps

    @cached_property
    def ttft_band_s(self) -> tuple[float, float | None]:
        """The ends of `ttft_s`'s band."""
        return (self.ttft_s, None) if self.band is None else self.band.around(self._to_first_token)

    @cached_property
    def ttft_extrapolated(self) -> bool:
        """Whether `ttft_s` rests on rows beyond the measured range."""
        return self._outside(self._to_first_token)

    @cached_property
    def _to_first_token(self) -> NDArray[np.float64]:
        mask = self.rows(stage for stage in self.included if stage != "decode")
        return np.where(mask, self.seconds, 0.0)

    def layers(self) -> list[dict[str, Any]]:
        """Prefill, one entry a decoder layer."""
        return layer_rows(self)

    def ops(self) -> list[dict[str, Any]]:
        """One entry an operation and layer, with its bytes by tensor class; decode steps are summed over."""
        return op_rows(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: schema_version, inputs by name, notes, totals, stages, layers, ops, memory."""
        return json_form(self)
