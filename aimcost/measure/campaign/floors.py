"""The least time that the reduction's kernels can take, from the formulas of `aimcost.ops`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AimcostError
from ...methods.aim.price import bipartite_similarity_flops, pagerank_fused
from ...ops.attention import single_pass
from ...ops.cost import Cost
from ...ops.reduction import gather, select
from ...types.formats import Widths, bytes_per_element
from ..profile.to_calibration import ceilings_of, profile_mapping
from ..records import Record, Sample, load_record

__all__ = ["Peaks", "floor_s", "measured_profile", "peaks_of"]

PROFILE_NAME = "measured_here"


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What the device reached in its own profile.

    Attributes
    ----------
    flops_per_s
        Best matrix product, of the number format in question.
    bytes_per_s
        Best copy, read and written.
    """

    flops_per_s: float
    bytes_per_s: float


def peaks_of(folder: Path, dtype: str) -> Peaks | None:
    """The ceilings of the profile in `folder`; None where it was cut short before it had any."""
    try:
        record: Record = load_record(folder / "profile.json")
        ceilings = ceilings_of(record)
    except AimcostError:
        return None
    if dtype not in ceilings.flops_per_s:
        return None
    return Peaks(flops_per_s=ceilings.flops_per_s[dtype], bytes_per_s=ceilings.memory_bytes_per_s)


def measured_profile(folder: Path) -> dict[str, Any] | None:
    """The hardware profile that the campaign in `folder` measured, as a mapping; None where it is incomplete."""
    try:
        mapping = profile_mapping(load_record(folder / "profile.json"), PROFILE_NAME)
    except AimcostError:
        return None
    # as JSON gives it back: the digits are the same now and from the file
    plain: dict[str, Any] = json.loads(json.dumps(mapping))
    return plain


def floor_s(sample: Sample, peaks: Peaks) -> float | None:
    """Seconds at both peaks, the slower of the two; None for what has no formula here."""
    cost = _cost(sample)
    if cost is None:
        return None
    return max(float(np.sum(cost.flops)) / peaks.flops_per_s, float(np.sum(cost.bytes)) / peaks.bytes_per_s)


def _cost(sample: Sample) -> Cost | None:
    dims = sample.dims
    size = bytes_per_element(sample.dtype)
    widths = Widths(weights=size, activations=size, kv=size)
    if sample.op == "score" and sample.name == "pagerank":
        return pagerank_fused(
            batch=dims["batch"],
            heads=dims["heads"],
            kv_heads=dims["kv_heads"],
            head_dim=dims["head_dim"],
            tokens=dims["tokens"],
            widths=widths,
        )
    if sample.op == "select":
        return select(dims["rows"], dims["candidates"], dims["kept"])
    if sample.op == "gather":
        return gather(dims["rows"], dims["width"], widths)
    if sample.op == "merge":
        # as one kernel: every token read once, every result written once
        rows = dims["groups"] * dims["tokens"]
        return Cost(
            kind="merge",
            flops=dims["groups"] * bipartite_similarity_flops(dims["tokens"], dims["width"]),
            read_activations=rows * dims["width"] * size,
            write_activations=dims["groups"] * dims["kept"] * dims["width"] * size,
        )
    if sample.op == "attention":
        return single_pass(dims, causal=True, widths=widths)
    return None
