"""``aimcost evidence``: compare predictions with published GPU timings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ...report.format import Format
from ..common import (
    FormatFlag,
    JsonOption,
    ReportOption,
    app,
    format_asked,
    one_of,
    progress_bar,
    require_apart,
    write_report,
)
from ..options import Argument, Option


@app.command()
def evidence(
    timings: Annotated[
        list[Path] | None,
        Argument(metavar="FILE...", help="Timing files (.jsonl), or scores (.csv). Default: all that ship."),
    ] = None,
    leave_out: Annotated[
        str | None,
        Option(
            "--leave-out",
            metavar="source",
            help="Refit the stacks without each source, then predict it. With --accuracy: cell, source or model.",
        ),
    ] = None,
    accuracy: Annotated[
        bool, Option("--accuracy", help="Predict published scores, each with its block held out.")
    ] = False,
    refit: Annotated[
        bool,
        Option(
            "--refit",
            help="Print stack coefficients refitted to all rows, beside the shipped ones. With --accuracy: estimate "
            "variances and task scales anew without each source or model (minutes).",
        ),
    ] = False,
    as_json: JsonOption = False,
    form: FormatFlag = None,
    output: ReportOption = None,
) -> None:
    """Compare predictions with published GPU timings.

    Errors by source, stack, quantity and card; coverage of the 80 % band; speed-ups.
    """
    written = format_asked(form, as_json=as_json, output=output)
    require_apart([("FILE", path) for path in timings or []], output=output)
    if accuracy:
        _scores(timings, leave_out, written, output, refit=refit)
        return
    from ...evidence.evidence import gather
    from ...report.evidence import evidence_dict, evidence_text, joined_dict
    from ...report.format import Report

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
    with progress_bar() as step:
        found = gather(timings or None, leave_out=leave_out, progress=step)
    rows = [joined_dict(row) for row in found.rows]
    report = Report(text=lambda: evidence_text(found), data=lambda: evidence_dict(found), rows=lambda: rows)
    write_report(report, written, output)


def _scores(files: list[Path] | None, kind: str | None, written: Format, output: Path | None, *, refit: bool) -> None:
    from ...errors import InvalidValueError
    from ...report.format import Report
    from ...report.scores import held_out_dict, held_out_text
    from ...search.scores.held_out import KINDS, REFITTED, leave_out, leave_out_refitted
    from ...search.scores.points import load_points
    from ...search.scores.surrogate import Surrogate

    surrogate = Surrogate(load_points(files or None))
    if refit and kind is not None and kind not in REFITTED:
        raise InvalidValueError("--leave-out", f"{' or '.join(REFITTED)} with --refit", kind)
    kinds = (REFITTED if refit else KINDS) if kind is None else (kind,)
    with progress_bar() as step:
        found = [leave_out_refitted(surrogate, each, step) if refit else leave_out(surrogate, each) for each in kinds]
    data = held_out_dict(found)
    rows = [{"left_out": each["left_out"], **row} for each in data["left_out"] for row in each["rows"]]
    write_report(Report(text=lambda: held_out_text(found), data=lambda: data, rows=lambda: rows), written, output)
