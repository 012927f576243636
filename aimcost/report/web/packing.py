"""Number columns as bytes that a page unpacks exactly: whole multiples of a step, as varints of second differences.

Costs by token count are nearly straight or parabolic, so that second differences are small and gzip leaves little.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pool", "packed", "unpacked"]

# Seconds are multiples of a picosecond; sums of thousands of rows stay within a few nanoseconds.
SECONDS = 1e-12
# Costs: whole numbers, or of narrow formats sixteenths.
WHOLE, FRACTION = 1.0, 1.0 / 16.0
_LARGEST = 2**53


def packed(values: NDArray[Any]) -> bytes:
    """Whole numbers as zigzag varints of their second differences, 7 bits a byte, least significant first."""
    whole = np.asarray(values, dtype=np.int64)
    second = np.diff(whole, n=2, prepend=np.zeros(2, dtype=np.int64))
    left = ((second << 1) ^ (second >> 63)).astype(np.uint64)
    digits = []
    lengths = np.ones(len(left), dtype=np.int64)
    while True:
        digits.append((left & np.uint64(0x7F)).astype(np.uint8))
        left >>= np.uint64(7)
        if not left.any():
            break
        lengths += left > 0
    table = np.stack(digits, axis=1)
    place = np.arange(table.shape[1])
    table |= np.where(place < lengths[:, None] - 1, np.uint8(0x80), np.uint8(0))
    return bytes(table[place < lengths[:, None]].tobytes())


def unpacked(content: bytes) -> list[int]:
    """What `packed` packed."""
    values, shift, number = list[int](), 0, 0
    last = step = 0
    for byte in content:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            step += number >> 1 if not number & 1 else -((number + 1) >> 1)
            last += step
            values.append(last)
            shift = number = 0
    return values


@dataclass(slots=True)
class Pool:
    """Columns of a page, equal ones once; a column is named by its position."""

    parts: list[bytes] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    known: dict[tuple[float, bytes], int] = field(default_factory=dict)

    def seconds(self, values: NDArray[np.float64]) -> int:
        """A column of times."""
        return self._add(np.rint(values / SECONDS), SECONDS)

    def costs(self, values: NDArray[np.float64]) -> int:
        """A column of FLOPs or bytes."""
        step = WHOLE if np.array_equal(values, np.rint(values)) else FRACTION
        return self._add(np.rint(values / step), step)

    def whole(self, values: NDArray[Any]) -> int:
        """A column of whole numbers."""
        return self._add(values, WHOLE)

    def _add(self, values: NDArray[Any], step: float) -> int:
        if values.size and np.abs(values).max() >= _LARGEST:
            raise OverflowError("a column holds numbers that a page cannot represent")
        content = packed(values.ravel())
        key = step, content
        if key not in self.known:
            self.known[key] = len(self.parts)
            self.parts.append(content)
            self.steps.append(step)
        return self.known[key]

    def to_dict(self) -> dict[str, Any]:
        """All columns as one text, with the lengths and steps to take it apart."""
        content = gzip.compress(b"".join(self.parts), 9, mtime=0)
        return {
            "lengths": [len(part) for part in self.parts],
            "steps": self.steps,
            "content": base64.b64encode(content).decode(),
        }
