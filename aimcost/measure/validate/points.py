"""What a comparison consists of: points, their errors, speedups, memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...views import Viewable
from ..records import Record
from .heldout import HeldOut

__all__ = ["PARTS", "Comparison", "Errors", "MemoryPoint", "Point", "Speedup"]

# What is compared, in reading order: whole passes first.
PARTS = ("prefill", "layer", "selection", "group", "merge", "vision", "projector", "features", "ttft", "decode")
# Repeats of one pass that differ by more than this were disturbed.
DISTURBED_SPREAD = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing that was timed, and what was predicted for it.

    Attributes
    ----------
    run, variant
        Label of the run; ``dense`` or ``reduced``.
    part, name, layer
        One of `PARTS`; which one of its kind (a group's name); the layer, None outside layers.
    measured_s, repeats, spread
        Median seconds, how many there were, and their (max − min) / median.
    predicted_s, low_s, high_s
        Estimated seconds and their 80 % band; no upper end for a lower bound.
    extrapolated
        Whether a good part of the prediction lies outside the measured range.
    """

    run: str
    variant: str
    part: str
    name: str
    layer: int | None
    tokens: int | None
    dtype: str
    measured_s: float
    repeats: int
    spread: float
    predicted_s: float
    low_s: float
    high_s: float | None
    extrapolated: bool

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_s / self.measured_s - 1.0

    @property
    def in_band(self) -> bool:
        """Whether the measurement lies in the 80 % band."""
        return self.low_s <= self.measured_s and (self.high_s is None or self.measured_s <= self.high_s)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "error": self.error, "in_band": self.in_band}


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors of several points: count, mean |error|, largest |error|, mean error, share in band."""

    count: int
    mape: float
    worst: float
    bias: float
    coverage: float

    @classmethod
    def of(cls, points: Iterable[Point]) -> Errors | None:
        """None where there are no points."""
        points = list(points)
        if not points:
            return None
        errors = [point.error for point in points]
        return cls(
            count=len(points),
            mape=statistics.fmean(map(abs, errors)),
            worst=max(errors, key=abs),
            bias=statistics.fmean(errors),
            coverage=statistics.fmean(point.in_band for point in points),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """How much faster the reduced prefill is: median over passes, each beside its dense neighbour."""

    run: str
    dtype: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / self.measured - 1.0

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "error": self.error}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoint:
    """Largest allocation during a prefill, weights included, beside the estimate's."""

    run: str
    variant: str
    measured_bytes: float
    predicted_bytes: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        error = self.predicted_bytes / self.measured_bytes - 1.0
        return {**{name: getattr(self, name) for name in self.__slots__}, "error": error}


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Viewable):
    """All points of a record, and what they say together."""

    record: Record
    points: tuple[Point, ...]
    speedups: tuple[Speedup, ...]
    memory: tuple[MemoryPoint, ...]
    held_out: HeldOut
    notes: tuple[str, ...] = ()
    _views_in = "records"

    def _line(self) -> str:
        where, count = self.record.environment.device_name, len(self.points)
        return f"{where}, {self.record.date}: {count} points, prefill MAPE {self.prefill.mape:.1%}"

    def of(self, part: str, *, dtype: str | None = None, name: str | None = None) -> list[Point]:
        """Points of one part, optionally of one number format and name."""
        return [p for p in self.points if p.part == part and dtype in (None, p.dtype) and name in (None, p.name)]

    @cached_property
    def prefill(self) -> Errors:
        """Errors of whole prefills: every record that compares has some."""
        errors = Errors.of(self.of("prefill"))
        assert errors is not None
        return errors

    @cached_property
    def errors(self) -> dict[str, Errors]:
        """By part, groups by their name, parts that were measured alone."""
        found: dict[str, Errors | None] = {part: Errors.of(self.of(part)) for part in PARTS if part != "group"}
        for name in dict.fromkeys(p.name for p in self.of("group")):
            found[f"group {name}"] = Errors.of(self.of("group", name=name))
        return {name: errors for name, errors in found.items() if errors is not None}

    @property
    def disturbed(self) -> bool:
        """Whether the machine itself was unsteady: a quarter of the prefills' repeats differ widely."""
        prefills = self.of("prefill")
        return 4 * sum(point.spread > DISTURBED_SPREAD for point in prefills) > len(prefills)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        environment = self.record.environment
        return {
            "device": environment.device_name,
            "date": self.record.date,
            "complete": self.record.complete,
            "disturbed": self.disturbed,
            "errors": {name: errors.to_dict() for name, errors in self.errors.items()},
            "speedups": [speedup.to_dict() for speedup in self.speedups],
            "memory": [point.to_dict() for point in self.memory],
            "held_out": self.held_out.to_dict(),
            "points": [point.to_dict() for point in self.points],
            "notes": list(self.notes),
        }
