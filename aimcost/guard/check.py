"""`aimcost check`: predicted figures of run files against a committed baseline and their own budgets."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InvalidValueError, UnknownNameError, argument
from ..inputs.discover import at_home, is_file
from ..inputs.run import load_run
from ..machine.peaks import require_hardware
from ..pricing.budgets import FIGURES, figures_of
from ..pricing.pricing import estimate_run
from ..pricing.result import Estimate
from .baseline import load_baseline, save_baseline, unchanged
from .compare import (
    METRICS,
    Cause,
    Change,
    Moved,
    causes_of,
    changes_of,
    moved_ops,
    not_judged,
    without_stacks,
    written_before_stacks,
)
from .facts import entry_of

__all__ = ["Budget", "CheckResult", "RunCheck", "check", "parse_tolerances"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit of the run file (``budgets:``) and what is predicted, both in the key's own unit."""

    key: str
    limit: float
    value: float

    @property
    def ok(self) -> bool:
        """Whether the prediction stays within the limit."""
        return self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCheck:
    """The verdict on one run.

    Attributes
    ----------
    changes
        The five figures; empty where no baseline was given.
    moved, causes
        Operations that moved, largest first, and why; also where no figure moved.
    notes
        What the reader must know about the comparison.
    strict
        A figure that fell fails as well.
    """

    run: str
    changes: tuple[Change, ...] = ()
    budgets: tuple[Budget, ...] = ()
    moved: tuple[Moved, ...] = ()
    causes: tuple[Cause, ...] = ()
    notes: tuple[str, ...] = ()
    strict: bool = False
    updated: bool = False

    def failed(self, change: Change) -> bool:
        """Whether this figure fails the check."""
        bad = ("worse", "new", "better") if self.strict else ("worse", "new")
        return change.status in bad and not self.updated

    @property
    def ok(self) -> bool:
        """Whether every figure and every budget holds."""
        return not any(self.failed(change) for change in self.changes) and all(b.ok for b in self.budgets)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """All runs of a check."""

    runs: tuple[RunCheck, ...]
    baseline: str | None
    updated: bool = False

    @property
    def ok(self) -> bool:
        """Whether all runs hold."""
        return all(run.ok for run in self.runs)


# What a baseline takes of overrides.
UNCHANGED = f"omitted with {argument('update')}: a baseline records the run files as they are"


