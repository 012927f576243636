"""Estimate: a run, its PricedTable, and the sums that people ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inputs.run import Run
from ..types.stages import STAGES
from .memory import Memory, memory_of
from .priced import Band, PricedTable, StageSum
from .rows import layer_rows, op_rows, parallel_summary, reduction_summary, stage_sums
from .table import OpTable

__all__ = ["SCHEMA_VERSION", "Band", "Estimate", "StageSum", "Totals"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the stages included, with the band of the time."""

    flops: float
    bytes: float
    time_s: float
    time_low_s: float
    time_high_s: float | None
    extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run costs. Sums are computed on demand.

    Not slotted, so that `functools.cached_property` can hold the sums.

    Attributes
    ----------
    priced
        Every operation with its time; `table`, `seconds`, `bound`, `band` … are its columns.
    estimator
        Name of the estimator.
    stages_priced
        Stages that the estimator prices.
    """

    run: Run
    priced: PricedTable
    estimator: str
    stages_priced: tuple[str, ...] = STAGES
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> OpTable:
        """The operations."""
        return self.priced.table

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Time of each row."""
        return self.priced.seconds

    @property
    def bound(self) -> NDArray[np.int64]:
        """What limits each row."""
        return self.priced.bound

    @property
    def band(self) -> Band | None:
        """Uncertainty of row times; None for an estimator without one."""
        return self.priced.band

    @property
    def extrapolated(self) -> NDArray[np.bool_] | None:
        """Whether each row leaves the calibrated range."""
        return self.priced.extrapolated

    @property
    def device_seconds(self) -> NDArray[np.float64] | None:
        """The device's own time of each row; None where not modelled."""
        return self.priced.device_seconds

    @property
    def host_seconds(self) -> NDArray[np.float64] | None:
        """The host's time for issuing each row; None where not modelled."""
        return self.priced.host_seconds

    @property
    def stages(self) -> dict[str, StageSum]:
        """One sum per stage; zeros where a stage is absent."""
        return self.priced.stages

    def rows(self, stages: Iterable[str]) -> NDArray[np.bool_]:
        """Which rows belong to `stages`."""
        return self.priced.rows(stages)

    def matrix_flops(self, stages: Iterable[str], *, full_square: bool = False) -> float:
        """FLOPs of the matrix products alone; see `PricedTable.matrix_flops`."""
        return self.priced.matrix_flops(stages, full_square=full_square)

    @cached_property
    def included(self) -> tuple[str, ...]:
        """Stages in `totals`: those asked for, else all that were priced."""
        wanted = self.run.include if self.run.include is not None else STAGES
        return tuple(stage for stage in STAGES if stage in wanted and stage in self.stages_priced)

    @cached_property
    def memory(self) -> Memory:
        """Memory of the request; the same under every estimator."""
        return memory_of(self.run)

    @cached_property
    def totals(self) -> Totals:
        """Sums over the included stages."""
        mask = self.rows(self.included)
        seconds = np.where(mask, self.seconds, 0.0)
        time_s = float(seconds.sum())
        low, high = (time_s, None) if self.band is None else self.band.around(seconds)
        return Totals(
            flops=float(self.priced.flops[mask].sum()),
            bytes=float(self.priced.bytes[mask].sum()),
            time_s=time_s,
            time_low_s=low,
            time_high_s=high,
            extrapolated=self.priced.is_extrapolated(seconds),
        )

    @property
    def ttft_s(self) -> float:
        """Time to first token: everything but decode, of what is included."""
        return sum(self.stages[stage].time_s for stage in self.included if stage != "decode")

    @cached_property
    def ttft_band_s(self) -> tuple[float, float | None]:
        """Band of `ttft_s`."""
        return (self.ttft_s, None) if self.band is None else self.band.around(self._to_first_token)

    @cached_property
    def ttft_extrapolated(self) -> bool:
        """Whether `ttft_s` rests on rows outside the calibrated range."""
        return self.priced.is_extrapolated(self._to_first_token)

    @cached_property
    def _to_first_token(self) -> NDArray[np.float64]:
        mask = self.rows(stage for stage in self.included if stage != "decode")
        return np.where(mask, self.seconds, 0.0)

    @property
    def tpot_range_s(self) -> tuple[float, float]:
        """Seconds of the first and of the last decode step."""
        return self.priced.tpot_range_s

    @cached_property
    def tpot_band_s(self) -> tuple[float, float | None]:
        """Band of the mean decode step."""
        decode = self.stages["decode"]
        if self.band is None or not decode.steps:
            return decode.tpot_s, (None if self.band is None else decode.tpot_s)
        low, high = self.band.around(np.where(self.rows(["decode"]), self.seconds, 0.0))
        return low / decode.steps, high / decode.steps

    def decode_step(self) -> dict[str, float | None]:
        """``tpot_s`` and its band as columns of a table; None where nothing is decoded."""
        decode = self.stages["decode"]
        if not decode.steps or "decode" not in self.included:
            return {"tpot_s": None, "tpot_low_s": None, "tpot_high_s": None}
        low, high = self.tpot_band_s
        return {"tpot_s": decode.tpot_s, "tpot_low_s": low, "tpot_high_s": high}

    def layers(self) -> list[dict[str, Any]]:
        """Prefill, one entry per decoder layer."""
        return layer_rows(self.priced, self.run.computed.tokens)

    def ops(self) -> list[dict[str, Any]]:
        """One entry per operation and layer, with its bytes by tensor class; decode steps are summed."""
        return op_rows(self.priced)

    def reduction(self) -> dict[str, Any]:
        """What scoring, merging and moving tokens costs, of what is included."""
        return reduction_summary(self.priced, self.included, events=len(self.run.schedule.events))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: schema_version, inputs by name, notes, totals, stages, layers, ops, memory."""
        run, totals = self.run, self.totals
        return {
            "schema_version": SCHEMA_VERSION,
            "model": run.model.name,
            "hardware": run.hardware.name if run.hardware else None,
            "estimator": self.estimator,
            "notes": list(self.notes),
            "totals": {
                "flops": totals.flops,
                "bytes": totals.bytes,
                "time_s": totals.time_s,
                "time_low_s": totals.time_low_s,
                "time_high_s": totals.time_high_s,
                "extrapolated": totals.extrapolated,
            },
            "stages": stage_sums(self.priced, self.tpot_band_s),
            "layers": self.layers(),
            "ops": self.ops(),
            "memory": self.memory.to_dict(),
            "parallel": parallel_summary(self.priced, run.parallel, run.workload.batch),
            "reduction": self.reduction(),
        }
