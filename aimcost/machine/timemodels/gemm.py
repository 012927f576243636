"""Time of a matrix product on a GPU.

A product runs as tiles of the result, in waves over the multiprocessors; a narrow one is split along
k. The formula takes the best of ten tile shapes and six splits:

    wave time = 2·TM·TN·(k/s + k0) / (efficiency of the tile · peak of one multiprocessor)
    compute   = waves, rounded up to whole ones with weight `rounding`, · wave time (+ split cost),
                longer by `droop` an e-fold of FLOPs beyond 1e11, where sustained load lowers the clock
    time      = launch + p-norm(compute, bytes / (share · bandwidth)), p = `overlap`

and seven small tables correct it where libraries choose otherwise: by waves and k for four tile
shapes, by m with n or k for small m, and by n with k. Beyond their nodes the corrections stay constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frozen import dataclass
from ...ops.gemm import product_flops
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

__all__ = ["CORRECTIONS", "GemmModel", "coordinates", "formula_seconds"]

TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (64, 256),
    (256, 64),
    (64, 128),
    (128, 64),
    (64, 64),
    (32, 128),
    (16, 128),
)
SPLITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
DROOP_FLOPS = 1e11
_TM = np.array([float(tile[0]) for tile in TILES])[:, None]
_TN = np.array([float(tile[1]) for tile in TILES])[:, None]
# Rows a tile has, in the kernels of the tables.
_EDGES = (64.0, 128.0, 256.0)
_SPLIT = np.array(SPLITS)[:, None]
_CHUNK = 512  # rows at once: splits times tiles times rows then stay in the cache

_WAVES = np.log([0.02, 0.06, 0.12, 0.25, 0.5, 0.75, 0.999, 1.02, 1.5, 1.999, 2.02, 2.6, 3, 3.02, 4, 6, 10, 30, 300])
_K = np.array([5.0, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16])
_K_COARSE = _K[::2]
_M = np.array([0.0, 1, 2, 3, 4, 5, 5.6, 6.4, 7.2, 8, 9.5])
_N = np.array([5.0, 6, 7, 8, 9.5, 11, 12.5, 14, 16])
# name of a correction → nodes of its two coordinates (natural log of waves; log2 of sizes)
CORRECTIONS: Nodes = {
    "waves_128x128_k": (_WAVES, _K),
    "waves_128x256_k": (_WAVES, _K_COARSE),
    "waves_256x128_k": (_WAVES, _K_COARSE),
    "waves_64x128_k": (_WAVES, _K_COARSE),
    "m_n": (_M, _N),
    "m_k": (_M, _K),
    "n_k": (_N, _K),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GemmModel:
    """Coefficients of one number format.

    Attributes
    ----------
    tile_efficiency
        Share of peak that each of `TILES` reaches, shape (tiles, 1).
    k0
        Depth that a tile's prologue and epilogue cost, in elements of k.
    launch_s, split_s
        Seconds of a launch, and of joining a split.
    memory_share, overlap, rounding, droop
        See the module.
    calibrated
        Smallest and largest m, n and k measured.
    """

    tile_efficiency: Floats
    k0: float
    launch_s: float
    split_s: float
    memory_share: float
    overlap: float
    rounding: float
    droop: float
    corrections: Mapping[str, LogTable]
    calibrated: Mapping[str, tuple[float, float]]
    provenance: Provenance

    @classmethod
    def of(cls, data: Mapping[str, Any], tables: Mapping[str, Any], *, where: str) -> GemmModel:
        """From a profile's mapping and its tables.

        Raises
        ------
        CalibrationError
            A coefficient that cannot be true, or no source.
        """
        given = data.get("tile_efficiency")
        shares = given if isinstance(given, list) else []
        place = f"{where}.tile_efficiency"
        tiles = [number({str(i): v}, str(i), 0.001, 1.05, where=place) for i, v in enumerate(shares)]
        number({"length": len(tiles)}, "length", len(TILES), len(TILES), where=place)
        return cls(
            tile_efficiency=np.array(tiles)[:, None],
            k0=number(data, "k0", 0.0, 4096.0, where=where),
            launch_s=number(data, "launch_us", 0.0, 1000.0, where=where) * 1e-6,
            split_s=number(data, "split_us", 0.0, 1e6, where=where) * 1e-6,
            memory_share=number(data, "memory_share", 0.01, 1.05, where=where),
            overlap=number(data, "overlap", 1.0, 1000.0, where=where),
            rounding=number(data, "rounding", 0.0, 1.0, where=where),
            droop=number(data, "droop", 0.0, 1.0, where=where),
            corrections=corrections_of(CORRECTIONS, tables, where=where),
            calibrated=ranges_of(data),
            provenance=Provenance.of(data, where=where),
        )

    def block(self) -> dict[str, Any]:
        """The coefficients as a profile holds them, which `of` reads."""
        return {
            "tile_efficiency": [round(float(v), 4) for v in self.tile_efficiency.ravel()],
            "k0": round(self.k0, 2),
            "launch_us": round(self.launch_s * 1e6, 3),
            "split_us": round(self.split_s * 1e6, 3),
            "memory_share": round(self.memory_share, 4),
            "overlap": round(self.overlap, 3),
            "rounding": round(self.rounding, 4),
            "droop": round(self.droop, 5),
        }

    def seconds(
        self,
        m: Floats,
        n: Floats,
        k: Floats,
        *,
        bytes_moved: Floats,
        peak: float,
        bandwidth: float,
        sm_count: float,
    ) -> Floats:
        """Device seconds of products (m, k) x (k, n), shape (rows,); never under the machine's limits.

        A library picks its tile anew at every size, so a table's cells do not join up at tile edges.
        More rows take no less time: a product costs at least what it costs at the edges below it.
        """
        below = [np.floor(m / edge) * edge for edge in _EDGES]
        # products that lie on an edge, or under the first one, are priced once
        apart = [np.flatnonzero((m > edge) & (rows != m)) for edge, rows in zip(_EDGES, below, strict=True)]
        index = np.concatenate([np.arange(len(m)), *apart])
        times = self._seconds(
            np.concatenate([m, *(rows[part] for rows, part in zip(below, apart, strict=True))]),
            n[index],
            k[index],
            bytes_moved=bytes_moved[index],
            peak=peak,
            bandwidth=bandwidth,
            sm_count=sm_count,
        )
        floor = np.maximum(product_flops(m, n, k) / peak, bytes_moved / bandwidth) / 1.05
        longest = np.maximum(times[: len(m)], floor)
        start = len(m)
        for part in apart:
            longest[part] = np.maximum(longest[part], times[start : start + len(part)])
            start += len(part)
        return np.asarray(longest)

    def _seconds(
        self,
        m: Floats,
        n: Floats,
        k: Floats,
        *,
        bytes_moved: Floats,
        peak: float,
        bandwidth: float,
        sm_count: float,
    ) -> Floats:
        """The formula times its corrections, shape (rows,)."""
        result = np.empty(m.shape)
        for start in range(0, len(m), _CHUNK):
            rows = slice(start, start + _CHUNK)
            shape = (m[rows], n[rows], k[rows])
            plain = formula_seconds(
                self, *shape, bytes_moved=bytes_moved[rows], peak=peak, bandwidth=bandwidth, sm_count=sm_count
            )
            log = total_log(self.corrections, coordinates(*shape, sm_count), len(plain))
            result[rows] = plain * np.exp(log)
        return result

    def carried(self, rate: float, memory: float) -> GemmModel:
        """The model of a card that attains `rate` and `memory` times these shares of its peak and its bandwidth."""
        return replace(self, tile_efficiency=self.tile_efficiency * rate, memory_share=self.memory_share * memory)

    def outside(self, m: Floats, n: Floats, k: Floats) -> NDArray[np.bool_]:
        """Where a dimension leaves the measured range."""
        return outside_of(self.calibrated, {"m": m, "n": n, "k": k})


def formula_seconds(
    model: GemmModel,
    m: Floats,
    n: Floats,
    k: Floats,
    *,
    bytes_moved: Floats,
    peak: float,
    bandwidth: float,
    sm_count: float,
) -> Floats:
    """The formula without its corrections; arrays of one shape (rows,)."""
    blocks = np.ceil(m / _TM) * np.ceil(n / _TN) / sm_count
    tile_s = product_flops(_TM, _TN, 1.0) * sm_count / (peak * model.tile_efficiency)
    # axes: split, tile, row
    waves = np.maximum(blocks * _SPLIT[:, None], 1.0)
    rounded = waves + model.rounding * (np.ceil(waves) - waves)
    times = (rounded * tile_s).min(axis=1) * (k / _SPLIT + model.k0)
    # partial results are fp32: written once, read once, half of it hidden
    times[1:] += model.split_s + 4.0 * m * n * _SPLIT[1:] / bandwidth
    best = times.min(axis=0)
    best = best * (1.0 + model.droop * np.log1p(product_flops(m, n, k) / DROOP_FLOPS))
    return model.launch_s + smooth_max(best, bytes_moved / (bandwidth * model.memory_share), model.overlap)


def coordinates(m: Floats, n: Floats, k: Floats, sm_count: float) -> dict[str, tuple[Floats, Floats]]:
    """Coordinates of each correction."""
    log_m, log_n, log_k = np.log2(m), np.log2(n), np.log2(k)

    def waves(tile_m: float, tile_n: float) -> Floats:
        return np.asarray(np.log(np.ceil(m / tile_m) * np.ceil(n / tile_n) / sm_count))

    return {
        "waves_128x128_k": (waves(128, 128), log_k),
        "waves_128x256_k": (waves(128, 256), log_k),
        "waves_256x128_k": (waves(256, 128), log_k),
        "waves_64x128_k": (waves(64, 128), log_k),
        "m_n": (log_m, log_n),
        "m_k": (log_m, log_k),
        "n_k": (log_n, log_k),
    }
