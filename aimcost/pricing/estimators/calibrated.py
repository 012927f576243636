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
from ...inputs.run import Run, shown
from ...machine.coefficients import BASES, Basis, Coefficients
from ...machine.inheritance import inheritance_note
from ...machine.peaks import precision_notes, require_hardware
from ...types import HardwareSpec, Stack
from ...types.stages import STAGES
from ..device_times import DevicePricing
from ..estimator import Estimator
from ..host_queue import with_host
from ..operations import build
from ..overhead import overheads, with_overheads
from ..preprocess import preprocessing
from ..priced import LAUNCH, PricedTable
from ..row_bands import row_bands
from ..stack_kernels import StackKernels
from ..table import OpTable
from .roofline import roofline_seconds

__all__ = ["ESTIMATOR"]

Floats = NDArray[np.float64]


def price(run: Run) -> PricedTable:
    """Predict a run on its hardware, as its software stack runs it.

    Raises
    ------
    InvalidValueError, CalibrationError
        The run names no hardware, or its coefficients cannot be true.
    """
    hardware = require_hardware(run.hardware)
    table = build(run)
    coefficients = Coefficients(hardware, run.precision)
    kernels = StackKernels(table, run.stack, run.workload)
    device = DevicePricing(coefficients, kernels).times()
    host = host_seconds(kernels, hardware) if run.host_time else np.zeros(len(table))
    after_issue = kernels.after_issue_seconds(device.seconds)
    waits = table.syncs > 0 if table.syncs.any() else None
    seconds, waiting = with_host(table, device.seconds, host, after_issue, waits)
    _, bound, roofline_notes = roofline_seconds(table, hardware, run.precision)
    device_bound = np.where(device.launch_bound, LAUNCH, bound)
    before, left_out = preprocessing(run)
    added = [*overheads(run, table.steps), *before]
    beside = np.array([each.seconds.value for each in added])
    # rows of overhead are in no queue, on no device, and outside no calibrated range
    zeros, never = np.zeros(len(added)), np.zeros(len(added), dtype=bool)
    launches = np.full(len(added), LAUNCH)
    band = row_bands(
        table,
        coefficients,
        seconds,
        device=device.seconds,
        extrapolated=device.extrapolated,
        waiting=waiting,
        host=run.stack.host_s,
        added=added,
        spread=run.stack.spread,
    )
    return PricedTable(
        table=with_overheads(kernels.as_run, added),
        seconds=np.concatenate((seconds, beside)),
        bound=np.concatenate((np.where(waiting, LAUNCH, device_bound), launches)),
        device_bound=np.concatenate((device_bound, launches)),
        band=band,
        extrapolated=np.concatenate((device.extrapolated, never)),
        device_seconds=np.concatenate((device.seconds, zeros)),
        host_seconds=np.concatenate((host, zeros)),
        after_issue_seconds=np.concatenate((after_issue, zeros)),
        waits=None if waits is None else np.concatenate((waits, never)),
        notes=(
            *precision_notes(run.precision, run.model),
            *roofline_notes,
            *_notes(table, coefficients, run.stack, device.seconds),
            *left_out,
        ),
    )


def host_seconds(kernels: StackKernels, hardware: HardwareSpec) -> Floats:
    """By row: host seconds of issuing launches and waiting for the device, all runs; a CPU issues nothing."""
    table, stack = kernels.operations, kernels.stack
    if hardware.architecture == "cpu":
        return np.zeros(len(table))
    each = stack.host_s.value * stack.scale.get("all", 1.0)
    issued_in = {stage: not stack.captured(stage) for stage in STAGES}
    issued = table.spread([issued_in[segment.stage] for segment in table.segments])
    seconds: Floats = (kernels.host_launches * each * issued + table.syncs * stack.sync_s) * table.count
    return seconds


def _shares(table: OpTable, coefficients: Coefficients, stack: Stack, device: Floats) -> dict[Basis, float]:
    """Shares of the device time that rest on measured, inherited and assumed efficiencies."""
    of_class = [BASES.index(coefficients.basis(*each, stack)) for each in table.classes]
    by_class = np.bincount(table.class_rows, weights=device, minlength=len(of_class))
    sums = np.bincount(of_class, weights=by_class, minlength=len(BASES)).tolist()
    total = sum(sums) or 1.0
    return {basis: value / total for basis, value in zip(BASES, sums, strict=True)}


def _notes(table: OpTable, coefficients: Coefficients, stack: Stack, device: Floats) -> list[str]:
    """What a reader must know about where the times come from."""
    shares = _shares(table, coefficients, stack, device)
    rests = ", ".join(f"{share:.0%} {basis}" for basis, share in shares.items() if share >= 0.005)
    notes = [f"efficiencies behind the device time: {rests}"]
    parent = coefficients.calibration.inherited_from
    if parent:
        notes.append(inheritance_note(coefficients.hardware, load_hardware(parent)))
    notes += [
        f"coefficients of {name} are read from {shown(path)}, in place of the file that aimcost ships under that name"
        for name, path in coefficients.calibration.shadowing_lenders().items()
    ]
    return [*notes, *sorted(coefficients.substitutes)]


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
