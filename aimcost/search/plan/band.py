"""What the upper end of a time's band needs: the operations inside the planner's blocks, and their errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pricing.pricing import estimate_run
from ...pricing.result import Estimate
from ...types.stages import STAGES

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
    group, host_group
        Of each operation, and of what waits for the host: errors are shared inside a group.
    head_s, head_above
        Seconds before the first layer and beside the operations, and what their upper end adds by group.
    scale_above
        What is added to a second of the whole by the scale that all of it shares.
    """

    work: Floats
    issue: Floats
    last: Floats
    above: Floats
    above_waiting: Floats
    group: NDArray[np.int64]
    head_s: float
    head_above: Floats
    host_group: int
    scale_above: float


def device_and_host(every: Estimate) -> tuple[Floats, Floats, Floats]:
    """Seconds of each row: computing, issuing, and computing what is left once all is issued; no host
    where the estimator knows none."""
    device = every.device_seconds if every.device_seconds is not None else every.seconds
    host = every.host_seconds if every.host_seconds is not None else np.zeros(len(device))
    last = every.priced.after_issue_seconds
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
    band_of, width = every.band, every.band.width
    device, host, last = device_and_host(every)
    groups = len(band_of.names)
    pace = every.run.stack.host_s
    waiting = np.full(len(device), width * (pace.high / pace.value - 1.0) if pace.value else 0.0)
    above = width * np.divide(own.band.above, own.seconds, out=np.zeros(len(device)), where=own.seconds > 0)
    columns = np.stack([device, host, last, above, waiting])
    inside = np.zeros(len(every.table), dtype=bool)
    inside[layers] = True
    segments = [segment for segment in every.table.segments if inside[segment.start]]
    side_by_side = np.zeros((len(columns), len(segments), count))
    for position, segment in enumerate(segments):
        rows = slice(segment.start, segment.stop)
        side_by_side[:, position, every.table.layer[rows]] = columns[:, rows]
    # what the stack adds is in no queue: it stands with what comes before the layers
    head = np.concatenate([head, np.flatnonzero(every.priced.overhead(STAGES))])
    counted = every.first_token_rows[head]
    before = np.bincount(band_of.group[head], width * band_of.above[head] * counted, groups).astype(np.float64)
    spent = float(every.seconds[head][counted].sum())
    shared: dict[str, Any] = {
        "host_group": band_of.names.index("host"),
        "scale_above": band_of.prompt_scale[1] - 1.0,
    }
    work, issue, left, more, late = side_by_side
    tails = columns[:, tail, None]
    return {
        "rows": Rows(
            work=work,
            issue=issue,
            last=left,
            above=more,
            above_waiting=late,
            group=own.band.group[[s.start for s in segments]],
            head_s=spent,
            head_above=before,
            **shared,
        ),
        "tail_rows": Rows(
            work=tails[0],
            issue=tails[1],
            last=tails[2],
            above=tails[3],
            above_waiting=tails[4],
            group=own.band.group[tail],
            head_s=0.0,
            head_above=np.zeros(groups),
            **shared,
        ),
    }
