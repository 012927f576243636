"""``aimcost reproduce``: recompute AIM's published tables."""

from __future__ import annotations

from ..common import FormatFlag, JsonOption, ReportOption, app, format_asked, write_report


@app.command()
def reproduce(as_json: JsonOption = False, form: FormatFlag = None, output: ReportOption = None) -> None:
    """Recompute AIM's published tables.

    Slips in the paper are listed with the corrected figures.
    """
    from ...pricing.reproduce import reproduce as recompute
    from ...report.format import Report
    from ...report.reproduce import reproduce_text

    written = format_asked(form, as_json=as_json, output=output)
    result = recompute()
    report = Report(text=lambda: reproduce_text(result), data=lambda: result, rows=lambda: result["rows"])
    write_report(report, written, output)
