"""``aimcost evidence``: compare predictions with published GPU timings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ..common import (
    JsonOption,
    app,
    one_of,
)
from ..options import Argument, Option


@app.command()
def evidence(
    timings: Annotated[
        list[Path] | None,
        Argument(metavar="FILE...", help="Timing files (.jsonl). Default: all of configs/timings."),
    ] = None,
    leave_out: Annotated[
        str | None,
        Option("--leave-out", metavar="source", help="Refit the stacks without each source, then predict that source."),
    ] = None,
    refit: Annotated[
        bool, Option("--refit", help="Print stack coefficients refitted to all rows, beside the shipped ones.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare predictions with published GPU timings.

    Errors by source, stack, quantity and card; coverage of the 80 % band; speed-ups.
    """
    from ...evidence.evidence import gather
    from ...report.evidence import evidence_dict, evidence_text
    from ...report.export import to_json

    if refit:
        from ...evidence.held_out import refit as fitted
        from ...evidence.timings import load_timings
        from ...report.evidence import figures_text, refit_dict

        one_of(**{"refit": refit, "leave-out": leave_out is not None})
        refits = fitted(load_timings(timings or None).requests)
        print(to_json([refit_dict(each) for each in refits]) if as_json else figures_text(refits))
        return
    found = gather(timings or None, leave_out=leave_out)
    print(to_json(evidence_dict(found)) if as_json else evidence_text(found))
