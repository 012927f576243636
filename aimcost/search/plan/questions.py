"""Inverse questions: the most frames or requests under the budgets, and where reduction starts to pay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...errors import AimcostError, InvalidValueError, argument
from ...inputs.run import Run
from ...methods.aim.plan import reachable_ratios
from ...pricing.budgets import figures_of
from ...pricing.pricing import estimate_run
from ...pricing.result import Estimate
from .budgets import Budgets, Shortfall, no_budget, upper_end
from .planning import VISUALS, spread_of

__all__ = ["Answer", "ask"]

QUESTIONS = ("frames", "batch", "break-even")
# A video of 4096 frames or a batch of 4096 is beyond any context or card.
_MOST = 4096
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Rows of one question, the run's own method first.

    Attributes
    ----------
    question
        One of `QUESTIONS`.
    rows
        frames and batch: method, most (0 where none fits), ttft_s, ttft_upper_s, kv and peak bytes
        there, what stops one more. break-even: method, unit, from (None: nowhere), until (None: as far as was
        looked), tokens and times where it starts.
    """

    question: str
    run: Run
    budgets: Budgets
    confidence: float | None
    rows: list[dict[str, Any]]

    @property
    def answered(self) -> bool:
        """Whether any method has an answer."""
        return any(row["most" if self.question != "break-even" else "from"] for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "schema_version": 1,
            "question": self.question,
            "model": self.run.model.name,
            "hardware": self.run.hardware.name if self.run.hardware else None,
            "budgets": self.budgets.to_file(),
            "confidence": self.confidence,
            "rows": self.rows,
        }


def ask(
    run: Run,
    question: str,
    *,
    budgets: Mapping[str, float | None],
    confidence: float | None = None,
    progress: Progress | None = None,
) -> Answer:
    """Answer `question` for the run's own method, for none, and for AIM at every merge ratio.

    Raises
    ------
    InvalidValueError
        frames and batch need a budget and break-even takes none; frames and break-even need a run with
        frames or images.
    """
    if question not in QUESTIONS:
        raise InvalidValueError(argument("question"), f"one of {', '.join(QUESTIONS)}", question)
    if question == "break-even":
        for key, given in {**budgets, "confidence": confidence}.items():
            if given is not None:
                raise InvalidValueError(argument(key), "omitted: break-even takes no budget", given)
    limits = Budgets() if question == "break-even" else Budgets.of(run, budgets)
    spread = spread_of(confidence, run)
    if question != "break-even" and not list(limits.items()):
        raise no_budget()
    key = "batch" if question == "batch" else _visual_key(run)
    methods = list(_methods(run, question))
    rows = []
    for number, (label, method) in enumerate(methods):
        if progress is not None:
            progress(number, len(methods), label)
        case = _Case(run.with_method(method), key, limits, spread)
        rows.append({"method": label, **(_break_even(case) if question == "break-even" else _most(case))})
    return Answer(question=question, run=run, budgets=limits, confidence=confidence, rows=rows)


def _visual_key(run: Run) -> str:
    if run.workload.frames:
        return "frames"
    if run.workload.images:
        return "images"
    raise InvalidValueError("workload.frames", "given for this question", None)


def _methods(run: Run, question: str) -> Iterator[tuple[str, dict[str, Any]]]:
    own = dict(run.method)
    if own["name"] != "none":
        yield f"{own['name']} (as in the run)", own
    if question != "break-even":
        yield "none", {"name": "none"}
    if own["name"] in ("none", "aim"):
        given: dict[str, Any] = {key: own[key] for key in ("l1", "l2", "decay", "convention") if key in own}
        for ratio in reachable_ratios(run.workload):
            if ratio != own.get("merge_ratio"):
                yield f"aim, merge {ratio:g}", {"name": "aim", **given, "merge_ratio": ratio}


