"""``aimcost sweep``: price a grid of runs into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import JsonOption, app, progress_bar, require_apart, say
from ..options import Argument, Option


@app.command()
def sweep(
    grid: Annotated[Path, Argument(metavar="GRID", help="Grid file (YAML): base, axes, schedules.")],
    output: Annotated[Path, Option("-o", "--output", help="File to write: .csv, .jsonl or .parquet.")],
    resume: Annotated[bool, Option("--resume", help="Continue an interrupted sweep.")] = False,
    engine: Annotated[str, Option(help="local or dask.")] = "local",
    workers: Annotated[int, Option(metavar="N", help="Local processes.")] = 1,
    scheduler: Annotated[str | None, Option(metavar="ADDRESS", help="Address of a Dask scheduler.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Price a grid of runs into one file.

    The grid varies models, GPUs, methods, workloads or schedules. A point that cannot be priced gets a row too,
    with the reason in its `error` column.
    """
    from dataclasses import asdict

    from ...report.export import to_json
    from ...report.guard import sweep_text
    from ...search.sweep.sweep import sweep as run_sweep

    require_apart([("GRID", grid)], output=output)
    with progress_bar() as step:
        result = run_sweep(
            grid,
            output,
            resume=resume,
            engine_name=engine,
            workers=workers,
            scheduler=scheduler,
            progress=step,
        )
    say(to_json(asdict(result)) if as_json else sweep_text(result), prose=not as_json)
