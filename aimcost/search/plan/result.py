"""A plan: the best schedule, what came next, and the fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...inputs.run import Run
from ...units import format_seconds
from ...views import Viewable
from .accuracy import Surrogate
from .budgets import Budgets, Shortfall
from .choice import Choice
from .search import Found, Front, Group, Outcome

__all__ = ["Plan", "Setting", "best_of"]


def best_of(groups: Sequence[Group]) -> Found | None:
    """The best ranked of the groups' best candidates."""
    return max((group.best for group in groups if group.best is not None), key=lambda b: b.rank, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One machine and batch: its groups, and the fronts of time against tokens and accuracy."""

    hardware: str
    batch: int
    outcome: Outcome

    @property
    def best(self) -> Found | None:
        """The best candidate that keeps every budget."""
        return best_of(self.outcome.groups)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan(Viewable):
    """What the planner found.

    Attributes
    ----------
    best
        The best schedule within every budget; None if no schedule qualifies.
    nearest, shortfalls
        Without a best: the schedule that comes closest, and what it misses.
    runner_up, runner_up_lost
        The best schedule of another kind, and why it came second.
    settings
        One for each machine and batch.
    """

    run: Run
    budgets: Budgets
    objective: str
    confidence: float | None
    earliest_cut: int
    best: Choice | None
    nearest: Choice | None
    shortfalls: list[Shortfall]
    runner_up: Choice | None
    runner_up_lost: str | None
    settings: tuple[Setting, ...]
    surrogate: Surrogate | None
    beyond: int
    candidates: int
    notes: tuple[str, ...] = ()
    _views_in = "plans"

    def _line(self) -> str:
        chosen = self.best or self.nearest
        if chosen is None:
            found = "no schedule"
        else:
            method, ttft = chosen.run["method"]["name"], format_seconds(chosen.estimate.ttft_s)
            found = f"{'best' if self.best else 'over budget, closest'} {method} {chosen.shape}, TTFT {ttft}"
        machines = ", ".join(dict.fromkeys(setting.hardware for setting in self.settings))
        name = self.run.model.name
        return f"{name} on {machines}, {self.budgets.describe()}: {found}, of {self.candidates:,} schedules"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; fronts are complete."""
        return {
            "schema_version": 1,
            "model": self.run.model.name,
            "budgets": self.budgets.to_file(),
            "objective": self.objective,
            "confidence": self.confidence,
            "earliest_cut": self.earliest_cut,
            "candidates": self.candidates,
            "beyond_measured_points": self.beyond,
            "surrogate": None if self.surrogate is None else self.surrogate.describe(),
            "best": None if self.best is None else self.best.to_dict(),
            "nearest": None if self.nearest is None else self.nearest.to_dict(),
            "shortfalls": self.shortfalls,
            "runner_up": None if self.runner_up is None else self.runner_up.to_dict(),
            "runner_up_lost": self.runner_up_lost,
            "settings": [_setting_dict(setting) for setting in self.settings],
            "front": self.front(),
            "notes": list(self.notes),
        }

    def front(self) -> list[dict[str, Any]]:
        """Every point of every front: which front, machine, batch, seconds, value, whether within budget, method."""
        rows = []
        for setting in self.settings:
            fronts = {"tokens": setting.outcome.tokens, "accuracy": setting.outcome.accuracy}
            for name, front in fronts.items():
                rows += [{"front": name, **row} for row in _front_rows(setting, front)]
        return rows


def _front_rows(setting: Setting, front: Front) -> list[dict[str, Any]]:
    rows = []
    for time_s, value, number, position, within in front.rows():
        grid = setting.outcome.groups[number].grid
        rows.append(
            {
                "hardware": setting.hardware,
                "batch": setting.batch,
                "frames": grid.run.workload.frames,
                "ttft_s": time_s,
                "value": value,
                "within": within,
                "shape": grid.shape,
                "method": grid.method(position),
            }
        )
    return rows


def _setting_dict(setting: Setting) -> dict[str, Any]:
    groups = []
    for group in setting.outcome.groups:
        best = group.best
        groups.append(
            {
                "label": group.grid.label,
                "shape": group.grid.shape,
                "frames": group.grid.run.workload.frames,
                "candidates": group.candidates,
                "fits": best is not None,
                "ttft_s": best.ttft if best else None,
                "kept_tokens": best.kept if best else None,
                "expected_score": best.score if best else None,
                "nearest_excess": None if best or group.miss is None else group.miss_excess,
            }
        )
    return {"hardware": setting.hardware, "batch": setting.batch, "groups": groups}
