"""Calibrated: each operation's time from efficiencies measured on the machine, launch and host included.

Device seconds come from `aimcost.machine.timemodels`; launches are issued by a host that runs ahead of the
device until it becomes the slower of the two. A row's time is what it adds to the time to first
token. Uncertainty: the 80 % band of each kind of operation, shared by all its rows (the error of one
product says much about the next), independent between kinds.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...inputs.hardware import load_hardware
from ...inputs.run import Run
from ...machine.bands import Ends, host_ends
from ...machine.coefficients import COLLECTIVE_LAUNCH_S, COLLECTIVE_SHARE, Coefficients
from ...machine.inheritance import inheritance_note
from ...machine.peaks import link_bytes_per_s, peak_flops_per_s, precision_notes, require_hardware
from ...machine.timemodels.attention import AttentionModel
from ...machine.timemodels.bandwidth import Execution, bandwidth_seconds, execution_of
from ...machine.timemodels.measured import AttentionGrid, CurveSet
from ...types import HardwareSpec
from ...types.bounds import LAUNCH
from ..estimator import Estimator
from ..host_queue import with_host
from ..operations import build
from ..priced import Band, PricedTable
from ..table import OpTable, Segment
from .roofline import roofline_seconds

__all__ = ["ESTIMATOR"]

Floats = NDArray[np.float64]
_Priced = tuple[Floats, NDArray[np.bool_]]


def price(run: Run) -> PricedTable:
    """Predict a run on its hardware.

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
    last = pricing.last_kernel_seconds(device)
    seconds, host_bound = with_host(table, device, host, last)
    _, bound, notes = roofline_seconds(table, hardware, run.precision)
    bound = np.where(pricing.launch_bound, LAUNCH, bound)
    return PricedTable(
        table=table,
        seconds=seconds,
        bound=np.where(host_bound, LAUNCH, bound),
        band=pricing.band(host_bound, extrapolated),
        extrapolated=extrapolated,
        device_seconds=device,
        host_seconds=host,
        last_kernel_seconds=last,
        notes=(*precision_notes(run.precision), *notes, *pricing.notes()),
    )


def _shape_key(*dims: Floats) -> NDArray[np.uint64]:
    """A 64-bit key for each row's dimensions: np.unique over whole rows takes ten times as long."""
    key = np.zeros(len(dims[0]), dtype=np.uint64)
    for values in dims:
        key = key * np.uint64(0x9E3779B97F4A7C15) + np.ascontiguousarray(values).view(np.uint64)
        key ^= key >> np.uint64(29)
    return key


