"""From a run and its budgets to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

from ...errors import InvalidValueError, UnknownNameError, argument
from ...inputs.plain import items_of, names_of, number_of
from ...inputs.run import Run
from ...pricing.estimator import estimator_of
from .accuracy import Surrogate, surrogate_for
from .budgets import Budgets, no_budget, tower_floor
from .choice import Choice, choice_of
from .grids import LEVELS, Grid, earliest_cut_matters, grids, require_visuals
from .result import Plan, Setting, best_of
from .search import Found, Group, Objective, Progress, search

__all__ = ["SHAPES", "plan_run", "spread_of"]

# Keys of a workload that set the visual input: at most one is given.
VISUALS = ("frames", "images", "visual_tokens", "seconds", "fps")
SHAPES = ("linear", "step", "free")
# The smallest l1 that was measured is 7 of 28 layers; before it visual tokens matter most.
EARLIEST_SHARE = 0.25
# The band's upper end is exceeded one time in ten: an 80 % band leaves 10 % on either side.
BAND_END = 0.9
# Bands were held against some hundreds of timings: what happens one time in more than 10,000 is not known.
HIGHEST_CONFIDENCE = 0.9999


def spread_of(confidence: float | None, run: Run) -> float | None:
    """Which multiple of the band's upper half is not exceeded with this probability; normal errors."""
    if confidence is None:
        return None
    if not isinstance(confidence, int | float) or not 0.5 <= confidence <= HIGHEST_CONFIDENCE:
        raise InvalidValueError(argument("confidence"), f"from 0.5 to {HIGHEST_CONFIDENCE}", confidence)
    if not estimator_of(run.estimator).has_band:
        raise InvalidValueError(argument("confidence"), f"omitted: {run.estimator} has no uncertainty band", confidence)
    return NormalDist().inv_cdf(confidence) / NormalDist().inv_cdf(BAND_END)


def plan_run(
    run: Run,
    *,
    budgets: Mapping[str, float | None],
    hardware: Sequence[str] = (),
    methods: Sequence[str] = ("aim",),
    shapes: Sequence[str] = SHAPES,
    batches: Sequence[int] = (),
    frames: Sequence[int] = (),
    confidence: float | None = None,
    objective: str | None = None,
    accuracy: str | Path | None = None,
    extrapolate: bool = False,
    earliest_cut: int | None = None,
    levels: Sequence[float] = LEVELS,
    progress: Progress | None = None,
) -> Plan:
    """The schedule that keeps most under every budget, exact on the grids searched.

    Parameters
    ----------
    budgets
        Limits by the keys of a run file's ``budgets:``, over those of the run itself.
    hardware, batches, frames
        Values to search; the run's own where empty.
    confidence
        Hold the time to first token with this probability; the estimate's middle where None.
    objective
        ``accuracy`` or ``tokens``; where None, accuracy if there are measured points for the run.
    accuracy
        A CSV of the user's own scores (`aimcost.search.plan.accuracy.surrogate_for`).
    earliest_cut
        Layers at the start that see all visual tokens given to them; a quarter where None.

    Raises
    ------
    AimcostError
        No budget, an unknown shape or method, or a run whose layers are not alike.
    """
    hardware, methods, shapes = (
        names_of(name, value) for name, value in (("hardware", hardware), ("methods", methods), ("shapes", shapes))
    )
    batches, frames = (
        items_of(name, value, int, "whole numbers") for name, value in (("batches", batches), ("frames", frames))
    )
    levels = items_of("levels", levels, (int, float), "numbers")
    limits = Budgets.of(run, budgets)
    if not list(limits.items()):
        raise no_budget()
    _check(run, limits, shapes)
    earliest_cut = number_of("earliest_cut", earliest_cut, "a whole number", int)
    first = earliest_cut if earliest_cut is not None else int(run.model.decoder.layers * EARLIEST_SHARE)
    if not 0 <= first <= run.model.decoder.layers:
        raise InvalidValueError(argument("earliest_cut"), f"from 0 to {run.model.decoder.layers}", first)
    surrogate = surrogate_for(run, accuracy)
    maximize = _objective(objective, surrogate, run, frames)
    spread = spread_of(confidence, run)
    goal = Objective(budgets=limits, maximize=maximize, surrogate=surrogate, spread=spread, extrapolate=extrapolate)
    settings = []
    for name, batch, found in _grids(run, hardware, methods, shapes, batches, frames, first, levels):
        settings.append(Setting(hardware=name, batch=batch, outcome=search(found, goal, progress)))
    groups = [group for setting in settings for group in setting.outcome.groups]
    best = best_of(groups)
    plan = Plan(
        run=run,
        budgets=limits,
        objective=maximize,
        confidence=confidence,
        earliest_cut=first,
        best=None if best is None else choice_of(best, limits, spread),
        nearest=None,
        shortfalls=[],
        runner_up=None,
        runner_up_lost=None,
        settings=tuple(settings),
        surrogate=surrogate,
        beyond=sum(group.beyond for group in groups),
        candidates=sum(group.candidates for group in groups),
        notes=(*_notes([group.grid for group in groups]), *_without_effect(run, methods, earliest_cut)),
    )
    return _missed(plan, groups, spread) if best is None else _second(plan, groups, best, spread)


