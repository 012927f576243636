"""The Python entry points."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import (
    AimcostError,
    InvalidValueError,
    MissingArgumentError,
    UnknownArgumentError,
    UnknownNameError,
    argument,
)
from .extras import torch_module
from .inputs.run import SHORT_KEYS, Run, load_run
from .inputs.schema import RunFile
from .methods.registry import require_runnable
from .pricing import pricing as _pricing
from .pricing.result import Estimate
from .types import Schedule

if TYPE_CHECKING:
    from .pricing.comparison import MachineComparison

__all__ = ["apply", "compare", "estimate", "plan", "reproduce", "schedule"]


def estimate(run: Mapping[str, Any] | str | Path | None = None, **overrides: Any) -> Estimate:
    """What a run costs: ``estimate("run.yaml")``, or ``estimate(model=…, hardware=…, frames=32, method="aim")``.

    Parameters
    ----------
    run
        A run as a mapping, a YAML file, or the name of a file in configs/runs. Without one, the keys given are the run.
    **overrides
        Keys of the run to replace; mappings are merged (``workload={"frames": 8}``). Keys of the workload and
        ``tp``, ``pp``, ``dp`` need no section (``frames=8``).

    Raises
    ------
    AimcostError
        One line that names what is wrong with the input.
    """
    return _pricing.estimate_run(_run(run, overrides))


def _run(run: Mapping[str, Any] | str | Path | None, overrides: Mapping[str, Any], *beside: str) -> Run:
    """A run from what a function was called with; `beside` are its arguments that are no keys of a run."""
    known = (*RunFile.names(), *SHORT_KEYS)
    for key in overrides:
        if "." not in key and key not in known:
            raise UnknownNameError("key", key, (*known, *beside), where="run")
    if run is None and "model" not in overrides:
        raise InvalidValueError("run", "given, or `model`", None)
    return load_run({} if run is None else run, {SHORT_KEYS.get(key, key): each for key, each in overrides.items()})


def compare(
    run: Mapping[str, Any] | str | Path | None = None,
    hardware: Sequence[str] = (),
    stacks: Sequence[str] = (),
    *,
    workloads: Sequence[Mapping[str, Any]] = (),
    prices: Mapping[str, float] | None = None,
    currency: str = "",
    **overrides: Any,
) -> MachineComparison:
    """One run on several machines and stacks, fastest first; see `aimcost.pricing.comparison.compare_run`.

    `run` and `overrides` as in `estimate`.
    """
    comparison = importlib.import_module("aimcost.pricing.comparison")
    resolved = _run(run, overrides, "stacks", "workloads", "prices", "currency")
    rows: MachineComparison = comparison.compare_run(
        resolved, hardware, stacks, workloads=workloads, prices=prices, currency=currency
    )
    return rows


def plan(
    run: Mapping[str, Any] | str | Path | None = None, budgets: Mapping[str, float] | None = None, **options: Any
) -> Any:
    """The schedule that keeps most under `budgets`; see `aimcost.search.plan.plan_run` for the options.

    With `task`, the method that suits a task or benchmark (or a list of them) best; see
    `aimcost.search.plan.tasks.plan_task`.

    Parameters
    ----------
    budgets
        Limits by the keys of a run file's ``budgets:``, such as ``{"max_ttft_ms": 80}``.

    Returns
    -------
    aimcost.search.plan.Plan; with `task`, aimcost.search.plan.tasks.TaskPlan, or TaskPlans where `hardware` is given
    """
    tasks, planner = (importlib.import_module(f"aimcost.search.plan{name}") for name in (".tasks", ""))
    if run is None:
        raise _without_run(options, planner.plan_run, tasks.plan_task)
    task = options.pop("task", None)
    if task is None:
        _check_options(options, planner.plan_run, tasks.plan_task, "given with task")
        return planner.plan_run(load_run(run), budgets={} if budgets is None else budgets, **options)
    _check_options(options, tasks.plan_task, planner.plan_run, "omitted with task", "hardware")
    if "hardware" in options:
        return tasks.plan_task_on(load_run(run), task, budgets=budgets, **options)
    return tasks.plan_task(load_run(run), task, budgets=budgets, **options)


def _without_run(options: Mapping[str, Any], *called: Callable[..., Any]) -> AimcostError:
    """The error of a plan without a run: an option that neither it nor a run has, else what a run looks like."""
    of_run = (*RunFile.names(), *SHORT_KEYS)
    known = dict.fromkeys(["task", *(name for each in called for name in inspect.signature(each).parameters), *of_run])
    for name in options:
        if name not in known:
            return UnknownArgumentError(name, known)
    keys = [name for name in options if name in of_run]
    told = f"; {' and '.join(keys)} {'are keys' if len(keys) > 1 else 'is a key'} of it" if keys else ""
    what = "given: a mapping, such as {'model': …, 'workload': {'images': 1}}, a file, or the name of one"
    return MissingArgumentError("run", what + told, None)


def _check_options(
    options: Mapping[str, Any], taken_by: Callable[..., Any], other: Callable[..., Any], otherwise: str, *beside: str
) -> None:
    """Refuse an option that `taken_by` has no argument for: as `otherwise` says where `other` has one."""
    known, elsewhere = (
        {*inspect.signature(each).parameters} - {"run", "tasks", "budgets"} for each in (taken_by, other)
    )
    for name, value in options.items():
        if name in elsewhere - known - {*beside}:
            raise InvalidValueError(argument(name), otherwise, value)
        if name not in known | {*beside}:
            allowed = sorted({"task", "budgets", *known, *beside})
            raise UnknownNameError(
                "argument",
                name,
                allowed,
                remedy=f"plan() takes {', '.join(allowed)}; limits such as max_ttft_ms go in budgets",
            )


def reproduce(paper: str = "aim") -> dict[str, Any]:
    """A paper's tables recomputed, beside what it printed; see `aimcost.pricing.reproduce.reproduce`."""
    result: dict[str, Any] = importlib.import_module("aimcost.pricing.reproduce").reproduce(paper)
    return result


def schedule(run: Mapping[str, Any] | str | Path | None = None, **overrides: Any) -> Schedule:
    """The token schedule of a run: the object that is priced, and that `apply` executes; arguments as in `estimate`."""
    return _run(run, overrides).schedule


def apply(
    model: Any, schedule: Schedule | None = None, *, method: Mapping[str, Any] | None = None, **options: Any
) -> AbstractContextManager[Any]:
    """Execute `schedule` on a transformers model inside a ``with`` block; needs the torch extra.

    Parameters
    ----------
    method
        In place of a schedule: a ``method:`` mapping, planned for each prompt that arrives.
    **options
        ``boundaries`` and ``question``, as for `aimcost.runtime.apply`.

    Raises
    ------
    MissingExtraError
        torch or transformers is not installed.
    UnsupportedModelError
        Before anything is changed, where the model cannot run the schedule.
    """
    if schedule is not None and options.get("question") is None:
        require_runnable(schedule)
    executor = torch_module("aimcost.runtime.executor")
    allowed = [*inspect.signature(executor.apply).parameters]
    for name in options:
        if name not in allowed:
            raise UnknownArgumentError(name, allowed)
    context: AbstractContextManager[Any] = executor.apply(model, schedule, method=method, **options)
    return context


def __getattr__(name: str) -> Any:
    if name in ("estimate_run", "unreduced"):
        moved = f"aimcost.api.{name} will be removed in 0.3; use aimcost.pricing.pricing.{name}"
        warnings.warn(moved, DeprecationWarning, stacklevel=2)
        return getattr(_pricing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