@dataclass(frozen=True, slots=True)
class _Case:
    """One method, evaluated at any number of frames, images or requests."""

    run: Run
    key: str
    budgets: Budgets
    spread: float | None

    def at(self, number: int) -> Estimate | None:
        """The estimate; None where the method cannot reduce so few tokens."""
        changes: dict[str, int | None] = {}
        if self.key != "batch":
            changes = {f"workload.{key}": None for key in VISUALS}
        changes[f"workload.{self.key}"] = number
        try:
            return estimate_run(self.run.with_(changes))
        except InvalidValueError as error:
            if error.key.startswith("method."):
                return None
            raise

    def figures(self, result: Estimate) -> dict[str, float]:
        """What the budgets are held against."""
        found = figures_of(result)
        return found if self.spread is None else {**found, "ttft": upper_end(result, self.spread)}

    def misses(self, number: int) -> list[Shortfall] | None:
        """Budgets missed at `number`; None where the method cannot run at all."""
        result = self.at(number)
        if result is None:
            return None
        return self.budgets.shortfalls(self.figures(result), result.memory.usable_bytes)


def _most(case: _Case) -> dict[str, Any]:
    """The largest number such that it and every smaller one meet the budgets.

    Cost rises with the number except across tile edges of a kernel, so the answer is found by bisection
    and then checked one step at a time.
    """
    low, high = 0, 1
    while high <= _MOST and case.misses(high) == []:
        low, high = high, high * 2
    while high - low > 1 and low < _MOST:
        middle = (low + high) // 2
        low, high = (middle, high) if case.misses(middle) == [] else (low, middle)
    if not low:
        first = case.misses(1)
        why = "too few tokens for the method to reduce" if first is None else "; ".join(m["text"] for m in first)
        return {"most": 0, "ttft_s": None, "ttft_upper_s": None, "kv_bytes": None, "peak_bytes": None, "stops": why}
    result, over = case.at(low), case.misses(low + 1) or []
    if result is None:  # pragma: no cover - low was estimated above
        raise AimcostError(f"{case.key} {low} cannot be estimated")
    figures = case.figures(result)
    return {
        "most": low,
        "ttft_s": result.ttft_s,
        "ttft_upper_s": None if case.spread is None else figures["ttft"],
        "kv_bytes": figures["kv"],
        "peak_bytes": figures["peak"],
        "stops": "; ".join(miss["text"] for miss in over) or f"not searched beyond {_MOST}",
    }


def _break_even(case: _Case) -> dict[str, Any]:
    """The smallest size from which the reduced run is faster, and the largest up to which it stays so.

    If a single frame or image already pays, its token count is searched instead: the tower costs the same
    with and without reduction.
    """
    start, until = _window(case, max(64, getattr(case.run.workload, case.key)))
    if start == 1 and case.run.workload.tokens_per_group > 1:
        inside = replace(case, key="visual_tokens")
        single, _ = _window(inside, case.run.workload.tokens_per_group)
        case, start, until = (inside, single, None) if single is not None else (case, start, until)
    row: dict[str, Any] = {"unit": case.key, "from": start, "until": until}
    result = case.at(start) if start is not None else None
    row["visual_tokens"] = None if result is None else result.run.workload.visual_tokens
    row["ttft_s"] = None if result is None else result.ttft_s
    row["plain_s"] = None if result is None else result.dense.ttft_s
    return row


def _window(case: _Case, top: int) -> tuple[int | None, int | None]:
    """First and last number at which reduction pays, from powers of two refined by bisection.

    The first is None if it never pays, the last is None if it pays up to `top`.
    """

    def pays(number: int) -> bool:
        result = case.at(number)
        return result is not None and result.dense.ttft_s > result.ttft_s

    def turn(one: int, other: int) -> int:
        """The number closest to `other` at which reduction pays (or not) as it does at `one`."""
        wanted = pays(one)
        while abs(other - one) > 1:
            middle = (one + other) // 2
            one, other = (middle, other) if pays(middle) == wanted else (one, middle)
        return one

    sizes = [2**power for power in range(top.bit_length()) if 2**power < top] + [top]
    paying = [index for index, size in enumerate(sizes) if pays(size)]
    if not paying:
        return None, None
    first, last = paying[0], next((i - 1 for i in range(paying[0] + 1, len(sizes)) if i not in paying), None)
    start = turn(sizes[first], sizes[first - 1]) if first else sizes[0]
    return start, None if last is None else turn(sizes[last], sizes[last + 1])