class _Pricing:
    """Seconds of a table's rows on one machine."""

    def __init__(self, run: Run, hardware: HardwareSpec, table: OpTable) -> None:
        self.run, self.hardware, self.table = run, hardware, table
        self.bytes = table.bytes
        self.coefficients = Coefficients(hardware, run.precision)
        self.calibration = self.coefficients.calibration
        self.execution: Execution = execution_of(run.execution)
        self.launch_bound = np.zeros(len(table), dtype=bool)

    @cached_property
    def peaks(self) -> tuple[float, float]:
        """Peak FLOP/s of products with weights, and of everything else."""
        return (
            peak_flops_per_s(self.hardware, self.coefficients.gemm_dtype)[0],
            peak_flops_per_s(self.hardware, self.coefficients.other_dtype)[0],
        )

    def kernels(self, segment: Segment) -> float:
        """Launches of one run of an operation, as the stack runs its kind."""
        return self.execution.kernels.get(segment.kind, 1.0)

    @cached_property
    def launches(self) -> Floats:
        """Per row: launches of one run, the operation's own count where it states one."""
        by_stack = self.table.spread([self.kernels(segment) for segment in self.table.segments])
        return np.where(np.isnan(self.table.launches), by_stack, self.table.launches)

    def last_kernel_seconds(self, device: Floats) -> Floats:
        """Per row: what is left of its device seconds once all its launches are issued."""
        return np.where(np.isnan(self.table.launches), device, device / self.launches)

    def device_seconds(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Per row: device seconds of all its runs, and whether a dimension is extrapolated."""
        seconds, outside = np.zeros(len(self.table)), np.zeros(len(self.table), dtype=bool)
        products = [i for i, s in enumerate(self.table.segments) if s.kind == "gemm"]
        if products:
            self._products(products, seconds, outside)
        self._memory_bound(seconds)
        for index, segment in enumerate(self.table.segments):
            rows = slice(segment.start, segment.stop)
            if segment.kind == "attention":
                chosen = self.coefficients.attention(segment.stage, self._width(index))
                if chosen is not None:
                    seconds[rows], outside[rows] = self._attention(index, segment, chosen[0])
            elif segment.kind == "collective":
                seconds[rows], outside[rows] = self._collective(index, segment)
            if segment.kind in self.calibration.scale and segment.kind != "gemm":
                seconds[rows] *= self.calibration.scale[segment.kind]
        return seconds * self.table.count, outside

    def _products(self, indices: list[int], seconds: Floats, outside: NDArray[np.bool_]) -> None:
        """All products at once; equal shapes are computed once."""
        here = np.zeros(len(self.table), dtype=bool)
        shape = np.empty((3, len(self.table)))
        for index in indices:
            segment, dims = self.table.segments[index], self.table.dims[index]
            rows = slice(segment.start, segment.stop)
            here[rows] = True
            shape[0, rows], shape[1, rows], shape[2, rows] = dims["m"], dims["n"], dims["k"]
        m, n, k = shape[:, here]
        _, first, back = np.unique(_shape_key(m, n, k), return_index=True, return_inverse=True)
        model, _ = self.coefficients.products()
        shapes = (m[first], n[first], k[first])
        moved = self.bytes[here][first]
        distinct = model.seconds(
            *shapes,
            bytes_moved=moved,
            peak=self.peaks[0],
            bandwidth=self.hardware.memory_bytes_per_s,
            sm_count=self.coefficients.sm_count,
        )
        seconds[here] = (distinct * self.calibration.scale.get("gemm", 1.0))[back]
        outside[here] = model.outside(*shapes)[back]
        self.launch_bound[here] = (model.launch_s > 0.5 * distinct)[back]

    def _width(self, index: int) -> int:
        """Head width of an attention."""
        return int(np.max(self.table.dims[index]["head_dim"]))

    def _attention(self, index: int, segment: Segment, model: AttentionModel | AttentionGrid) -> _Priced:
        dims, rows = self.table.columns(index), slice(segment.start, segment.stop)
        out = model.seconds(
            dims,
            bytes_moved=self.bytes[rows],
            flops=self.table.flops[rows],
            peak=self.peaks[1],
            bandwidth=self.hardware.memory_bytes_per_s,
            sm_count=self.coefficients.sm_count,
        )
        # around the kernel, an eager stack copies its result into place
        extra = (self.kernels(segment) - 1.0) * self.coefficients.memory_bound("pointwise").launch_s
        self.launch_bound[rows] = model.launch_s + extra > 0.5 * out
        return out + extra, model.outside(dims)

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
        return model.seconds(operation, ranks, message), model.outside(operation, ranks, message)

    def _memory_bound(self, seconds: Floats) -> None:
        """Everything but products, in one pass: each row with its kind's coefficients."""
        flops = self.table.flops.copy()
        measured: list[tuple[slice, str, CurveSet]] = []
        # by segment: share, compute share, launch, traffic over one fused kernel's
        coefficients = []
        for segment in self.table.segments:
            rows = slice(segment.start, segment.stop)
            coefficients.append((1.0, 1.0, 0.0, 1.0))
            if segment.kind == "gemm":
                continue
            model = self.coefficients.memory_bound(segment.kind)
            if isinstance(model, CurveSet):
                measured.append((rows, segment.kind, model))
                continue
            traffic = self.execution.traffic.get(segment.kind, 1.0)
            coefficients[-1] = (model.share, model.compute_share, model.launch_s, traffic)
            if segment.kind == "bmm":
                # eager score kernels compute the square that the causal count leaves out
                flops[rows] = self.table.costs[1, rows]
        share, compute_share, launch, traffic_of = np.repeat(np.array(coefficients).T, self.table.lengths, axis=1)
        launch *= self.launches
        products = self.table.spread([segment.kind == "gemm" for segment in self.table.segments])
        moved = self.bytes * traffic_of
        priced = bandwidth_seconds(
            moved,
            flops,
            launch_s=launch,
            share=share,
            compute_share=compute_share,
            peak=self.peaks[1],
            bandwidth=self.hardware.memory_bytes_per_s,
        )
        for rows, kind, curves in measured:
            # timed as eager PyTorch runs them: every kernel and copy is in the curve, and bmm's whole square
            work = self.table.costs[1, rows] if kind == "bmm" else flops[rows]
            priced[rows] = curves.seconds(moved[rows], work)
            stated = self.table.launches[rows]
            if not np.isnan(stated).all():
                # a curve holds the kernels of what was timed; a longer sequence takes at least the shortest for each
                priced[rows] = np.fmax(priced[rows], stated * self._shortest_s())
        np.copyto(seconds, priced, where=~products)
        np.copyto(self.launch_bound, launch > 0.5 * priced, where=~products)

    def _shortest_s(self) -> float:
        """The shortest kernel measured on this machine."""
        model = self.coefficients.memory_bound("pointwise")
        return model.shortest_s if isinstance(model, CurveSet) else model.launch_s

    def host_seconds(self) -> Floats:
        """Per row: host seconds that issuing its launches takes; a CPU issues nothing."""
        if self.hardware.architecture == "cpu":
            return np.zeros(len(self.table))
        return self.launches * self.table.count * self.execution.host_s

    def band(self, host_bound: NDArray[np.bool_], extrapolated: NDArray[np.bool_]) -> Band:
        """One group a kind (attention: a stage), and one for rows that wait for the host."""
        groups: dict[str, int] = {}
        ends: list[Ends] = []
        of_segment = []
        for index, segment in enumerate(self.table.segments):
            name = f"{segment.kind} {segment.stage}" if segment.kind == "attention" else segment.kind
            if name not in groups:
                groups[name] = len(groups)
                width = self._width(index) if segment.kind == "attention" else 0
                ends.append(self.coefficients.ends(segment.kind, segment.stage, width))
            of_segment.append(groups[name])
        group = self.table.spread(of_segment)
        group[host_bound] = len(ends)
        ends.append(host_ends(self.execution, self.calibration))
        inside = np.array([end.inside for end in ends])[group]
        beyond = np.array([end.beyond for end in ends])[group]
        factors = np.where(extrapolated[:, None], beyond, inside)
        return Band(group, factors[:, 0], factors[:, 1])

    def notes(self) -> tuple[str, ...]:
        """What a reader must know about where the times come from."""
        notes = []
        if self.calibration.inherited_from:
            notes.append(inheritance_note(self.hardware, load_hardware(self.calibration.inherited_from)))
        notes += sorted(self.coefficients.substitutes)
        if self.execution.host_s and self.hardware.architecture != "cpu":
            notes.append(f"host time: {self.execution.source}")
        return tuple(notes)


ESTIMATOR = Estimator(
    name="calibrated",
    summary="predicted: measured efficiencies, launch and host time, with an 80 % band",
    time_means="predicted",
    price=price,
    has_band=True,
    uses_calibration=True,
    has_host_time=True,
)
