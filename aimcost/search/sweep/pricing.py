"""A chunk of points priced: columns of values, one by one or through the bulk path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AimcostError
from ...inputs.run import Run
from ...inputs.strict_json import canonical
from ...machine.peaks import require_hardware
from ...pricing.memory import memory_of
from ...pricing.pricing import estimate_run
from ...types import Schedule
from ..bulk import LayerTable, layer_table
from .grid import Chunk, Grid

__all__ = ["Column", "columns_of"]

# Figures of a run priced by itself, and the type of each.
RUN_FIGURES = {
    "flops": "float",
    "dram_bytes": "float",
    "ttft_s": "float",
    "ttft_low_s": "float",
    "ttft_high_s": "float",
    "tpot_s": "float",
    "tpot_low_s": "float",
    "tpot_high_s": "float",
    "total_s": "float",
    "kv_bytes": "float",
    "peak_bytes": "float",
    "fits": "bool",
    "mean_tokens": "float",
    "extrapolated": "bool",
}
# Of a schedule in the bulk path: device time, selection counted in seconds but not in FLOPs.
BULK_FIGURES = {
    "device_ttft_s": "float",
    "device_prefill_s": "float",
    "prefill_flops": "float",
    "kv_bytes": "float",
    "mean_tokens": "float",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A named column. `values` is one value for all rows where `constant`; `kind` is int, float, bool or text."""

    name: str
    kind: str
    values: Any
    constant: bool = False


def columns_of(grid: Grid, chunk: Chunk) -> list[Column]:
    """The rows of a chunk, in the one order of columns that all chunks of a grid have."""
    if grid.schedules is None:
        return _runs(grid, chunk)
    return _schedules(grid, chunk)


def _runs(grid: Grid, chunk: Chunk) -> list[Column]:
    axes: list[dict[str, Any]] = []
    figures: list[dict[str, Any]] = []
    for point in range(chunk.start, chunk.stop):
        axes.append(grid.overrides(point))
        try:
            figures.append({**_priced(grid.run(point)), "error": None})
        except AimcostError as error:
            figures.append({"error": " ".join(str(error).split())})
    columns = [Column("point", "int", np.arange(chunk.start, chunk.stop))]
    columns += [
        Column(key, kind, [_shown(row.get(key), kind) for row in axes]) for key, kind in _axis_kinds(grid).items()
    ]
    columns += [Column(key, kind, [row.get(key) for row in figures]) for key, kind in RUN_FIGURES.items()]
    return [*columns, Column("error", "text", [row["error"] for row in figures])]


def _priced(run: Run) -> dict[str, Any]:
    require_hardware(run.hardware)
    estimate = estimate_run(run)
    totals, memory = estimate.totals, estimate.memory
    low, high = estimate.ttft_band_s
    tokens = run.computed.tokens
    return {
        "flops": totals.flops,
        "dram_bytes": totals.bytes,
        "ttft_s": estimate.ttft_s,
        "ttft_low_s": low,
        "ttft_high_s": high,
        **estimate.decode_step(),
        "total_s": totals.time_s,
        "kv_bytes": memory.kv_bytes,
        "peak_bytes": memory.peak_bytes,
        "fits": memory.fits,
        "mean_tokens": sum(tokens) / len(tokens),
        "extrapolated": estimate.ttft_extrapolated,
    }


def _axis_kinds(grid: Grid) -> dict[str, str]:
    """Each axis' type, from all of its values."""
    return {key: _kind([v for axes in grid.axes for v in axes.get(key, ())]) for key in grid.keys}


