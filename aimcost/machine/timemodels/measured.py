"""Time models that are the measurements themselves, interpolated: `form: grid` of a calibration block.

A GPU kernel's time follows from tiles and waves, and `aimcost.machine.timemodels` has a formula for it. A CPU
library's does not; its time is smooth in every size, so a compact grid is both simpler and closer:

    product     t / (n·k) is linear in m (the weights are read once, then each row costs alike) and
                bilinear in log n and log k of its logarithm
    attention   t / pairs, log-linear in the number of queries
    elementwise t, linear in the bytes moved, for each kind of arithmetic

Beyond a grid the last slope goes on, and `outside` says so. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError
from ...frozen import dataclass
from ...ops.attention import flops_per_pair, single_pass
from ...ops.gemm import product_flops
from ...types.formats import Widths
from .tables import Floats, Provenance, bracket, outside_of

__all__ = ["FORM", "AttentionGrid", "CurveSet", "GemmGrid"]

FORM = "grid"
NANO = 1e-9
# Peaks are medians of a few repeats; a measured time may undercut them by this much.
PEAK_TOLERANCE = 1.05
# Operations without arithmetic (gather) have an intensity of 0, which has no logarithm.
SMALLEST_INTENSITY = 1e-3
# Smaller numbers of a table are no times, and vanish in seconds.
LEAST = 1e-200
_ONE_BYTE = Widths(weights=1.0, activations=1.0, kv=1.0)
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GemmGrid:
    """Products of one number format, measured on a grid.

    Attributes
    ----------
    m, n, k
        Nodes, rising: rows, outputs, inputs.
    seconds_per_weight
        Shape (len(m), len(n), len(k)): time over n·k.
    """

    m: Floats
    n: Floats
    k: Floats
    seconds_per_weight: Floats
    provenance: Provenance
    launch_s: float = 0.0

    @classmethod
    def of(cls, data: Mapping[str, Any], tables: Mapping[str, Any] | None = None, *, where: str) -> GemmGrid:
        """From a profile's mapping.

        Raises
        ------
        CalibrationError
            Nodes that do not rise, times that cannot be, or no source.
        """
        m, n, k = (_nodes(data, key, where=where) for key in ("m", "n", "k"))
        times = _numbers(data, "ns_per_1000_weights", (len(m), len(n) * len(k)), where=where)
        shaped = times.reshape(len(m), len(n), len(k)) * NANO / 1000.0
        return cls(m=m, n=n, k=k, seconds_per_weight=shaped, provenance=Provenance.of(data, where=where))

    @property
    def calibrated(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest m, n and k measured."""
        return {key: (float(v[0]), float(v[-1])) for key, v in (("m", self.m), ("n", self.n), ("k", self.k))}

    def seconds(
        self,
        m: Floats,
        n: Floats,
        k: Floats,
        *,
        bytes_moved: Floats,
        peak: float,
        bandwidth: float,
        weight_bytes: Floats | None = None,
        sm_count: int = 1,
        factor: Callable[[Floats], Floats] | None = None,
    ) -> Floats:
        """Seconds of products of shape (m, k) x (k, n).

        `peak` floors the time, and `factor` scales it by the rows, as in `GemmModel`; the others have no say.
        """
        m, n, k = (np.asarray(values, dtype=float) for values in (m, n, k))
        i, a = bracket(np.log(n), np.log(self.n))
        j, b = bracket(np.log(k), np.log(self.k))
        table = np.log(self.seconds_per_weight)

        def at(row: NDArray[np.int64]) -> Floats:
            low = table[row, i, j] * (1 - b) + table[row, i, j + 1] * b
            high = table[row, i + 1, j] * (1 - b) + table[row, i + 1, j + 1] * b
            return np.asarray(np.exp(low * (1 - a) + high * a))

        lower = np.clip(np.searchsorted(self.m, m, side="right") - 1, 0, len(self.m) - 2)
        first, second = at(lower), at(lower + 1)
        weight = (m - self.m[lower]) / (self.m[lower + 1] - self.m[lower])
        # noise must not let more rows cost less
        slope = np.maximum(second - first, 0.0)
        time = np.maximum(first + slope * weight, 0.0) * n * k
        time = np.maximum(time, product_flops(m, n, k) / (peak * PEAK_TOLERANCE))
        return np.asarray(time if factor is None else time * factor(m))

    def outside(self, m: Floats, n: Floats, k: Floats) -> Flags:
        """Where a dimension leaves the measured range."""
        return outside_of(self.calibrated, {"m": m, "n": n, "k": k})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionGrid:
    """Attention of one kernel at one head width: square, or one query over a cache.

    Attributes
    ----------
    along
        The dimension that the curves run along: ``q_len`` (square) or ``kv_len`` (one query).
    element_bytes
        Bytes an element of each curve: they tell number formats apart.
    sharing
        Query heads that share a key head, of each curve: what one query reads of a cache follows from it.
    nodes, seconds_per_pair
        One array a curve: lengths, rising, and time over batch · heads · (query, key) pairs.
    """

    along: str
    element_bytes: Floats
    sharing: Floats
    nodes: tuple[Floats, ...]
    seconds_per_pair: tuple[Floats, ...]
    provenance: Provenance
    launch_s: float = 0.0

    @classmethod
    def of(cls, data: Mapping[str, Any], tables: Mapping[str, Any] | None = None, *, where: str) -> AttentionGrid:
        """From a profile's mapping; raises CalibrationError as `GemmGrid.of` does."""
        curves, place = _curves(data, where), f"{where}.curves"
        along = str(data.get("along"))
        if along not in ("q_len", "kv_len"):
            raise CalibrationError(f"{where}: 'along' must be q_len or kv_len (got {along!r})")
        nodes = tuple(_nodes(curve, along, where=place) for curve in curves)
        times = (
            _numbers(curve, "ns_per_pair", (len(node),), where=place) * NANO
            for curve, node in zip(curves, nodes, strict=True)
        )
        widths = {"element_bytes": [curve.get("element_bytes") for curve in curves]}
        shared = {"heads_per_kv_head": [curve.get("heads_per_kv_head", 1.0) for curve in curves]}
        return cls(
            along=along,
            element_bytes=_numbers(widths, "element_bytes", (len(curves),), where=place),
            sharing=_numbers(shared, "heads_per_kv_head", (len(curves),), where=place),
            nodes=nodes,
            seconds_per_pair=tuple(times),
            provenance=Provenance.of(data, where=where),
        )

    @property
    def calibrated(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest length measured."""
        return {self.along: (float(self.nodes[0][0]), float(self.nodes[0][-1]))}

    def seconds(
        self,
        dims: Mapping[str, Floats],
        *,
        bytes_moved: Floats,
        flops: Floats,
        peak: float = 0.0,
        bandwidth: float = 0.0,
        sm_count: float = 1,
    ) -> Floats:
        """Seconds; `flops` are those of the pairs that the mask lets through."""
        pairs = np.asarray(flops, dtype=float) / flops_per_pair(dims["head_dim"])
        elements = single_pass(dims, causal=False, widths=_ONE_BYTE).bytes
        width = float(np.median(np.asarray(bytes_moved) / elements))
        group = float(np.median(np.asarray(dims["heads"]) / np.asarray(dims["kv_heads"])))
        # a format first: sharing tells curves of one format apart
        distance = 8.0 * np.abs(np.log(self.element_bytes / width)) + np.abs(np.log(self.sharing / group))
        chosen = int(np.argmin(distance))
        lengths = np.log(np.asarray(dims[self.along], dtype=float))
        nodes, times = np.log(self.nodes[chosen]), np.log(self.seconds_per_pair[chosen])
        return np.asarray(np.exp(np.interp(lengths, nodes, times)) * pairs)

    def outside(self, dims: Mapping[str, Floats]) -> Flags:
        """Where the length leaves the measured range."""
        return outside_of(self.calibrated, {self.along: np.asarray(dims[self.along])})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CurveSet:
    """Operations of one kind outside products and attention: a curve for each arithmetic intensity.

    A residual, a gated activation and a GELU are all ``pointwise``, and cost differently; FLOPs over
    bytes tell them apart, and number formats too.

    Attributes
    ----------
    along
        What the curves run along: ``bytes`` or ``flops``.
    intensity
        FLOPs a byte, of each curve.
    nodes, seconds_at
        One array a curve: amounts, rising, and times there.
    """

    along: str
    intensity: Floats
    nodes: tuple[Floats, ...]
    seconds_at: tuple[Floats, ...]
    provenance: Provenance
    launch_s: float = 0.0

    @classmethod
    def of(cls, data: Mapping[str, Any], *, where: str) -> CurveSet:
        """From a profile's mapping; raises CalibrationError as `GemmGrid.of` does."""
        curves, place = _curves(data, where), f"{where}.curves"
        along = str(data.get("along"))
        if along not in ("bytes", "flops"):
            raise CalibrationError(f"{where}: 'along' must be bytes or flops (got {along!r})")
        nodes = tuple(_nodes(curve, along, where=place) for curve in curves)
        times = (
            _numbers(curve, "us", (len(node),), where=place) * 1e-6 for curve, node in zip(curves, nodes, strict=True)
        )
        ratios = {"flops_per_byte": [curve.get("flops_per_byte") for curve in curves]}
        return cls(
            along=along,
            intensity=_numbers(ratios, "flops_per_byte", (len(curves),), where=place, zero=True),
            nodes=nodes,
            seconds_at=tuple(times),
            provenance=Provenance.of(data, where=where),
        )

    @property
    def shortest_s(self) -> float:
        """The shortest time measured."""
        return min(float(times[0]) for times in self.seconds_at)

    def seconds(
        self,
        bytes_moved: Floats,
        flops: Floats,
        kernels: Floats | float = 1.0,
        *,
        traffic: float = 1.0,
        peak: float = 0.0,
        bandwidth: float = 0.0,
    ) -> Floats:
        """Seconds; the curves were measured with all kernels and traffic of eager execution in them."""
        moved, work = np.broadcast_arrays(np.asarray(bytes_moved, float), np.asarray(flops, float))
        ratio = np.log(work / np.maximum(moved, 1.0) + SMALLEST_INTENSITY)
        known = np.log(self.intensity + SMALLEST_INTENSITY)
        nearest = np.argmin(np.abs(ratio[..., None] - known), axis=-1)
        amounts = moved if self.along == "bytes" else work
        result = np.zeros(moved.shape)
        for index, (nodes, times) in enumerate(zip(self.nodes, self.seconds_at, strict=True)):
            chosen = nearest == index
            result[chosen] = _linear(amounts[chosen], nodes, times)
        return result


def _linear(x: Floats, nodes: Floats, times: Floats) -> Floats:
    """Linear between the nodes, on with the overall slope above them, with the first time below."""
    slope = max(float(times[-1] - times[0]), 0.0) / float(nodes[-1] - nodes[0])
    return np.asarray(np.interp(x, nodes, times) + slope * np.maximum(x - nodes[-1], 0.0))


def _curves(data: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    curves = data.get("curves")
    if not isinstance(curves, list) or not curves or not all(isinstance(c, Mapping) for c in curves):
        raise CalibrationError(f"{where}: 'curves' must be a list of mappings")
    return curves


def _nodes(data: Mapping[str, Any], key: str, *, where: str) -> Floats:
    nodes = _numbers(data, key, None, where=where)
    if nodes.ndim != 1 or len(nodes) < 2 or (np.diff(nodes) <= 0).any():
        raise CalibrationError(f"{where}: {key!r} must be at least two rising numbers (got {data.get(key)!r})")
    return nodes


def _numbers(
    data: Mapping[str, Any], key: str, shape: tuple[int, ...] | None, *, where: str, zero: bool = False
) -> Floats:
    found = data.get(key)
    try:
        values = np.asarray(found if isinstance(found, Sequence) else [], dtype=float)
    except (TypeError, ValueError):
        raise CalibrationError(f"{where}: {key!r} must hold numbers only") from None
    if shape is not None and values.shape != shape:
        raise CalibrationError(f"{where}: {key!r} must have shape {shape} (got {values.shape})")
    if not np.isfinite(values).all() or (values < 0 if zero else values < LEAST).any():
        raise CalibrationError(f"{where}: {key!r} must hold finite numbers above 0")
    return values
