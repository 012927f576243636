"""A priced table as plain rows and sums: layers, operations, stages, reduction, exchanges between ranks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.parallel import bubble
from ..ops.attention import ATTENTION_KINDS
from ..types import Parallel
from ..types.stages import STAGES
from .priced import BOUNDS, PricedTable, StageSum
from .table import COST_COLUMNS, FLOPS, FULL_SQUARE_FLOPS, NO_LAYER, TRAFFIC

__all__ = ["layer_rows", "op_rows", "parallel_summary", "reduction_summary", "stage_sums"]

_AFTER_LAYERS = 1 << 30


def layer_rows(priced: PricedTable, tokens: Sequence[int]) -> list[dict[str, Any]]:
    """Prefill, one entry per decoder layer; `tokens` are the counts that the layers compute on."""
    table = priced.table
    mask = priced.rows(["prefill"]) & (table.layer != NO_LAYER)
    index, count = table.layer[mask], len(tokens)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(index, weights=values[mask], minlength=count), dtype=np.float64)

    flops, size, seconds = total(priced.total_flops), total(priced.total_bytes), total(priced.seconds)
    shares = np.stack([total(np.where(priced.bound == code, priced.seconds, 0.0)) for code in range(len(BOUNDS))])
    return [
        {
            "index": layer,
            "tokens": number,
            "flops": float(flops[layer]),
            "bytes": float(size[layer]),
            "time_s": float(seconds[layer]),
            "bound": BOUNDS[int(shares[:, layer].argmax())],
        }
        for layer, number in enumerate(tokens)
    ]


def op_rows(priced: PricedTable) -> list[dict[str, Any]]:
    """One entry per operation and layer; decode steps are summed.

    Beside FLOPs, time and its band: bytes in total and by tensor class, whether a dimension leaves
    the calibrated range, the full square of an attention, and what a collective puts on the wire.
    """
    order = {stage: index for index, stage in enumerate(STAGES)}
    entries: list[tuple[int, int, dict[str, Any]]] = []
    for number, segment in enumerate(priced.table.segments):
        if segment.beside and not priced.seconds[segment.start]:
            continue  # one-sided: in the band alone
        outside = -1 if segment.place == "before" else _AFTER_LAYERS
        for entry in _segment_rows(priced, number):
            entries.append((order[segment.stage], outside if entry["layer"] is None else entry["layer"], entry))
    # stable: layers in order, ops in execution order within a layer
    return [entry for _, _, entry in sorted(entries, key=lambda item: item[:2])]


def _segment_rows(priced: PricedTable, number: int) -> list[dict[str, Any]]:
    table, segment = priced.table, priced.table.segments[number]
    rows = slice(segment.start, segment.stop)
    distinct, first, where = np.unique(table.layer[rows], return_index=True, return_inverse=True)
    seconds, band = priced.seconds[rows], priced.band
    columns = np.concatenate(
        [
            table.costs[:, rows] * table.count[rows],
            [seconds, seconds if band is None else np.maximum(0.0, seconds - band.below[rows])],
            [seconds if band is None else seconds + band.above[rows]],
            [np.zeros(len(seconds)) if priced.extrapolated is None else priced.extrapolated[rows]],
        ]
    )
    sums = np.stack([np.bincount(where, weights=values) for values in columns])
    costs, (time, low, high, outside) = sums[:-4], sums[-4:]
    classes = dict(zip(COST_COLUMNS[TRAFFIC], costs[TRAFFIC], strict=True))
    entries = []
    for position, layer in enumerate(distinct):
        entry: dict[str, Any] = {
            "stage": segment.stage,
            "layer": None if layer == NO_LAYER else int(layer),
            "name": segment.name,
            "flops": float(costs[FLOPS, position]),
            "bytes": float(costs[TRAFFIC, position].sum()),
            "time_s": float(time[position]),
            "bound": BOUNDS[int(priced.bound[rows][first[position]])],
            "time_low_s": float(low[position]),
            "time_high_s": None if band is None else float(high[position]),
            "extrapolated": bool(outside[position]),
            **{f"{name}_bytes": float(values[position]) for name, values in classes.items()},
        }
        if segment.kind in ATTENTION_KINDS:
            entry["flops_full_square"] = float(costs[FULL_SQUARE_FLOPS, position])
        if segment.kind == "collective":
            dims = table.columns(number)
            wire = dims["wire_bytes"] * table.count[rows]
            entry["wire_bytes"] = float(wire[table.layer[rows] == layer].sum())
            entry["ranks"] = int(dims["ranks"][0])
        entries.append(entry)
    return entries


def stage_sums(
    priced: PricedTable,
    sums: Mapping[str, StageSum],
    tpot_band_s: tuple[float, float | None],
    tpot_range_s: tuple[float, float],
) -> dict[str, dict[str, Any]]:
    """Every stage, zeros where absent; decode with its steps and the time of one."""
    stages: dict[str, dict[str, Any]] = {}
    for name, stage in sums.items():
        stages[name] = {"flops": stage.flops, "bytes": stage.bytes, "time_s": stage.time_s}
        if priced.device_seconds is not None and priced.host_seconds is not None:
            mask = priced.rows([name])
            stages[name]["device_s"] = float(priced.device_seconds[mask].sum())
            stages[name]["host_s"] = float(priced.host_seconds[mask].sum())
    decode, (first, last) = sums["decode"], tpot_range_s
    stages["decode"].update(
        steps=decode.steps,
        tpot_s=decode.tpot_s,
        tpot_low_s=tpot_band_s[0],
        tpot_high_s=tpot_band_s[1],
        tpot_first_s=first,
        tpot_last_s=last,
    )
    return stages


def reduction_summary(priced: PricedTable, included: Collection[str], *, events: int) -> dict[str, Any]:
    """What scoring, merging and moving tokens costs in the stages `included`, by operation name."""
    table = priced.table
    by_name: dict[str, float] = {}
    flops = size = 0.0
    for segment in table.segments:
        if segment.group == "selection" and segment.kind != "collective" and segment.stage in included:
            rows = slice(segment.start, segment.stop)
            by_name[segment.name] = by_name.get(segment.name, 0.0) + float(priced.seconds[rows].sum())
            flops += float(table.flops[rows] @ table.count[rows])
            size += float(table.traffic[:, rows].sum(axis=0) @ table.count[rows])
    return {
        "events": events,
        "flops": flops,
        "bytes": size,
        "time_s": sum(by_name.values()),
        "time_by_op_s": by_name,
    }


def parallel_summary(priced: PricedTable, parallel: Parallel, batch: int) -> dict[str, Any]:
    """Devices, the idle share of the pipeline, and what one rank sends up to the first token."""
    wire = 0.0
    for index, segment in enumerate(priced.table.segments):
        if segment.kind == "collective" and segment.stage != "decode":
            wire += float(priced.table.columns(index)["wire_bytes"].sum())
    return {
        "tp": parallel.tp,
        "pp": parallel.pp,
        "dp": parallel.dp,
        "tower": parallel.tower,
        "devices": parallel.devices,
        "bubble": bubble(parallel.pp, batch),
        "wire_bytes": wire,
    }
