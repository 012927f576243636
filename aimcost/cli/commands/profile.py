"""``aimcost profile``: measure this machine into a hardware profile."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

from ..common import app, progress_bar, require_apart, say
from ..options import Option


@app.command(times_machine=True)
def profile(
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    quick: Annotated[bool, Option("--quick", help="Smaller grid: about 20 s on a CPU.")] = False,
    output: Annotated[Path | None, Option("-o", "--output", help="Profile to write. Default: print only.")] = None,
    record: Annotated[Path | None, Option(help="Record of raw samples to write. Default: beside the profile.")] = None,
) -> None:
    """Measure this machine into a hardware profile.

    Writes a profile for the calibrated estimator and the record of raw samples behind it.
    """
    require_apart([], output=output, record=record)
    profiling = import_module("aimcost.measure.profile")
    profiling.quiet_process()
    from ...inputs.files import write_atomically
    from ...measure.profile.to_calibration import profile_yaml
    from ...report.measured import profile_text

    samples = record if record is not None else None if output is None else output.with_suffix(".record.json")
    with progress_bar() as step:
        measured = profiling.profile(device, quick, progress=step, path=samples)
    name = output.stem if output is not None else f"my_{device}"
    text = profile_yaml(measured, name)
    if output is None:
        say(text, end="")
        return
    write_atomically(output, text)
    say(profile_text(measured, output, samples), prose=True)
