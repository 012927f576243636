"""OpTable: every operation of a request, one row an operation, a layer and (decode) a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ops import Cost
from ..ops.cost import Array
from .derived import Part

__all__ = ["OpTable", "Segment", "TableBuilder"]

COST_COLUMNS = (
    "flops",
    "flops_full_square",
    "read_weights",
    "read_activations",
    "read_kv",
    "write_activations",
    "write_kv",
)
NO_LAYER = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of rows that are one operation of one stage over layers and steps.

    `beside`: of overhead, the stage that it comes with.
    """

    stage: str
    name: str
    kind: str
    start: int
    stop: int
    beside: str = ""


@dataclass(frozen=True, slots=True)
class OpTable:
    """Columns over rows. `count` is how often a row runs; the other columns are for one time.

    Attributes
    ----------
    segments
        What each run of rows is, in execution order within a layer.
    layer
        Layer index of each row, `NO_LAYER` outside layers.
    costs
        One float64 row for each of `COST_COLUMNS`: FLOPs, and bytes by tensor class.
    dims
        Per segment, the dimensions that time models look at, aligned with its rows.
    lengths
        Rows of each segment.
    steps
        Decode steps; 0 without decode.
    """

    segments: tuple[Segment, ...]
    layer: NDArray[np.int64]
    count: NDArray[np.float64]
    costs: NDArray[np.float64]
    dims: tuple[Mapping[str, Array], ...]
    lengths: NDArray[np.int64]
    steps: int = 0

    def spread(self, values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """One value a segment → one a row."""
        return np.repeat(np.asarray(values), self.lengths)

    @property
    def flops(self) -> NDArray[np.float64]:
        """FLOPs of each row, once."""
        flops: NDArray[np.float64] = self.costs[0]
        return flops

    @property
    def bytes(self) -> NDArray[np.float64]:
        """DRAM traffic of each row, once."""
        total: NDArray[np.float64] = np.add.reduce(self.costs[2:], axis=0)
        return total

    def __len__(self) -> int:
        return len(self.layer)

    def columns(self, index: int) -> dict[str, NDArray[np.float64]]:
        """The dimensions of segment `index`, with an entry a row."""
        segment = self.segments[index]
        length = segment.stop - segment.start
        return {key: _column(value, length) for key, value in self.dims[index].items()}


def _column(value: Array, length: int) -> NDArray[np.float64]:
    """A dimension with an entry a row."""
    if isinstance(value, np.ndarray) and value.ndim:
        return value if len(value) == length else np.broadcast_to(value, length)
    column: NDArray[np.float64] = np.empty(length)
    column.fill(value)
    return column


class TableBuilder:
    """Collects segments; arrays are laid out once, at the end."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, stage: str, name: str, cost: Cost, layers: NDArray[np.int64] | None, count: float = 1.0) -> None:
        """One operation; a layer index an entry, or None outside layers."""
        index = np.array([NO_LAYER]) if layers is None else layers
        self.parts.append((stage, name, cost, index, count, len(index)))

    def finish(self, steps: int) -> OpTable:
        lengths = np.array([part[-1] for part in self.parts])
        segments, dims = [], []
        # figures that are one for all rows of a segment are spread at once; the others are written one by one
        shared: list[list[float]] = []
        written: list[tuple[int, int, int, NDArray[np.float64]]] = []
        start = 0
        for stage, name, cost, _, _, length in self.parts:
            stop = start + length
            square = cost.flops if cost.flops_full_square is None else cost.flops_full_square
            moved = (cost.read_weights, cost.read_activations, cost.read_kv, cost.write_activations, cost.write_kv)
            row = []
            for column, values in enumerate((cost.flops, square, *moved)):
                if isinstance(values, np.ndarray):
                    written.append((column, start, stop, values))
                    row.append(0.0)
                else:
                    row.append(values)
            shared.append(row)
            segments.append(Segment(stage, name, cost.kind, start, stop))
            dims.append(cost.dims)
            start = stop
        costs = np.repeat(np.array(shared).T, lengths, axis=1)
        for column, start, stop, values in written:
            costs[column, start:stop] = values
        layer = np.concatenate([part[3] for part in self.parts])
        count = np.repeat([part[4] for part in self.parts], lengths)
        return OpTable(tuple(segments), layer, count, costs, tuple(dims), lengths, steps)
