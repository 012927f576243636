"""Sums over an estimate's rows that cut across stages: reduction, exchanges, decode step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .models.parallel import bubble

if TYPE_CHECKING:
    from .pricing.result import Estimate

__all__ = ["decode_step", "parallel_summary", "reduction_summary", "step_range"]


def step_range(estimate: Estimate) -> tuple[float, float]:
    """Seconds of the first and of the last decode step: each attends to one token more."""
    table, steps = estimate.table, estimate.table.steps
    if not steps:
        return 0.0, 0.0
    by_step = np.zeros(steps)
    for segment in table.segments:
        if segment.stage == "decode":
            seconds = estimate.seconds[segment.start : segment.stop]
            grows = table.count[segment.start] == 1.0
            # rows of what grows: a layer's steps one after another
            by_step += seconds.reshape(-1, steps).sum(axis=0) if grows else seconds.sum() / steps
    return float(by_step[0]), float(by_step[-1])


def decode_step(estimate: Estimate) -> dict[str, float | None]:
    """Seconds of a mean decode step and its band, for rows of a table; None where nothing is decoded."""
    decode = estimate.stages["decode"]
    if not decode.steps or "decode" not in estimate.included:
        return {"tpot_s": None, "tpot_low_s": None, "tpot_high_s": None}
    low, high = estimate.tpot_band_s
    return {"tpot_s": decode.tpot_s, "tpot_low_s": low, "tpot_high_s": high}


def reduction_summary(estimate: Estimate) -> dict[str, Any]:
    """What choosing, merging and moving tokens costs, of what is included, by operation name."""
    table = estimate.table
    by_name: dict[str, float] = {}
    flops = size = 0.0
    for segment in table.segments:
        selects = segment.group == "selection" and segment.kind != "collective"
        if selects and segment.stage in estimate.included:
            rows = slice(segment.start, segment.stop)
            by_name[segment.name] = by_name.get(segment.name, 0.0) + float(estimate.seconds[rows].sum())
            flops += float(table.flops[rows] @ table.count[rows])
            size += float(table.costs[2:, rows].sum(axis=0) @ table.count[rows])
    return {
        "events": len(estimate.run.schedule.events),
        "flops": flops,
        "bytes": size,
        "time_s": sum(by_name.values()),
        "time_by_op_s": by_name,
    }


def parallel_summary(estimate: Estimate) -> dict[str, Any]:
    """Devices, the pipeline's idle share, and what one rank sends up to the first token."""
    split, wire = estimate.run.parallel, 0.0
    for index, segment in enumerate(estimate.table.segments):
        if segment.kind == "collective" and segment.stage != "decode":
            wire += float(estimate.table.columns(index)["wire_bytes"].sum())
    return {
        "tp": split.tp,
        "pp": split.pp,
        "dp": split.dp,
        "tower": split.tower,
        "devices": split.devices,
        "bubble": bubble(split.pp, estimate.run.workload.batch),
        "wire_bytes": wire,
    }