def _kind(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "bool"
    # a whole number that no file holds as one is text: its point is a row that says why it has no price
    if kinds and kinds <= {int, float} and not any(type(value) is int and abs(value) >= 2**63 for value in values):
        return "int" if kinds == {int} else "float"
    return "text"


def _shown(value: Any, kind: str) -> Any:
    """A value of an axis as its column holds it: a mapping as JSON."""
    if value is None or kind != "text" or isinstance(value, str):
        return value
    return canonical(value)


@dataclass(frozen=True)
class _Context:
    """What the schedules of one point of the axes share."""

    table: LayerTable
    which: NDArray[np.int64] | None
    heads: dict[int, float] | NDArray[np.float64]
    kv_one: float
    kv_token: float

    def head_seconds(self, counts: NDArray[Any], start: int, stop: int) -> NDArray[np.float64]:
        """Tower, projector and merging of each point."""
        if self.which is not None and isinstance(self.heads, np.ndarray):
            return self.heads[self.which[start:stop]]
        assert isinstance(self.heads, dict)
        first, where = np.unique(counts[:, 0], return_inverse=True)
        return np.array([self.heads[int(count)] for count in first])[where]


@lru_cache(maxsize=4)
def _context(text: str, context: int) -> _Context:
    grid = Grid.from_json(text)
    run, schedules = grid.run(context), grid.schedules_in(context)
    require_hardware(run.hardware)
    example = schedules.example()
    which, found = schedules.heads()
    seconds = [_before_llm(replace(run, schedule=schedule)) for schedule in found]
    heads: Any = np.array(seconds)
    if which is None:
        heads = {schedule.tokens[0]: value for schedule, value in zip(found, seconds, strict=True)}
    kv_one, kv_two = (_kv_bytes(run, example, tokens) for tokens in (1, 2))
    return _Context(
        table=layer_table(replace(run, schedule=example), counts=schedules.token_counts()),
        which=which,
        heads=heads,
        kv_one=kv_one,
        kv_token=kv_two - kv_one,
    )


def _before_llm(run: Run) -> float:
    """Device seconds of tower, projector and merging, of what the run includes."""
    stages = estimate_run(replace(run, host_time=False, workload=replace(run.workload, new_tokens=0))).stages
    wanted = run.include if run.include is not None else ("vision", "projector", "merge")
    return sum(stages[stage].time_s for stage in ("vision", "projector", "merge") if stage in wanted)


def _kv_bytes(run: Run, example: Schedule, tokens: int) -> float:
    """The cache with `tokens` in every layer; it grows by as much with every token."""
    flat = replace(example, tokens=(tokens,) * len(example.tokens), events=())
    return memory_of(replace(run, schedule=flat)).kv_bytes


def _schedules(grid: Grid, chunk: Chunk) -> list[Column]:
    each, axes = grid.per_context, grid.overrides(chunk.context)
    start, stop = chunk.start - chunk.context * each, chunk.stop - chunk.context * each
    schedules = grid.schedules_in(chunk.context)
    context = _context(grid.to_json(), chunk.context)
    points = schedules.points(start, stop)
    counts, error = points.counts, points.errors
    prefill = context.table.prefill_seconds(counts)
    layers = counts.shape[1]
    tokens = counts.sum(axis=1, dtype=np.int64)
    figures = {
        "device_ttft_s": prefill + context.head_seconds(counts, start, stop),
        "device_prefill_s": prefill,
        "prefill_flops": context.table.prefill_flops(counts),
        "kv_bytes": context.kv_one + (tokens - layers) * (context.kv_token / layers),
        "mean_tokens": tokens / layers,
    }
    if error is not None:
        bad = np.array([text is not None for text in error])
        figures = {key: np.where(bad, np.nan, values) for key, values in figures.items()}
    columns = [Column("point", "int", np.arange(chunk.start, chunk.stop))]
    columns += [
        Column(key, kind, _shown(axes.get(key), kind), constant=True) for key, kind in _axis_kinds(grid).items()
    ]
    for name, values in points.columns.items():
        kind = "int" if isinstance(values, np.ndarray) else _kind(_all_values(grid, name))
        columns.append(Column(name, kind, values if kind != "text" else [_shown(v, kind) for v in values]))
    columns += [Column(key, kind, figures[key]) for key, kind in BULK_FIGURES.items()]
    return [*columns, Column("error", "text", error, constant=error is None)]


def _all_values(grid: Grid, name: str) -> list[Any]:
    """Every value that a method's parameter takes in the grid: all chunks agree on its type."""
    given = (grid.schedules or {})[name.removeprefix("method.")]
    return given if isinstance(given, list) else [given]
