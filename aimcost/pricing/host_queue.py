"""Kernels are issued by a host that runs ahead of the device, until it is the slower of the two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .table import OpTable

__all__ = ["execution_order", "with_host"]

Floats = NDArray[np.float64]


def with_host(
    table: OpTable, device: Floats, host: Floats, after_issue: Floats, sync: NDArray[np.bool_] | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Row times once launches are issued by the host, and which rows wait for it.

    A kernel starts when it has been issued and the one before it has ended. Host and device start level
    at the prompt and again for decode: a step is issued only after the token before it was read. Decode rows
    carry the seconds of all their steps, so one pass over them is the mean step times the number of steps.

    Parameters
    ----------
    device, host
        Seconds of each row, all its runs together, shape (rows,): computing, and issuing.
    after_issue
        Of `device`, what is left once all launches of the row are issued: its last kernel, where a row is
        a long sequence of kernels, else all of it.
    sync
        By row: after it the host waits for the device, so that they start level again.
    """
    if not host.any():
        return device, np.zeros(len(device), dtype=bool)
    seconds, waiting = device.copy(), np.zeros(len(device), dtype=bool)
    later = table.decode[table.order]
    for part in (table.order[~later], table.order[later]):
        for rows in (part,) if sync is None else np.split(part, np.flatnonzero(sync[part]) + 1):
            if not len(rows):
                continue
            issue, work = np.cumsum(host[rows]), device[rows]
            done = np.cumsum(work)
            # end of row i: the latest over j ≤ i of issue(j) + what is left of j then + the work after j up to i
            end = np.maximum(done, done + np.maximum.accumulate(issue - (done - after_issue[rows])))
            spent = np.diff(end, prepend=0.0)
            seconds[rows], waiting[rows] = spent, spent > 1.05 * work
    return seconds, waiting


def execution_order(table: OpTable) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`OpTable.order`, and by row whether it is decode."""
    return table.order, table.decode
