"""``aimcost check``: check predictions against a baseline and budgets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from ..common import (
    FormatFlag,
    JsonOption,
    ReportOption,
    SettingsOption,
    StackFlag,
    app,
    format_asked,
    overrides_of,
    require_apart,
    write_report,
)
from ..options import Argument, Exit, Option


@app.command()
def check(
    runs: Annotated[
        list[str] | None,
        Argument(metavar="RUNS...", help="Run files or names. Default: those in the baseline."),
    ] = None,
    baseline: Annotated[Path | None, Option(help="Baseline file (JSON).")] = None,
    update: Annotated[bool, Option("--update", help="Write the current figures to the baseline.")] = False,
    tolerance: Annotated[
        list[str] | None,
        Option(
            metavar="METRIC=SHARE",
            help="Allowed rise, e.g. ttft=1%, of flops, ttft, tpot, kv, memory or all. Default: none.",
        ),
    ] = None,
    stack: StackFlag = None,
    settings: SettingsOption = None,
    strict: Annotated[bool, Option("--strict", help="Fail on figures that fell, too.")] = False,
    junit: Annotated[Path | None, Option(metavar="FILE", help="Write a JUnit XML report.")] = None,
    markdown: Annotated[Path | None, Option(metavar="FILE", help="Write a Markdown report.")] = None,
    summary: Annotated[bool, Option("--summary", help="Append the Markdown report to $GITHUB_STEP_SUMMARY.")] = False,
    as_json: JsonOption = False,
    form: FormatFlag = None,
    output: ReportOption = None,
) -> None:
    """Check predictions against a baseline and budgets.

    Compares FLOPs, TTFT, TPOT, KV cache and peak memory. Exit status: 0 pass, 1 a figure rose or a budget is exceeded,
    2 bad input.
    """
    from ...errors import InvalidValueError
    from ...guard.check import UNCHANGED, parse_tolerances
    from ...guard.check import check as run_check
    from ...inputs.files import write_atomically
    from ...report.format import Report
    from ...report.guard import check_json, check_junit, check_markdown, check_rows, check_text

    written = format_asked(form, as_json=as_json, output=output)
    if update and baseline is not None and stack is not None:
        raise InvalidValueError("--stack", UNCHANGED, stack)
    require_apart(
        [("RUN", run) for run in runs or []], baseline=baseline, junit=junit, markdown=markdown, output=output
    )
    result = run_check(
        runs or [],
        baseline=baseline,
        update=update,
        tolerances=parse_tolerances(tolerance or []),
        strict=strict,
        overrides=overrides_of([*(settings or []), *([f"stack={stack}"] if stack is not None else [])]),
    )
    if junit is not None:
        write_atomically(junit, check_junit(result))
    if markdown is not None:
        write_atomically(markdown, check_markdown(result))
    if summary:
        _append_summary(check_markdown(result))
    report = Report(text=lambda: check_text(result), data=lambda: check_json(result), rows=lambda: check_rows(result))
    write_report(report, written, output)
    if not result.ok:
        raise Exit(1)


def _append_summary(text: str) -> None:
    """To the file that GitHub Actions names, else nowhere: the same command runs outside of CI."""
    from ...errors import FileFormatError
    from ...inputs.files import without_waiting

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        try:
            # a pipe that nobody reads is refused, not waited for
            with open(path, "a", encoding="utf-8", opener=without_waiting) as file:
                file.write(text)
        except OSError as error:
            raise FileFormatError(f"{path}: cannot be written: {error.strerror or error}") from None
