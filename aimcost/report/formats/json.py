"""JSON: everything that a report holds, strict (no NaN, no Infinity)."""

from __future__ import annotations

from ...inputs.strict_json import to_json
from ..format import Format, Report


def render(report: Report) -> str:
    """The whole report as one JSON value."""
    return to_json(report.data())


FORMAT = Format(name="json", summary="everything, as one JSON value", suffix=".json", render=render)
