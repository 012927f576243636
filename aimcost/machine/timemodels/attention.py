"""Time of a fused attention kernel on a GPU, keyed by kernel and head width.

    compute = causal FLOPs · (1 + s0 / keys) · wave term / (efficiency · peak)
    time    = launch + p-norm(compute, bytes / (share · bandwidth))

with one block of 128 queries a head and sequence: below one wave the machine is idle in part (the wave
term is 1 / waves), above it the last wave is not full (1 + tail / waves). Three tables correct it: by
waves and keys, by batch and query group, by K/V heads in flight and keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...frozen import dataclass
from .tables import (
    Floats,
    LogTable,
    Nodes,
    Provenance,
    corrections_of,
    number,
    outside_of,
    ranges_of,
    smooth_max,
    total_log,
)

__all__ = ["CORRECTIONS", "AttentionModel", "coordinates", "formula_seconds"]

_KEYS = np.array([0.0, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
_WAVES = np.log([0.005, 0.02, 0.06, 0.15, 0.3, 0.6, 0.99, 1.01, 1.5, 2, 3, 5, 10, 30, 100, 1000])
_BATCH = np.array([0.0, 1, 2, 3, 4, 6, 8, 11])
_GROUP = np.array([0.0, 1, 2, 3, 4, 5, 6.6])
_KV_HEADS = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14])
CORRECTIONS: Nodes = {
    "waves_keys": (_WAVES, _KEYS),
    "batch_group": (_BATCH, _GROUP),
    "kv_heads_keys": (_KV_HEADS, _KEYS),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionModel:
    """Coefficients of one kernel at one head width; see the module."""

    efficiency: float
    launch_s: float
    s0: float
    tail: float
    memory_share: float
    overlap: float
    corrections: Mapping[str, LogTable]
    calibrated: Mapping[str, tuple[float, float]]
    provenance: Provenance

    @classmethod
    def of(cls, data: Mapping[str, Any], tables: Mapping[str, Any], *, where: str) -> AttentionModel:
        """From a profile's mapping and its tables; raises CalibrationError as `GemmModel.of` does."""
        return cls(
            efficiency=number(data, "efficiency", 0.001, 1.05, where=where),
            launch_s=number(data, "launch_us", 0.0, 1000.0, where=where) * 1e-6,
            s0=number(data, "s0", 0.0, 1e5, where=where),
            tail=number(data, "tail", 0.0, 50.0, where=where),
            memory_share=number(data, "memory_share", 0.001, 1.05, where=where),
            overlap=number(data, "overlap", 1.0, 1000.0, where=where),
            corrections=corrections_of(CORRECTIONS, tables, where=where),
            calibrated=ranges_of(data),
            provenance=Provenance.of(data, where=where),
        )

    def block(self) -> dict[str, Any]:
        """The coefficients as a profile holds them, which `of` reads."""
        return {
            "efficiency": round(self.efficiency, 4),
            "launch_us": round(self.launch_s * 1e6, 3),
            "s0": round(self.s0, 2),
            "tail": round(self.tail, 4),
            "memory_share": round(self.memory_share, 4),
            "overlap": round(self.overlap, 3),
        }

    def seconds(
        self,
        dims: Mapping[str, Floats],
        *,
        bytes_moved: Floats,
        flops: Floats,
        peak: float,
        bandwidth: float,
        sm_count: int,
    ) -> Floats:
        """Device seconds; `dims` holds batch, heads, kv_heads, head_dim, q_len and kv_len."""
        plain = formula_seconds(
            self,
            dims,
            bytes_moved=bytes_moved,
            flops=flops,
            peak=peak,
            bandwidth=bandwidth,
            sm_count=sm_count,
        )
        log = total_log(self.corrections, coordinates(dims, sm_count), len(plain))
        floor = np.maximum(flops / peak, bytes_moved / bandwidth) / 1.05
        return np.maximum(plain * np.exp(log), floor)

    def carried(self, rate: float, memory: float) -> AttentionModel:
        """The model of a card that attains `rate` and `memory` times these shares of its peak and its bandwidth."""
        return replace(self, efficiency=self.efficiency * rate, memory_share=self.memory_share * memory)

    def outside(self, dims: Mapping[str, Floats]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where a dimension leaves the measured range."""
        return outside_of(self.calibrated, dims)


def _waves(dims: Mapping[str, Floats], sm_count: int) -> Floats:
    """Blocks of 128 queries of one head, by multiprocessor."""
    return dims["batch"] * dims["heads"] * np.ceil(dims["q_len"] / 128.0) / sm_count


def formula_seconds(
    model: AttentionModel,
    dims: Mapping[str, Floats],
    *,
    bytes_moved: Floats,
    flops: Floats,
    peak: float,
    bandwidth: float,
    sm_count: int,
) -> Floats:
    """The formula without its corrections."""
    waves = _waves(dims, sm_count)
    wave_term = np.where(waves < 1.0, 1.0 / np.maximum(waves, 1e-9), 1.0 + model.tail / np.maximum(waves, 1.0))
    compute = flops * (1.0 + model.s0 / dims["kv_len"]) * wave_term / (peak * model.efficiency)
    return model.launch_s + smooth_max(compute, bytes_moved / (bandwidth * model.memory_share), model.overlap)


def coordinates(dims: Mapping[str, Floats], sm_count: int) -> dict[str, tuple[Floats, Floats]]:
    """Coordinates of each correction."""
    keys = np.log2(dims["kv_len"])
    return {
        "waves_keys": (np.log(_waves(dims, sm_count)), keys),
        "batch_group": (np.log2(dims["batch"]), np.log2(dims["heads"] / dims["kv_heads"])),
        "kv_heads_keys": (np.log2(dims["batch"] * dims["kv_heads"]), keys),
    }
