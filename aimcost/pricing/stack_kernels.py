"""What a software stack makes of a table's operations: fused kernels, the traffic they cause, and launches."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass
from ..ops.attention import ATTENTION_KINDS
from ..types import Stack, Workload
from .table import COST_COLUMNS, TRAFFIC, OpTable

__all__ = ["FusedProduct", "StackKernels"]

Floats = NDArray[np.float64]
READ_ACTIVATIONS = COST_COLUMNS.index("read_activations")
# A residual that is added inside the norm behind it: the sum stays in registers, one operand is read and one
# written, where a separate kernel reads two and writes one.
_ADD_TRAFFIC = 2.0 / 3.0


@dataclass(frozen=True, slots=True)
class FusedProduct:
    """Products with one input that a stack runs as one, on the same layers of one stage.

    Attributes
    ----------
    segments
        The parts, by index in the table.
    rows
        Rows of each part; the i-th rows of all parts are one product.
    """

    segments: tuple[int, ...]
    rows: tuple[slice, ...]

    def total(self, values: Floats) -> Floats:
        """Sum over the parts of a figure given by row of the table."""
        return np.asarray(sum(values[rows] for rows in self.rows))


class StackKernels:
    """The kernels that run a table's operations under one stack.

    Attributes
    ----------
    operations
        The table as the models define it.
    fused
        Products that run as one.
    inside_norm
        By segment: whether it is a residual that is added inside the next norm's kernel.
    as_run
        The table with the traffic that the stack's kernels cause: chains of them move more, fused ones less.
    """

    def __init__(self, operations: OpTable, stack: Stack, workload: Workload) -> None:
        self.operations, self.stack, self.workload = operations, stack, workload
        self.fused = self._fused_products()
        adds_inside = "add_norm" in stack.fused
        self.inside_norm = [adds_inside and segment.fusion == "add_norm" for segment in operations.segments]
        self.as_run = replace(operations, costs=self._costs())

    def _fused_products(self) -> list[FusedProduct]:
        found: dict[tuple[str, str, bytes], list[int]] = {}
        for index, segment in enumerate(self.operations.segments):
            if segment.kind == "gemm" and segment.fusion in self.stack.fused:
                layers = self.operations.layer[self.operations.rows_of(index)].tobytes()
                found.setdefault((segment.stage, segment.fusion, layers), []).append(index)
        return [
            FusedProduct(tuple(parts), tuple(map(self.operations.rows_of, parts)))
            for parts in found.values()
            if len(parts) > 1
        ]

    def _costs(self) -> Floats:
        factors = [
            _ADD_TRAFFIC if inside else self.stack.traffic.get(segment.kind, 1.0)
            for segment, inside in zip(self.operations.segments, self.inside_norm, strict=True)
        ]
        costs: Floats = self.operations.costs.copy()
        costs[TRAFFIC] *= self.operations.spread(factors)
        for product in self.fused:
            for rows in product.rows[1:]:
                costs[READ_ACTIVATIONS, rows] = 0.0  # the first part has read them
        return costs

    @cached_property
    def kernels_by_segment(self) -> list[float]:
        """By segment: kernels of one run of an operation, as the stack runs its kind."""
        return [self.stack.kernels.get(segment.kind, 1.0) for segment in self.operations.segments]

    @cached_property
    def device_kernels(self) -> Floats:
        """By row: kernels on the device of one run, one after another; the operation's own count where it states one.

        A residual inside a norm's kernel counts as one, so that its time can be divided by the number.
        """
        counts = [1.0 if inside else n for inside, n in zip(self.inside_norm, self.kernels_by_segment, strict=True)]
        return self._or_stated(self.operations.spread(counts))

    @cached_property
    def host_launches(self) -> Floats:
        """By row: launches that the host issues for one run; the operation's own count where it states one.

        The parts of a fused product share one launch, a residual inside a norm's kernel needs none, and attention
        windows of the tower may have their own, each of eager attention's kernels too.
        """
        counts = [0.0 if inside else n for inside, n in zip(self.inside_norm, self.kernels_by_segment, strict=True)]
        for product in self.fused:
            for index in product.segments:
                counts[index] /= len(product.segments)
        launches: Floats = self.operations.spread(counts).astype(float)
        load = self.workload
        tower = load.encoded if load.has_cached_inputs else load.tower
        if self.stack.tower_loop == "window" and tower is not None:
            for index, segment in enumerate(self.operations.segments):
                sizes = self.operations.columns(index)
                if segment.stage == "vision" and segment.kind in ATTENTION_KINDS and "batch" in sizes:
                    windows = sizes["batch"] / (load.batch * tower.sequences)
                    launches[self.operations.rows_of(index)] *= np.maximum(1.0, windows)
        return self._or_stated(launches)

    def _or_stated(self, by_stack: Floats) -> Floats:
        return np.where(self.operations.states_launches, self.operations.launches, by_stack)

    def after_issue_seconds(self, device: Floats) -> Floats:
        """By row: device seconds left once the host has issued all launches of the row.

        The last kernel's, where the operation states how many it launches; all of them in every other row, chains
        of the stack's included.
        """
        return np.where(self.operations.states_launches, device / self.device_kernels, device)
