"""JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from ..inputs.csv_cells import guarded
from ..inputs.strict_json import to_json

__all__ = ["to_csv", "to_json"]


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        value = "; ".join(map(str, value))
    return guarded(value) if isinstance(value, str) else value


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with one header line; keys of the widest row, in its order. Lists are joined by semicolons."""
    rows = [{key: _cell(value) for key, value in row.items()} for row in rows]
    header: list[str] = []
    for row in rows:
        header += [key for key in row if key not in header]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
