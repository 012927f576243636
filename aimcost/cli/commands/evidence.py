"""``aimcost evidence``: compare predictions with published GPU timings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import FormatFlag, JsonOption, ReportOption, app, format_asked, one_of, write_report
from ..options import Argument, Option


@app.command()
def evidence(
    timings: Annotated[
        list[Path] | None,
        Argument(metavar="FILE...", help="Timing files (.jsonl). Default: all of configs/timings."),
    ] = None,
    leave_out: Annotated[
        str | None,
        Option("--leave-out", metavar="source", help="Refit the stacks without each source, then predict that source."),
    ] = None,
    refit: Annotated[
        bool, Option("--refit", help="Print stack coefficients refitted to all rows, beside the shipped ones.")
    ] = False,
    as_json: JsonOption = False,
    form: FormatFlag = None,
    output: ReportOption = None,
) -> None:
    """Compare predictions with published GPU timings.

    Errors by source, stack, quantity and card; coverage of the 80 % band; speed-ups.
    """
    from ...evidence.evidence import gather
    from ...report.evidence import evidence_dict, evidence_text, joined_dict
    from ...report.format import Report

    written = format_asked(form, as_json=as_json, output=output)
    if refit:
        from ...evidence.held_out import refit as fitted
        from ...evidence.timings import load_timings
        from ...report.evidence import figures_text, refit_dict

        one_of(**{"refit": refit, "leave-out": leave_out is not None})
        refits = fitted(load_timings(timings or None).requests)
        figures = [refit_dict(each) for each in refits]
        report = Report(text=lambda: figures_text(refits), data=lambda: figures, rows=lambda: figures)
        write_report(report, written, output)
        return
    found = gather(timings or None, leave_out=leave_out)
    rows = [joined_dict(row) for row in found.rows]
    report = Report(text=lambda: evidence_text(found), data=lambda: evidence_dict(found), rows=lambda: rows)
    write_report(report, written, output)
