"""The pieces that time models are made of: a smooth maximum, and bilinear correction tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CalibrationError
from ...frozen import dataclass

__all__ = [
    "Floats",
    "LogTable",
    "Nodes",
    "Provenance",
    "bracket",
    "corrections_of",
    "number",
    "outside_of",
    "ranges_of",
    "smooth_max",
    "total_log",
]

Floats = NDArray[np.float64]
# exp of a correction: beyond a factor of twenty a table is noise, not an efficiency
MAX_LOG = 3.0


def smooth_max(first: Floats, second: Floats, p: float) -> Floats:
    """p-norm of two times: between their maximum (p → ∞) and their sum (p = 1).

    Compute and memory traffic of a kernel overlap, but never wholly.
    """
    top = np.maximum(np.maximum(first, second), 1e-30)
    return np.asarray(top * ((first / top) ** p + (second / top) ** p) ** (1.0 / p))


def bracket(values: Floats, nodes: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Lower node of each value and the weight of the upper one; values outside are clamped."""
    # minimum and maximum: np.clip costs several times as much on short arrays
    inside = np.minimum(np.maximum(values, nodes[0]), nodes[-1])
    lower = nodes[1:-1].searchsorted(inside, side="right")
    return lower, (inside - nodes[lower]) / (nodes[lower + 1] - nodes[lower])


Bracket = tuple[NDArray[np.int64], Floats]


@dataclass(frozen=True, slots=True)
class LogTable:
    """A correction log(t / formula), bilinear between nodes, constant beyond them.

    Attributes
    ----------
    u, v
        Nodes of the two coordinates, rising.
    values
        Shape (len(u), len(v)), natural logarithm.
    """

    u: Floats
    v: Floats
    values: Floats

    def at(self, u: Floats, v: Floats) -> Floats:
        """Corrections at pairs of coordinates."""
        return self.between(bracket(u, self.u), bracket(v, self.v))

    def between(self, u: Bracket, v: Bracket) -> Floats:
        """The same, of coordinates that are located already."""
        (i, a), (j, b) = u, v
        # one flat index: two-dimensional indexing costs twice as much on short arrays
        t, width = self.values.reshape(-1), self.values.shape[1]
        corner = i * width + j
        low = t.take(corner)
        low += b * (t.take(corner + 1) - low)
        high = t.take(corner + width)
        high += b * (t.take(corner + width + 1) - high)
        return np.asarray(low + a * (high - low))

    @classmethod
    def of(cls, permille: Sequence[Sequence[float]], u: Floats, v: Floats, *, where: str) -> LogTable:
        """From a profile's rows of thousandths.

        Raises
        ------
        CalibrationError
            Wrong shape, or corrections beyond e³.
        """
        try:
            values = np.asarray(permille, dtype=float) / 1000.0
        except (TypeError, ValueError):
            raise CalibrationError(f"{where}: must be rows of numbers") from None
        if values.shape != (len(u), len(v)):
            raise CalibrationError(f"{where}: must have shape {len(u)} x {len(v)} (got {values.shape})")
        if not np.isfinite(values).all() or np.abs(values).max() > MAX_LOG:
            raise CalibrationError(f"{where}: corrections must be finite and below a factor of {np.exp(MAX_LOG):.0f}")
        return cls(u, v, values)


Nodes = Mapping[str, tuple[Floats, Floats]]


def corrections_of(nodes: Nodes, tables: Mapping[str, Any], *, where: str) -> dict[str, LogTable]:
    """The corrections that a profile's tables hold, by name; `nodes` are those of each that a formula knows."""
    return {
        name: LogTable.of(tables[name], *own, where=f"{where}.{name}") for name, own in nodes.items() if name in tables
    }


def ranges_of(data: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Smallest and largest measured value of each dimension."""
    return {key: (float(low), float(high)) for key, (low, high) in data.get("range", {}).items()}


def outside_of(ranges: Mapping[str, tuple[float, float]], dims: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where a dimension leaves its measured range."""
    result = np.zeros(np.broadcast_shapes(*map(np.shape, dims.values())), dtype=bool)
    for key, (low, high) in ranges.items():
        if key in dims:
            result |= (dims[key] < low) | (dims[key] > high)
    return result


def total_log(tables: Mapping[str, LogTable], where: Mapping[str, tuple[Floats, Floats]], size: int) -> Floats:
    """Sum of all corrections, shape (size,). A coordinate that several tables share is located once."""
    located: dict[tuple[int, int], Bracket] = {}

    def locate(values: Floats, nodes: Floats) -> Bracket:
        key = (id(values), id(nodes))
        if key not in located:
            located[key] = bracket(values, nodes)
        return located[key]

    total = np.zeros(size)
    for name, table in tables.items():
        u, v = where[name]
        total += table.between(locate(u, table.u), locate(v, table.v))
    return total


def number(data: Mapping[str, Any], key: str, low: float, high: float, *, where: str) -> float:
    """A coefficient within what can be true.

    Raises
    ------
    CalibrationError
        Missing, no number, or outside [low, high].
    """
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CalibrationError(f"{where}: {key!r} must be a number (got {value!r})")
    if not low <= value <= high:
        raise CalibrationError(f"{where}: {key!r} must be from {low:g} to {high:g} (got {value:g})")
    return float(value)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where coefficients come from and how well they did on data that they were not fitted to.

    Attributes
    ----------
    low, high
        10th and 90th percentile of measured / predicted: an 80 % band.
    held_out_mape
        Mean absolute percentage error on data that was not fitted, as a fraction.
    extrapolated
        The two percentiles far beyond what was fitted, never nearer to 1 than `low` and `high`; None
        where that was not measured.
    """

    source: str
    date: str
    low: float
    high: float
    held_out_mape: float
    extrapolated: tuple[float, float] | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any], *, where: str) -> Provenance:
        """From a coefficient mapping.

        Raises
        ------
        CalibrationError
            No source, a band that does not hold the prediction, or one that is tighter beyond the
            measured range than inside it.
        """
        source = data.get("source")
        if not isinstance(source, str) or not source.strip():
            raise CalibrationError(f"{where}: has no 'source'")
        low, high = _band(data, "band", where)
        error = number(data, "held_out_mape", 0.0, 5.0, where=where) if "held_out_mape" in data else 0.0
        extrapolated = _band(data, "extrapolation_band", where) if "extrapolation_band" in data else None
        if extrapolated is not None and (extrapolated[0] > low or extrapolated[1] < high):
            raise CalibrationError(f"{where}: 'extrapolation_band' must hold 'band' (got {list(extrapolated)})")
        return cls(source, str(data.get("date", "")), low, high, error, extrapolated)


def _band(data: Mapping[str, Any], key: str, where: str) -> tuple[float, float]:
    band = data.get(key)
    if not isinstance(band, list) or len(band) != 2:
        raise CalibrationError(f"{where}: {key!r} must be two factors around 1 (got {band!r})")
    low = number({"low": band[0]}, "low", 0.05, 1.0, where=f"{where}.{key}")
    return low, number({"high": band[1]}, "high", 1.0, 20.0, where=f"{where}.{key}")
