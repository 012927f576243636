"""Calibrated: each operation's time from efficiencies measured on the machine, launch and host included.

Device seconds come from `aimcost.machine.timemodels`; launches are issued by a host that runs ahead of the
device until it becomes the slower of the two. A row's time is what it adds to the time to first
token. Uncertainty: the 80 % band of each kind of operation, shared by all its rows (the error of one
product says much about the next), independent between kinds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...inputs.hardware import load_hardware
from ...inputs.run import Run
from ...machine.bands import SPREAD_DECODE, SPREAD_PROMPT, WIDTH, BandFactors
from ...machine.coefficients import BASES, Basis, Coefficients
from ...machine.inheritance import inheritance_note
from ...machine.peaks import precision_notes, require_hardware
from ...types import HardwareSpec, Stack
from ...types.bounds import LAUNCH
from ..device_times import DevicePricing
from ..estimator import Estimator
from ..host_queue import with_host
from ..operations import build
from ..overhead import Overhead, overheads, with_overheads
from ..preprocess import preprocessing
from ..priced import Band, PricedTable
from ..stack_kernels import StackKernels
from ..table import OpTable
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
    device, extrapolated = pricing.device.seconds, pricing.device.extrapolated
    host = pricing.host_seconds() if run.host_time else np.zeros(len(table))
    after_issue = pricing.kernels.after_issue_seconds(device)
    seconds, waiting = with_host(table, device, host, after_issue, pricing.sync)
    _, bound, notes = roofline_seconds(table, hardware, run.precision)
    bound = np.where(waiting | pricing.device.launch_bound, LAUNCH, bound)
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


class _Pricing:
    """Seconds of a table's rows on one machine under one stack."""

    def __init__(self, run: Run, hardware: HardwareSpec, table: OpTable) -> None:
        self.run, self.hardware, self.table = run, hardware, table
        self.stack: Stack = run.stack
        self.coefficients = Coefficients(hardware, run.precision)
        self.calibration = self.coefficients.calibration
        self.sync = table.syncs > 0 if table.syncs.any() else None
        self.kernels = StackKernels(table, run.stack, run.workload)
        self.device = DevicePricing(self.coefficients, self.kernels).times()

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
