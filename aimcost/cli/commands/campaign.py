"""``aimcost campaign``: measure a GPU in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import JsonOption, app, say
from ..options import Exit, Option


@app.command(times_machine=True)
def campaign(
    output: Annotated[Path | None, Option("-o", "--output", metavar="DIR", help="Folder for the records.")] = None,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cuda",
    minutes: Annotated[float, Option(help="Time limit; steps that do not fit are skipped.")] = 8.0,
    tiny: Annotated[bool, Option("--tiny", help="Dry run: the same steps on a tiny model.")] = False,
    resume: Annotated[bool, Option("--resume", help="Skip the steps that DIR already holds complete.")] = False,
    source: Annotated[
        Path | None, Option("--from", metavar="DIR", help="Summarise an existing campaign; needs no GPU.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a GPU in one call.

    Profile, kernels, the paper's schedules executed, vision tower, decode, memory. Exit status 1: a step failed, or
    some of its runs did; --resume repeats them.
    """
    from ..campaigning import campaign_command

    text, complete = campaign_command(
        output, source, device=device, minutes=minutes, tiny=tiny, resume=resume, as_json=as_json
    )
    say(text, prose=not as_json)
    if not complete:
        raise Exit(1)
