"""Figures of earlier runs, and whether they rose at some point.

A gate compares one run with its band and overlooks what is smaller than one run's noise; a rise that stays shows in
several runs together. The test is of ranks by permutation: for figures that vary in any way about one level it calls a
rise in at most `ALARM` of the runs at which it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import AimcostError, FileFormatError
from ..inputs.files import read_text, write_atomically
from ..inputs.schema import validate
from ..inputs.strict_json import parse_object, to_json
from ..types.strict_model import StrictModel

__all__ = ["ALARM", "Rise", "add", "load", "rise_of"]

# False alarms of a run at which the test is asked, and the permutations that resolve it.
ALARM, PERMUTATIONS = 0.004, 1999
# Runs looked back on, and the fewest before and after a rise.
LOOK_BACK, BEFORE, AFTER = 30, 8, 3
# Lines of a file; the oldest are dropped.
KEEP = 2000


class _Line(StrictModel):
    test: Annotated[str, Field(max_length=1000)]
    cpu: Annotated[str, Field(max_length=200)]
    ratio: Annotated[float, Field(ge=1e-6, le=1e6)]
    update: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rise:
    """A level that rose: how many runs ago it did so first, by how much (a share), and the chance of it by luck."""

    runs: int
    by: float
    p: float


def load(path: str | Path, test: str, cpu: str) -> list[float]:
    """Figures of a test on a CPU model since its band was last updated, oldest first; none without a file.

    Raises
    ------
    FileFormatError
        A line that is none of a history.
    """
    figures = list[float]()
    for line in _lines(Path(path)):
        if line.test == test:
            figures = [] if line.update else figures + ([line.ratio] if line.cpu == cpu else [])
    return figures


def add(path: str | Path, test: str, cpu: str, ratio: float, *, update: bool = False) -> None:
    """Append a run, or an update of the band, from which on runs count anew."""
    path = Path(path)
    lines = [*_lines(path), _Line(test=test, cpu=cpu, ratio=float(f"{ratio:.6g}"), update=update)][-KEEP:]
    write_atomically(path, "".join(to_json(line.model_dump(), indent=None) + "\n" for line in lines))


def _lines(path: Path) -> list[_Line]:
    if not path.exists():
        return []
    try:
        return [
            validate(_Line, parse_object(text, f"{path}, line {number}"), where=f"{path}, line {number}")
            for number, text in enumerate(read_text(path).splitlines(), 1)
        ]
    except AimcostError as error:
        raise FileFormatError(str(error)) from None


def rise_of(figures: Sequence[float], *, alarm: float = ALARM) -> Rise | None:
    """The rise that the latest figures show; None where they show none, or are fewer than a test needs."""
    values = np.log(np.array(figures[-LOOK_BACK:]))
    count = len(values)
    if count < BEFORE + AFTER:
        return None
    _, which, equal = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(equal) - (equal - 1) / 2.0)[which]  # equal figures share their mean rank
    splits = np.arange(BEFORE, count - AFTER + 1)
    own = _excess(ranks[None], splits)[0]
    generator = np.random.default_rng(0)
    shuffled = generator.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)
    p = (1 + int((_excess(shuffled, splits).max(axis=1) >= own.max() - 1e-9).sum())) / (PERMUTATIONS + 1)
    if p > alarm:
        return None
    split = int(splits[own.argmax()])
    by = math.expm1(float(np.median(values[split:]) - np.median(values[:split])))
    return Rise(runs=count - split, by=by, p=p)


def _excess(ranks: NDArray[np.float64], splits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of the ranks after each split over its expectation, in standard deviations, shape (rows, splits)."""
    count = ranks.shape[1]
    after = count - splits
    total = ranks.sum(axis=1, keepdims=True) - np.cumsum(ranks, axis=1)[:, splits - 1]
    expected = after * (count + 1) / 2.0
    return np.asarray((total - expected) / np.sqrt(after * splits * (count + 1) / 12.0))
