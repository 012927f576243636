"""Measured records as points of a page: what was timed, beside what is predicted for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import FileFormatError
from ...inputs.files import read_json
from ...measure.records import load_record
from ...measure.validate import compare_record

__all__ = ["is_record", "record_points"]


def is_record(given: str) -> bool:
    """Whether an argument is a record of `aimcost validate`, and not a run."""
    path = Path(given)
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        return "schema_version" in read_json(path)
    except FileFormatError:
        return False


def record_points(given: str) -> list[dict[str, Any]]:
    """Whole passes and stages of a record; single layers are left out.

    Raises
    ------
    AimcostError
        It is no record of a validation.
    """
    record = load_record(given)
    source = f"{record.environment.device_name}, {record.date}"
    return [
        {
            "kind": "record",
            "label": " ".join(filter(None, [point.run, point.variant, point.part, point.name, point.dtype])),
            "predicted_s": point.predicted_s,
            "low_s": point.low_s,
            "high_s": point.high_s,
            "measured_s": point.measured_s,
            "source": source,
        }
        for point in compare_record(record, where=given).points
        if point.layer is None
    ]
