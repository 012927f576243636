"""What a reader of result files gives back, and how it takes figures out of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import FileFormatError, InvalidValueError, argument

__all__ = [
    "DECODED",
    "FIRST_TOKEN",
    "REQUEST",
    "Clock",
    "Result",
    "Tool",
    "batch_of",
    "figure",
    "is_number",
    "needed",
    "served",
    "stated",
    "whole",
]

FIRST_TOKEN = ("vision", "projector", "merge", "prefill")
REQUEST = (*FIRST_TOKEN, "decode")
DECODED = "tpot"
# Requests in flight within this of a whole number, or lengths within this of their mean, count as equal.
_NEAR = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """One time of a result file, in seconds, and the stages that it covers."""

    quantity: str
    seconds: float
    stages: tuple[str, ...] | str
    trust: str = "medium"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One operating point of a result file.

    Attributes
    ----------
    label
        Prefix of its timings' names; empty where a file has one point.
    model
        As the file names it.
    run
        Keys of a run that the file states.
    notes
        What was left out or taken for granted.
    """

    label: str = ""
    model: str | None = None
    run: Mapping[str, Any]
    clocks: tuple[Clock, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A benchmark: how its files are recognised and read (file, keys of the run that the user gave)."""

    name: str
    wrote: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], list[Result]]


def is_number(value: Any) -> bool:
    """Whether it is a finite number; a whole number of JSON may be too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def figure(data: Any, *keys: str, zero: bool = False) -> float | None:
    """The number at a path of keys; None where it is absent or null.

    Raises
    ------
    FileFormatError
        Something else than a finite number above zero (or at least zero).
    """
    for key in keys:
        if not isinstance(data, Mapping) or data.get(key) is None:
            return None
        data = data[key]
    name = ".".join(keys)
    if not is_number(data):
        raise FileFormatError(f"{name} must be a finite number (got {repr(data)[:80]})")
    if data < 0 or (data == 0 and not zero):
        raise FileFormatError(f"{name} must be above zero (got {data!r})")
    return float(data)


def whole(value: float, what: str) -> int:
    """A mean count as a whole number of at least one."""
    if value < 0.5:
        raise FileFormatError(f"{what} must be at least 1 (got {value:g})")
    return round(value)


def served(
    *, ttft_s: float | None, tpot_s: float | None, e2e_s: float | None, concurrency: float, statistic: str
) -> tuple[tuple[Clock, ...], tuple[str, ...]]:
    """Clocks of requests at a server, with so many in flight.

    One request at a time is what a run describes. With more in flight the time to the first token and the whole
    request hold queueing and other requests' prompts, which are not priced: a decode step of that batch remains.
    """
    clocks, notes = [], []
    note = (f"{statistic} over requests", f"{concurrency:.3g} requests in flight on average")
    if concurrency <= 1.0 + _NEAR:
        if ttft_s is not None:
            clocks.append(Clock(quantity="ttft", seconds=ttft_s, stages=FIRST_TOKEN, notes=note))
        if e2e_s is not None:
            clocks.append(Clock(quantity="e2e", seconds=e2e_s, stages=REQUEST, notes=note))
    elif ttft_s is not None or e2e_s is not None:
        notes.append(
            f"TTFT and whole requests left out: {concurrency:.3g} in flight queue and share steps, not modelled"
        )
    if tpot_s is not None:
        trust = "medium" if concurrency <= 1.0 + _NEAR else "low"
        clocks.append(Clock(quantity="tpot", seconds=tpot_s, stages=DECODED, trust=trust, notes=note))
    return tuple(clocks), tuple(notes)


def batch_of(concurrency: float) -> int:
    """Sequences of a decode step with so many requests in flight."""
    return max(1, round(concurrency))


def stated(given: Mapping[str, Any], key: str) -> Any:
    """A key of the workload that the user gave."""
    workload = given.get("workload", {})
    return workload.get(key) if isinstance(workload, Mapping) else None


def needed(given: Mapping[str, Any], key: str, why: str) -> int:
    """A count of the workload that the user must give.

    Raises
    ------
    InvalidValueError
        It was not given.
    """
    value = stated(given, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidValueError(argument(key), f"given: {why}", value)
    return value
