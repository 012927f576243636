"""What the upper end of a time's band needs: the operations inside the planner's blocks, and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...machine.bands import host_ends
from ...machine.calibration import calibration_of
from ...machine.peaks import require_hardware
from ...machine.timemodels.bandwidth import execution_of
from ...pricing.pricing import estimate_run
from ...pricing.result import Estimate

__all__ = ["Rows", "both_rows", "device_and_host"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """The operations inside the blocks, for the band: [operation, block].

    Attributes
    ----------
    work, issue, last
        Seconds of the device, of the host, and of the device once the host has issued all.
    above, above_waiting
        What is added to a second of the operation at the upper end of the band: while it computes,
        and where it waits for the host.
    group
        Of each operation: errors are shared inside a group; the last one is of what waits for the host.
    head_s, head_above
        Seconds before the first layer, and what their upper end adds by group.
    """

    work: Floats
    issue: Floats
    last: Floats
    above: Floats
    above_waiting: Floats
    group: NDArray[np.int64]
    head_s: float
    head_above: Floats

    @property
    def host_group(self) -> int:
        """Of what waits for the host."""
        return len(self.head_above) - 1


def device_and_host(every: Estimate) -> tuple[Floats, Floats, Floats]:
    """Seconds of each row: computing, issuing, and computing what is left once all is issued; no host
    where the estimator knows none."""
    device = every.device_seconds if every.device_seconds is not None else every.seconds
    host = every.host_seconds if every.host_seconds is not None else np.zeros(len(device))
    last = every.priced.last_kernel_seconds
    return device, host, device if last is None else last


def both_rows(
    every: Estimate,
    head: NDArray[np.int64],
    layers: NDArray[np.int64],
    tail: NDArray[np.int64],
    count: int,
    *,
    band: bool,
) -> dict[str, Any]:
    """Operations of every block side by side; one that a block lacks takes no time, which changes nothing."""
    # without the host, every row's group is that of its kind
    own = estimate_run(replace(every.run, host_time=False)) if band else every
    if not band or own.band is None or own.extrapolated is None or every.band is None:
        return {"rows": None, "tail_rows": None}
    device, host, last = device_and_host(every)
    groups = int(own.band.group.max()) + 2
    waiting = _waiting_high(every, own.extrapolated)
    columns = np.stack([device, host, last, own.band.high - 1.0, waiting - 1.0])
    inside = np.zeros(len(every.table), dtype=bool)
    inside[layers] = True
    segments = [segment for segment in every.table.segments if inside[segment.start]]
    side_by_side = np.zeros((len(columns), len(segments), count))
    for position, segment in enumerate(segments):
        rows = slice(segment.start, segment.stop)
        side_by_side[:, position, every.table.layer[rows]] = columns[:, rows]
    spent = np.where(every.rows(every.included)[head], every.seconds[head], 0.0)
    added = spent * (every.band.high[head] - 1.0)
    before = np.bincount(every.band.group[head], added, groups).astype(np.float64)
    return {
        "rows": _as_rows(side_by_side, own.band.group[[s.start for s in segments]], float(spent.sum()), before),
        "tail_rows": _as_rows(columns[:, tail, None], own.band.group[tail], 0.0, np.zeros(groups)),
    }


def _waiting_high(every: Estimate, extrapolated: NDArray[np.bool_]) -> Floats:
    """Factors at the upper end of rows that wait for the host."""
    calibration = calibration_of(require_hardware(every.run.hardware))
    ends = host_ends(execution_of(every.run.execution), calibration)
    return np.where(extrapolated, ends.beyond[1], ends.inside[1])


def _as_rows(columns: Floats, group: NDArray[np.int64], head_s: float, head_above: Floats) -> Rows:
    work, issue, last, above, above_waiting = columns
    return Rows(
        work=work,
        issue=issue,
        last=last,
        above=above,
        above_waiting=above_waiting,
        group=group,
        head_s=head_s,
        head_above=head_above,
    )
