"""Predicted beside measured: `compare_record` joins a record to estimates; `measuring` makes the record."""

from __future__ import annotations

from .joining import compare_record, stages_timed
from .points import PARTS, Comparison, Errors, MemoryPoint, Point, Speedup

__all__ = ["PARTS", "Comparison", "Errors", "MemoryPoint", "Point", "Speedup", "compare_record", "stages_timed"]
