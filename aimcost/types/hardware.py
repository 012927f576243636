"""What a machine can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from ..frozen import dataclass

__all__ = ["HardwareSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSpec:
    """One exact SKU: datasheet figures in base units, and measured coefficients if there are any.

    Attributes
    ----------
    memory_bytes_per_s
        Peak DRAM bandwidth.
    dense_flops_per_s
        Peak FLOP/s (integer operations for int8, int4) by number format, without sparsity.
    memory_bytes, usable_memory_bytes
        Nominal size, and what a process can really allocate (0 and None: not known).
    compute_capability
        NVIDIA's, as text ("9.0"); empty elsewhere.
    onchip_bytes, l2_bytes, sm_count
        Register file of all SMs, last-level cache, multiprocessors (CPU: cores).
    boost_clock_hz
        Cycles a second that the peaks assume (0: not known).
    interconnect, interconnect_bytes_per_s
        Its name (nvlink4, pcie5, …), and what it carries to the peers of one node, both directions added
        as datasheets print it.
    calibration
        The raw ``calibration`` mapping of the profile, or None.
    attained
        The raw ``attained`` mapping: shares of the datasheet's figures, or None.
    folder
        Where the profile lies; its tables are beside it.
    sources
        Where each number comes from, by key.
    """

    name: str
    vendor: str = ""
    architecture: str = ""
    memory_bytes_per_s: float
    dense_flops_per_s: Mapping[str, float]
    memory_bytes: float = 0.0
    usable_memory_bytes: float | None = None
    usable_memory_source: str = ""
    onchip_bytes: float = 0.0
    l2_bytes: float = 0.0
    sm_count: int = 0
    boost_clock_hz: float = 0.0
    compute_capability: str = ""
    interconnect: str = ""
    interconnect_bytes_per_s: float = 0.0
    tdp_w: float = 0.0
    price_per_hour: float | None = None
    calibration: Mapping[str, Any] | None = None
    attained: Mapping[str, Any] | None = None
    folder: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hidden: bool = False
