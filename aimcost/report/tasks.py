"""The answer to "which method for this task": one sentence, a line per method, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ..methods.registry import priced_only
from ..search.plan.tasks import TaskPlan
from ..units import format_count, format_seconds
from .export import to_json
from .table import table

__all__ = ["front_rows", "parameters", "sentence", "task_text", "task_yaml"]

_BASIS = {
    "published": "",
    "measured": "scored with these parameters",
    "budget matched": "budget matched",
    "unreduced": "",
}


def task_text(plan: TaskPlan) -> str:
    """The sentence, the best of each method, and remarks."""
    parts = [sentence(plan)]
    if plan.by_method:
        rows = [
            [
                parameters(each.method),
                f"{each.share:.1%}",
                format_seconds(each.ttft),
                f"{each.mean:.1%}",
                f"{each.low:.1%} to {each.high:.1%}",
                _BASIS[each.basis],
            ]
            for each in plan.by_method
        ]
        headers = ["best of each method", "mean tokens", "TTFT", "expected", "80 % interval", ""]
        parts += ["", table(rows, headers)]
    return "\n".join([*parts, "", *_remarks(plan)]).rstrip()


def sentence(plan: TaskPlan) -> str:
    """The answer in one sentence."""
    where = f"{plan.run.model.name} on {plan.run.hardware.name if plan.run.hardware else 'no hardware'}"
    asked = f"{where}, {', '.join(plan.tasks)}"
    best, estimate = plan.best, plan.estimate
    if best is None or estimate is None:
        return f"{asked}: {'; '.join(plan.shortfalls)}"
    low, high = estimate.ttft_band_s
    band = "" if high is None else f" (80 % band {format_seconds(low)} to {format_seconds(high)})"
    if best.basis == "unreduced":
        return f"{asked}: no reduction: TTFT {format_seconds(estimate.ttft_s)}{band}; no method with scores does better"
    saved = f"{format_seconds(abs(plan.saved_s))} {'less' if plan.saved_s >= 0 else 'more'} than unreduced"
    marked = ", budget matched" if best.basis == "budget matched" else ""
    text = (
        f"{asked}: {parameters(best.method)}: TTFT {format_seconds(estimate.ttft_s)}{band}, {saved}, expected "
        f"{best.mean:.1%} of the unreduced score (80 % interval {best.low:.1%} to {best.high:.1%}{marked}), "
        f"resting on {_basis(plan)}"
    )
    second = plan.runner_up
    if second is None:
        return f"{text}; no other method qualifies"
    near = "within the noise" if plan.runner_up_in_noise else "runner-up"
    return f"{text}; {near}: {parameters(second.method)}, {format_seconds(second.ttft)}, {second.mean:.1%}"


def _basis(plan: TaskPlan) -> str:
    sources = plan.sources
    named = sources[0] if sources else ""
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    what = "scores of its siblings" if plan.siblings else "scores"
    return f"{plan.scores} {what} of this method ({named}{more})" if plan.scores else "scores of other methods"


def parameters(method: Mapping[str, Any]) -> str:
    """A method and its parameters on one line."""
    shown = ", ".join(
        f"{key} {_shown(value)}"
        for key, value in method.items()
        if key not in ("name", "convention") and value is not None
    )
    return f"{method['name']} ({shown})" if shown else str(method["name"])


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_shown(each) for each in value) + "]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _remarks(plan: TaskPlan) -> Iterator[str]:
    if list(plan.tasks) != list(plan.benchmarks):
        yield f"{', '.join(plan.tasks)}: the mean over {', '.join(plan.benchmarks)}"
    if plan.published is not None and plan.best is not None and plan.best.basis == "budget matched":
        each = plan.published
        yield (
            f"with published parameters alone (--measured-only): {parameters(each.method)}, "
            f"{format_seconds(each.ttft)}, expected {each.mean:.1%} ({each.low:.1%} to {each.high:.1%})"
        )
    if any(each.basis == "budget matched" for each in plan.by_method):
        yield (
            "budget matched: no score states these parameters; scored as the method at the same mean tokens a layer, "
            "with a wider interval"
        )
    if unrun := {each.method["name"]: reason for each in plan.by_method if (reason := _not_run(plan, each.method))}:
        named = ", ".join(f"{name} ({reason})" for name, reason in unrun.items())
        yield f"priced, but not run by aimcost.apply: {named}"
    for share, mean, count in plan.random:
        yield f"random selection of {share:.0%} of the tokens scored {mean:.1%} ({count} published scores)"
    for smaller in plan.downsampled:
        yield f"{smaller.what} without reduction: TTFT {format_seconds(smaller.ttft)}; score unknown (none published)"
    if plan.silent:
        yield "no score to go by, or no parameters to search: " + ", ".join(plan.silent)
    yield f"{format_count(plan.candidates)} schedules priced, selection included; expected scores are not measured"
    yield from plan.notes


def _not_run(plan: TaskPlan, method: Mapping[str, Any]) -> str:
    return priced_only(plan.run.with_method(method).schedule)


def task_yaml(plan: TaskPlan) -> str:
    """The choice as a run file; a comment holds the sentence."""
    document = {**plan.run.document(), "method": dict(plan.best.method) if plan.best else {}}
    body = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    return f"# {sentence(plan)}.\n{body}"


def front_rows(plan: TaskPlan) -> list[dict[str, Any]]:
    """The Pareto front of expected score against TTFT; the method column is JSON."""
    return [{**each.to_dict(), "method": to_json(dict(each.method), indent=None)} for each in plan.front]
