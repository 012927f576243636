"""``aimcost report``: write one page for several runs and records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import SettingsOption, app, names_in, progress_bar, require_apart, resolve, say
from ..options import Argument, Option


@app.command()
def report(
    given: Annotated[
        list[str], Argument(metavar="RUN...", help="Run files or names of runs, and records of `aimcost validate`.")
    ],
    hardware: Annotated[
        str | None, Option(help="Profiles to show beside each run's, comma-separated.", complete=("hardware",))
    ] = None,
    stack: Annotated[
        str | None, Option(help="Stacks to show beside each run's, comma-separated.", complete=("stack",))
    ] = None,
    settings: SettingsOption = None,
    output: Annotated[Path, Option("-o", "--output", metavar="FILE", help="Write the page there.")] = Path(
        "report.html"
    ),
) -> None:
    """Write an interactive page of several runs and records.

    The page of `aimcost explore` with a menu of the runs; measured figures stand beside predicted ones.
    """
    from ...errors import InvalidValueError
    from ...inputs.files import write_atomically
    from ...report.web.explore import explore_page
    from ...report.web.records import is_record, record_points

    require_apart([("RUN", name) for name in given], output=output)
    records = [name for name in given if is_record(name)]
    runs = [name for name in dict.fromkeys(given) if name not in records]
    if not runs:
        raise InvalidValueError("RUN", "given: at least one run beside the records", None)
    points = [point for name in dict.fromkeys(records) for point in record_points(name)]
    resolved = [(name, resolve(name, settings or [])) for name in runs]
    with progress_bar() as progress:
        page = explore_page(
            resolved,
            progress,
            hardware=names_in("--hardware", hardware),
            stacks=names_in("--stack", stack),
            records=points,
        )
    write_atomically(output, page)
    say(f"written: {output}")
