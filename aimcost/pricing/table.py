"""OpTable: every operation of a request, one row an operation, a layer and (decode) a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidValueError
from ..frozen import dataclass
from ..inputs.run import Run
from ..ops import Cost
from ..ops.cost import Array
from ..ops.op import Fusion, Group, Op, Place

__all__ = [
    "COST_COLUMNS",
    "FLOPS",
    "FULL_SQUARE_FLOPS",
    "NO_LAYER",
    "READ_WEIGHTS",
    "ROWS_A_LAYER",
    "TRAFFIC",
    "OpRows",
    "OpTable",
    "Products",
    "Segment",
    "TableBuilder",
    "check_rows",
    "fixed",
]

Scalar = TypeVar("Scalar", bound=np.generic)

COST_COLUMNS = (
    "flops",
    "flops_full_square",
    "read_weights",
    "read_activations",
    "read_kv",
    "write_activations",
    "write_kv",
)
# Places in `COST_COLUMNS`; traffic is bytes by tensor class.
FLOPS, FULL_SQUARE_FLOPS, READ_WEIGHTS, TRAFFIC = 0, 1, 2, slice(2, None)
NO_LAYER = -1
# Of one table: an estimate, which prices the run without its reduction as well, takes about 660 bytes a row beside
# 160 MB of libraries (measured under an address space of a gigabyte, into which it has to fit).
MAX_ROWS = 1_200_000
# About as many operations has a layer.
ROWS_A_LAYER = 20


def check_rows(run: Run, steps: int, rows_a_step: int) -> None:
    """Refuse a run whose table would not fit into memory, before it is made.

    Parameters
    ----------
    rows_a_step
        Rows of a layer that differ from one decode step to the next: attention's kernels, and conversions of the cache.

    Raises
    ------
    InvalidValueError
        More layers and decode steps than `MAX_ROWS` allows.
    """
    layers = run.model.decoder.layers
    if layers * (ROWS_A_LAYER + rows_a_step * steps) <= MAX_ROWS:
        return
    most = (MAX_ROWS // layers - ROWS_A_LAYER) // rows_a_step
    if most < 1:
        raise InvalidValueError("num_hidden_layers", f"at most {MAX_ROWS // (ROWS_A_LAYER + 3):,}", layers)
    what = f"at most {most:,} with {layers:,} layers and {run.attention} attention: decode is priced step by step"
    raise InvalidValueError("workload.new_tokens", what, run.workload.new_tokens)


@dataclass(frozen=True, slots=True)
class OpRows:
    """One op of a stage before it is laid out: `layers` holds the layer index of each of its rows."""

    stage: str
    op: Op
    cost: Cost
    layers: NDArray[np.int64]
    count: float = 1.0

    @property
    def key(self) -> tuple[str, bytes, float]:
        """Equal for the ops of one run of layers."""
        return self.stage, self.layers.tobytes(), self.count


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of rows that are one op of one stage over layers and steps.

    `beside`: of overhead, the stage that it comes with. `fusion`: what a stack may run it inside of.
    `weights`: format of a product's weights, where it is not that of the decoder's linear layers.
    """

    stage: str
    name: str
    kind: str
    group: Group
    place: Place
    start: int
    stop: int
    beside: str = ""
    fusion: Fusion = ""
    weights: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """Products (m, k) x (k, n) by row, of which equal shapes are priced once.

    Attributes
    ----------
    shape
        m, n and k of each row, shape (3, rows).
    first, back
        Int64 indices: a row of each distinct shape, shape (distinct,), and the distinct shape of each row, shape
        (rows,). Figures of distinct shapes, indexed with `back`, are those of the rows.
    """

    shape: NDArray[np.float64]
    first: NDArray[np.int64]
    back: NDArray[np.int64]

    @classmethod
    def of(cls, shape: NDArray[np.float64], experts: NDArray[np.float64] | None = None) -> Products:
        """From the shapes, and the matrices that a grouped product of each row chooses from: they are more to read."""
        key = _shape_key(*shape) if experts is None else _shape_key(*shape, experts)
        _, first, back = np.unique(key, return_index=True, return_inverse=True)
        return cls(shape, first, back)

    @property
    def distinct(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """m, n and k of each distinct shape."""
        m, n, k = self.shape
        return m[self.first], n[self.first], k[self.first]


def _shape_key(*dims: NDArray[np.float64]) -> NDArray[np.uint64]:
    """A 64-bit key for each row's dimensions: np.unique over whole rows takes ten times as long."""
    key = np.zeros(len(dims[0]), dtype=np.uint64)
    for values in dims:
        key = key * np.uint64(0x9E3779B97F4A7C15) + np.ascontiguousarray(values).view(np.uint64)
        key ^= key >> np.uint64(29)
    return key


@dataclass(frozen=True, eq=False)
class OpTable:
    """Columns over rows. `count` is how often a row runs; every other figure is that of ONE run of its row.

    Not slotted, so that `functools.cached_property` can hold what follows from the columns; runs share tables, and
    their arrays cannot be written to.

    Attributes
    ----------
    segments
        What each run of rows is, in execution order within a layer.
    layer
        Layer index of each row, `NO_LAYER` outside layers; int64, shape (rows,).
    count
        How often each row runs; float64, shape (rows,).
    costs
        FLOPs, and bytes by tensor class; float64, shape (`COST_COLUMNS`, rows).
    dims
        Per segment, the dimensions that time models look at: one number, or an array with an entry for each of its
        rows (`columns` makes arrays of all).
    lengths
        Rows of each segment; integers, shape (segments,).
    launches, syncs
        Kernels of each row, run one after another (NaN where the software stack says), and how often the host
        then waits for the device; float64, shape (rows,).
    steps
        Decode steps; 0 without decode.
    """

    segments: tuple[Segment, ...]
    layer: NDArray[np.int64]
    count: NDArray[np.float64]
    costs: NDArray[np.float64]
    dims: tuple[Mapping[str, Array], ...]
    lengths: NDArray[np.int64]
    launches: NDArray[np.float64]
    syncs: NDArray[np.float64]
    steps: int = 0

    def spread(self, values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """One value a segment → one a row."""
        return np.repeat(np.asarray(values), self.lengths)

    @property
    def flops(self) -> NDArray[np.float64]:
        """FLOPs of each row, once."""
        flops: NDArray[np.float64] = self.costs[FLOPS]
        return flops

    @property
    def full_square_flops(self) -> NDArray[np.float64]:
        """FLOPs of each row, once, with attention over the full square."""
        flops: NDArray[np.float64] = self.costs[FULL_SQUARE_FLOPS]
        return flops

    @property
    def traffic(self) -> NDArray[np.float64]:
        """DRAM bytes of each row by tensor class, once, shape (classes, rows)."""
        traffic: NDArray[np.float64] = self.costs[TRAFFIC]
        return traffic

    @cached_property
    def bytes(self) -> NDArray[np.float64]:
        """DRAM traffic of each row, once."""
        total: NDArray[np.float64] = np.add.reduce(self.traffic, axis=0)
        return fixed(total)

    @cached_property
    def decode(self) -> NDArray[np.bool_]:
        """Rows of the decode steps."""
        return fixed(self.spread([segment.stage == "decode" for segment in self.segments]))

    @cached_property
    def is_product(self) -> NDArray[np.bool_]:
        """Rows that are products with weights."""
        return fixed(self.spread([segment.kind == "gemm" for segment in self.segments]))

    @cached_property
    def product_rows(self) -> Mapping[str, NDArray[np.bool_]]:
        """By the format of their weights (empty: the decoder's): which rows are such products, bool, shape (rows,)."""
        formats = dict.fromkeys(segment.weights for segment in self.segments if segment.kind == "gemm")
        if len(formats) == 1:
            return dict.fromkeys(formats, self.is_product)
        found = {}
        for name in formats:
            here = [segment.kind == "gemm" and segment.weights == name for segment in self.segments]
            found[name] = fixed(self.spread(here))
        return found

    @cached_property
    def products(self) -> Mapping[str, Products]:
        """By the format of their weights: the shapes of the rows that `product_rows` marks, in the table's order.

        `Products` counts those rows alone: its `shape` is (3, marked rows), and `first` and `back` index them.
        """
        shapes, experts = self.product_shapes, self.experts
        return {
            name: Products.of(shapes[:, rows], None if experts is None else experts[rows])
            for name, rows in self.product_rows.items()
        }

    @cached_property
    def experts(self) -> NDArray[np.float64] | None:
        """Matrices that each row's grouped product chooses from, 1 elsewhere, shape (rows,); None without any."""
        matrices = [float(np.max(dims["experts"])) if "experts" in dims else 1.0 for dims in self.dims]
        return fixed(self.spread(matrices)) if max(matrices, default=1.0) > 1.0 else None

    @cached_property
    def product_shapes(self) -> NDArray[np.float64]:
        """m, n and k of each row, float64, shape (3, rows); zero where it is no product."""
        shape = np.zeros((3, len(self)))
        for segment, dims in zip(self.segments, self.dims, strict=True):
            if segment.kind == "gemm":
                rows = slice(segment.start, segment.stop)
                shape[0, rows], shape[1, rows], shape[2, rows] = dims["m"], dims["n"], dims["k"]
        return fixed(shape)

    @cached_property
    def head_widths(self) -> tuple[int, ...]:
        """By segment: head width of an attention, 0 of everything else."""
        return tuple(
            int(np.max(dims["head_dim"])) if segment.kind == "attention" else 0
            for segment, dims in zip(self.segments, self.dims, strict=True)
        )

    @cached_property
    def classes(self) -> tuple[tuple[str, str, int], ...]:
        """Each distinct (kind, stage, head width) of the segments: what time coefficients are selected by.

        The stage matters for attention only; in its place everything else has the format of its weights, empty for
        that of the decoder. The head width is 0 of all but attention.
        """
        return tuple(dict.fromkeys(self._class_names))

    @cached_property
    def class_of(self) -> tuple[int, ...]:
        """By segment: an index into `classes`."""
        index = {each: i for i, each in enumerate(self.classes)}
        return tuple(index[name] for name in self._class_names)

    @property
    def _class_names(self) -> list[tuple[str, str, int]]:
        return [
            (segment.kind, segment.stage if segment.kind == "attention" else segment.weights, width)
            for segment, width in zip(self.segments, self.head_widths, strict=True)
        ]

    @cached_property
    def class_rows(self) -> NDArray[np.int64]:
        """By row: an index into `classes`."""
        return fixed(self.spread(self.class_of))

    def rows_of(self, index: int) -> slice:
        """The rows of segment `index`."""
        segment = self.segments[index]
        return slice(segment.start, segment.stop)

    @cached_property
    def states_launches(self) -> NDArray[np.bool_]:
        """Rows whose operation says how many kernels it launches."""
        return fixed(~np.isnan(self.launches))

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Row indices (int64), sorted by stage, layer and operation.

        Up to decode this is execution order. In decode the rows of an operation in a layer hold all its steps, so
        there it is the order inside one step. What a stack adds beside the operations (``overhead``) and what the
        CPU does before them (``preprocess``) is in no queue and is left out.
        """
        stages: dict[str, int] = {}
        stage = self.spread([stages.setdefault(segment.stage, len(stages)) for segment in self.segments])
        last = self.spread([segment.place == "after" for segment in self.segments])
        layer = np.where(last, np.iinfo(np.int64).max, self.layer)
        # stable: a layer's operations stay in the order of their segments
        order = np.lexsort((layer, stage))
        for outside in ("preprocess", "overhead"):
            if outside in stages:
                order = order[stage[order] != stages[outside]]
        return fixed(order)

    def __len__(self) -> int:
        return len(self.layer)

    def columns(self, index: int) -> dict[str, NDArray[np.float64]]:
        """The dimensions of segment `index`, with an entry a row."""
        segment = self.segments[index]
        length = segment.stop - segment.start
        return {key: _column(value, length) for key, value in self.dims[index].items()}


def fixed(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """The array itself, no longer to be written to."""
    values.flags.writeable = False
    return values


def _column(value: Array, length: int) -> NDArray[np.float64]:
    """A dimension with an entry a row."""
    if isinstance(value, np.ndarray) and value.ndim:
        return value if len(value) == length else np.broadcast_to(value, length)
    column: NDArray[np.float64] = np.empty(length)
    column.fill(value)
    return column


class TableBuilder:
    """Collects entries; arrays are laid out once, at the end.

    Parameters
    ----------
    weights
        Format of the decoder's linear layers.
    """

    def __init__(self, weights: str = "") -> None:
        self.entries: list[OpRows] = []
        self.weights = weights

    def add(self, stage: str, op: Op, cost: Cost, layers: NDArray[np.int64] | None, count: float = 1.0) -> None:
        """Add one op: a layer index for each of its rows, or None outside layers."""
        self.entries.append(OpRows(stage, op, cost, _OUTSIDE if layers is None else layers, count))

    def finish(self, steps: int) -> OpTable:
        """Lay out the columns."""
        lengths = np.array([len(entry.layers) for entry in self.entries])
        segments, dims = [], []
        # figures that are one for all rows of a segment are spread at once; the others are written one by one
        shared: list[list[float]] = []
        written: list[tuple[int, int, int, NDArray[np.float64]]] = []
        start = 0
        for entry in self.entries:
            op, cost = entry.op, entry.cost
            stop = start + len(entry.layers)
            square = cost.flops if cost.flops_full_square is None else cost.flops_full_square
            moved = (cost.read_weights, cost.read_activations, cost.read_kv, cost.write_activations, cost.write_kv)
            row = list[float](7 * [0.0])
            for column, values in enumerate((cost.flops, square, *moved)):
                # compared by type: isinstance would be a seventh of all calls of an estimate
                if type(values) is np.ndarray:
                    written.append((column, start, stop, values))
                else:
                    row[column] = values  # type: ignore[assignment]
            shared.append(row)
            own = cost.weights_format if cost.weights_format != self.weights else ""
            segment = Segment(
                entry.stage, op.name, cost.kind, op.group, op.place, start, stop, fusion=op.fusion, weights=own
            )
            segments.append(segment)
            dims.append(cost.dims)
            start = stop
        costs = np.repeat(np.array(shared).T, lengths, axis=1)
        for column, start, stop, values in written:
            costs[column, start:stop] = values
        layer = np.concatenate([entry.layers for entry in self.entries])
        count = np.repeat([entry.count for entry in self.entries], lengths)
        launches, syncs = np.full(len(layer), np.nan), np.zeros(len(layer))
        for segment, entry in zip(segments, self.entries, strict=True):
            if entry.cost.launches is not None:
                launches[segment.start : segment.stop] = entry.cost.launches
                syncs[segment.start : segment.stop] = entry.cost.syncs
        layer, count, costs, lengths, launches, syncs = map(fixed, (layer, count, costs, lengths, launches, syncs))
        return OpTable(tuple(segments), layer, count, costs, tuple(dims), lengths, launches, syncs, steps)


_OUTSIDE = np.array([NO_LAYER])
