"""Calibrated: each operation's time from efficiencies measured on the machine, launch and host included.

Device seconds come from `aimcost.timemodels`; launches are issued by a host that runs ahead of the
device until it becomes the slower of the two. A row's time is what it adds to the time to first
token. Uncertainty: the 80 % band of each kind of operation, shared by all its rows (the error of one
product says much about the next), independent between kinds.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..hardware import compute_dtypes, link_bytes_per_s, peak_flops_per_s, precision_notes, require_hardware
from ..loading.calibration import Calibration, calibration_of
from ..memory import memory_of
from ..ops import Widths
from ..result import LAUNCH, Band, Estimate
from ..run import Run
from ..table import OpTable, Segment, build
from ..timemodels.bandwidth import Execution, execution_of
from ..timemodels.gemm import GemmModel
from ..types import HardwareSpec
from .roofline import roofline_seconds

__all__ = ["SUMMARY", "estimate"]

SUMMARY = "predicted: measured efficiencies, launch and host time, with an 80 % band"

Floats = NDArray[np.float64]
# No collective was calibrated: NCCL all-reduces on NVLink reach about this share of the link once
# large, after a start-up of about 10 µs. Assumed, with the widest band.
COLLECTIVE_SHARE, COLLECTIVE_LAUNCH_S, COLLECTIVE_BAND = 0.7, 10e-6, (0.5, 2.0)
# Kinds that a profile may lack: which measured kind stands in.
_STAND_IN = {
    "rope": "rms_norm",
    "layer_norm": "rms_norm",
    "softmax": "rms_norm",
    "merge": "gather",
    "select": "gather",
    "embed": "gather",
}


def estimate(run: Run) -> Estimate:
    """Predict a run on its hardware.

    Raises
    ------
    InvalidValueError, CalibrationError
        The run names no hardware, or its coefficients cannot be true.
    """
    hardware = require_hardware(run.hardware)
    table = build(
        run.model,
        run.workload,
        run.computed,
        run.precision,
        attention=run.attention,
        implementation=run.implementation,
        parallel=run.parallel,
        onchip_bytes=hardware.onchip_bytes,
    )
    pricing = _Pricing(run, hardware, table)
    device, extrapolated = pricing.device_seconds()
    host = pricing.host_seconds() if run.host_time else np.zeros(len(table))
    seconds, host_bound = pricing.with_host(device, host)
    _, bound, notes = roofline_seconds(table, hardware, run.precision)
    bound = np.where(pricing.launch_bound, LAUNCH, bound)
    return Estimate(
        run=run,
        estimator="calibrated",
        table=table,
        seconds=seconds,
        bound=np.where(host_bound, LAUNCH, bound),
        memory=memory_of(
            run.model,
            run.workload,
            run.computed,
            run.precision,
            hardware,
            attention=run.attention,
            implementation=run.implementation,
            parallel=run.parallel,
        ),
        band=pricing.band(host_bound),
        extrapolated=extrapolated,
        device_seconds=device,
        host_seconds=host,
        notes=(*run.notes, *precision_notes(run.precision), *notes, *pricing.notes()),
    )


class _Pricing:
    """Seconds of a table's rows on one machine."""

    def __init__(self, run: Run, hardware: HardwareSpec, table: OpTable) -> None:
        self.run, self.hardware, self.table = run, hardware, table
        self.calibration: Calibration = calibration_of(hardware)
        self.execution: Execution = execution_of(run.file.execution)
        self.gemm_dtype, self.other_dtype = compute_dtypes(run.precision)
        self.substitutes: set[str] = set()
        self.launch_bound = np.zeros(len(table), dtype=bool)

    @cached_property
    def peaks(self) -> tuple[float, float]:
        """Peak FLOP/s of products with weights, and of everything else."""
        return (
            peak_flops_per_s(self.hardware, self.gemm_dtype)[0],
            peak_flops_per_s(self.hardware, self.other_dtype)[0],
        )

    def kernels(self, segment: Segment) -> float:
        """Launches of one run of an operation."""
        return self.execution.kernels.get(segment.kind, 1.0)

    def device_seconds(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Per row: device seconds of all its runs, and whether a dimension is extrapolated."""
        seconds, outside = np.zeros(len(self.table)), np.zeros(len(self.table), dtype=bool)
        products = [i for i, s in enumerate(self.table.segments) if s.kind == "gemm"]
        if products:
            self._products(products, seconds, outside)
        for index, segment in enumerate(self.table.segments):
            if segment.kind == "gemm":
                continue
            rows = slice(segment.start, segment.stop)
            if segment.kind == "attention":
                seconds[rows], outside[rows] = self._attention(index, segment)
            elif segment.kind == "collective":
                wire = self.table.dims[index]["wire_bytes"]
                seconds[rows] = COLLECTIVE_LAUNCH_S + wire / (link_bytes_per_s(self.hardware) * COLLECTIVE_SHARE)
            else:
                seconds[rows] = self._bandwidth(segment)
            launch = self.kernels(segment) * self._launch_s(segment)
            self.launch_bound[rows] = launch > 0.5 * seconds[rows]
            seconds[rows] *= self.calibration.scale.get(segment.kind, 1.0)
        return seconds * self.table.count, outside

    def _products(self, indices: list[int], seconds: Floats, outside: NDArray[np.bool_]) -> None:
        """All products at once; equal shapes are computed once."""
        segments = [self.table.segments[i] for i in indices]
        rows = np.concatenate([np.arange(s.start, s.stop) for s in segments])
        m, n, k = (np.concatenate([self.table.dims[i][key] for i in indices]) for key in ("m", "n", "k"))
        key = (m * 1e7 + n) * 1e7 + k  # exact below 2^53 for any real shape's m·1e14; ties are harmless
        _, first, back = np.unique(key, return_index=True, return_inverse=True)
        model = self._gemm_model()
        shapes = (m[first], n[first], k[first])
        moved = self.table.bytes[rows][first]
        peak, sm_count = self.peaks[0], max(1, self.hardware.sm_count)
        distinct = model.seconds(
            *shapes,
            bytes_moved=moved,
            peak=peak,
            bandwidth=self.hardware.memory_bytes_per_s,
            sm_count=sm_count,
        )
        seconds[rows] = (distinct * self.calibration.scale.get("gemm", 1.0))[back]
        outside[rows] = model.outside(*shapes)[back]
        self.launch_bound[rows] = (model.launch_s > 0.5 * distinct)[back]

    def _gemm_model(self) -> GemmModel:
        """Coefficients for the run's formats; the nearest format's where none were measured."""
        models, precision = self.calibration.gemm, self.run.precision
        widths = Widths.of(precision)
        wanted = self.gemm_dtype
        if widths.weights < widths.activations:
            wanted = f"{precision.weights}_weight_only"
        for name in (wanted, self.gemm_dtype, "bf16" if self.gemm_dtype != "fp32" else "fp32", *models):
            if name in models:
                if name != wanted and not (name == "bf16" and wanted == "fp16"):
                    self.substitutes.add(f"products in {wanted} take the efficiencies measured in {name}")
                return models[name]
        raise CalibrationError(f"{self.hardware.name}: calibration has no product coefficients")

    def _attention(self, index: int, segment: Segment) -> tuple[Floats, NDArray[np.bool_]]:
        dims, rows = self.table.dims[index], slice(segment.start, segment.stop)
        by_stage = {"vision": self.calibration.encoder_attention, "decode": self.calibration.decode_attention}
        models = by_stage.get(segment.stage) or self.calibration.attention
        if not models:
            return self._bandwidth(segment), np.ones(segment.stop - segment.start, dtype=bool)
        width = int(dims["head_dim"][0])
        nearest = min(models, key=lambda known: abs(known - width))
        if nearest != width:
            self.substitutes.add(f"attention at head width {width} takes the efficiencies of width {nearest}")
        model = models[nearest]
        flops = self.table.flops[rows]
        out = model.seconds(
            dims,
            bytes_moved=self.table.bytes[rows],
            flops=flops,
            peak=self.peaks[1],
            bandwidth=self.hardware.memory_bytes_per_s,
            sm_count=max(1, self.hardware.sm_count),
        )
        # around the kernel, an eager stack copies its result into place
        extra = (self.kernels(segment) - 1.0) * self.calibration.bandwidth["pointwise"].launch_s
        return out + extra, model.outside(dims)

    def _bandwidth(self, segment: Segment) -> Floats:
        models = self.calibration.bandwidth
        kind = segment.kind if segment.kind in models else _STAND_IN.get(segment.kind, "pointwise")
        if kind not in models:
            raise CalibrationError(f"{self.hardware.name}: calibration has no coefficients for {segment.kind}")
        rows = slice(segment.start, segment.stop)
        # eager score kernels compute the square that the causal count leaves out
        flops = self.table.costs[1, rows] if segment.kind == "bmm" else self.table.flops[rows]
        return models[kind].seconds(
            self.table.bytes[rows],
            flops,
            np.full(segment.stop - segment.start, self.kernels(segment)),
            traffic=self.execution.traffic.get(segment.kind, 1.0),
            peak=self.peaks[1],
            bandwidth=self.hardware.memory_bytes_per_s,
        )

    def _launch_s(self, segment: Segment) -> float:
        kind = segment.kind if segment.kind in self.calibration.bandwidth else _STAND_IN.get(segment.kind, "pointwise")
        model = self.calibration.bandwidth.get(kind)
        return model.launch_s if model else 0.0

    def host_seconds(self) -> Floats:
        """Per row: host seconds that issuing its launches takes."""
        launches = np.empty(len(self.table))
        for segment in self.table.segments:
            launches[segment.start : segment.stop] = self.kernels(segment)
        return launches * self.table.count * self.execution.host_s

    def with_host(self, device: Floats, host: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Row times once launches are issued by the host, and which rows wait for it.

        A kernel starts when it has been issued and the one before it has ended. Within a layer,
        rows run in the table's order; layers run in turn.
        """
        if not host.any():
            return device, np.zeros(len(device), dtype=bool)
        order = self._execution_order()
        issue = np.cumsum(host[order])
        work = device[order]
        done = np.cumsum(work)
        # end of row i: the latest over j ≤ i of issue(j) + the work from j to i
        end = done + np.maximum.accumulate(issue - (done - work))
        spent = np.diff(end, prepend=0.0)
        seconds, waiting = np.empty_like(device), np.zeros(len(device), dtype=bool)
        seconds[order] = spent
        waiting[order] = spent > 1.05 * work
        return seconds, waiting

    def _execution_order(self) -> NDArray[np.int64]:
        """Rows in the order in which they run: stage, layer, operation."""
        rows = np.arange(len(self.table))
        stage, position = np.empty_like(rows), np.empty_like(rows)
        stages: dict[str, int] = {}
        for index, segment in enumerate(self.table.segments):
            stage[segment.start : segment.stop] = stages.setdefault(segment.stage, len(stages))
            position[segment.start : segment.stop] = index
        layer = self.table.layer.copy()
        last = [s for s in self.table.segments if s.name in ("final_norm", "lm_head", "post_norm")]
        for segment in last:
            layer[segment.start : segment.stop] = np.iinfo(np.int64).max
        return np.lexsort((position, layer, stage))

    def band(self, host_bound: NDArray[np.bool_]) -> Band:
        """One group a kind (attention: a stage), and one for rows that wait for the host."""
        groups: dict[str, int] = {}
        factors: list[tuple[float, float]] = []
        group = np.zeros(len(self.table), dtype=np.int64)
        for segment in self.table.segments:
            name = f"{segment.kind} {segment.stage}" if segment.kind == "attention" else segment.kind
            if name not in groups:
                groups[name] = len(groups)
                factors.append(self._factors(segment))
            group[segment.start : segment.stop] = groups[name]
        group[host_bound] = len(factors)
        factors.append(self.execution.host_band)
        low, high = self.calibration.widen
        inherited = self.calibration.inherited_from is not None
        ends = [(a * low, b * high) if inherited else (a, b) for a, b in factors]
        return Band(group, np.array([a for a, _ in ends]), np.array([b for _, b in ends]))

    def _factors(self, segment: Segment) -> tuple[float, float]:
        if segment.kind == "collective":
            return COLLECTIVE_BAND
        if segment.kind == "gemm":
            evidence = self._gemm_model().provenance
        elif segment.kind == "attention":
            by_stage = {
                "vision": self.calibration.encoder_attention,
                "decode": self.calibration.decode_attention,
            }
            models = by_stage.get(segment.stage) or self.calibration.attention
            if not models:
                return 0.3, 3.0
            evidence = models[min(models)].provenance
        else:
            models_by_kind = self.calibration.bandwidth
            kind = segment.kind if segment.kind in models_by_kind else _STAND_IN.get(segment.kind, "pointwise")
            evidence = models_by_kind[kind].provenance
        return evidence.low, evidence.high

    def notes(self) -> tuple[str, ...]:
        """What a reader must know about where the times come from."""
        notes = []
        if self.calibration.inherited_from:
            notes.append(f"calibration inherited from {self.calibration.inherited_from}: wider band")
        notes += sorted(self.substitutes)
        if self.execution.host_s:
            notes.append(f"host time: {self.execution.source}")
        return tuple(notes)
