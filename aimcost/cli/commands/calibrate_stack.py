"""``aimcost calibrate-stack``: fit a software stack to a few timings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import JsonOption, app, require_apart, say
from ..options import Argument, Option


@app.command()
def calibrate_stack(
    timings: Annotated[
        list[Path], Argument(metavar="TIMING...", help="Timings (.jsonl), in the format of configs/timings.")
    ],
    output: Annotated[
        Path | None, Option("-o", "--output", metavar="FILE", help="Stack file to write. Default: print only.")
    ] = None,
    stack: Annotated[
        str | None, Option("--stack", help="Stack to start from. Default: the one the timings name.")
    ] = None,
    quantity: Annotated[
        str | None, Option(metavar="NAME", help="Fit one quantity only: ttft, tpot, e2e, prefill or vision.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a software stack to a few timings.

    One timing fits an offset, two or more fit a scale as well.
    """
    from ..calibrating import stack_command

    require_apart([("TIMING", path) for path in timings], output=output)
    say(stack_command(timings, stack, output, quantity=quantity, as_json=as_json))