def _check(run: Run, limits: Budgets, shapes: Sequence[str]) -> None:
    for shape in shapes:
        if shape not in SHAPES:
            raise UnknownNameError("shape", shape, [*SHAPES, "all"])
    if limits.tpot is not None and run.workload.new_tokens < 2:
        raise InvalidValueError("workload.new_tokens", "at least 2 under a TPOT budget", run.workload.new_tokens)
    require_visuals(run)


def _objective(wanted: str | None, surrogate: Surrogate | None, run: Run, frames: Sequence[int]) -> str:
    if wanted not in (None, "tokens", "accuracy"):
        raise UnknownNameError("objective", str(wanted), ["tokens", "accuracy"])
    if wanted == "accuracy" and surrogate is None:
        raise InvalidValueError(argument("objective"), f"tokens: no scores are known for {run.model.name}", wanted)
    if wanted is not None:
        return wanted
    workloads = [replace(run.workload, frames=count) for count in frames] or [run.workload]
    applies = surrogate is not None and any(
        bool(surrogate.known(x1, x2, workload)) for x1, x2, _ in surrogate.points for workload in workloads
    )
    return "accuracy" if applies else "tokens"


def _grids(
    run: Run,
    hardware: Sequence[str],
    methods: Sequence[str],
    shapes: Sequence[str],
    batches: Sequence[int],
    frames: Sequence[int],
    first: int,
    levels: Sequence[float],
) -> list[tuple[str, int, list[Grid]]]:
    """One list of grids for each machine and batch."""
    found = []
    machines: list[str | None] = [*dict.fromkeys(hardware)]
    numbers: list[int | None] = [*frames]
    for name in machines or [None]:
        machine = run if name is None else run.with_(hardware=name)
        for batch in batches or [run.workload.batch]:
            some: list[Grid] = []
            for count in numbers or [None]:
                changes: dict[str, Any] = {"workload.batch": batch}
                if count is not None:
                    changes |= {**{f"workload.{key}": None for key in VISUALS}, "workload.frames": count}
                some += grids(machine.with_(changes), methods, shapes, first=first, levels=levels)
            found.append((machine.hardware.name if machine.hardware else "no hardware", batch, some))
    return found


def _missed(plan: Plan, groups: Sequence[Group], spread: float | None) -> Plan:
    """No schedule keeps the budgets: the one that comes closest, and what it misses."""
    closest = min((g for g in groups if g.miss is not None), key=lambda g: g.miss_excess, default=None)
    if closest is None or closest.miss is None:
        raise InvalidValueError(
            argument("extrapolate"),
            f"given, or {argument('objective')} tokens: every candidate lies outside the measured points",
            False,
        )
    nearest = choice_of(closest.miss, plan.budgets, spread)
    card = nearest.estimate.memory.usable_bytes
    limit = plan.budgets.ttft
    found_s = nearest.estimate.ttft_s
    whose = "the nearest schedule"
    floor = None if limit is None else tower_floor(nearest.estimate, found_s, limit, whose=whose)
    return replace(
        plan,
        nearest=nearest,
        shortfalls=plan.budgets.shortfalls(nearest.figures, card),
        notes=plan.notes if floor is None else (*plan.notes, floor),
    )


def _second(plan: Plan, groups: Sequence[Group], best: Found, spread: float | None) -> Plan:
    """The best schedule of another grid that is not the same schedule written otherwise."""
    others = [g.best for g in groups if g.best is not None and g.best is not best and g.best.rank[:2] != best.rank[:2]]
    second = max(others, key=lambda found: found.rank, default=None)
    if second is None or plan.best is None:
        return plan
    choice = choice_of(second, plan.budgets, spread)
    return replace(plan, runner_up=choice, runner_up_lost=_why(plan, plan.best, choice))


def _why(plan: Plan, best: Choice, second: Choice) -> str:
    """In words: what the runner-up keeps less of."""
    fewer = best.kept_tokens - second.kept_tokens
    share = f"{abs(fewer) / max(1, best.kept_tokens):.1%}"
    shows = share != "0.0%"
    if plan.objective == "accuracy" and None not in (best.expected_score, second.expected_score):
        gap = float(best.expected_score or 0.0) - float(second.expected_score or 0.0)
        if gap > 1e-9:
            more = f", although it keeps {share} more visual tokens" if fewer < 0 and shows else ""
            lower = f"{gap:.2f} lower" if gap >= 0.005 else "lower by less than 0.01"
            return f"its expected score is {lower} ({second.expected_score:.2f}){more}"
    if not shows:
        return f"it keeps {max(fewer, 0):,} fewer visual tokens, summed over layers ({second.kept_tokens:,})"
    return f"it keeps {share} fewer visual tokens, summed over layers ({second.kept_tokens:,})"


def _without_effect(run: Run, methods: Sequence[str], earliest_cut: int | None) -> list[str]:
    """A note where an earliest cut was asked for and no candidate of any method cuts before it."""
    if not earliest_cut or any(earliest_cut_matters(run, name, earliest_cut) for name in methods):
        return []
    return [
        f"an earliest cut of {earliest_cut} has no effect: {', '.join(methods)} has no candidate that cuts before it"
    ]


def _notes(found: Sequence[Grid]) -> tuple[str, ...]:
    strides = {getattr(grid, "stride", 1) for grid in found}
    notes = []
    if max(strides, default=1) > 1:
        notes.append(f"free shape: cuts at every {max(strides)} layers only, to keep the search exhaustive")
    return tuple(notes)
