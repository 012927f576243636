"""What a process holds from one estimate to the next, and by what key: each link rests on the one before.

1. Parts of a `Run`, by the path and stamp of their file (`aimcost.inputs.files.read_once` and the loaders that use it),
   and by their keys from one `Run.with_` to the next. Calibrations, by the mapping that they were read from.
2. An `OpTable`, by the content of all that its rows follow from (`aimcost.pricing.operations.TableKey`).
3. Device times of its products and attentions, by the identity of the table, the time model and the card
   (`aimcost.pricing.device_times`).

The first is dropped when a file changes, the others as newer ones replace them, and all with the process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

__all__ = ["forget", "held"]

Function = TypeVar("Function", bound=Callable[..., Any])

# A table of more rows (about 3 MB) is not held, and nothing that follows from it.
MOST_ROWS = 20_000
_clear: list[Callable[[], None]] = []


def held(count: int, rows: Callable[[Any], int]) -> Callable[[Function], Function]:
    """Hold the latest `count` results of a function whose first argument has, or stands for, so many `rows`."""

    def hold(function: Function) -> Function:
        cached = lru_cache(maxsize=count)(function)
        _clear.append(cached.cache_clear)

        @wraps(function)
        def call(first: Any, *rest: Any) -> Any:
            return (cached if rows(first) <= MOST_ROWS else function)(first, *rest)

        return cast(Function, call)

    return hold


def forget() -> None:
    """Drop tables and times: for whoever has changed a formula in this process."""
    for clear in _clear:
        clear()