def check(
    runs: Sequence[str],
    *,
    baseline: str | Path | None = None,
    update: bool = False,
    tolerances: Mapping[str, float] | None = None,
    strict: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> CheckResult:
    """Compare runs with a baseline, or with `update` write it; check their budgets either way.

    Parameters
    ----------
    runs
        Run files, or names in configs/runs; none: those of the baseline.
    tolerances
        Relative, by metric (``flops, ttft, tpot, kv, memory``) or for ``all``.
    strict
        Figures that fell by more than the tolerance fail too.
    overrides
        Keys to change in every run, to see what that would move; not with `update`.

    Raises
    ------
    AimcostError
        Bad input, a baseline that is damaged included: nothing is written then. A file of the user that stands
        in place of a shipped one, which the baseline did not record.
    """
    if update and baseline is None:
        raise InvalidValueError(argument("baseline"), f"given with {argument('update')}", None)
    if update and overrides:
        raise InvalidValueError(
            argument("overrides"),
            UNCHANGED,
            dict(overrides),
        )
    held: dict[str, Any] = {"written_by": f"aimcost {__version__}", "runs": {}}
    if baseline is not None and (not update or Path(baseline).exists()):
        held = load_baseline(baseline)
    names = list(dict.fromkeys(_name_of(run, held["runs"], baseline) for run in runs)) or sorted(held["runs"])
    if not names:
        raise InvalidValueError(argument("runs"), f"given: run files, or a {argument('baseline')} with entries", None)
    estimates = {name: _priced(_place_of(name, baseline), overrides or {}) for name in names}
    entries = {name: entry_of(estimate) for name, estimate in estimates.items()}
    if not update:
        for name, entry in entries.items():
            _check_files(name, entry, held["runs"].get(name))
    if baseline is None and not any(_budgets(estimate) for estimate in estimates.values()):
        raise InvalidValueError(argument("baseline"), "given when no run has budgets", None)
    checked = tuple(
        RunCheck(
            run=name,
            budgets=tuple(_budgets(estimates[name])),
            strict=strict,
            updated=update,
            **({} if baseline is None else _compared(held, name, entries[name], estimates[name], tolerances or {})),
        )
        for name in names
    )
    if update and baseline is not None:
        _update(baseline, held, entries)
    return CheckResult(runs=checked, baseline=None if baseline is None else str(baseline), updated=update)


def _name_of(given: str, recorded: Collection[str], baseline: str | Path | None) -> str:
    """How a baseline names a run: a file by its path from the baseline's folder, so that any folder will do to check.

    Baselines written before name a file as it was given.
    """
    typed = Path(given).as_posix()
    if baseline is None or typed in recorded or not is_file(at_home(given)):
        return typed
    return Path(os.path.relpath(at_home(given), Path(baseline).parent)).as_posix()


def _place_of(name: str, baseline: str | Path | None) -> str:
    """What a name in a baseline stands for here: a file beside the baseline, else one here or the name of a run."""
    beside = Path(name) if baseline is None else Path(baseline).parent / name
    return str(beside) if is_file(beside) else name


def _priced(name: str, overrides: Mapping[str, Any]) -> Estimate:
    run = load_run(name, overrides)
    require_hardware(run.hardware)
    return estimate_run(run)


def _check_files(name: str, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    """Refuse a profile, model or stack that replaces a shipped one unseen: it could make any budget hold."""
    recorded = {} if before is None else before["facts"].get("files", {})
    for key, path in entry["facts"].get("files", {}).items():
        if recorded.get(key) != path:
            raise InvalidValueError(
                key,
                f"one that aimcost ships, a path, or recorded in the baseline ({argument('update')})",
                f"{path}, in place of the shipped file of that name",
                where=name,
            )


def _compared(
    held: Mapping[str, Any],
    name: str,
    entry: Mapping[str, Any],
    estimate: Estimate,
    tolerances: Mapping[str, float],
) -> dict[str, Any]:
    before = held["runs"].get(name)
    changes = changes_of(before, entry, tolerances)
    if before is None:
        return {"changes": tuple(changes)}
    notes: tuple[str, ...] = ()
    if written_before_stacks(before):
        changes = not_judged(changes, before, entry)
        if any(change.status == "repriced" for change in changes):
            notes = (
                f"{held['written_by']} wrote this baseline before there were software stacks: times under "
                f"{entry['facts']['settings']['stack.name']} are shown but not judged; FLOPs, KV cache and memory are. "
                "`--update` rewrites it",
            )
        before, entry = without_stacks(before, entry)
    selection = {segment.name for segment in estimate.table.segments if segment.group == "selection"}
    causes = causes_of(before, entry, held["written_by"], f"aimcost {__version__}", selection=selection)
    return {
        "changes": tuple(changes),
        "moved": tuple(moved_ops(before, entry)),
        "causes": tuple(causes),
        "notes": notes,
    }


def _update(path: str | Path, held: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
    """Write the new entries; one that differs in the last bits alone stays as it was written."""
    recorded = {
        name: {key: value for key, value in entry.items() if key != "sha"} for name, entry in held["runs"].items()
    }
    fresh = {
        name: recorded[name] if name in recorded and unchanged(recorded[name], entry) else entry
        for name, entry in entries.items()
    }
    merged = {**recorded, **fresh}
    same = merged == recorded and bool(recorded)
    save_baseline(path, merged, held["written_by"] if same else f"aimcost {__version__}")


def _budgets(estimate: Estimate) -> list[Budget]:
    """The budgets that the run names, against the prediction."""
    limits = estimate.run.budgets
    # a limit on what the run does not have would always hold
    if "max_tpot_ms" in limits and estimate.decode_step()["tpot_s"] is None:
        what = "omitted, or workload.new_tokens at least 2 and decode included: the run decodes nothing"
        raise InvalidValueError("budgets.max_tpot_ms", what, limits["max_tpot_ms"])
    if "max_ttft_ms" in limits and not estimate.ttft_s:
        what = "omitted, or a stage before decode included: the run has no time to first token"
        raise InvalidValueError("budgets.max_ttft_ms", what, limits["max_ttft_ms"])
    values = {FIGURES[name].key: FIGURES[name].in_unit(value) for name, value in figures_of(estimate).items()}
    return [Budget(key=key, limit=limits[key], value=value) for key, value in values.items() if key in limits]


def parse_tolerances(given: Sequence[str]) -> dict[str, float]:
    """``ttft=1%``, ``flops=0.001`` or ``1%`` (for all) as relative tolerances by metric.

    Raises
    ------
    InvalidValueError, UnknownNameError
        No such metric, or no share from 0 to 100 %.
    """
    tolerances = {}
    for text in given:
        metric, equals, value = text.rpartition("=")
        metric = metric.strip() if equals else "all"
        if metric != "all" and metric not in METRICS:
            raise UnknownNameError("metric", metric, [*METRICS, "all"], where=argument("tolerances"))
        percent = value.strip().endswith("%")
        try:
            share = float(value.strip().removesuffix("%")) / (100.0 if percent else 1.0)
        except ValueError:
            share = -1.0
        if not 0.0 <= share <= 1.0:
            raise InvalidValueError(argument("tolerances"), "METRIC=SHARE, such as ttft=1%", text)
        tolerances[metric] = share
    return tolerances
