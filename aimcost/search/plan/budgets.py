"""Limits that a schedule has to stay under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidValueError, argument
from ...inputs.plain import plain
from ...inputs.run import Run
from ...inputs.schema import BudgetsFile, validate
from ...pricing.budgets import FIGURES
from ...pricing.result import Estimate
from .evaluate import Figures

__all__ = ["Budgets", "Shortfall", "no_budget", "tower_floor", "upper_end"]


class Shortfall(TypedDict):
    """A limit that is missed: by its name in `Budgets`, in seconds, bytes or FLOPs, and in words."""

    budget: str
    limit: float
    found: float
    text: str


def upper_end(result: Estimate, spread: float) -> float:
    """The time to first token at `spread` times the band's upper half above the middle."""
    high = result.ttft_band_s[1]
    return result.ttft_s if high is None else result.ttft_s + spread * (high - result.ttft_s)


def tower_floor(
    estimate: Estimate, found_s: float, limit_s: float, *, whose: str, smaller: Sequence[tuple[str, float]] = ()
) -> str | None:
    """What no reduction after the vision tower can undercut, in words; None where the tower leaves room.

    Parameters
    ----------
    found_s
        The lowest time to first token that was found.
    whose
        What takes it, in words.
    smaller
        Smaller inputs, largest first, with the time that each takes without reduction.
    """
    tower = estimate.stages["vision"].time_s
    if tower < limit_s:
        return None
    show = FIGURES["ttft"].shown
    remedy = "fewer frames or smaller images can" if estimate.run.workload.frames else "smaller images can"
    share = f"the tower alone takes {show(tower)} of the {show(found_s)} of {whose}"
    if over := [each for each in smaller if each[1] > limit_s]:
        what, needed = over[-1]
        even = f"even {what} without reduction need {show(needed)}"
        remedy = even if len(over) == len(smaller) else f"{remedy}, but {even}"
    return f"{share}: no reduction after it can reach {show(limit_s)}; {remedy}"


def no_budget() -> InvalidValueError:
    """The error for a search without a budget."""
    *keys, last = (argument(figure.key) for figure in FIGURES.values())
    return InvalidValueError(argument("budgets"), f"given: {', '.join(keys)} or {last}", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Upper limits in seconds, bytes and FLOPs; None for no limit.

    Attributes
    ----------
    ttft, tpot
        Time to first token, and of a mean decode step.
    kv, peak
        KV cache after the last token, and peak memory on the card.
    flops
        FLOPs of the stages that the run includes.
    """

    ttft: float | None = None
    tpot: float | None = None
    kv: float | None = None
    peak: float | None = None
    flops: float | None = None

    def items(self) -> Iterator[tuple[str, float]]:
        """(name, limit) of every limit set."""
        for name in FIGURES:
            limit = getattr(self, name)
            if limit is not None:
                yield name, limit

    def excess(self, figures: Figures, card_bytes: float | None) -> NDArray[np.float64]:
        """Largest ratio of a figure to its limit, by candidate; at most 1 where all are met."""
        ratio = np.zeros(len(figures.ttft))
        for name, limit in self.items():
            ratio = np.maximum(ratio, getattr(figures, name) / limit)
        if card_bytes is not None:
            ratio = np.maximum(ratio, figures.peak / card_bytes)
        return ratio

    def shortfalls(self, found: Mapping[str, float], card_bytes: float | None) -> list[Shortfall]:
        """The limits that `found` (values by name) exceeds, by how much, and as text."""
        missed: list[Shortfall] = []
        limits = dict(self.items())
        if card_bytes is not None and card_bytes < limits.get("peak", np.inf):
            limits["peak"] = card_bytes
        for name, limit in limits.items():
            if found[name] > limit:
                figure, over = FIGURES[name], found[name] - limit
                missed.append(
                    {
                        "budget": name,
                        "limit": limit,
                        "found": found[name],
                        "text": f"{figure.label} {figure.shown(found[name])} exceeds {figure.shown(limit)} "
                        f"by {figure.shown(over)}",
                    }
                )
        return missed

    def describe(self) -> str:
        """``TTFT ≤ 80.00 ms, KV cache ≤ 1.000 GB``."""
        return ", ".join(f"{FIGURES[name].label} ≤ {FIGURES[name].shown(limit)}" for name, limit in self.items())

    def to_file(self) -> dict[str, float]:
        """The ``budgets:`` mapping of a run file."""
        return {FIGURES[name].key: float(f"{FIGURES[name].in_unit(limit):.12g}") for name, limit in self.items()}

    @classmethod
    def of(cls, run: Run, given: Mapping[str, float | None]) -> Budgets:
        """Limits given in the units of a run file's keys, over those of the run itself.

        Raises
        ------
        InvalidValueError, UnknownNameError
            No such key, or no number that a limit can be.
        """
        values = {}
        if not isinstance(given, Mapping):
            raise InvalidValueError(argument("budgets"), "a mapping of limits", given)
        given = validate(BudgetsFile, plain(given), where="budgets").dump()
        for name, figure in FIGURES.items():
            value = given.get(figure.key) if given.get(figure.key) is not None else run.budgets.get(figure.key)
            values[name] = None if value is None else figure.from_unit(value)
        return cls(**values)
