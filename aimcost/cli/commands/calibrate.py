"""``aimcost calibrate``: fit or scale a hardware profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import JsonOption, app, say
from ..options import Option


@app.command(times_machine=True)
def calibrate(
    source: Annotated[
        str | None, Option("--from", metavar="aiconfigurator", help="Fit coefficients to these operation tables.")
    ] = None,
    system: Annotated[str | None, Option(help="System in the tables: a100_sxm, h100_sxm, …")] = None,
    timing: Annotated[
        Path | None, Option("--from-timing", metavar="FILE", help="Scale a profile to your own measurements.")
    ] = None,
    check: Annotated[
        Path | None, Option("--check", metavar="CSV", help="Compare predictions with third-party GEMM timings.")
    ] = None,
    inherited: Annotated[
        bool, Option("--inherited", help="Fit the bands of cards that inherit another's coefficients.")
    ] = False,
    hardware: Annotated[str | None, Option(help="Profile to scale, with --from-timing.")] = None,
    output: Annotated[
        Path | None, Option("-o", "--output", help="Profile (or bands) to write. Default: print only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit or scale a hardware profile.

    Fits coefficients to public operation tables, or scales a profile to your own measurements.
    """
    from ...errors import InvalidValueError
    from ...report.export import to_json

    given = [inherited, *(value is not None for value in (source, timing, check))]
    if sum(given) != 1:
        raise InvalidValueError("calibrate", "given one of --from, --from-timing, --check, --inherited", None)
    if check is not None:
        from ...machine.fitting.external import compare_external, read_external
        from ...report.calibration import external_text

        rows = compare_external(read_external(check))
        say(to_json(rows) if as_json else external_text(rows), prose=not as_json)
    elif timing is not None:
        from ..calibrating import scale_command

        say(scale_command(timing, hardware, output, as_json=as_json), prose=not as_json)
    elif inherited:
        from ..calibrating import inherited_command

        say(inherited_command(output, as_json=as_json), prose=not as_json)
    else:
        from ..calibrating import derive_command

        say(derive_command(str(source), system, output, as_json=as_json), prose=not as_json)
