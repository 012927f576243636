"""Tables for a terminal."""

from __future__ import annotations

from ..format import Format, Report


def render(report: Report) -> str:
    """The report as a person reads it."""
    return report.text()


FORMAT = Format(name="text", summary="tables for a terminal", suffix=".txt", render=render)
