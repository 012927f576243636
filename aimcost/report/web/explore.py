"""A page for one or several runs: what `aimcost explore` and `aimcost report` write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import AimcostError
from ...inputs.run import Run
from ...inputs.stack import DEFAULT_STACK
from ...machine.bands import OWN, OWN_FROM
from ...pricing.estimator import estimator_of
from ...pricing.pricing import estimate_run
from .data import Choice, Progress, run_data
from .packing import Pool
from .page import page_of

__all__ = ["choices_of", "explore_page"]

# What a page shows beside the run's own machine and stack where none are asked for.
_MACHINES = ("nvidia_h100_sxm", "nvidia_a100_sxm_80gb")
_STACKS = ("vllm", DEFAULT_STACK)


def choices_of(run: Run, hardware: Sequence[str], stacks: Sequence[str]) -> list[Choice]:
    """The run's own machine and stack, then every pair of those asked for, or of a default beside each."""
    own = run.hardware.name if run.hardware else ""
    uses_stack = estimator_of(run.estimator).uses_stack
    machines = [None, *(hardware or [next(name for name in _MACHINES if name != own)])]
    named = [None, *(stacks or [next(name for name in _STACKS if name != run.stack.name)])] if uses_stack else [None]
    asked = [
        Choice(hardware=machine, stack=stack)
        for machine in machines
        for stack in named
        if machine != own and stack != run.stack.name
    ]
    # the default ones may lack what the run needs; those asked for must not
    return [choice for choice in asked if hardware or choice.hardware is None or _priced(run, choice)]


def _priced(run: Run, choice: Choice) -> bool:
    try:
        estimate_run(run.with_({"hardware": choice.hardware}))
    except AimcostError:
        return False
    return True


def explore_page(
    runs: Sequence[tuple[str, Run]],
    progress: Progress,
    *,
    hardware: Sequence[str] = (),
    stacks: Sequence[str] = (),
    records: Sequence[dict[str, Any]] = (),
) -> str:
    """The page of some runs, each with how a command line names it.

    Parameters
    ----------
    hardware, stacks
        To show beside the runs' own.
    records
        Measured times beside predicted ones (`aimcost.report.web.records.record_points`).

    Raises
    ------
    AimcostError
        A run that cannot be varied or priced.
    """
    pool = Pool()
    pages = [
        run_data(run, choices_of(run, hardware, stacks), pool, progress, argument=argument) for argument, run in runs
    ]
    data = {"runs": pages, "records": list(records), "own": {"share": OWN, "from": OWN_FROM}}
    return page_of(f"{pages[0]['name']}: aimcost explorer", data, pool)
