"""`aimcost sweep`: computes a grid in chunks, stores them, and joins them into one file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import AimcostError, FileFormatError, InvalidValueError, argument
from ...inputs.files import require_nameable
from .engines import engine
from .formats import assemble, format_of
from .grid import Chunk, Grid, load_grid
from .pricing import columns_of
from .store import Parts

__all__ = ["SweepResult", "sweep"]

# Points that are tried before a sweep begins.
_PROBES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What a sweep did.

    Attributes
    ----------
    points, errors
        Rows written, and how many of them hold an error in place of figures.
    chunks, resumed
        Chunks in all, and how many an earlier run had left.
    seconds
        From the first chunk to the finished file.
    """

    output: str
    points: int
    errors: int
    chunks: int
    resumed: int
    seconds: float


def sweep(
    grid_file: str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    engine_name: str = "local",
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> SweepResult:
    """Price every point of a grid and write it to a CSV, JSON-lines or Parquet file.

    The file is the same byte for byte whichever engine computed it, in one go or resumed.

    Parameters
    ----------
    resume
        Continue from the chunks that a killed sweep left.
    engine_name, workers, scheduler
        See `aimcost.search.sweep.engines.engine`.

    Raises
    ------
    AimcostError
        A bad grid, no point that can be priced, a missing extra, or an output that cannot be written.
    """
    target = Path(output)
    require_nameable(target)
    kind = format_of(target)
    if target.is_dir():
        raise FileFormatError(f"{target}: is a folder")
    grid = load_grid(grid_file)
    header = _header(grid, str(grid_file))
    parts = Parts(target, grid.digest, grid.chunk_count)
    text, total, start = grid.to_json(), grid.chunk_count, time.monotonic()
    open_chunks = (chunk for chunk in grid.chunks() if chunk.number not in parts.done)
    made = engine(engine_name, text, open_chunks, kind, workers=workers, scheduler=scheduler)
    parts.open(resume=resume)
    try:
        resumed = len(parts.done)
        progress(resumed, total, "sweeping")
        for number, digest, content, errors in made:
            if digest != grid.digest:
                raise InvalidValueError(
                    argument("scheduler"), "a cluster with the same version of aimcost, models and profiles", digest
                )
            parts.add(number, content, errors)
            progress(len(parts.done), total, "sweeping")
        progress(total, total, "writing")
        assemble(parts.paths(), target, kind, header)
        errors = parts.errors
        parts.close()
    finally:
        parts.release()
    return SweepResult(
        output=str(target),
        points=grid.points,
        errors=errors,
        chunks=total,
        resumed=resumed,
        seconds=time.monotonic() - start,
    )


def _header(grid: Grid, where: str) -> list[str]:
    """The names of the columns, from points spread over the grid.

    Raises
    ------
    InvalidValueError
        None of them can be priced: it is the grid that is wrong.
    """
    first = next(grid.chunks())
    stride = 1 if grid.schedules is not None else max(1, grid.contexts // _PROBES)
    reason = None
    for start in range(0, min(first.stop if grid.schedules is not None else grid.contexts, stride * _PROBES), stride):
        try:
            columns = columns_of(grid, Chunk(0, start, start + 1, first.context))
        except AimcostError as error:  # of all points: a prompt too long for the bulk path
            error.prefix(where)
            raise
        reason = None if columns[-1].constant else columns[-1].values[0]
        if reason is None:
            return [column.name for column in columns]
    raise InvalidValueError(
        "grid", f"a grid whose points can be priced (none of {_PROBES} tried can: {reason})", None, where=where
    )
