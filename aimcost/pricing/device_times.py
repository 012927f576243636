"""Device seconds of a table's rows, each kind of operation by the model of its kernels.

Products and attention of one table on one card are computed once: a stack changes neither, where it fuses no products
and adds no traffic, so runs that differ in the stack, in host time or in what they include share them. The caches
compare figures by content, and table and model, neither of which is ever modified, by identity; tables of many rows
are priced anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass
from ..inputs.hardware import load_hardware
from ..machine.coefficients import COLLECTIVE_LAUNCH_S, COLLECTIVE_SHARE, Coefficients
from ..machine.libraries import library_factor
from ..machine.peaks import computed_in, link_bytes_per_s, peak_flops_per_s
from ..machine.timemodels.attention import AttentionModel
from ..machine.timemodels.collective import ONE_SHOT, CollectiveModel
from ..machine.timemodels.gemm import Factor, GemmModel
from ..machine.timemodels.measured import AttentionGrid, CurveSet, GemmGrid
from ..machine.timemodels.memory_bound import KernelModel, latency_s
from ..machine.timemodels.memory_bound import seconds as kernel_seconds
from .caches import held
from .stack_kernels import StackKernels
from .table import READ_WEIGHTS, OpTable, Products, fixed

__all__ = ["DevicePricing", "DeviceTimes"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]
_LIBRARY_FORMATS = ("bf16", "fp16")  # other formats' kernels are not of cuBLAS's 16-bit products
# A row is launch-bound where launches take more of its device time than traffic and arithmetic together.
LAUNCH_BOUND_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Card:
    """What time models ask of a machine: peak FLOP/s of the format, DRAM bytes/s, multiprocessors."""

    peak: float
    bandwidth: float
    sm_count: int


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """Device seconds of ONE run: an entry for each of some rows, or for each distinct shape of some products.

    Attributes
    ----------
    outside
        Where a dimension leaves the measured range.
    launch_s
        Part of the seconds that launches take, and not traffic or arithmetic; a number where it is one for all.
    """

    seconds: Floats
    outside: NDArray[np.bool_]
    launch_s: Floats | float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """Of a whole table, each of shape (rows,).

    Attributes
    ----------
    seconds
        Device seconds of each row, all its `count` runs together.
    extrapolated
        Whether one of its dimensions leaves the measured range.
    launch_bound
        Whether launches take more than `LAUNCH_BOUND_SHARE` of its time, before the calibration's and the stack's
        factors.
    """

    seconds: Floats
    extrapolated: Flags
    launch_bound: Flags


class _KernelCoefficients(NamedTuple):
    """Of memory-bound kernels, one value or one a row; the defaults are those of traffic within another kernel.

    Attributes
    ----------
    bandwidth
        Attained DRAM bytes a second.
    launch_cycles, row_cycles
        Clock cycles of an empty kernel, and of each element of a row that one block walks along.
    bytes_per_cycle
        Bytes that one multiprocessor moves in a clock cycle.
    compute_share
        Share of the peak FLOP/s that its arithmetic reaches.
    serial
        Above 0 where latency adds to the rest.
    """

    bandwidth: Floats | float
    launch_cycles: Floats | float = 0.0
    row_cycles: Floats | float = 0.0
    bytes_per_cycle: Floats | float = np.inf
    compute_share: Floats | float = 1.0
    serial: Floats | float = 0.0


class DevicePricing:
    """Device seconds of a table on one machine, run by a stack's kernels.

    A method per kind of operation returns the `KernelTimes` of one run of its rows.
    """

    def __init__(self, coefficients: Coefficients, kernels: StackKernels) -> None:
        self.coefficients, self.kernels = coefficients, kernels
        self.table, self.stack = kernels.operations, kernels.stack
        self.hardware, self.calibration = coefficients.hardware, coefficients.calibration

    def gemm_card(self, weights: str) -> Card:
        """The machine, for products with weights of a format (empty: the decoder's)."""
        return self._card(self.coefficients.gemm_format(weights))

    @cached_property
    def other_card(self) -> Card:
        """The machine, for everything else."""
        return self._card(self.coefficients.other_dtype)

    def _card(self, dtype: str) -> Card:
        peak, _ = peak_flops_per_s(self.hardware, dtype)
        return Card(peak, self.hardware.memory_bytes_per_s, self.coefficients.sm_count)

    def times(self) -> DeviceTimes:
        """Device seconds of each row, all its `count` runs together; each kind of operation by its model."""
        table = self.table
        seconds, launch_s = np.zeros(len(table)), np.zeros(len(table))
        outside = np.zeros(len(table), dtype=bool)

        def enter(rows: slice | Flags | Rows, times: KernelTimes) -> None:
            seconds[rows], outside[rows], launch_s[rows] = times.seconds, times.outside, times.launch_s

        for weights, products in table.product_rows.items():
            enter(products, self._products(weights))
        curves: dict[str, CurveSet] = {}
        kernels: dict[str, KernelModel] = {}
        memory_bound = [False] * len(table.segments)
        for index, segment in enumerate(table.segments):
            kind, rows = segment.kind, slice(segment.start, segment.stop)
            if kind == "gemm":
                continue
            if kind == "attention" and (attention := self._attention_model(index)) is not None:
                enter(rows, self._attention(index, attention))
            elif kind == "bmm" and (product := self._bmm_model) is not None:
                enter(rows, self._score_product(index, product))
            elif kind == "collective":
                enter(rows, self._collective(index))
            else:
                if kind not in kernels and kind not in curves:
                    model = self.coefficients.memory_bound(kind, self.stack)
                    if isinstance(model, CurveSet):
                        curves[kind] = model
                    else:
                        kernels[kind] = model
                if kind in kernels or self.kernels.inside_norm[index]:
                    memory_bound[index] = True
                else:
                    enter(rows, self._curve(index, curves[kind]))
        if True in memory_bound:
            here = np.flatnonzero(table.spread(memory_bound))
            segments = [index for index, each in enumerate(memory_bound) if each]
            enter(here, self._memory_bound(segments, here, kernels))
        # taken before the factors: they scale a kernel's launch with the rest of it
        launch_bound = launch_s > LAUNCH_BOUND_SHARE * seconds
        if self.calibration.scale:
            scale = {**self.calibration.scale, "gemm": 1.0}  # that of products is in their seconds
            seconds *= table.spread([scale.get(segment.kind, 1.0) for segment in table.segments])
        if self.stack.scale:
            seconds *= table.spread([self.stack.scale_of(segment.kind, segment.stage) for segment in table.segments])
        return DeviceTimes(seconds * table.count, outside, launch_bound)

    def _products(self, weights: str) -> KernelTimes:
        """Products with weights of a format; the parts of a fused one share its time."""
        model, _ = self.coefficients.products(weights=weights)
        alone, fused_s = self._products_as_run(model, weights)
        return self._share_fused(alone, fused_s, model.launch_s) if fused_s else alone

    def _products_as_run(self, model: GemmModel | GemmGrid, weights: str) -> tuple[KernelTimes, list[Floats]]:
        """The table's products by themselves, and seconds of each fused one: distinct shapes are computed once."""
        # what a stack fuses are linear layers of the decoder
        table, fused, card = self.table, self.kernels.fused if not weights else [], self.gemm_card(weights)
        factor = self._library_factor(weights)
        if fused:
            m, n, k = table.product_shapes
            moved = self.kernels.as_run.bytes
            weight_bytes = self.kernels.as_run.costs[READ_WEIGHTS]
            lone = np.stack([m, n, k, table.bytes, table.costs[READ_WEIGHTS]])[:, table.product_rows[weights]]
            whole = [
                np.stack([m[each.rows[0]], each.total(n), k[each.rows[0]], each.total(moved), each.total(weight_bytes)])
                for each in fused
            ]
            m, n, k, moved, weight_bytes = np.concatenate([lone, *whole], axis=1)
            experts = table.experts
            if experts is not None:
                experts = np.concatenate([experts[table.product_rows[weights]], *(experts[p.rows[0]] for p in fused)])
            products = Products.of(np.stack([m, n, k]), experts)
            times = times_of(model, products, moved, weight_bytes, card, factor)
            lone, *together = np.split(products.back, np.cumsum([each.shape[1] for each in (lone, *whole)])[:-1])
        else:
            products, times = table.products[weights], product_times(table, model, card, weights, factor)
            lone, together = products.back, []
        distinct = times.seconds * self.calibration.scale.get("gemm", 1.0)
        return KernelTimes(distinct[lone], times.outside[lone], times.launch_s), [distinct[each] for each in together]

    def _library_factor(self, weights: str) -> Factor | None:
        """Of so many rows: time of the stack's GEMM library over the calibration's."""
        precision = self.coefficients.precision
        stored = weights or precision.weights
        # a format without compute units is computed in the next wider one, by that one's kernels
        mixed = stored != (precision.inputs or precision.activations)
        computed = stored if mixed else computed_in(self.hardware, stored)
        if computed not in _LIBRARY_FORMATS:
            return None
        return library_factor(self.stack.products, self._architecture)

    @property
    def _architecture(self) -> str:
        """The machine's, or where it states none that of the card whose coefficients it takes."""
        if self.hardware.architecture or not self.calibration.inherited_from:
            return self.hardware.architecture
        return load_hardware(self.calibration.inherited_from).architecture

    def _share_fused(self, alone: KernelTimes, fused_s: list[Floats], launch_s: float) -> KernelTimes:
        """Share the time and the launch of each fused product among its parts, by width.

        It is never slower than its parts, launches saved: an engine that found it slower would run them.
        """
        here, width = self.table.product_rows[""], self.table.product_shapes[1]
        seconds, launch = np.zeros(len(here)), np.full(len(here), launch_s)
        seconds[here] = alone.seconds
        for product, one in zip(self.kernels.fused, fused_s, strict=True):
            apart = product.total(seconds) - (len(product.rows) - 1) * launch_s
            together, total = np.minimum(one, apart), product.total(width)
            for rows in product.rows:
                seconds[rows] = together * width[rows] / total
                launch[rows] = launch_s * width[rows] / total
        return KernelTimes(seconds[here], alone.outside, launch[here])

    def _attention_model(self, index: int) -> AttentionModel | AttentionGrid | None:
        chosen = self.coefficients.attention(self.table.segments[index].stage, self.table.head_widths[index])
        return None if chosen is None else chosen[0]

    def _attention(self, index: int, model: AttentionModel | AttentionGrid) -> KernelTimes:
        traffic = self.stack.traffic.get("attention", 1.0)
        times = attention_times(self.table, index, model, traffic, self.other_card)
        # around the kernel, an eager stack copies its result into place
        copies_s = (self.kernels.kernels_by_segment[index] - 1.0) * self._pointwise_launch_s
        return KernelTimes(times.seconds + copies_s, times.outside, times.launch_s + copies_s)

    @cached_property
    def _pointwise_launch_s(self) -> float:
        model = self.coefficients.memory_bound("pointwise")
        return model.launch_s(self.calibration.machine) if isinstance(model, KernelModel) else model.launch_s

    @cached_property
    def _bmm_model(self) -> GemmModel | None:
        """Of products without weights; None where the machine timed them itself, as eager PyTorch runs them."""
        model, _ = self.coefficients.products(self.coefficients.other_dtype)
        return model if isinstance(model, GemmModel) else None

    def _score_product(self, index: int, model: GemmModel) -> KernelTimes:
        """q·kᵀ or p·v of an eager attention: products of all heads at once, the whole square."""
        rows, dims, card = self.table.rows_of(index), self.table.columns(index), self.other_card
        seconds = model.seconds(
            dims["groups"] * dims["m"],
            dims["n"],
            dims["k"],
            bytes_moved=self.kernels.as_run.bytes[rows],
            weight_bytes=np.zeros(len(dims["m"])),
            peak=card.peak,
            bandwidth=card.bandwidth,
            sm_count=card.sm_count,
        )
        return KernelTimes(seconds, np.zeros(len(seconds), dtype=bool), model.launch_s)

    def _collective(self, index: int) -> KernelTimes:
        """From NCCL's curves; a relative's link takes the sizes at which its own would be as busy.

        The start-up of an exchange is the network's latency and no launch.
        """
        dims, model, link = self.table.columns(index), self.calibration.collective, link_bytes_per_s(self.hardware)
        if model is None:
            wire_s = dims["wire_bytes"] / (link * COLLECTIVE_SHARE)
            return KernelTimes(COLLECTIVE_LAUNCH_S + wire_s, np.zeros(len(wire_s), dtype=bool))
        ranks = float(dims["ranks"][0])
        message = dims["ring_bytes"] * (self.calibration.collective_link / self.hardware.interconnect_bytes_per_s)
        if dims["passes"][0] == 2.0:
            return self._all_reduce(dims, model, ranks, message)
        return KernelTimes(model.seconds("all_gather", ranks, message), model.outside("all_gather", ranks, message))

    def _all_reduce(
        self, dims: Mapping[str, Floats], model: CollectiveModel, ranks: float, message: Floats
    ) -> KernelTimes:
        """NCCL's ring, or where the stack has it the one-shot kernel as long as that is faster."""
        seconds, outside = model.seconds("all_reduce", ranks, message), model.outside("all_reduce", ranks, message)
        if self.stack.collectives == ONE_SHOT:
            one = model.seconds(ONE_SHOT, ranks, message)
            outside, seconds = outside & (seconds < one), np.minimum(seconds, one)
        large = (dims["bytes"] >= self.stack.large_bytes) & (dims["ranks"] >= self.stack.large_ranks)
        return KernelTimes(np.where(large, self.stack.large_factor * seconds, seconds), outside)

    def _curve(self, index: int, curves: CurveSet) -> KernelTimes:
        """As eager PyTorch was timed: every kernel and copy is in the curve, and the whole square of a product."""
        table, rows = self.table, self.table.rows_of(index)
        flops = table.full_square_flops if table.segments[index].kind == "bmm" else table.flops
        seconds = curves.seconds(table.bytes[rows], flops[rows])
        if table.states_launches[rows].any():
            # a curve holds the kernels of what was timed; a longer sequence takes at least the shortest for each
            seconds = np.fmax(seconds, table.launches[rows] * self._shortest_s)
        return KernelTimes(seconds, np.zeros(len(seconds), dtype=bool))

    @cached_property
    def _shortest_s(self) -> float:
        """The shortest kernel measured on this machine."""
        model = self.coefficients.memory_bound("pointwise")
        return model.shortest_s if isinstance(model, CurveSet) else model.launch_s(self.calibration.machine)

    def _memory_bound(self, segments: list[int], here: Rows, models: Mapping[str, KernelModel]) -> KernelTimes:
        """Kernels that memory traffic bounds: `segments` in one pass over their rows `here`; `models` by kind.

        A residual inside a norm's kernel is its traffic alone.
        """
        table, machine = self.table, self.calibration.machine
        by_kind = {kind: self._coefficients_of(model) for kind, model in models.items()}
        by_segment = [_KernelCoefficients(machine.bandwidth)] * len(segments)
        width = np.zeros(len(table))
        for position, index in enumerate(segments):
            segment = table.segments[index]
            if not self.kernels.inside_norm[index]:
                model = models[segment.kind]
                by_segment[position] = by_kind[segment.kind]
                if model.row_cycles:
                    width[segment.start : segment.stop] = table.dims[index].get("width", model.typical_width)
        by_row = _KernelCoefficients(*np.repeat(np.array(by_segment).T, table.lengths[segments], axis=1))
        width = width.take(here)
        count = self.kernels.device_kernels.take(here)
        seconds = kernel_seconds(
            self.kernels.as_run.bytes.take(here),
            machine,
            launch_cycles=by_row.launch_cycles,
            row_cycles=by_row.row_cycles,
            width=width,
            bytes_per_cycle=by_row.bytes_per_cycle,
            kernels=count,
            compute_s=table.flops.take(here) / (self.other_card.peak * by_row.compute_share),
            bandwidth=by_row.bandwidth,
            serial=np.asarray(by_row.serial) > 0,
        )
        each_s = latency_s(machine, launch_cycles=by_row.launch_cycles, row_cycles=by_row.row_cycles, width=width)
        return KernelTimes(seconds, np.zeros(len(seconds), dtype=bool), count * each_s)

    def _coefficients_of(self, model: KernelModel) -> _KernelCoefficients:
        machine = self.calibration.machine
        return _KernelCoefficients(
            bandwidth=machine.bandwidth if model.share is None else self.hardware.memory_bytes_per_s * model.share,
            launch_cycles=model.launch_cycles,
            row_cycles=model.row_cycles,
            bytes_per_cycle=model.bytes_per_cycle,
            compute_share=model.compute_share,
            serial=model.serial,
        )


def times_of(
    model: GemmModel | GemmGrid,
    products: Products,
    moved: Floats,
    weight_bytes: Floats,
    card: Card,
    factor: Factor | None = None,
) -> KernelTimes:
    """Of each distinct shape of `products`; of its rows, `moved` holds the bytes and `weight_bytes` the weights'."""
    m, n, k = products.distinct
    seconds = model.seconds(
        m,
        n,
        k,
        bytes_moved=moved[products.first],
        weight_bytes=weight_bytes[products.first],
        peak=card.peak,
        bandwidth=card.bandwidth,
        sm_count=card.sm_count,
        factor=factor,
    )
    return KernelTimes(fixed(seconds), fixed(model.outside(m, n, k)), model.launch_s)


@held(64, rows=len)
def product_times(
    table: OpTable, model: GemmModel | GemmGrid, card: Card, weights: str = "", factor: Factor | None = None
) -> KernelTimes:
    """Of each distinct shape of the table's products with weights of a format, launched one by one."""
    rows = table.product_rows[weights]
    return times_of(model, table.products[weights], table.bytes[rows], table.costs[READ_WEIGHTS][rows], card, factor)


@held(128, rows=len)
def attention_times(
    table: OpTable, index: int, model: AttentionModel | AttentionGrid, traffic: float, card: Card
) -> KernelTimes:
    """Of the rows of segment `index`, which move `traffic` times their bytes."""
    rows, dims = table.rows_of(index), table.columns(index)
    seconds = model.seconds(
        dims,
        bytes_moved=np.add.reduce(table.traffic[:, rows] * traffic, axis=0),
        flops=table.flops[rows],
        peak=card.peak,
        bandwidth=card.bandwidth,
        sm_count=card.sm_count,
    )
    return KernelTimes(fixed(seconds), fixed(model.outside(dims)), model.launch_s)
