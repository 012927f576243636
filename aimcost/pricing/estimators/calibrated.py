"""Calibrated: each operation's time from efficiencies measured on the machine, launch and host included.

Device seconds come from `aimcost.machine.timemodels`; launches are issued by a host that runs ahead of the
device until it becomes the slower of the two. A row's time is what it adds to the time to first
token. Uncertainty: the 80 % band of each kind of operation, shared by all its rows (the error of one
product says much about the next), independent between kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...inputs.hardware import load_hardware
from ...inputs.run import Run
from ...machine.bands import SPREAD_DECODE, SPREAD_PROMPT, WIDTH, BandFactors
from ...machine.coefficients import BASES, COLLECTIVE_LAUNCH_S, COLLECTIVE_SHARE, Basis, Coefficients
from ...machine.inheritance import inheritance_note
from ...machine.libraries import library_factor
from ...machine.peaks import computed_in, link_bytes_per_s, peak_flops_per_s, precision_notes, require_hardware
from ...machine.timemodels.attention import AttentionModel
from ...machine.timemodels.collective import ONE_SHOT, CollectiveModel
from ...machine.timemodels.gemm import GemmModel
from ...machine.timemodels.measured import AttentionGrid, CurveSet, GemmGrid
from ...machine.timemodels.memory_bound import KernelModel
from ...machine.timemodels.memory_bound import seconds as kernel_seconds
from ...types import HardwareSpec, Stack
from ...types.bounds import LAUNCH
from ..device_times import Card, attention_times, product_times, times_of
from ..estimator import Estimator
from ..host_queue import with_host
from ..operations import build
from ..overhead import Overhead, overheads, with_overheads
from ..preprocess import preprocessing
from ..priced import Band, PricedTable
from ..stack_kernels import StackKernels
from ..table import OpTable, Products, Segment
from .roofline import roofline_seconds

__all__ = ["ESTIMATOR"]

Floats = NDArray[np.float64]
_Priced = tuple[Floats, NDArray[np.bool_]]
_LIBRARY_FORMATS = ("bf16", "fp16")  # other formats' kernels are not of cuBLAS's 16-bit products
_WHERE = ("beyond", "inside")


def price(run: Run) -> PricedTable:
    """Predict a run on its hardware, as its software stack runs it.

    Raises
    ------
    InvalidValueError, CalibrationError
        The run names no hardware, or its coefficients cannot be true.
    """
    hardware = require_hardware(run.hardware)
    table = build(run)
    pricing = _Pricing(run, hardware, table)
    device, extrapolated = pricing.device_seconds()
    host = pricing.host_seconds() if run.host_time else np.zeros(len(table))
    after_issue = pricing.kernels.after_issue_seconds(device)
    seconds, waiting = with_host(table, device, host, after_issue, pricing.sync)
    _, bound, notes = roofline_seconds(table, hardware, run.precision)
    bound = np.where(waiting | pricing.launch_bound, LAUNCH, bound)
    before, left_out = preprocessing(run)
    added = [*overheads(run, table.steps), *before]
    beside = np.array([each.seconds.value for each in added])
    none = np.zeros(len(added))
    return PricedTable(
        table=with_overheads(pricing.kernels.as_run, added),
        seconds=np.concatenate((seconds, beside)),
        bound=np.concatenate((bound, np.full(len(added), LAUNCH))),
        band=pricing.band(seconds, device, waiting, extrapolated, added),
        extrapolated=np.concatenate((extrapolated, none > 0)),
        device_seconds=np.concatenate((device, none)),
        host_seconds=np.concatenate((host, none)),
        after_issue_seconds=np.concatenate((after_issue, none)),
        syncs=None if pricing.sync is None else np.concatenate((pricing.sync, none > 0)),
        notes=(*precision_notes(run.precision), *notes, *pricing.notes(device), *left_out),
    )


@dataclass(frozen=True, slots=True)
class _ProductTimes:
    """Seconds of the table's products, each by itself, and of each fused product."""

    seconds: Floats
    outside: NDArray[np.bool_]
    launch_bound: NDArray[np.bool_]
    fused: list[Floats]


