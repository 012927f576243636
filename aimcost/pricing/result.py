"""Estimate: a run, its PricedTable, and the sums that people ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidValueError
from ..frozen import dataclass
from ..inputs.run import Run
from ..types.stages import DEFAULT_INCLUDE, STAGES
from ..units import format_flops, format_seconds
from ..views import Viewable
from .memory import Memory, memory_of
from .priced import Band, PricedTable, StageSum
from .rows import layer_rows, op_rows, parallel_summary, reduction_summary, stage_sums
from .table import OpTable

if TYPE_CHECKING:
    from .gain import Gain

__all__ = ["SCHEMA_VERSION", "Band", "Estimate", "Interval", "StageSum", "Totals"]

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


class Interval(NamedTuple):
    """A figure with its 80 % band; `high` is None for an estimator without a band."""

    value: float
    low: float
    high: float | None


@dataclass(frozen=True, kw_only=True, repr=False)
class Estimate(Viewable):
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
    _views_in = "estimate"

    def _line(self) -> str:
        run, (_, low, high) = self.run, self.ttft
        band = "" if high is None else f" ({format_seconds(low)} to {format_seconds(high)})"
        first = [f"TTFT {format_seconds(self.ttft_s)}{band}"] if self.ttft_s else []
        step = [f"TPOT {format_seconds(self.tpot_s)}"] if self.tpot_s else []
        where = run.hardware.name if run.hardware else "no hardware"
        figures = ", ".join([*first, *step, format_flops(self.totals.flops)])
        return f"{run.model.name} on {where}, {run.schedule.method}, {self.estimator}: {figures}"

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
        stages = self.priced.stages
        if "overhead" not in self.included:
            return {**stages, "decode": replace(stages["decode"], beside_s=0.0)}
        return stages

    def rows(self, stages: Iterable[str]) -> NDArray[np.bool_]:
        """Which rows belong to `stages`."""
        return self.priced.rows(stages)

    def matrix_flops(self, stages: Iterable[str], *, full_square: bool = False) -> float:
        """FLOPs of the matrix products alone; see `PricedTable.matrix_flops`."""
        return self.priced.matrix_flops(stages, full_square=full_square)

    @cached_property
    def included(self) -> tuple[str, ...]:
        """Stages in `totals`: those asked for, else all that were priced but `preprocess`."""
        wanted = self.run.include if self.run.include is not None else DEFAULT_INCLUDE
        return tuple(stage for stage in STAGES if stage in wanted and stage in self.stages_priced)

    @cached_property
    def dense(self) -> Estimate:
        """The same run without reduction, priced when it is first asked for; where nothing is reduced, this one."""
        if not self.run.schedule.events:
            return self
        from .pricing import estimate_run, unreduced  # which stands on this module

        return estimate_run(unreduced(self.run))

    @cached_property
    def memory(self) -> Memory:
        """Memory of the request; the same under every estimator."""
        return memory_of(self.run)

    @cached_property
    def totals(self) -> Totals:
        """Sums over the included stages."""
        mask = self.rows(self.included)
        time_s, low, high = self.interval("request")
        return Totals(
            flops=float(self.priced.total_flops[mask].sum()),
            bytes=float(self.priced.total_bytes[mask].sum()),
            time_s=time_s,
            time_low_s=low,
            time_high_s=high,
            extrapolated=self.priced.is_extrapolated(np.where(mask, self.seconds, 0.0)),
        )

    @cached_property
    def first_token_rows(self) -> NDArray[np.bool_]:
        """Rows to the first token, of what is included: neither decode nor what a stack adds beside it."""
        return self.rows(stage for stage in self.included if stage != "decode")

    @cached_property
    def step_rows(self) -> NDArray[np.bool_]:
        """Rows of the decode steps with what the stack adds to them, of what is included."""
        decode = self.rows(["decode"])
        return decode | self.priced.overhead(["decode"]) if "overhead" in self.included else decode

    def shares(self, what: str | Iterable[str]) -> NDArray[np.float64]:
        """How much of each row a quantity holds.

        Parameters
        ----------
        what
            ``ttft``, ``tpot`` (a mean decode step) and ``request`` of what is included, or stages: their
            operations and what the stack adds beside them.
        """
        if what == "ttft":
            return self.first_token_rows.astype(float)
        if what == "tpot":
            return self.step_rows / max(1, self.table.steps)
        if what == "request":
            return self.rows(self.included).astype(float)
        if isinstance(what, str):
            raise InvalidValueError("what", "ttft, tpot, request or a list of stages", what)
        return self.rows({*what, "overhead"}).astype(float)

    def interval(self, what: str | Iterable[str]) -> Interval:
        """A quantity with its band: the one place where row times become a figure. `what` as in `shares`.

        ``ttft`` and ``tpot`` add up the stages as they are listed, so that the printed sums agree to the last bit.
        """
        what = what if isinstance(what, str) else tuple(what)
        share = self.shares(what)
        if what == "ttft":
            operations = sum(self.stages[name].time_s for name in self.included if name not in ("decode", "overhead"))
            value = operations + float(self.seconds[self.first_token_rows & self.priced.overhead(STAGES)].sum())
        elif what == "tpot":
            value = self.stages["decode"].tpot_s
        else:
            value = float((share * self.seconds).sum())
        low, high = (value, None) if self.band is None else self.band.around(share)
        return Interval(value, low, high)

    @cached_property
    def ttft(self) -> Interval:
        """Time to first token, with its band: everything but decode, of what is included."""
        return self.interval("ttft")

    @cached_property
    def tpot(self) -> Interval:
        """The mean decode step, with its band; zero where nothing is decoded."""
        return self.interval("tpot")

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.ttft.value

    @property
    def tpot_s(self) -> float:
        """The mean decode step; zero where nothing is decoded."""
        return self.tpot.value

    @cached_property
    def gain(self) -> Gain | None:
        """Gain in `ttft` over `dense`; None where nothing is reduced or nothing precedes the first token."""
        from .gain import gain  # which stands on this module

        return gain(self.dense, self) if self.run.schedule.events else None

    @property
    def speedup(self) -> float | None:
        """`ttft_s` of `dense` over that of this run, as `gain` has it with its band."""
        return None if self.gain is None else self.gain.speedup.value

    @property
    def saved_s(self) -> float | None:
        """Seconds to the first token that the reduction saves, negative where it costs more, as `gain` has it."""
        return None if self.gain is None else self.gain.saved.value

    @property
    def ttft_band_s(self) -> tuple[float, float | None]:
        """Band of `ttft_s`."""
        return self.ttft.low, self.ttft.high

    @property
    def tpot_band_s(self) -> tuple[float, float | None]:
        """Band of the mean decode step."""
        return self.tpot.low, self.tpot.high

    @cached_property
    def ttft_extrapolated(self) -> bool:
        """Whether `ttft_s` rests on rows outside the calibrated range."""
        return self.priced.is_extrapolated(np.where(self.first_token_rows, self.seconds, 0.0))

    @property
    def tpot_range_s(self) -> tuple[float, float]:
        """Seconds of the first and of the last decode step."""
        decode = self.stages["decode"]
        each = decode.beside_s / decode.steps if decode.steps else 0.0
        first, last = self.priced.tpot_range_s
        return first + each, last + each

    def decode_step(self) -> dict[str, float | None]:
        """``tpot_s`` and its band as columns of a table; None where nothing is decoded."""
        decode = self.stages["decode"]
        if not decode.steps or "decode" not in self.included:
            return {"tpot_s": None, "tpot_low_s": None, "tpot_high_s": None}
        low, high = self.tpot_band_s
        return {"tpot_s": decode.tpot_s, "tpot_low_s": low, "tpot_high_s": high}

    def rows_of(self, what: str | Iterable[str]) -> NDArray[np.float64]:
        """Deprecated: `shares`."""
        warnings.warn("Estimate.rows_of will be removed in 0.3; use shares", DeprecationWarning, stacklevel=2)
        return self.shares(what)

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
        """The JSON form: inputs by name, notes, workload, summary, totals, stages, layers, ops, memory.

        The gain in its summary compares with `dense`, so that a reduced run prices two.
        """
        from .summary import summary_of, workload_of  # which stands on this module

        run, totals = self.run, self.totals
        return {
            "schema_version": SCHEMA_VERSION,
            "model": run.model.name,
            "hardware": run.hardware.name if run.hardware else None,
            "estimator": self.estimator,
            "notes": list(self.notes),
            "workload": workload_of(run),
            "summary": summary_of(self),
            "included": list(self.included),
            "totals": {
                "flops": totals.flops,
                "bytes": totals.bytes,
                "time_s": totals.time_s,
                "time_low_s": totals.time_low_s,
                "time_high_s": totals.time_high_s,
                "extrapolated": totals.extrapolated,
            },
            "stages": stage_sums(self.priced, self.stages, self.tpot_band_s, self.tpot_range_s),
            "layers": self.layers(),
            "ops": self.ops(),
            "memory": self.memory.to_dict(),
            "parallel": parallel_summary(self.priced, run.parallel, run.workload.batch),
            "reduction": self.reduction(),
        }
