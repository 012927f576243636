"""PricedTable: an OpTable with a time, a bound and a band on every row."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass
from ..types.stages import STAGES
from .table import OpTable

__all__ = ["BOUNDS", "COMPUTE", "EXTRAPOLATED_SHARE", "LAUNCH", "MEMORY", "NETWORK", "Band", "PricedTable", "StageSum"]

# What limits an operation: the names that reports print, and their codes in row arrays.
BOUNDS = ("memory", "compute", "launch", "network")
MEMORY, COMPUTE, LAUNCH, NETWORK = range(4)

# A sum is extrapolated where rows outside the calibrated range carry more of its time than this.
EXTRAPOLATED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class StageSum:
    """FLOPs, bytes and seconds of one stage.

    Of decode also its `steps`, and `beside_s`: seconds that a stack adds beside all of them.
    """

    flops: float
    bytes: float
    time_s: float
    steps: int = 0
    beside_s: float = 0.0

    @property
    def tpot_s(self) -> float:
        """Mean seconds per decode step, with what the stack adds to one; zero without decode."""
        return (self.time_s + self.beside_s) / self.steps if self.steps else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Uncertainty of row times, in seconds: a term may be one-sided, and of a time that is zero.

    Attributes
    ----------
    names, group
        The terms, and by row the one that shares its error (a kind of operation, the host's pace, what the
        stack adds): errors are fully correlated within a term and independent between terms.
    seconds, below, above
        By row: its time, and how far its band reaches below and above it.
    decode
        By row: whether it belongs to the decode steps.
    prompt_scale, decode_scale
        (low, high) factors that all rows of the prompt, and of the decode steps, share.
    width
        How far a term moves a sum of rows, as a share of its rows' own bands.
    """

    names: tuple[str, ...]
    group: NDArray[np.int64]
    seconds: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
    decode: NDArray[np.bool_]
    prompt_scale: tuple[float, float] = (1.0, 1.0)
    decode_scale: tuple[float, float] = (1.0, 1.0)
    width: float = 1.0

    def moves(self, share: NDArray[Any]) -> dict[str, tuple[float, float]]:
        """Seconds that each term takes off and adds to a sum of rows.

        Parameters
        ----------
        share
            By row, how much of it counts: a mask, or factors.
        """
        edges = [np.bincount(self.group, weights=share * each) * self.width for each in (self.below, self.above)]
        moves = {name: (float(low), float(high)) for name, low, high in zip(self.names, *edges, strict=False)}
        spent = share * self.seconds
        later = float(spent[self.decode].sum())
        for name, total, (low, high) in (
            ("prompt", float(spent.sum()) - later, self.prompt_scale),
            ("decode", later, self.decode_scale),
        ):
            moves[name] = (total * (1.0 - low), total * (high - 1.0))
        return moves

    def around(self, share: NDArray[Any]) -> tuple[float, float]:
        """Band of a sum of row times; `share` as in `moves`."""
        total = float((share * self.seconds).sum())
        moves = self.moves(share).values()
        below, above = (math.sqrt(sum(move[end] ** 2 for move in moves)) for end in (0, 1))
        return max(0.0, total - below), total + above


