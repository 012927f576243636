"""Roofline: time = max(FLOPs / peak, bytes / bandwidth) by operation. A lower bound.

Source: Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785. FLOPs are those that the
mathematics needs (causal attention), traffic is what must move; see `aimcost.ops`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...inputs.run import Run
from ...machine.peaks import compute_dtypes, link_bytes_per_s, peak_flops_per_s, precision_notes, require_hardware
from ...types import HardwareSpec, Precision
from ..estimator import Estimator
from ..operations import build
from ..priced import COMPUTE, MEMORY, NETWORK, PricedTable
from ..table import OpTable

__all__ = ["ESTIMATOR", "roofline_seconds"]


def price(run: Run) -> PricedTable:
    """Price a run at the machine's datasheet limits.

    Raises
    ------
    InvalidValueError
        The run names no hardware, or the hardware lacks a peak for the number format.
    """
    hardware = require_hardware(run.hardware)
    table = build(run)
    seconds, bound, notes = roofline_seconds(table, hardware, run.precision)
    return PricedTable(
        table=table,
        seconds=seconds * table.count,
        bound=bound,
        notes=(*precision_notes(run.precision, run.model), *notes),
    )


def roofline_seconds(
    table: OpTable, hardware: HardwareSpec, precision: Precision
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...]]:
    """Per row: seconds of one run, the bound, and notes on peaks that had to be substituted."""
    peaks, notes = row_peaks(table, hardware, precision)
    compute = table.flops / peaks
    memory = table.bytes / hardware.memory_bytes_per_s
    bound = np.where(compute >= memory, COMPUTE, MEMORY)
    seconds = np.maximum(compute, memory)
    for index, segment in enumerate(table.segments):
        if segment.kind == "collective":
            rows = slice(segment.start, segment.stop)
            seconds[rows] = table.columns(index)["wire_bytes"] / link_bytes_per_s(hardware)
            bound[rows] = NETWORK
    return seconds, bound, notes


def row_peaks(
    table: OpTable, hardware: HardwareSpec, precision: Precision
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Peak FLOP/s of each row's number format."""
    other_peak, other_note = peak_flops_per_s(hardware, compute_dtypes(precision)[1])
    by_format = {"": peak_flops_per_s(hardware, compute_dtypes(precision)[0])}
    peaks = np.full(len(table), other_peak)
    for segment in table.segments:
        if segment.kind == "gemm":
            if segment.weights not in by_format:
                by_format[segment.weights] = peak_flops_per_s(hardware, compute_dtypes(precision, segment.weights)[0])
            peaks[segment.start : segment.stop] = by_format[segment.weights][0]
    notes = [*(note for _, note in by_format.values()), other_note]
    return peaks, tuple(dict.fromkeys(note for note in notes if note))


ESTIMATOR = Estimator(
    name="roofline",
    summary="lower bound: each op at peak compute or peak bandwidth, whichever is slower",
    time_means="lower bound",
    price=price,
)
