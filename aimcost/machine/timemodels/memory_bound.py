"""Time of what memory traffic bounds: elementwise and row-wise kernels, look-ups, gathers, selection.

One kernel has four limits, joined by a 2-norm:

    latency = (launch + row · width) / clock                        cycles; a block walks along a row of `width`
    memory  = (bytes − reuse · min(bytes, L2)) / (share · bandwidth)
    issue   = bytes / (bytes a cycle · SMs · clock)                 what the kernel's code can move
    compute = FLOPs / (compute share · peak)
    time    = √(latency² + memory² + issue² + compute²)

Cycles and bytes a cycle belong to a kernel, the attained share of bandwidth to a card: that is what carries
a kernel to a card it was not timed on. `reuse` of an L2's worth of data is still there from the kernel before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frozen import dataclass
from .tables import Floats, Provenance, number

__all__ = ["KernelModel", "Machine", "latency_s", "seconds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the formula knows of a card.

    Attributes
    ----------
    bandwidth
        Attained DRAM bytes/s: the datasheet's times the card's share.
    cycles_per_s, sm_count
        Boost clock and multiprocessors.
    l2_bytes, reuse
        Last-level cache, and the part of as many bytes that is found in it.
    """

    bandwidth: float
    cycles_per_s: float
    sm_count: int
    l2_bytes: float = 0.0
    reuse: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModel:
    """One kind of kernel, on any card.

    Attributes
    ----------
    launch_cycles, row_cycles
        Cycles of an empty kernel, and of each element of a row that one block walks along.
    bytes_per_cycle
        Of one multiprocessor; infinite where DRAM is the only limit.
    compute_share
        Share of the peak that its arithmetic reaches.
    typical_width
        Elements of a row where the operation does not say: the median of those timed.
    serial
        Latency adds to the rest: several small kernels, one after the other.
    share
        Share of the datasheet's bandwidth, where a profile states it for this kind; None: the card's.
    vendor
        Whose cards have this kernel: others run the operation as elementwise kernels. Empty: everyone's.
    """

    launch_cycles: float
    row_cycles: float
    bytes_per_cycle: float
    provenance: Provenance
    compute_share: float = 1.0
    share: float | None = None
    typical_width: float = 0.0
    serial: bool = False
    vendor: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any], *, where: str, clock_hz: float = 0.0) -> KernelModel:
        """From a mapping; raises CalibrationError where a coefficient cannot be true.

        A profile may state ``launch_us`` in place of ``launch_cycles``, in its measured microseconds.
        """
        given = {"row_cycles": 0.0, "compute_share": 1.0, **data}
        if "launch_us" in given:
            given["launch_cycles"] = number(given, "launch_us", 0.0, 1000.0, where=where) * 1e-6 * clock_hz
        limited = given.get("bytes_per_cycle") is not None
        return cls(
            launch_cycles=number(given, "launch_cycles", 0.0, 1e6, where=where),
            row_cycles=number(given, "row_cycles", 0.0, 10_000.0, where=where),
            bytes_per_cycle=number(given, "bytes_per_cycle", 0.1, 1000.0, where=where) if limited else np.inf,
            provenance=Provenance.of(data, where=where),
            compute_share=number(given, "compute_share", 0.001, 1.05, where=where),
            share=number(given, "share", 0.001, 1.05, where=where) if "share" in given else None,
            typical_width=number({"typical_width": 0.0, **given}, "typical_width", 0.0, 1e6, where=where),
            serial=bool(given.get("serial", False)),
            vendor=str(given.get("vendor", "")),
        )

    def launch_s(self, machine: Machine) -> float:
        """Seconds of an empty kernel."""
        return self.launch_cycles / machine.cycles_per_s


def latency_s(
    machine: Machine, *, launch_cycles: Floats | float, row_cycles: Floats | float, width: Floats | float
) -> Floats | float:
    """Seconds of one kernel that neither traffic nor arithmetic fills: its launch, and a block's walk along a row."""
    return (launch_cycles + row_cycles * width) / machine.cycles_per_s


def seconds(
    bytes_moved: Floats,
    machine: Machine,
    *,
    launch_cycles: Floats | float,
    row_cycles: Floats | float = 0.0,
    width: Floats | float = 0.0,
    bytes_per_cycle: Floats | float = np.inf,
    kernels: Floats | float = 1.0,
    compute_s: Floats | float = 0.0,
    bandwidth: Floats | float | None = None,
    serial: NDArray[np.bool_] | bool = False,
) -> Floats:
    """Device seconds of rows, each of so many `kernels`, shape (rows,).

    Parameters
    ----------
    bytes_moved
        Of all the row's kernels together.
    width
        Elements of a row, where one block walks along it.
    compute_s
        Seconds of the arithmetic alone.
    bandwidth
        In place of the machine's.
    serial
        Whether latency adds to the rest.
    """
    each = np.asarray(bytes_moved, dtype=float) / kernels
    latency = latency_s(machine, launch_cycles=launch_cycles, row_cycles=row_cycles, width=width)
    fetched = each - machine.reuse * np.minimum(each, machine.l2_bytes)
    memory = fetched / (machine.bandwidth if bandwidth is None else bandwidth)
    issue = each / (bytes_per_cycle * machine.sm_count * machine.cycles_per_s)
    work = memory**2 + issue**2 + (compute_s / kernels) ** 2
    return np.asarray(kernels * np.where(serial, latency + np.sqrt(work), np.sqrt(latency**2 + work)))