@dataclass(frozen=True, kw_only=True)
class PricedTable:
    """What an estimator makes of an OpTable. Row arrays are aligned with `table`.

    Not slotted, so that `functools.cached_property` can hold the sums.

    Attributes
    ----------
    seconds
        Time of each row, all its `count` runs together.
    bound
        Per row, an index into `BOUNDS`.
    device_bound
        The bound of the device's own time, however long the row waits for the host; None where the two are one.
    band
        None for an estimator without one.
    extrapolated
        Per row, whether a dimension leaves the calibrated range.
    device_seconds, host_seconds
        Per row, the device's own time, and the host's for issuing it; None where not modelled.
    after_issue_seconds
        Per row, the part of the device's time that is left once the host has issued all of its launches.
    waits
        Per row, whether the host then waits for the device; None where it never does.
    notes
        What the reader must know about the times.
    """

    table: OpTable
    seconds: NDArray[np.float64]
    bound: NDArray[np.int64]
    device_bound: NDArray[np.int64] | None = None
    band: Band | None = None
    extrapolated: NDArray[np.bool_] | None = None
    device_seconds: NDArray[np.float64] | None = None
    host_seconds: NDArray[np.float64] | None = None
    after_issue_seconds: NDArray[np.float64] | None = None
    waits: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def total_flops(self) -> NDArray[np.float64]:
        """FLOPs of each row, all its `count` runs together; those of one run are `table.flops`."""
        return self.table.flops * self.table.count

    @cached_property
    def total_bytes(self) -> NDArray[np.float64]:
        """DRAM traffic of each row, all its `count` runs together; that of one run is `table.bytes`."""
        return self.table.bytes * self.table.count

    @property
    def flops(self) -> NDArray[np.float64]:
        """Deprecated: `total_flops`."""
        _renamed("flops", "total_flops")
        return self.total_flops

    @property
    def bytes(self) -> NDArray[np.float64]:
        """Deprecated: `total_bytes`."""
        _renamed("bytes", "total_bytes")
        return self.total_bytes

    @property
    def syncs(self) -> NDArray[np.bool_] | None:
        """Deprecated: `waits`."""
        _renamed("syncs", "waits")
        return self.waits

    def rows(self, stages: Iterable[str]) -> NDArray[np.bool_]:
        """Which rows belong to `stages`; overhead only where the stage that it stands beside is among them."""
        mask = np.zeros(len(self.table), dtype=bool)
        wanted = set(stages)
        for segment in self.table.segments:
            if segment.stage in wanted and (not segment.beside or segment.beside in wanted):
                mask[segment.start : segment.stop] = True
        return mask

    def overhead(self, stages: Iterable[str]) -> NDArray[np.bool_]:
        """Rows that a stack adds beside `stages`."""
        mask = np.zeros(len(self.table), dtype=bool)
        wanted = set(stages)
        for segment in self.table.segments:
            if segment.beside in wanted:
                mask[segment.start : segment.stop] = True
        return mask

    def is_extrapolated(self, seconds: NDArray[np.float64]) -> bool:
        """Whether rows outside the calibrated range carry more than `EXTRAPOLATED_SHARE` of these times."""
        if self.extrapolated is None:
            return False
        return bool(seconds[self.extrapolated].sum() > EXTRAPOLATED_SHARE * seconds.sum())

    @cached_property
    def stages(self) -> dict[str, StageSum]:
        """One sum per stage; zeros where a stage is absent."""
        sums = {}
        for stage in STAGES:
            mask = self.overhead(STAGES) if stage == "overhead" else self.rows([stage])
            sums[stage] = StageSum(
                flops=float(self.total_flops[mask].sum()),
                bytes=float(self.total_bytes[mask].sum()),
                time_s=float(self.seconds[mask].sum()),
                steps=self.table.steps if stage == "decode" else 0,
                beside_s=float(self.seconds[self.overhead(["decode"])].sum()) if stage == "decode" else 0.0,
            )
        return sums

    @cached_property
    def tpot_range_s(self) -> tuple[float, float]:
        """Seconds of the operations of the first and of the last decode step: each attends to one token more."""
        table, steps = self.table, self.table.steps
        if not steps:
            return 0.0, 0.0
        by_step = np.zeros(steps)
        for segment in table.segments:
            if segment.stage == "decode":
                seconds = self.seconds[segment.start : segment.stop]
                grows = table.count[segment.start] == 1.0
                # rows that grow are a layer's steps one after another
                by_step += seconds.reshape(-1, steps).sum(axis=0) if grows else seconds.sum() / steps
        return float(by_step[0]), float(by_step[-1])

    def matrix_flops(self, stages: Iterable[str], *, full_square: bool = False) -> float:
        """FLOPs of the matrix products alone, as papers and `torch.utils.flop_counter` count them.

        Scoring and other reduction operations are left out.
        """
        flops = self.table.full_square_flops if full_square else self.table.flops
        wanted, total = set(stages), 0.0
        for segment in self.table.segments:
            if segment.stage in wanted and segment.kind in ("gemm", "attention", "bmm"):
                rows = slice(segment.start, segment.stop)
                total += float(flops[rows] @ self.table.count[rows])
        return total


def _renamed(old: str, new: str) -> None:
    warnings.warn(f"PricedTable.{old} will be removed in 0.3; use {new}", DeprecationWarning, stacklevel=3)
