"""Time of collectives: measured curves of seconds over message size, one for each number of ranks.

Between nodes time is a power of the size; below the first it is the first's, above the last it grows
with the size. A number of ranks that was not measured takes the nearest one's curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import CalibrationError
from ...frozen import dataclass
from .tables import Floats, Provenance

__all__ = ["ONE_SHOT", "OPERATIONS", "CollectiveModel"]

OPERATIONS = ("all_reduce", "all_gather")
# An all-reduce that is one kernel, peers reading each other's memory; where a profile has none, the ring stands in.
ONE_SHOT = "one_shot"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveModel:
    """Curves of one link.

    Attributes
    ----------
    curves
        By operation and number of ranks: message sizes in bytes, rising, and seconds.
    """

    curves: Mapping[str, Mapping[int, tuple[Floats, Floats]]]
    provenance: Provenance

    @classmethod
    def of(cls, data: Mapping[str, Any], *, where: str) -> CollectiveModel:
        """From a profile's mapping.

        Raises
        ------
        CalibrationError
            Sizes that do not rise, times that are not above zero, or no source.
        """
        curves: dict[str, dict[int, tuple[Floats, Floats]]] = {}
        for operation in (*OPERATIONS, *((ONE_SHOT,) if ONE_SHOT in data else ())):
            by_ranks = data.get(operation)
            if not isinstance(by_ranks, Mapping) or not by_ranks:
                raise CalibrationError(f"{where}: {operation} must hold curves by number of ranks")
            curves[operation] = {
                int(ranks): _curve(curve, f"{where}.{operation}.{ranks}") for ranks, curve in by_ranks.items()
            }
        return cls(curves=curves, provenance=Provenance.of(data, where=where))

    def seconds(self, operation: str, ranks: float, message: Floats) -> Floats:
        """Seconds of messages of so many bytes, shape (rows,)."""
        if operation == ONE_SHOT and ONE_SHOT not in self.curves:
            operation = "all_reduce"
        sizes, times = self.curves[operation][self._nearest(operation, ranks)]
        inside = np.exp(np.interp(np.log(np.maximum(message, 1.0)), np.log(sizes), np.log(times)))
        return np.asarray(np.where(message > sizes[-1], times[-1] * message / sizes[-1], inside))

    def outside(self, operation: str, ranks: float, message: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where the number of ranks was not measured, or no message was as large."""
        if operation == ONE_SHOT and ONE_SHOT not in self.curves:
            operation = "all_reduce"
        nearest = self._nearest(operation, ranks)
        if nearest != ranks:
            return np.ones(np.shape(message), dtype=bool)
        return np.asarray(message > self.curves[operation][nearest][0][-1])

    def _nearest(self, operation: str, ranks: float) -> int:
        return min(self.curves[operation], key=lambda known: abs(np.log(known / ranks)))


def _curve(curve: Any, where: str) -> tuple[Floats, Floats]:
    try:
        sizes = np.asarray(curve["bytes"], dtype=float)
        times = np.asarray(curve["us"], dtype=float) * 1e-6
    except (TypeError, KeyError, ValueError):
        raise CalibrationError(f"{where}: must hold lists 'bytes' and 'us' of numbers") from None
    right = sizes.ndim == 1 and sizes.shape == times.shape and len(sizes) > 1
    if not right or not np.isfinite(sizes).all() or not np.isfinite(times).all():
        raise CalibrationError(f"{where}: 'bytes' and 'us' must be as long as each other, and finite")
    if (np.diff(sizes) <= 0).any() or sizes[0] <= 0 or (times <= 0).any():
        raise CalibrationError(f"{where}: sizes must rise from above zero, and times be above zero")
    return sizes, times
