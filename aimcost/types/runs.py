"""Run-length coding of token counts: the form that run files, baselines and reports share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TypeVar

__all__ = ["runs_of"]

Value = TypeVar("Value")


def runs_of(values: Iterable[Value]) -> list[tuple[Value, int]]:
    """Equal neighbours as (value, how many)."""
    return [(value, sum(1 for _ in same)) for value, same in groupby(values)]
