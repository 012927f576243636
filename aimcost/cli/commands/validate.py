"""``aimcost validate``: execute runs and compare with their predictions."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

from ..common import JsonOption, app, progress_bar, require_apart, say
from ..options import Argument, Option


@app.command(times_machine=True)
def validate(
    runs: Annotated[
        list[str] | None, Argument(metavar="RUN...", help="Run files, or names of runs in configs/runs.")
    ] = None,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    profile: Annotated[
        str | None, Option("--profile", help="Profile of this machine. Default: measured along with the runs.")
    ] = None,
    output: Annotated[Path | None, Option("-o", "--output", metavar="FILE", help="Record to write.")] = None,
    from_record: Annotated[
        Path | None, Option("--from-record", metavar="FILE", help="Redo the comparison from a record, offline.")
    ] = None,
    plot: Annotated[
        Path | None, Option("--plot", metavar="FILE", help="Plot predicted against measured (.png, .svg, .pdf).")
    ] = None,
    repeats: Annotated[int, Option(min=1, max=100, help="Passes per variant and round (two rounds).")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Execute runs and compare with their predictions.

    Each run is timed with and without reduction, prefill by prefill and layer by layer.
    """
    from ...errors import InvalidValueError

    if bool(runs) == (from_record is not None):
        raise InvalidValueError("RUN", "given, or else --from-record (not both)", None)
    require_apart([*(("RUN", run) for run in runs or []), ("--profile", profile)], output=output, plot=plot)
    if from_record is None:
        import_module("aimcost.measure.profile").quiet_process()
    from ...measure.validate import compare_record
    from ...report.export import to_json
    from ...report.pictures import check_plot
    from ...report.validation import validation_text
    from ...report.validation_plot import draw_validation

    if plot is not None:
        check_plot(plot)
    if from_record is not None:
        from ...measure.records import load_record

        record, where = load_record(from_record), str(from_record)
    else:
        from ...measure.validate.measuring import load_runs, measure_validation

        where = str(output or "record")
        given = load_runs(runs or [])
        with progress_bar() as step:
            record = measure_validation(
                given, device=device, profile=profile, repeats=repeats, path=output, progress=step
            )
    comparison = compare_record(record, where=where)
    say(to_json(comparison.to_dict()) if as_json else validation_text(comparison), prose=not as_json)
    if plot is not None:
        draw_validation(comparison, plot)
