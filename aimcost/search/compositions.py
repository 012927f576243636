"""All ways to share layers out over levels, numbered, so that any of them can be written down alone."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Compositions", "compositions"]


@dataclass(frozen=True, slots=True)
class Compositions:
    """The C(total + parts − 1, parts − 1) ways to write `total` as `parts` whole numbers ≥ 0.

    They are in ascending lexicographic order: first parts from 0 up, the last one changing fastest.

    Attributes
    ----------
    ascending
        Of each part but the last: entry r · (total + 1) + a counts the ways to share out r whose first part is below
        a, moved up by r times more than there are ways, so that one search finds a for any r.
    """

    total: int
    parts: int
    ascending: tuple[NDArray[np.int64], ...] = field(repr=False)

    def __len__(self) -> int:
        return math.comb(self.total + self.parts - 1, self.parts - 1)

    def rows(self, ranks: ArrayLike) -> NDArray[np.int64]:
        """The ways with these numbers, shape (ranks, parts)."""
        rank = np.array(ranks, dtype=np.int64)
        left = np.full(len(rank), self.total, dtype=np.int64)
        rows = np.empty((len(rank), self.parts), dtype=np.int64)
        width, apart = self.total + 1, len(self) + 1
        for part, moved in enumerate(self.ascending):
            found = moved.searchsorted(rank + apart * left, side="right") - 1
            rank -= moved[found] - apart * left
            taken = found - width * left
            rows[:, part] = taken
            left -= taken
        rows[:, -1] = left
        return rows

    def all(self) -> NDArray[np.int64]:
        """Every way, in order."""
        return self.rows(np.arange(len(self)))


@functools.lru_cache(maxsize=64)
def compositions(total: int, parts: int) -> Compositions:
    """The ways to write `total` as `parts` whole numbers ≥ 0 in order."""
    ways = math.comb(total + parts - 1, parts - 1)
    shift = (ways + 1) * np.arange(total + 1)[:, None]
    offsets = (_offsets(total, parts - 1 - part) for part in range(parts - 1))
    ascending = tuple((np.minimum(table, ways) + shift).ravel() for table in offsets)
    return Compositions(total=total, parts=parts, ascending=ascending)


def _offsets(total: int, others: int) -> NDArray[np.int64]:
    """[r, a]: ways to write r as a first part below a and `others` more; beyond r, more than there are."""
    table = np.full((total + 1, total + 1), np.iinfo(np.int64).max, dtype=np.int64)
    for r in range(total + 1):
        passed = 0
        for a in range(r + 1):
            table[r, a] = passed
            passed += math.comb(r - a + others - 1, others - 1)
    return table
