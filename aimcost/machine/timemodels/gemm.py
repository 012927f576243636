"""Time of a matrix product on a GPU.

A product runs as tiles of the result, in waves over the multiprocessors; a narrow one is split along
k. The formula takes the best of ten tile shapes and six splits:

    wave time = 2·TM·TN·(k/s + k0) / (efficiency of the tile · peak of one multiprocessor)
    compute   = waves, rounded up to whole ones with weight `rounding`, · wave time (+ split cost),
                longer by `droop` an e-fold of FLOPs beyond 1e11, where sustained load lowers the clock
    time      = launch + p-norm(compute, bytes / (share · bandwidth)), p = `overlap`

and seven small tables correct it where libraries choose otherwise: by waves and k for four tile
shapes, by m with n or k for small m, and by n with k. Beyond their nodes the corrections stay constant.

More rows take no less time. A library picks its tile anew at every size and a table's cells do not join up at tile
edges, so that the corrected formula falls by some per cent here and there: an isotonic regression of its logarithm over
fixed numbers of rows (`row_nodes`) levels that, and between two of them time is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frozen import dataclass
from ...isotonic import non_decreasing
from ...ops.gemm import product_flops
from .tables import (
    Floats,
    LogTable,
    Nodes,
    Provenance,
    bracket,
    corrections_of,
    number,
    outside_of,
    ranges_of,
    smooth_max,
    total_log,
)

__all__ = ["CORRECTIONS", "Factor", "GemmModel", "coordinates", "formula_seconds", "row_nodes"]

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


# Seconds at `row_nodes`, 1 to 3 kB each: by model, n, k, bytes of a row and of the weights, card, library and nodes.
_Key = tuple["GemmModel", float, float, float, float, tuple[float, float, float], "Factor | None", int]
Factor = Callable[[Floats], Floats]
_held: dict[_Key, Floats] = {}
_MOST_HELD = 1024
# Rows up to which one regression runs, log2; beyond, one runs over each two powers of two.
_FIRST, _NEXT = 12, 2


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
        weight_bytes: Floats,
        peak: float,
        bandwidth: float,
        sm_count: float,
        factor: Factor | None = None,
    ) -> Floats:
        """Device seconds of products (m, k) x (k, n), shape (rows,); never under the machine's limits.

        More rows, other dimensions and weights fixed, take no less time.

        Parameters
        ----------
        bytes_moved, weight_bytes
            All traffic, and the weights' part of it, which does not grow with m.
        factor
            Of m rows: time of another library over the tables'; hashable.
        """
        # rounded to a share of a byte: rows of one product have one traffic each
        row_bytes = np.rint((bytes_moved - weight_bytes) / m * 256.0) / 256.0
        products, which = _distinct(np.stack([n, k, row_bytes, weight_bytes]))
        nodes = row_nodes(_reach(float(m.max())))
        curves = self._curves(products, nodes, (peak, bandwidth, float(sm_count)), factor)
        lower, weight = bracket(m, nodes)
        low, high = curves[which, lower], curves[which, lower + 1]
        floor = np.maximum(product_flops(m, n, k) / peak, bytes_moved / bandwidth) / 1.05
        return np.asarray(np.maximum(low + weight * (high - low), floor))

    def _curves(
        self, products: Floats, nodes: Floats, card: tuple[float, float, float], factor: Factor | None
    ) -> Floats:
        """Seconds at `nodes` of products (n, k, bytes of a row, bytes of weights), shape (products, nodes)."""
        keys: list[_Key] = [(self, *each, card, factor, len(nodes)) for each in zip(*products.tolist(), strict=True)]
        result = np.empty((len(keys), len(nodes)))
        missing = []
        for index, key in enumerate(keys):
            curve = _held.get(key)
            if curve is None:
                missing.append(index)
            else:
                result[index] = curve
        for start in range(0, len(missing), _CHUNK):
            here = missing[start : start + _CHUNK]
            result[here] = self._curves_of(products[:, here], nodes, card, factor)
        if len(missing) < _MOST_HELD:
            if len(_held) + len(missing) > _MOST_HELD:
                _held.clear()
            _held.update((keys[index], result[index].copy()) for index in missing)
        return result

    def _curves_of(
        self, products: Floats, nodes: Floats, card: tuple[float, float, float], factor: Factor | None
    ) -> Floats:
        shapes, which = _distinct(products[:2])
        n, k = np.repeat(shapes, len(nodes), axis=1)
        parts = self._parts(np.tile(nodes, shapes.shape[1]), n, k, *card)
        compute_s, correction = parts.reshape(2, -1, len(nodes))[:, which]
        if factor is not None:
            correction = correction * factor(nodes)
        _, bandwidth, _ = card
        memory_s = (products[3][:, None] + products[2][:, None] * nodes) / (bandwidth * self.memory_share)
        times = (self.launch_s + smooth_max(compute_s, memory_s, self.overlap)) * correction
        ends = np.searchsorted(nodes, 2.0 ** np.arange(_FIRST, np.log2(nodes[-1]), _NEXT), side="right")
        levelled = np.concatenate([non_decreasing(part) for part in np.split(np.log(times), ends, axis=1)], axis=1)
        return np.asarray(np.exp(np.maximum.accumulate(levelled, axis=1)))

    def _parts(self, m: Floats, n: Floats, k: Floats, peak: float, bandwidth: float, sm_count: float) -> Floats:
        """Seconds of arithmetic and the factor of all corrections, shape (2, rows)."""
        result = np.empty((2, len(m)))
        for start in range(0, len(m), _CHUNK):
            rows = slice(start, start + _CHUNK)
            shape = (m[rows], n[rows], k[rows])
            result[0, rows] = compute_seconds(self, *shape, peak=peak, bandwidth=bandwidth, sm_count=sm_count)
            result[1, rows] = np.exp(total_log(self.corrections, coordinates(*shape, sm_count), len(shape[0])))
        return result

    def carried(self, rate: float, memory: float) -> GemmModel:
        """The model of a card that attains `rate` and `memory` times these shares of its peak and its bandwidth."""
        return replace(self, tile_efficiency=self.tile_efficiency * rate, memory_share=self.memory_share * memory)

    def outside(self, m: Floats, n: Floats, k: Floats) -> NDArray[np.bool_]:
        """Where a dimension leaves the measured range."""
        return outside_of(self.calibrated, {"m": m, "n": n, "k": k})


@lru_cache
def row_nodes(octave: int) -> Floats:
    """Rows at which a time is computed, up to 2 ** octave, rising.

    Every one up to 16; then the last row of a tile and the first one of the next, for tiles of 16 rows up to 128, of
    64 up to 1024, of 128 up to 4096, and of a 16th of the power of two below beyond.
    """
    edges = [np.arange(16.0, 128.0, 16.0), np.arange(128.0, 1024.0, 64.0), np.arange(1024.0, 4096.0, 128.0)]
    edges += [2.0**i * (1.0 + np.arange(16.0) / 16.0) for i in range(_FIRST, octave)]
    last = np.concatenate(edges)
    return np.concatenate([np.arange(1.0, 16.0), np.stack([last, last + 1.0], axis=1).ravel(), [2.0**octave]])


def _reach(most: float) -> int:
    """The power of two up to which products of at most `most` rows need nodes."""
    beyond = max(0.0, np.log2(most) - _FIRST)
    return _FIRST + _NEXT * int(np.ceil(beyond / _NEXT))


def _distinct(columns: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The distinct columns, and which of them each column is."""
    order = np.lexsort(columns)
    ordered = columns[:, order]
    starts = np.concatenate([[True], (np.diff(ordered) != 0).any(axis=0)])
    which = np.empty(len(order), dtype=np.int64)
    which[order] = np.cumsum(starts) - 1
    return ordered[:, starts], which


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
    compute_s = compute_seconds(model, m, n, k, peak=peak, bandwidth=bandwidth, sm_count=sm_count)
    return model.launch_s + smooth_max(compute_s, bytes_moved / (bandwidth * model.memory_share), model.overlap)


def compute_seconds(
    model: GemmModel, m: Floats, n: Floats, k: Floats, *, peak: float, bandwidth: float, sm_count: float
) -> Floats:
    """Its arithmetic, by the best tile and split."""
    blocks = np.ceil(m / _TM) * np.ceil(n / _TN) / sm_count
    tile_s = product_flops(_TM, _TN, 1.0) * sm_count / (peak * model.tile_efficiency)
    # axes: split, tile, row
    waves = np.maximum(blocks * _SPLIT[:, None], 1.0)
    rounded = waves + model.rounding * (np.ceil(waves) - waves)
    times = (rounded * tile_s).min(axis=1) * (k / _SPLIT + model.k0)
    # partial results are fp32: written once, read once, half of it hidden
    times[1:] += model.split_s + 4.0 * m * n * _SPLIT[1:] / bandwidth
    best = times.min(axis=0)
    return np.asarray(best * (1.0 + model.droop * np.log1p(product_flops(m, n, k) / DROOP_FLOPS)))


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
