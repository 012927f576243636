"""Which method for a task: every method with published scores, priced with its own selection.

A schedule's score is that of its method at the same mean share of visual tokens a layer (`aimcost.search.scores`).
Before the language model that share is what papers state. Inside it, papers state a mean over layers and seldom
the parameters: a schedule with other parameters is "budget matched", and its interval is wider.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AimcostError, InvalidValueError, UnknownNameError, UnsupportedModelError, argument
from ...inputs import discover
from ...inputs.plain import names_of, number_of
from ...inputs.run import Run
from ...methods.base import RATIOS
from ...methods.registry import plan_module
from ...pricing.budgets import figures_of
from ...pricing.gain import gain
from ...pricing.pricing import estimate_run, unreduced
from ...pricing.result import Estimate
from ...units import format_seconds
from ...views import Viewable
from ..scores.points import (
    FAMILIES,
    Point,
    benchmark_named,
    benchmarks_of,
    load_points,
    method_named,
    model_family,
    models_named,
    settings_of,
)
from ..scores.surrogate import HALF_80, TRUSTED, Query, Surrogate, score_variance, shipped_surrogate
from ..scores.users import YOURS, tokens_chosen_from, with_yours
from .budgets import Budgets, tower_floor, upper_end
from .evaluate import Figures, upper_seconds
from .grids import ListGrid, of_method, require_visuals
from .planning import spread_of
from .search import Progress

__all__ = ["Downsampled", "Scored", "TaskPlan", "TaskPlans", "plan_task", "plan_task_on", "scored"]

Floats = NDArray[np.float64]
# FastV and DART cut after layer 2 in the tables that do not state K (their `where`).
PUBLISHED_CUT = {"fastv": 2, "dart": 2}
# Standard deviation, in points, of AIM's 26 published settings about what is expected at their mean tokens.
SETTINGS_SPREAD = 4.9
# Baselines that downsample the feature map, as the tables print them: what is published nearest to smaller images.
RESAMPLING = {"Spatial AvgPooling": "average pooling", "Spatial Grid Sampling": "grid sampling"}
# A user's scores of one setting that are noted as far apart, over the unreduced score.
FAR_APART = 0.1
# No published setting cuts before layer 2.
EARLIEST_CUT = 2
# Shares that are tried of a method before the language model: a planner's, and those that papers print.
SHARES = tuple(sorted({*RATIOS, 0.95, 0.85, 0.65, 0.55, 0.45, 0.35, 0.15, 1 / 3, 2 / 9, 1 / 9, 1 / 18}, reverse=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A method with parameters: its price, and the score that is expected of it.

    Attributes
    ----------
    method
        The ``method:`` mapping of a run file.
    share
        Mean share of the visual tokens in a layer.
    ttft
        Seconds to the first token.
    mean, low, high
        Expected score over the unreduced one, with its 80 % interval.
    basis
        ``published``: the parameters, or a place before the language model, are those of the tables. ``measured``: the
        very setting was scored; ``measured by its authors`` where nobody else did. ``budget matched``, ``unreduced``.
    scored_benchmarks
        Of a setting that was scored: on how many of the task's benchmarks.
    """

    method: Mapping[str, Any]
    share: float
    ttft: float
    mean: float
    low: float
    high: float
    basis: str
    scored_benchmarks: int | None = None

    @property
    def name(self) -> str:
        """The method's name."""
        return str(self.method["name"])

    def at_least(self, spread: float | None) -> float:
        """The score that is held against a floor: the mean, or so many halves of the interval below it."""
        return self.mean if spread is None else self.mean - spread * (self.mean - self.low)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "method": dict(self.method),
            "visual_token_share": self.share,
            "ttft_s": self.ttft,
            "expected": self.mean,
            "expected_low": self.low,
            "expected_high": self.high,
            "basis": self.basis,
            "scored_benchmarks": self.scored_benchmarks,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """A setting that was scored: relative score over the benchmarks, and in points its deviation, that of single
    scores alone, and the least half of its interval.
    """

    method: Mapping[str, Any]
    benchmarks: tuple[str, ...]
    mean: float
    deviation: float
    single: float
    least: float
    basis: str
    yours: bool

    @property
    def entry(self) -> dict[str, Any]:
        """The parameters."""
        return {key: value for key, value in self.method.items() if key != "name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Downsampled:
    """A smaller input without reduction; its score is not known."""

    what: str
    ttft: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"input": self.what, "ttft_s": self.ttft, "expected": None}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TaskPlan(Viewable):
    """The answer, and what it rests on.

    Attributes
    ----------
    best, runner_up, published
        The choice, the best of another method, and the best that is not budget matched; None where none qualifies.
    estimate, dense
        The choice and the unreduced run, priced as any run.
    front
        The candidates that none beats in time and expected score, by time.
    by_method
        Each method's own best candidate, or its nearest.
    below_floor, over_budget
        Methods of which nothing qualifies: the best score that they are held to within the budgets, or, where every
        candidate is over a budget, by which share of it the nearest is.
    scores, sources
        Figures of the chosen method for the task (on this model, else on its siblings), copies counted once, and where
        they stand.
    published_scores
        Whether any method that qualifies has scores that are not the user's own.
    random
        Published scores of random selection for the task on this model: share kept, mean, scores.
    resampled
        The same of feature maps made smaller without looking at the tokens (`RESAMPLING`).
    """

    run: Run
    benchmarks: tuple[str, ...]
    tasks: tuple[str, ...]
    floor: float | None
    budgets: Budgets
    mean_visual_tokens: float | None
    confidence: float | None
    best: Scored | None
    runner_up: Scored | None
    runner_up_in_noise: bool
    published: Scored | None
    estimate: Estimate | None
    dense: Estimate
    front: tuple[Scored, ...]
    by_method: tuple[Scored, ...]
    candidates: int
    silent: tuple[str, ...]
    below_floor: Mapping[str, float]
    over_budget: Mapping[str, float]
    scores: int
    sources: tuple[str, ...]
    siblings: bool
    random: tuple[tuple[float, float, int], ...]
    resampled: Mapping[str, tuple[tuple[float, float, int], ...]]
    downsampled: tuple[Downsampled, ...]
    shortfalls: tuple[str, ...]
    measured_only: bool
    published_scores: bool
    notes: tuple[str, ...] = ()
    _views_in = "plans"

    def _line(self) -> str:
        machine = self.run.hardware.name if self.run.hardware else "no hardware"
        found = "nothing qualifies"
        if self.best is not None:
            found = f"{self.best.name}, TTFT {format_seconds(self.best.ttft)}, expected score {self.best.mean:.1%}"
        return f"{self.run.model.name} on {machine}, {', '.join(self.tasks)}: {found}"

    @property
    def saved_s(self) -> float:
        """Seconds to the first token that the choice saves."""
        return 0.0 if self.estimate is None else self.dense.ttft_s - self.estimate.ttft_s

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        best = None
        if self.best is not None and self.estimate is not None:
            low, high = self.estimate.ttft_band_s
            saved = gain(self.dense, self.estimate)
            best = {
                **self.best.to_dict(),
                "ttft_s": self.estimate.ttft_s,
                "ttft_low_s": low,
                "ttft_high_s": high,
                "ttft_saved_s": self.saved_s,
                "ttft_saved_low_s": saved.saved.low if saved else None,
                "ttft_saved_high_s": saved.saved.high if saved else None,
                "scores": self.scores,
                "sources": list(self.sources),
                "of_other_models": self.siblings,
                "run": {**self.run.document(), "method": dict(self.best.method)},
            }
        return {
            "schema_version": 1,
            "model": self.run.model.name,
            "hardware": self.run.hardware.name if self.run.hardware else None,
            "tasks": list(self.tasks),
            "benchmarks": list(self.benchmarks),
            "min_accuracy": self.floor,
            "budgets": self.budgets.to_file(),
            "mean_visual_tokens": self.mean_visual_tokens,
            "confidence": self.confidence,
            "stack": self.run.stack.name,
            "measured_only": self.measured_only,
            "candidates": self.candidates,
            "unreduced_ttft_s": self.dense.ttft_s,
            "best": best,
            "runner_up": None if self.runner_up is None else self.runner_up.to_dict(),
            "runner_up_within_noise": self.runner_up_in_noise,
            "best_published": None if self.published is None else self.published.to_dict(),
            "by_method": [each.to_dict() for each in self.by_method],
            "front": [each.to_dict() for each in self.front],
            "silent": list(self.silent),
            "below_floor": dict(self.below_floor),
            "over_budget": dict(self.over_budget),
            "random": [{"share": share, "mean": mean, "scores": n} for share, mean, n in self.random],
            "resampled": {
                what: [{"share": share, "mean": mean, "scores": n} for share, mean, n in some]
                for what, some in self.resampled.items()
            },
            "downsampled": [each.to_dict() for each in self.downsampled],
            "shortfalls": list(self.shortfalls),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TaskPlans(Viewable):
    """One task on several machines."""

    plans: tuple[TaskPlan, ...]
    _views_in = "plans"

    def _line(self) -> str:
        best = self.best
        machines = "1 machine" if len(self.plans) == 1 else f"{len(self.plans)} machines"
        return f"{machines}; best {best._line() if best is not None else 'none'}"

    @property
    def best(self) -> TaskPlan | None:
        """The plan of the machine that answers best: fastest above a floor, else the highest score."""
        found = [(plan, plan.best) for plan in self.plans if plan.best is not None]
        ranked = sorted(found, key=lambda pair: _rank(pair[1], pair[0].floor))
        return ranked[0][0] if ranked else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        best = self.best
        return {
            "schema_version": 1,
            "best_hardware": best.run.hardware.name if best is not None and best.run.hardware else None,
            "plans": [plan.to_dict() for plan in self.plans],
        }


def plan_task_on(run: Run, tasks: Sequence[str], hardware: Sequence[str], **options: Any) -> TaskPlans:
    """`plan_task` on each of some machines; on the run's own where none is named."""
    machines = [run.with_(hardware=name) for name in dict.fromkeys(names_of("hardware", hardware))] or [run]
    return TaskPlans(plans=tuple(plan_task(machine, tasks, **options) for machine in machines))


def plan_task(
    run: Run,
    tasks: Sequence[str],
    *,
    min_accuracy: float | None = None,
    budgets: Mapping[str, float | None] | None = None,
    mean_visual_tokens: float | None = None,
    methods: Sequence[str] = (),
    measured_only: bool = False,
    accuracy: str | Path | None = None,
    earliest_cut: int | None = None,
    confidence: float | None = None,
    progress: Progress | None = None,
) -> TaskPlan:
    """The method and parameters for a task: the fastest above a floor, else the best scored within the budgets.

    Parameters
    ----------
    tasks
        Tasks or benchmarks (`aimcost.search.scores.points.FAMILIES`), weighed alike.
    min_accuracy
        Least expected score over the unreduced one, from 0 to 1.
    mean_visual_tokens
        Most visual tokens a request, as a mean over the layers.
    methods
        Methods to search; all with published scores where empty.
    measured_only
        Leave out schedules whose parameters are not those of published scores.
    accuracy
        A CSV of the user's own scores, which replace published ones of the same model, method and benchmark.
    confidence
        Meet the TTFT budget and the floor each with this probability: 0.9 holds the edges of the 80 % band and
        interval against them. Expected values where None.

    Raises
    ------
    AimcostError
        No budget and no floor, an unknown task or method, or a model that neither has scores nor siblings with some.
    """
    tasks = tuple(dict.fromkeys(names_of("task", tasks)))
    methods = names_of("methods", methods)
    min_accuracy = number_of("min_accuracy", min_accuracy, "a number above 0 and at most 1")
    mean_visual_tokens = number_of("mean_visual_tokens", mean_visual_tokens, "a positive number")
    earliest_cut = number_of("earliest_cut", earliest_cut, "a whole number", int)
    if not isinstance(measured_only, bool):
        raise InvalidValueError(argument("measured_only"), "True or False", measured_only)
    if not isinstance(accuracy, str | Path | None):
        raise InvalidValueError(argument("accuracy"), "the path of a CSV file", accuracy)
    limits = Budgets.of(run, {} if budgets is None else budgets)
    if min_accuracy is None and mean_visual_tokens is None and not list(limits.items()):
        raise InvalidValueError(argument("min_accuracy"), f"given, or a budget, with {argument('task')}", None)
    if min_accuracy is not None and not 0 < min_accuracy <= 1:
        raise InvalidValueError(argument("min_accuracy"), "above 0 and at most 1 (100 %)", min_accuracy)
    if mean_visual_tokens is not None and not 0 < mean_visual_tokens < math.inf:
        raise InvalidValueError(argument("mean_visual_tokens"), "a positive number", mean_visual_tokens)
    require_visuals(run)
    spread = spread_of(confidence, run)
    if progress is not None:
        progress(0, 1, "published scores")
    points, surrogate = load_points(), None
    if accuracy is not None:
        points = with_yours(run, points, Path(accuracy))
        surrogate = Surrogate(points, trusted=(YOURS,))
    search = _Search(run, points, surrogate or shipped_surrogate(), tasks, measured_only, spread=spread)
    first = EARLIEST_CUT if earliest_cut is None else earliest_cut
    if not 0 <= first <= run.model.decoder.layers:
        raise InvalidValueError(argument("earliest_cut"), f"from 0 to {run.model.decoder.layers}", first)
    names = list(dict.fromkeys(methods)) or search.known_methods()
    every: list[tuple[Scored, float]] = []
    silent = []
    for number, name in enumerate(names):
        if progress is not None:
            progress(number, len(names), name)
        if name not in discover.method_names():
            raise UnknownNameError("method", name, discover.method_names())
        found = list(search.candidates(name, earliest_cut, limits, mean_visual_tokens))
        every += found
        if not found and name != "none":
            silent.append(name)
    dense = estimate_run(unreduced(run))
    whole = Scored(method={"name": "none"}, share=1.0, ttft=dense.ttft_s, mean=1, low=1, high=1, basis="unreduced")
    over = max((value / limit for value, limit in _limited(dense, limits, spread)), default=0.0)
    if mean_visual_tokens is not None:
        over = max(over, run.workload.visual_tokens / mean_visual_tokens)
    every.append((whole, over))
    notes = (
        [] if earliest_cut is None or any(search.cuts_before(name, first) for name in names) else [_no_effect(first)]
    )
    return _answer(search, every, dense, limits, min_accuracy, mean_visual_tokens, confidence, tuple(silent), notes)


def scored(
    run: Run, tasks: Sequence[str], *, methods: Sequence[str] = (), shares: Sequence[float] = SHARES
) -> dict[str, list[Scored]]:
    """Schedules of every method that has a score for the tasks, by method; without budgets.

    Parameters
    ----------
    shares
        Shares of the visual tokens that methods before the language model keep.
    """
    search = _Search(run, load_points(), shipped_surrogate(), tasks, False, shares)
    names = list(methods) or search.known_methods()
    found = {name: [each for each, _ in search.candidates(name, None, Budgets(), None)] for name in names}
    return {name: some for name, some in found.items() if some}


def _no_effect(first: int) -> str:
    """The note on an earliest cut that leaves out nothing."""
    return f"an earliest cut of {first} has no effect: no method has a candidate that cuts before it"


def _figures(estimate: Estimate, spread: float | None) -> dict[str, float]:
    """The figures that budgets are held against."""
    found = figures_of(estimate)
    return found if spread is None else {**found, "ttft": upper_end(estimate, spread)}


def _limited(estimate: Estimate, limits: Budgets, spread: float | None) -> Iterator[tuple[float, float]]:
    found = _figures(estimate, spread)
    for name, limit in limits.items():
        yield found[name], limit
    card = estimate.memory.usable_bytes
    if card is not None:
        yield found["peak"], card


class _Search:
    """What a task asks of one run's model: benchmarks, points, and candidates of each method."""

    def __init__(
        self,
        run: Run,
        points: Sequence[Point],
        surrogate: Surrogate,
        tasks: Sequence[str],
        measured_only: bool,
        shares: Sequence[float] = SHARES,
        spread: float | None = None,
    ) -> None:
        self.shares, self.spread = shares, spread
        self.run, self.surrogate, self.measured_only, self.tasks = run, surrogate, measured_only, tuple(tasks)
        if not self.tasks:
            raise InvalidValueError(argument("task"), "a task or a benchmark", None)
        name = run.model.name
        named = models_named(points)
        self.printed = next((model for model, own_name in named.items() if own_name == name), name)
        own = [p for p in points if p.model == self.printed]
        self.siblings = [p for p in points if model_family(p.model) == model_family(self.printed)]
        if not self.siblings:
            yours = argument("accuracy")
            raise UnsupportedModelError(f"no published scores of {name} or of a sibling; give your own with {yours}")
        known_benchmarks = {p.benchmark for p in own or self.siblings}
        try:
            self.benchmarks = benchmarks_of(tasks, known_benchmarks)
        except UnknownNameError:
            benchmarks_of(tasks, {p.benchmark for p in points})  # a benchmark that nobody ran on this model
            self.benchmarks = ()
        if not self.benchmarks:
            scored = sorted({benchmark_named(known) for known in known_benchmarks})
            families = [family for family in FAMILIES if set(FAMILIES[family]) & set(scored)]
            asked = ", ".join(repr(task) for task in self.tasks)
            raise UnsupportedModelError(
                f"{name} has no scores for {asked}; it has: {', '.join(families)}; or {', '.join(scored)}"
            )
        self.yours = [p for p in points if p.source_id == YOURS]
        self.points = [p for p in points if p.relative is not None and _is_of(p, self.benchmarks)]

    def known_methods(self) -> list[str]:
        """Methods of ours with scores for the task on this model or a sibling."""
        family = model_family(self.printed)
        names = (method_named(p.method) for p in self.points if model_family(p.model) == family)
        return list(dict.fromkeys(name for name in names if name is not None))

    def printed_method(self, name: str) -> str:
        """A method as the tables print it."""
        return next((p.method for p in self.points if method_named(p.method) == name), name)

    def cuts_before(self, name: str, first: int) -> bool:
        """Whether a method has candidates that cut before layer `first`."""
        layers, visual = self.run.model.decoder.layers, self.run.workload.visual_tokens
        offered = [*_offered(name, layers, visual, self.shares), *(each.entry for each in self._settings(name))]
        sizes = [sum(len(grid) for grid in of_method(self.run, name, layer, offered)) for layer in (0, first)]
        return sizes[0] != sizes[1]

    def unused(self) -> list[str]:
        """Notes on the user's scores: of benchmarks that the task does not ask for, and of one setting far apart."""
        rows: dict[tuple[str, str, str], list[float]] = {}
        for point in self.yours:
            rows.setdefault((point.method, point.budget, point.benchmark), []).append(point.relative or 0.0)
        apart = [
            f"your scores of {method} on {benchmark} with one setting are {min(some):.1%} to {max(some):.1%}: their "
            "mean is expected, and the interval is as wide as they are apart"
            for (method, _, benchmark), some in rows.items()
            if max(some) - min(some) > FAR_APART
        ]
        beside = {benchmark_named(p.benchmark) for p in self.yours} - set(self.benchmarks)
        if not beside:
            return apart
        return [
            *apart,
            f"your scores on {', '.join(sorted(beside))}, no benchmarks of the task, do not enter the mean; the "
            "methods that they are of are expected to differ on the task's as well",
        ]

    def rests_on(self, name: str, setting: Mapping[str, Any] | None = None) -> tuple[int, tuple[str, ...], bool]:
        """Figures of a method for the task, their sources (most figures first), and whether they are of siblings.

        Of a method that is scored where it was measured, those with parameters; else those with a share of the tokens.
        """
        some = [p for p in self.points if method_named(p.method) == name and _rests(p, setting)]
        own = [p for p in some if p.model == self.printed]
        used = own or [p for p in some if p in self.siblings]
        times = Counter(p.source for p in used)
        return len({p.copied_as for p in used}), tuple(name for name, _ in times.most_common()), not own

    def scores_of(self, name: str) -> list[Point]:
        """Figures of a method for the task on this model, on its siblings where it has none."""
        some = [p for p in self.siblings if p.relative is not None and _is_of(p, self.benchmarks)]
        some = [p for p in some if method_named(p.method) == name]
        return [p for p in some if p.model == self.printed] or some

    def candidates(
        self, name: str, first: int | None, limits: Budgets, most_tokens: float | None
    ) -> Iterator[tuple[Scored, float]]:
        """A method's schedules with a score, and by how much each is over the budgets (at most 1: within).

        Its scores at the mean share of the tokens; settings that were scored beside them, where they would be matched
        by that share alone, or where no share of the method is published. `first` holds for both; where it is None,
        the searched ones cut no earlier than `EARLIEST_CUT`, and settings that were scored wherever they did.
        """
        pooled = any(p.share_kept is not None and method_named(p.method) == name for p in self.points)
        layers, visual = self.run.model.decoder.layers, self.run.workload.visual_tokens
        query = Query(
            model=self.printed,
            method=self.printed_method(name),
            benchmark="",
            source=YOURS if any(p.source_id == YOURS for p in self.points) else "",
        )
        if pooled:
            offered = _offered(name, layers, visual, self.shares)
            earliest = EARLIEST_CUT if first is None else first
            for grid, figures, over in self._priced(name, earliest, offered, limits, most_tokens):
                share = figures.kept / layers / tokens_chosen_from(grid.run.schedule, self.run.workload)
                matched = self.surrogate.expect(query, self.benchmarks, share, extra=SETTINGS_SPREAD)
                stated = self.surrogate.expect(query, self.benchmarks, share)
                for position in range(len(share)):
                    method = grid.method(position)
                    is_matched = _is_matched(grid, method)
                    answer = matched if is_matched else stated
                    if answer.known[position] and not (self.measured_only and is_matched):
                        found = (float(curve[position]) for curve in (answer.mean, answer.low, answer.high))
                        basis = "budget matched" if is_matched else "published"
                        yield from self._scored(method, figures, over, position, tuple(found), basis)
        settings = self._settings(name)
        entries = [each.entry for each in settings]
        for grid, figures, over in self._priced(name, first or 0, entries, limits, most_tokens):
            for position in range(len(over)):
                method = grid.method(position)
                if not pooled or _is_matched(grid, method):
                    setting = next(each for each in settings if each.method == method)
                    share = figures.kept[position] / layers / tokens_chosen_from(grid.run.schedule, self.run.workload)
                    interval = self._drawn_to_pool(
                        setting, query if pooled and not setting.yours else None, float(share)
                    )
                    of = len(setting.benchmarks)
                    yield from self._scored(method, figures, over, position, interval, setting.basis, of)

    def _drawn_to_pool(self, setting: _Setting, query: Query | None, share: float) -> tuple[float, float, float]:
        """A setting's mean and interval: its scores and what is expected at its share, weighed by their variances.

        Its scores alone where they are the user's, no share of the method is published, or this one is not answered.
        """
        mean, variance = setting.mean, setting.deviation**2
        if query is not None:
            on_scored, on_all = (
                self.surrogate.expect(query, some, share, extra=SETTINGS_SPREAD)
                for some in (setting.benchmarks, self.benchmarks)
            )
            if on_scored.known[0] and on_all.known[0]:
                pool = (100 * (on_scored.high - on_scored.mean)[0] / HALF_80) ** 2
                weight = pool / (pool + variance)
                mean = float(on_all.mean[0] + weight * (setting.mean - on_scored.mean[0]))
                variance = weight * variance + setting.single**2
        half = max(HALF_80 * float(np.sqrt(variance)), setting.least) / 100
        return mean, max(0.0, mean - half), mean + half

    def _priced(
        self,
        name: str,
        first: int,
        offered: Sequence[Mapping[str, Any]],
        limits: Budgets,
        most_tokens: float | None,
    ) -> Iterator[tuple[ListGrid, Figures, Floats]]:
        """Grids of a method's schedules, with their figures and how far over the budgets they are."""
        card = self.run.hardware.usable_memory_bytes if self.run.hardware else None
        for grid in of_method(self.run, name, first, offered):
            held = self.spread is not None and limits.ttft is not None
            prices = grid.prices(band=held)
            figures = prices.figures(0, len(prices))
            over = limits.excess(figures, card)
            if held and prices.tables.rows is not None:
                upper = upper_seconds(prices.tables, prices.blocks(np.arange(len(prices))), self.spread or 0.0)
                over = np.maximum(over, upper / (limits.ttft or np.inf))
            if most_tokens is not None:
                over = np.maximum(over, figures.kept / self.run.model.decoder.layers / most_tokens)
            yield grid, figures, over

    def _scored(
        self,
        method: Mapping[str, Any],
        figures: Figures,
        over: Floats,
        position: int,
        expected: tuple[float, ...],
        basis: str,
        scored_benchmarks: int | None = None,
    ) -> Iterator[tuple[Scored, float]]:
        """A candidate; none where it keeps every token."""
        share = figures.kept[position] / self.run.model.decoder.layers / self.run.workload.visual_tokens
        if share < 1 - 1e-9:
            mean, low, high = expected
            ttft = float(figures.ttft[position])
            one = Scored(
                method=method,
                share=float(share),
                ttft=ttft,
                mean=mean,
                low=low,
                high=high,
                basis=basis,
                scored_benchmarks=scored_benchmarks,
            )
            yield one, float(over[position])

    def _settings(self, name: str) -> list[_Setting]:
        """Settings that were scored on this model on half of the task's benchmarks."""
        groups: dict[str, list[Point]] = {}
        for point in self.points:
            if point.model == self.printed and method_named(point.method) == name and settings_of(point):
                groups.setdefault(point.parameters, []).append(point)
        found = []
        for some in groups.values():
            scored: dict[str, list[float]] = {}
            for point in some:
                scored.setdefault(benchmark_named(point.benchmark), []).append(point.relative or 0.0)
            if 2 * len(scored) < len(self.benchmarks):
                continue
            settings = settings_of(some[0]) or {}
            rows = self.surrogate.rows_of([Query.of(p) for p in some], [0.5] * len(some))
            single = score_variance(rows, self.surrogate.parameters)
            yours = all(p.source_id == YOURS for p in some)
            if yours:  # measured as the answer will be
                alone = float(np.sqrt(TRUSTED * single.sum())) / len(some)
                deviation = alone
            else:
                alone = float(np.sqrt(single.sum())) / len(some)
                deviation = alone + SETTINGS_SPREAD / 2
            found.append(
                _Setting(
                    method=settings,
                    benchmarks=tuple(name for name in self.benchmarks if name in scored),
                    mean=float(np.mean([np.mean(each) for each in scored.values()])),
                    deviation=deviation,
                    single=alone,
                    least=self.surrogate.disagreement.get(some[0].method, 0.0) / 2,
                    basis="measured by its authors" if all(Query.of(p).own for p in some) else "measured",
                    yours=yours,
                )
            )
        return found


def _is_matched(grid: ListGrid, method: Mapping[str, Any]) -> bool:
    """Whether a schedule cuts inside the language model at parameters that no table states."""
    inside = bool(grid.run.schedule.tokens) and not grid.run.schedule.pre_llm_events
    cut = PUBLISHED_CUT.get(str(method["name"]))
    return inside and (cut is None or method.get("k") != cut)


def _rests(point: Point, setting: Mapping[str, Any] | None) -> bool:
    return point.share_kept is not None if setting is None else settings_of(point) == dict(setting)


def _is_of(point: Point, benchmarks: Sequence[str]) -> bool:
    return benchmark_named(point.benchmark) in benchmarks


def _offered(name: str, layers: int, visual: int, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Parameters of a method that are tried: its planner's grid, finer where it takes a share or a count."""
    module = plan_module(name)
    keys = module.Params.names()
    if "k" not in keys and "ratio" in keys:
        return [{"ratio": share} for share in shares]
    if "keep_tokens" in keys and "k" not in keys:
        return [{"keep_tokens": round(visual * share)} for share in shares]
    offered = getattr(module, "candidates", None)
    if offered is not None:
        found: list[dict[str, Any]] = offered(layers)
        return found
    counted = getattr(module, "counted_candidates", None)
    return [] if counted is None else list(counted(layers, visual))


def _answer(
    search: _Search,
    every: Sequence[tuple[Scored, float]],
    dense: Estimate,
    limits: Budgets,
    floor: float | None,
    most_tokens: float | None,
    confidence: float | None,
    silent: tuple[str, ...],
    notes: Sequence[str],
) -> TaskPlan:
    def fits(each: Scored, over: float) -> bool:
        return over <= 1 and (floor is None or each.at_least(search.spread) >= floor)

    fitting = sorted((each for each, over in every if fits(each, over)), key=lambda each: _rank(each, floor))
    best = fitting[0] if fitting else None
    by_method: dict[str, Scored] = {}
    for each in fitting:
        by_method.setdefault(each.name, each)
    below, beyond = _without(search, every, by_method)
    second = next((each for each in fitting if best is not None and each.name not in (best.name, "none")), None)
    estimate = None if best is None else estimate_run(search.run.with_method(best.method))
    noise = False
    if best is not None and second is not None and estimate is not None:
        low, high = estimate.ttft_band_s
        as_fast = floor is None or low <= second.ttft <= (high or second.ttft)
        noise = as_fast and best.low <= second.mean <= best.high
    count, sources, siblings = (
        (0, (), False)
        if best is None
        else search.rests_on(best.name, best.method if best.basis.startswith("measured") else None)
    )
    downsampled = tuple(_downsampled(search.run))
    missed = (
        ()
        if best is not None
        else _shortfalls(search, every, dense, limits, floor, most_tokens, confidence, downsampled)
    )
    shortfalls = tuple(missed)
    named = by_method or {each.name for each, _ in every}
    return TaskPlan(
        run=search.run,
        benchmarks=search.benchmarks,
        tasks=search.tasks,
        floor=floor,
        budgets=limits,
        mean_visual_tokens=most_tokens,
        confidence=confidence,
        best=best,
        runner_up=second,
        runner_up_in_noise=noise,
        published=next((each for each in fitting if each.basis != "budget matched"), None),
        estimate=estimate,
        dense=dense,
        front=_front([each for each, _ in every]),
        by_method=tuple(by_method.values()),
        candidates=len(every),
        silent=silent,
        below_floor=below,
        over_budget=beyond,
        scores=count,
        sources=sources,
        siblings=siblings,
        random=_scored_as(search, "Random"),
        resampled={what: found for name, what in RESAMPLING.items() if (found := _scored_as(search, name))},
        downsampled=downsampled,
        shortfalls=shortfalls,
        measured_only=search.measured_only,
        published_scores=any(p.source_id != YOURS for name in named for p in search.scores_of(name)),
        notes=(*search.run.notes, *search.unused(), *_not_scored(by_method.values(), len(search.benchmarks)), *notes),
    )


def _without(
    search: _Search, every: Sequence[tuple[Scored, float]], qualified: Collection[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Methods of which nothing qualifies: by the best score within the budgets, or by how far over a budget."""
    below: dict[str, float] = {}
    beyond: dict[str, float] = {}
    for each, over in every:
        if each.name in qualified or each.name == "none":
            continue
        if over <= 1:
            below[each.name] = max(below.get(each.name, 0.0), each.at_least(search.spread))
        else:
            beyond[each.name] = min(beyond.get(each.name, math.inf), over - 1)
    return below, {name: over for name, over in beyond.items() if name not in below}


def _not_scored(found: Iterable[Scored], benchmarks: int) -> Iterator[str]:
    """A note on each setting that was scored on some of the benchmarks alone."""
    for each in found:
        if each.scored_benchmarks is not None and each.scored_benchmarks < benchmarks:
            yield f"{each.name}: its setting has scores on {each.scored_benchmarks} of the {benchmarks} benchmarks"


def _rank(each: Scored, floor: float | None) -> tuple[float, float]:
    """Fastest first with a floor, else the highest score first."""
    return (each.ttft, -each.mean) if floor is not None else (-each.mean, each.ttft)


def _front(every: Sequence[Scored]) -> tuple[Scored, ...]:
    """Candidates that none beats in both time and expected score."""
    found: list[Scored] = []
    for each in sorted(every, key=lambda one: (one.ttft, -one.mean)):
        if not found or each.mean > found[-1].mean:
            found.append(each)
    return tuple(found)


def _scored_as(search: _Search, printed: str) -> tuple[tuple[float, float, int], ...]:
    """Share kept, mean and number of scores of a baseline on this model, by share."""
    groups: dict[float, list[float]] = {}
    for point in search.points:
        if point.method == printed and point.model == search.printed and point.share_kept is not None:
            groups.setdefault(point.share_kept, []).append(point.relative or 0.0)
    return tuple((share, float(np.mean(some)), len(some)) for share, some in sorted(groups.items()))


def _downsampled(run: Run) -> Iterator[Downsampled]:
    """The unreduced run on a half and a quarter of its frames, or on images of a half and a quarter of the area."""
    workload = run.workload
    for part in (2, 4):
        changes: dict[str, Any]
        if workload.frames >= part:
            changes = {"workload.frames": workload.frames // part, "workload.seconds": None, "workload.fps": None}
            what = f"{workload.frames // part} frames"
        elif workload.images and run.model.projector is not None and not run.model.projector.tokens_per_image:
            width, height = (max(28, round(side / part**0.5)) for side in _image_size(run))
            changes, what = {"workload.image_size": [width, height]}, f"images of {width} x {height}"
        else:
            return
        try:
            smaller = unreduced(run).with_(changes)
        except AimcostError:
            continue
        if smaller.workload.visual_tokens < workload.visual_tokens:
            yield Downsampled(what=what, ttft=estimate_run(smaller).ttft_s)


def _image_size(run: Run) -> tuple[int, int]:
    """The image's size, as the run gives it; 1280 x 720 where it does not (`aimcost.inputs.workload`)."""
    given = run.document().get("workload", {}).get("image_size")
    if given and isinstance(given[0], int):
        return int(given[0]), int(given[1])
    return 1280, 720


def _smaller_input(limit_s: float, smaller: Sequence[tuple[str, float]]) -> str:
    """What reaches a limit that no reduction does: the largest input that does without reduction, in words."""
    from ...units import format_seconds

    if reached := [each for each in smaller if each[1] <= limit_s]:
        return f"{reached[0][0]} without reduction take {format_seconds(reached[0][1])}"
    if smaller:
        return f"even {smaller[-1][0]} without reduction need {format_seconds(smaller[-1][1])}"
    return "no smaller image changes that, another machine or stack may"


def _shortfalls(
    search: _Search,
    every: Sequence[tuple[Scored, float]],
    dense: Estimate,
    limits: Budgets,
    floor: float | None,
    most_tokens: float | None,
    confidence: float | None,
    downsampled: Sequence[Downsampled],
) -> Iterator[str]:
    """In words: which limit nothing keeps, and what is nearest."""
    from ...units import format_bytes, format_percent, format_seconds

    memory = dense.memory
    if memory.usable_bytes is not None and memory.weights_bytes > memory.usable_bytes:
        machine = search.run.hardware.name if search.run.hardware else ""
        yield (
            f"the model does not fit: it needs about {format_bytes(memory.peak_bytes)} and {machine} has "
            f"{format_bytes(memory.usable_bytes)}; no token reduction changes that (weights alone "
            f"{format_bytes(memory.weights_bytes)})"
        )
        return
    if limits.peak is not None and memory.weights_bytes > limits.peak:
        yield (
            f"the weights alone are {format_bytes(memory.weights_bytes)}, over {format_bytes(limits.peak)}: no token "
            "reduction changes that"
        )
        return
    within = [each for each, over in every if over <= 1]
    if within and floor is not None:
        nearest = max(within, key=lambda each: each.at_least(search.spread))
        sure = "" if confidence is None else f" at {confidence:.0%} confidence"
        yield (
            f"within the budgets at most {nearest.at_least(search.spread):.1%} is expected{sure} "
            f"({nearest.name}, {format_seconds(nearest.ttft)}), below {format_percent(floor)}"
        )
        return
    if limits.ttft is not None and (lowest := min(every, key=lambda pair: pair[0].ttft)[0]).ttft > limits.ttft:
        fastest = f"the fastest candidate ({lowest.name})"
        smaller = [(each.what, each.ttft) for each in downsampled]
        yield tower_floor(dense, lowest.ttft, limits.ttft, whose=fastest, smaller=smaller) or (
            f"TTFT is at least {format_seconds(lowest.ttft)} ({lowest.name}), of which the tower takes "
            f"{format_seconds(dense.stages['vision'].time_s)}, over {format_seconds(limits.ttft)}; "
            + _smaller_input(limits.ttft, smaller)
        )
        return
    nearest, over = min(every, key=lambda pair: pair[1])
    if [name for name, _ in limits.items()] == ["ttft"] and limits.ttft is not None and confidence is not None:
        yield (
            f"TTFT at {confidence:.0%} confidence is at least {format_seconds(over * limits.ttft)} ({nearest.name}), "
            f"over {format_seconds(limits.ttft)}"
        )
        return
    visual = search.run.workload.visual_tokens
    fewest = min((each for each, _ in every), key=lambda each: each.share)
    if most_tokens is not None and fewest.share * visual > most_tokens:
        yield (
            f"the fewest visual tokens a layer with a score are {fewest.share * visual:.3g} ({fewest.name}), "
            f"over {most_tokens:g}"
        )
        return
    estimate = estimate_run(search.run.with_method(nearest.method))
    found = dict(_figures(estimate, search.spread))
    missed = [each["text"] for each in limits.shortfalls(found, memory.usable_bytes)]
    if most_tokens is not None and nearest.share * visual > most_tokens:
        missed.append(f"{nearest.share * visual:.3g} visual tokens a layer exceed {most_tokens:g}")
    what = "; ".join(missed) or f"{over - 1:.1%} over"
    yield f"nothing with a score keeps every budget; of the nearest, {nearest.name}, {what}"
