"""A page for one or several runs: what `aimcost explore` and `aimcost report` write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import AimcostError, InvalidValueError
from ...inputs.run import Run
from ...inputs.stack import DEFAULT_STACK
from ...machine.bands import OWN, OWN_FROM
from ...pricing.estimator import estimator_of
from ...pricing.pricing import estimate_run
from .data import Choice, Progress, run_data, varied
from .packing import Pool
from .page import page_of

__all__ = ["choices_of", "explore_page", "on_a_machine"]

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

    def chosen(choice: Choice) -> bool:
        """Whether a user named both the machine and the stack, or they are the run's own."""
        return bool(hardware or choice.hardware is None) and bool(stacks or choice.stack is None)

    # a pair with a default in it may lack what the run needs; those asked for must not
    return [choice for choice in asked if chosen(choice) or _priced(run, choice)]


def on_a_machine(run: Run, argument: str, hardware: Sequence[str]) -> tuple[Run, Sequence[str]]:
    """The run on its own machine, or on the first of those asked for, and the others."""
    if run.hardware is not None:
        return run, hardware
    if not hardware:
        what = f"{argument} names none" if argument else "the run names none"
        raise InvalidValueError("hardware", f"given: {what} (`aimcost list hardware` shows the profiles)", None)
    return run.with_({"hardware": hardware[0]}), hardware[1:]


def _priced(run: Run, choice: Choice) -> bool:
    try:
        estimate_run(varied(run, choice))
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
        To show beside the runs' own; a run that names no machine takes the first.
    records
        Measured times beside predicted ones (`aimcost.report.web.records.record_points`).

    Raises
    ------
    AimcostError
        A run that cannot be varied or priced.
    """
    pool, pages = Pool(), list[dict[str, Any]]()
    for argument, given in runs:
        run, others = on_a_machine(given, argument, hardware)
        pages.append(run_data(run, choices_of(run, others, stacks), pool, progress, argument=argument))
    data = {"runs": pages, "records": list(records), "own": {"share": OWN, "from": OWN_FROM}}
    return page_of(f"{pages[0]['name']}: aimcost explorer", data, pool)