class _Pricing:
    """Seconds of a table's rows on one machine under one stack."""

    def __init__(self, run: Run, hardware: HardwareSpec, table: OpTable) -> None:
        self.run, self.hardware, self.table = run, hardware, table
        self.stack: Stack = run.stack
        self.coefficients = Coefficients(hardware, run.precision)
        self.calibration = self.coefficients.calibration
        self.launch_bound = np.zeros(len(table), dtype=bool)
        self.sync = table.syncs > 0 if table.syncs.any() else None
        self.kernels = StackKernels(table, run.stack, run.workload)
        self.bytes = self.kernels.as_run.bytes

    @cached_property
    def peaks(self) -> tuple[float, float]:
        """Peak FLOP/s of products with weights, and of everything else."""
        return (
            peak_flops_per_s(self.hardware, self.coefficients.gemm_dtype)[0],
            peak_flops_per_s(self.hardware, self.coefficients.other_dtype)[0],
        )

    @cached_property
    def _architecture(self) -> str:
        """The machine's, or where it states none that of the card whose coefficients it takes."""
        if self.hardware.architecture or not self.calibration.inherited_from:
            return self.hardware.architecture
        return load_hardware(self.calibration.inherited_from).architecture

    def _rows(self, index: int) -> slice:
        return self.table.rows_of(index)

    def device_seconds(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Per row: device seconds of all its runs, and whether a dimension is extrapolated."""
        seconds, outside = np.zeros(len(self.table)), np.zeros(len(self.table), dtype=bool)
        if self.table.is_product.any():
            self._products(seconds, outside)
        self._memory_bound(seconds)
        for index, segment in enumerate(self.table.segments):
            rows = slice(segment.start, segment.stop)
            if segment.kind == "attention":
                chosen = self.coefficients.attention(segment.stage, self.table.head_widths[index])
                if chosen is not None:
                    seconds[rows], outside[rows] = self._attention(index, segment, chosen[0])
            elif segment.kind == "collective":
                seconds[rows], outside[rows] = self._collective(index, segment)
            if segment.kind in self.calibration.scale and segment.kind != "gemm":
                seconds[rows] *= self.calibration.scale[segment.kind]
            if self.stack.scale:
                seconds[rows] *= self.stack.scale_of(segment.kind, segment.stage)
        return seconds * self.table.count, outside

    def _card(self, peak: float) -> Card:
        return Card(peak, self.hardware.memory_bytes_per_s, self.coefficients.sm_count)

    def _products(self, seconds: Floats, outside: NDArray[np.bool_]) -> None:
        """All products with weights; the parts of a fused one share its time."""
        here = self.table.is_product
        model, _ = self.coefficients.products()
        priced = self._products_as_run(model)
        seconds[here], outside[here] = priced.seconds, priced.outside
        self.launch_bound[here] = priced.launch_bound
        self._share_fused(seconds, priced.fused, model.launch_s)

    def _products_as_run(self, model: GemmModel | GemmGrid) -> _ProductTimes:
        """Products one by one, and the fused ones: distinct shapes are computed once, together."""
        table, fused = self.table, self.kernels.fused
        card = Card(self.peaks[0], self.hardware.memory_bytes_per_s, self.coefficients.sm_count)
        if fused:
            m, n, k = table.product_shapes
            lone = np.stack([m, n, k, table.bytes])[:, table.is_product]
            whole = [
                np.stack([m[each.rows[0]], each.total(n), k[each.rows[0]], each.total(self.bytes)]) for each in fused
            ]
            m, n, k, moved = np.concatenate([lone, *whole], axis=1)
            products = Products.of(np.stack([m, n, k]))
            times = times_of(model, products, moved, card)
            lone, *together = np.split(products.back, np.cumsum([each.shape[1] for each in (lone, *whole)])[:-1])
        else:
            products, times = table.products, product_times(table, model, card)
            lone, together = products.back, []
        scaled = times.seconds * self.calibration.scale.get("gemm", 1.0)
        library = self._library_factor(products)
        distinct = scaled if library is None else scaled * library
        return _ProductTimes(
            seconds=distinct[lone],
            outside=times.outside[lone],
            launch_bound=(model.launch_s > 0.5 * scaled)[lone],
            fused=[distinct[each] for each in together],
        )

    def _library_factor(self, products: Products) -> Floats | None:
        """Of each distinct shape: the stack's GEMM library over the calibration's."""
        weights, activations = self.run.precision.weights, self.run.precision.activations
        # a format without compute units is computed in the next wider one, by that one's kernels
        computed = computed_in(self.hardware, weights) if weights == activations else weights
        if computed not in _LIBRARY_FORMATS:
            return None
        return library_factor(self.stack.products, self._architecture, products.distinct[0])

    def _share_fused(self, seconds: Floats, fused_seconds: list[Floats], launch_s: float) -> None:
        """Share the time of each fused product among its parts, by width.

        It is never slower than its parts, launches saved: an engine that found it slower would run them.
        """
        width = self.table.product_shapes[1]
        for product, one in zip(self.kernels.fused, fused_seconds, strict=True):
            apart = product.total(seconds) - (len(product.rows) - 1) * launch_s
            together, total = np.minimum(one, apart), product.total(width)
            for rows in product.rows:
                seconds[rows] = together * width[rows] / total

    def _attention(self, index: int, segment: Segment, model: AttentionModel | AttentionGrid) -> _Priced:
        traffic = self.stack.traffic.get(segment.kind, 1.0)
        times = attention_times(self.table, index, model, traffic, self._card(self.peaks[1]))
        # around the kernel, an eager stack copies its result into place
        extra = (self.kernels.kernels_by_segment[index] - 1.0) * self._launch_s("pointwise")
        self.launch_bound[segment.start : segment.stop] = model.launch_s + extra > 0.5 * times.seconds
        return times.seconds + extra, times.outside

    def _collective(self, index: int, segment: Segment) -> tuple[Floats, NDArray[np.bool_]]:
        """From NCCL's curves; a relative's link takes the sizes at which its own would be as busy."""
        dims, link = self.table.columns(index), link_bytes_per_s(self.hardware)
        model = self.calibration.collective
        if model is None:
            wire = dims["wire_bytes"] / (link * COLLECTIVE_SHARE)
            return COLLECTIVE_LAUNCH_S + wire, np.zeros(len(wire), dtype=bool)
        ranks = float(dims["ranks"][0])
        operation = "all_reduce" if dims["passes"][0] == 2.0 else "all_gather"
        message = dims["ring_bytes"] * (self.calibration.collective_link / self.hardware.interconnect_bytes_per_s)
        seconds, outside = model.seconds(operation, ranks, message), model.outside(operation, ranks, message)
        if operation == "all_reduce":
            seconds, outside = self._all_reduce(dims, model, ranks, message, seconds, outside)
        return seconds, outside

    def _all_reduce(
        self,
        dims: Mapping[str, Floats],
        model: CollectiveModel,
        ranks: float,
        message: Floats,
        seconds: Floats,
        outside: NDArray[np.bool_],
    ) -> _Priced:
        """NCCL's ring, or where the stack has it the one-shot kernel as long as that is faster."""
        if self.stack.collectives == ONE_SHOT:
            one = model.seconds(ONE_SHOT, ranks, message)
            outside, seconds = outside & (seconds < one), np.minimum(seconds, one)
        large = (dims["bytes"] >= self.stack.large_bytes) & (dims["ranks"] >= self.stack.large_ranks)
        return np.where(large, self.stack.large_factor * seconds, seconds), outside

    def _launch_s(self, kind: str) -> float:
        model = self.coefficients.memory_bound(kind)
        return model.launch_s(self.calibration.machine) if isinstance(model, KernelModel) else model.launch_s

    def _memory_bound(self, seconds: Floats) -> None:
        """Everything but products, in one pass: each row with its kind's coefficients."""
        machine, bandwidth = self.calibration.machine, self.hardware.memory_bytes_per_s
        measured: list[tuple[slice, str, CurveSet]] = []
        width = np.zeros(len(self.table))
        nothing = (0.0, 0.0, np.inf, 1.0, machine.bandwidth, False)
        # by class: launch and row cycles, bytes a cycle, compute share, bandwidth, whether launches add up
        by_class, models = [], []
        for kind, _, _ in self.table.classes:
            model = None if kind == "gemm" else self.coefficients.memory_bound(kind, self.stack)
            models.append(model)
            if model is None or isinstance(model, CurveSet):
                by_class.append(nothing)
                continue
            own = machine.bandwidth if model.share is None else bandwidth * model.share
            cycles = model.launch_cycles, model.row_cycles, model.bytes_per_cycle
            by_class.append((*cycles, model.compute_share, own, model.serial))
        coefficients = []
        for index, (found, inside) in enumerate(zip(self.table.class_of, self.kernels.inside_norm, strict=True)):
            # a residual inside the norm's kernel is its traffic alone
            coefficients.append(nothing if inside else by_class[found])
            model = None if inside else models[found]
            if isinstance(model, CurveSet):
                measured.append((self._rows(index), self.table.segments[index].kind, model))
            elif model is not None and model.row_cycles:
                width[self._rows(index)] = self.table.dims[index].get("width", model.typical_width)
        spread = np.repeat(np.array(coefficients).T, self.table.lengths, axis=1)
        launch, row, rate, compute_share, bandwidth_of, serial = spread
        products = self.table.is_product
        kernels = self.kernels.device_kernels
        moved, ideal, flops = self.bytes, self.table.bytes, self.table.flops
        priced = kernel_seconds(
            moved,
            machine,
            launch_cycles=launch,
            row_cycles=row,
            width=width,
            bytes_per_cycle=rate,
            kernels=kernels,
            compute_s=flops / (self.peaks[1] * compute_share),
            bandwidth=bandwidth_of,
            serial=serial > 0,
        )
        for rows, kind, curves in measured:
            # timed as eager PyTorch runs them: every kernel and copy is in the curve, and bmm's whole square
            work = self.table.full_square_flops[rows] if kind == "bmm" else flops[rows]
            priced[rows] = curves.seconds(ideal[rows], work)
            stated = self.table.launches[rows]
            if self.table.states_launches[rows].any():
                # a curve holds the kernels of what was timed; a longer sequence takes at least the shortest for each
                priced[rows] = np.fmax(priced[rows], stated * self._shortest_s())
        np.copyto(seconds, priced, where=~products)
        latency = kernels * (launch + row * width) / machine.cycles_per_s
        np.copyto(self.launch_bound, latency > 0.5 * priced, where=~products)
        self._score_products(seconds)

    def _score_products(self, seconds: Floats) -> None:
        """q·kᵀ and p·v of an eager attention: products of all heads at once, the whole square."""
        model, _ = self.coefficients.products(self.coefficients.other_dtype)
        if not isinstance(model, GemmModel):
            return  # timed by the machine itself, as eager PyTorch runs them
        for index, segment in enumerate(self.table.segments):
            if segment.kind != "bmm":
                continue
            rows, dims = slice(segment.start, segment.stop), self.table.columns(index)
            seconds[rows] = model.seconds(
                dims["groups"] * dims["m"],
                dims["n"],
                dims["k"],
                bytes_moved=self.bytes[rows],
                peak=self.peaks[1],
                bandwidth=self.hardware.memory_bytes_per_s,
                sm_count=self.coefficients.sm_count,
            )

    def _shortest_s(self) -> float:
        """The shortest kernel measured on this machine."""
        model = self.coefficients.memory_bound("pointwise")
        return model.shortest_s if isinstance(model, CurveSet) else model.launch_s(self.calibration.machine)

    def host_seconds(self) -> Floats:
        """Per row: host seconds that issuing its launches takes; a CPU issues nothing."""
        if self.hardware.architecture == "cpu":
            return np.zeros(len(self.table))
        each = self.stack.host_s.value * self.stack.scale.get("all", 1.0)
        issued = self.table.spread([not self.stack.captured(segment.stage) for segment in self.table.segments])
        waits = self.table.syncs * self.stack.sync_s
        seconds: Floats = (self.kernels.host_launches * each * issued + waits) * self.table.count
        return seconds

    def band(
        self,
        seconds: Floats,
        device: Floats,
        waiting: NDArray[np.bool_],
        extrapolated: NDArray[np.bool_],
        added: list[Overhead],
    ) -> Band:
        """One term a kind of operation (attention: a stage), one for rows that wait for the host, one an overhead."""
        names: dict[str, int] = {}
        factors: list[BandFactors] = []
        of_class = []
        for kind, stage, width in self.table.classes:
            name = f"{kind} {stage}" if stage else kind
            if name not in names:
                names[name] = len(names)
                factors.append(self.coefficients.band_factors(kind, stage, width))
            of_class.append(names[name])
        group = np.array(of_class).take(self.table.class_rows)
        low, high = (
            np.where(
                extrapolated, *(np.array([getattr(each, where)[i] for each in factors])[group] for where in _WHERE)
            )
            for i in (0, 1)
        )
        below, above = seconds * (1.0 - low), seconds * (high - 1.0)
        group[waiting] = names["host"] = len(names)
        host = self.stack.host_s
        if host.value:
            # a faster host is held up by the device
            fastest = np.maximum(device, seconds * (host.low / host.value))
            below = np.where(waiting, np.maximum(0.0, seconds - fastest), below)
            above = np.where(waiting, seconds * (host.high / host.value - 1.0), above)
        for each in added:
            names.setdefault(each.name, len(names))
        moves = np.array([(e.seconds.value, e.seconds.low, e.seconds.high) for e in added]).reshape(-1, 3)
        scales = {} if self.stack.spread is None else dict.fromkeys(("prompt_scale", "decode_scale"), self.stack.spread)
        return Band(
            names=tuple(names),
            group=np.concatenate((group, np.array([names[e.name] for e in added], dtype=group.dtype))),
            seconds=np.concatenate((seconds, moves[:, 0])),
            below=np.concatenate((below, moves[:, 0] - moves[:, 1])),
            above=np.concatenate((above, moves[:, 2] - moves[:, 0])),
            decode=np.concatenate((self.table.decode, np.array([e.beside == "decode" for e in added], dtype=bool))),
            width=WIDTH,
            **{"prompt_scale": SPREAD_PROMPT, "decode_scale": SPREAD_DECODE, **scales},
        )

    def shares(self, device: Floats) -> dict[Basis, float]:
        """Shares of the device time that rest on measured, inherited and assumed efficiencies."""
        of_class = [BASES.index(self.coefficients.basis(*each, self.stack)) for each in self.table.classes]
        by_class = np.bincount(self.table.class_rows, weights=device, minlength=len(of_class))
        sums = np.bincount(of_class, weights=by_class, minlength=len(BASES)).tolist()
        total = sum(sums) or 1.0
        return {basis: value / total for basis, value in zip(BASES, sums, strict=True)}

    def notes(self, device: Floats) -> tuple[str, ...]:
        """What a reader must know about where the times come from."""
        rests = ", ".join(f"{share:.0%} {basis}" for basis, share in self.shares(device).items() if share >= 0.005)
        notes = [f"efficiencies behind the device time: {rests}"]
        if self.calibration.inherited_from:
            notes.append(inheritance_note(self.hardware, load_hardware(self.calibration.inherited_from)))
        notes += sorted(self.coefficients.substitutes)
        return tuple(notes)


ESTIMATOR = Estimator(
    name="calibrated",
    summary="prediction from measured efficiencies, launch and host time, with an 80 % band",
    time_means="predicted",
    price=price,
    has_band=True,
    uses_calibration=True,
    uses_stack=True,
    has_host_time=True,
)
