"""An estimate as plain rows and mappings: layers, operations, and the JSON form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..summaries import parallel_summary, reduction_summary
from ..types.bounds import BOUNDS
from ..types.stages import STAGES
from .table import COST_COLUMNS, NO_LAYER

if TYPE_CHECKING:
    from .result import Estimate

__all__ = ["SCHEMA_VERSION", "json_form", "layer_rows", "op_rows"]

SCHEMA_VERSION = 1
_AFTER_LAYERS = 1 << 30


def layer_rows(estimate: Estimate) -> list[dict[str, Any]]:
    """Prefill, one entry a decoder layer."""
    table = estimate.table
    mask = estimate.rows(["prefill"]) & (table.layer != NO_LAYER)
    computed = estimate.run.computed.tokens
    index, count = table.layer[mask], len(computed)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(index, weights=values[mask], minlength=count), dtype=np.float64)

    flops, size, seconds = total(table.flops * table.count), total(table.bytes * table.count), total(estimate.seconds)
    shares = np.stack([total(np.where(estimate.bound == code, estimate.seconds, 0.0)) for code in range(len(BOUNDS))])
    return [
        {
            "index": layer,
            "tokens": tokens,
            "flops": float(flops[layer]),
            "bytes": float(size[layer]),
            "time_s": float(seconds[layer]),
            "bound": BOUNDS[int(shares[:, layer].argmax())],
        }
        for layer, tokens in enumerate(computed)
    ]


def op_rows(estimate: Estimate) -> list[dict[str, Any]]:
    """One entry an operation and layer; decode steps are summed over.

    Beside FLOPs, time and its band: bytes in all and by tensor class, whether a dimension leaves the
    calibrated range, the full square of an attention, and what a collective puts on the wire.
    """
    order = {stage: index for index, stage in enumerate(STAGES)}
    entries: list[tuple[int, int, dict[str, Any]]] = []
    for number, segment in enumerate(estimate.table.segments):
        outside = -1 if segment.place == "before" else _AFTER_LAYERS
        for entry in _segment_rows(estimate, number):
            entries.append((order[segment.stage], outside if entry["layer"] is None else entry["layer"], entry))
    # stable: layers in order, ops in execution order within a layer
    return [entry for _, _, entry in sorted(entries, key=lambda item: item[:2])]


def _segment_rows(estimate: Estimate, number: int) -> list[dict[str, Any]]:
    table, segment = estimate.table, estimate.table.segments[number]
    rows = slice(segment.start, segment.stop)
    distinct, first, where = np.unique(table.layer[rows], return_index=True, return_inverse=True)
    seconds, band = estimate.seconds[rows], estimate.band
    columns = np.concatenate(
        [
            table.costs[:, rows] * table.count[rows],
            [seconds, seconds if band is None else seconds * band.low[rows]],
            [seconds if band is None else seconds * band.high[rows]],
            [np.zeros(len(seconds)) if estimate.extrapolated is None else estimate.extrapolated[rows]],
        ]
    )
    sums = np.stack([np.bincount(where, weights=values) for values in columns])
    costs, (time, low, high, outside) = sums[:-4], sums[-4:]
    classes = dict(zip(COST_COLUMNS[2:], costs[2:], strict=True))
    entries = []
    for position, layer in enumerate(distinct):
        entry: dict[str, Any] = {
            "stage": segment.stage,
            "layer": None if layer == NO_LAYER else int(layer),
            "name": segment.name,
            "flops": float(costs[0, position]),
            "bytes": float(costs[2:, position].sum()),
            "time_s": float(time[position]),
            "bound": BOUNDS[int(estimate.bound[rows][first[position]])],
            "time_low_s": float(low[position]),
            "time_high_s": None if band is None else float(high[position]),
            "extrapolated": bool(outside[position]),
            **{f"{name}_bytes": float(values[position]) for name, values in classes.items()},
        }
        if segment.kind in ("attention", "bmm", "softmax"):
            entry["flops_full_square"] = float(costs[1, position])
        if segment.kind == "collective":
            dims = table.columns(number)
            wire = dims["wire_bytes"] * table.count[rows]
            entry["wire_bytes"] = float(wire[table.layer[rows] == layer].sum())
            entry["ranks"] = int(dims["ranks"][0])
        entries.append(entry)
    return entries


def json_form(estimate: Estimate) -> dict[str, Any]:
    """The JSON form: schema_version, inputs by name, notes, totals, stages, layers, ops, memory."""
    run, totals = estimate.run, estimate.totals
    return {
        "schema_version": SCHEMA_VERSION,
        "model": run.model.name,
        "hardware": run.hardware.name if run.hardware else None,
        "estimator": estimate.estimator,
        "notes": list(estimate.notes),
        "totals": {
            "flops": totals.flops,
            "bytes": totals.bytes,
            "time_s": totals.time_s,
            "time_low_s": totals.time_low_s,
            "time_high_s": totals.time_high_s,
            "extrapolated": totals.extrapolated,
        },
        "stages": _stages(estimate),
        "layers": layer_rows(estimate),
        "ops": op_rows(estimate),
        "memory": estimate.memory.to_dict(),
        "parallel": parallel_summary(estimate),
        "reduction": reduction_summary(estimate),
    }


def _stages(estimate: Estimate) -> dict[str, Any]:
    """Every stage, zeros where absent; decode with its steps and the time of one."""
    stages: dict[str, Any] = {}
    for name, stage in estimate.stages.items():
        stages[name] = {"flops": stage.flops, "bytes": stage.bytes, "time_s": stage.time_s}
        if estimate.device_seconds is not None and estimate.host_seconds is not None:
            mask = estimate.rows([name])
            stages[name]["device_s"] = float(estimate.device_seconds[mask].sum())
            stages[name]["host_s"] = float(estimate.host_seconds[mask].sum())
    decode, (first, last), (low, high) = estimate.stages["decode"], estimate.tpot_range_s, estimate.tpot_band_s
    stages["decode"].update(
        steps=decode.steps,
        tpot_s=decode.tpot_s,
        tpot_low_s=low,
        tpot_high_s=high,
        tpot_first_s=first,
        tpot_last_s=last,
    )
    return stages
