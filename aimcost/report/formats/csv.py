"""CSV: the table at the heart of a report, with a header line."""

from __future__ import annotations

from ..export import to_csv
from ..format import Format, Report


def render(report: Report) -> str:
    """The rows of the report."""
    return to_csv(report.rows())


FORMAT = Format(name="csv", summary="the report's main table as CSV", suffix=".csv", render=render)
