"""The answer to "which method for this task": one sentence, a line per method, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..methods.registry import cannot_run
from ..search.plan.tasks import TaskPlan, TaskPlans
from ..units import KILO, format_count, format_percent, format_seconds
from .export import to_json
from .pictures import check_plot, save_figure
from .table import table
from .text import stack_label

__all__ = [
    "draw_tasks",
    "front_rows",
    "machine_rows",
    "method_rows",
    "parameters",
    "save_task_plot",
    "sentence",
    "task_text",
    "task_yaml",
    "tasks_text",
]

_BASIS = {
    "published": "",
    "measured": "scored with these parameters",
    "measured by its authors": "scored with these parameters by its authors",
    "budget matched": "budget matched",
    "unreduced": "",
}


def task_text(plan: TaskPlan) -> str:
    """The sentence, the best of each method, and remarks."""
    parts = [sentence(plan)]
    if plan.by_method:
        headers, rows = method_rows(plan)
        parts += ["", table(rows, headers)]
    return "\n".join([*parts, "", *_remarks(plan)]).rstrip()


def method_rows(plan: TaskPlan) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the best of each method."""
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
    return ["best of each method", "mean tokens", "TTFT", "expected", "80 % interval", ""], rows


def tasks_text(plans: TaskPlans) -> str:
    """The sentence of the best machine, then a line a machine."""
    headers, rows = machine_rows(plans)
    first = plans.best
    answer = [sentence(each) for each in ([first] if first is not None else plans.plans)]
    missed = [
        f"{plan.run.hardware.name if plan.run.hardware else 'no hardware'}: {'; '.join(plan.shortfalls)}"
        for plan in plans.plans
        if first is not None and plan.best is None
    ]
    remarks = [*missed, *_remarks(first or plans.plans[0])]
    return "\n".join([*answer, "", table(rows, headers, left=2), "", *remarks]).rstrip()


def machine_rows(plans: TaskPlans) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of each machine's answer."""
    rows = []
    for plan in plans.plans:
        machine, best, estimate = plan.run.hardware.name if plan.run.hardware else "", plan.best, plan.estimate
        if best is None or estimate is None:
            rows.append([machine, "nothing qualifies", "", format_seconds(plan.dense.ttft_s), "", ""])
            continue
        times = [format_seconds(estimate.ttft_s), format_seconds(plan.dense.ttft_s)]
        scores = [f"{best.mean:.1%}", f"{best.low:.1%} to {best.high:.1%}"]
        rows.append([machine, parameters(best.method), *times, *scores])
    return ["hardware", "method", "TTFT", "unreduced", "expected", "80 % interval"], rows


def sentence(plan: TaskPlan) -> str:
    """The answer in one sentence."""
    asked, best, estimate = _asked(plan), plan.best, plan.estimate
    if best is None or estimate is None:
        return f"{asked}: {'; '.join(plan.shortfalls)}"
    low, high = estimate.ttft_band_s
    band = "" if high is None else f" (80 % band {format_seconds(low)} to {format_seconds(high)})"
    ttft = f"TTFT {format_seconds(estimate.ttft_s)}{band}"
    if best.basis == "unreduced":
        faster = "is faster" if plan.floor is not None else "scores higher"
        return f"{asked}: no reduction, {ttft}; no method that qualifies {faster}"
    saved = f"{format_seconds(abs(plan.saved_s))} {'less' if plan.saved_s >= 0 else 'more'} than unreduced"
    marked = f"{basis}, " if (basis := _BASIS[best.basis]) else ""
    text = (
        f"{asked}: {parameters(best.method)}, {ttft}, {saved}, expected score {best.mean:.1%} of the unreduced "
        f"(80 % interval {best.low:.1%} to {best.high:.1%}; {marked}from {_basis(plan)})"
    )
    second = plan.runner_up
    if second is None:
        return f"{text}; no other method qualifies"
    noise = "runner-up within the noise" if plan.floor is not None else "runner-up, its score within the noise"
    near = noise if plan.runner_up_in_noise else "runner-up"
    return f"{text}; {near}: {parameters(second.method)}, {format_seconds(second.ttft)}, {second.mean:.1%}"


def _asked(plan: TaskPlan) -> str:
    """Model, machine, stack, task, and what is held."""
    machine = plan.run.hardware.name if plan.run.hardware else "no hardware"
    wanted = [] if plan.floor is None else [f"score ≥ {format_percent(plan.floor)} of the unreduced"]
    wanted += [plan.budgets.describe()] if list(plan.budgets.items()) else []
    if plan.mean_visual_tokens is not None:
        wanted.append(f"≤ {plan.mean_visual_tokens:g} visual tokens a layer")
    sure = "" if plan.confidence is None else f" at {plan.confidence:.0%} confidence"
    return (
        f"{plan.run.model.name} on {machine}, {stack_label(plan.run)}, {', '.join(plan.tasks)} with "
        f"{', '.join(wanted)}{sure}"
    )


def _basis(plan: TaskPlan) -> str:
    """Scores of the method that the expectation rests on most, and whose they are."""
    name, sources = plan.best.name if plan.best is not None else "", plan.sources
    if not plan.scores:
        return f"other methods and models: no score of {name} on this model or a sibling"
    named = sources[0] + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")
    whose = "sibling models" if plan.siblings else "this model"
    count = f"{format_count(plan.scores)} score" + ("s" if plan.scores > 1 else "")
    return f"{count} of {name} on {whose}: {named}"


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
        several = f"the mean over {', '.join(plan.benchmarks)}"
        alone = f"{plan.benchmarks[0]} alone has scores of this model"
        yield f"{', '.join(plan.tasks)}: {several if len(plan.benchmarks) > 1 else alone}"
    if plan.published is not None and plan.best is not None and plan.best.basis == "budget matched":
        each = plan.published
        shown = "no reduction" if each.basis == "unreduced" else parameters(each.method)
        yield (
            f"with published parameters alone (--measured-only): {shown}, "
            f"{format_seconds(each.ttft)}, expected {each.mean:.1%} ({each.low:.1%} to {each.high:.1%})"
        )
    if any(each.basis == "budget matched" for each in plan.by_method):
        yield (
            "budget matched: no score states these parameters; scored as the method at the same mean tokens a layer, "
            "with a wider interval"
        )
    if unrun := {each.method["name"]: reason for each in plan.by_method if (reason := _not_run(plan, each.method))}:
        named = ", ".join(f"{name} ({reason})" for name, reason in unrun.items())
        yield f"priced, but not run by aimcost.apply on the model alone: {named}"
    for share, mean, count in plan.random:
        yield f"random selection of {share:.0%} of the tokens scored {mean:.1%} ({count} published scores)"
    for what, some in plan.resampled.items():
        for share, mean, count in some:
            yield f"{what} to {share:.0%} of the tokens scored {mean:.1%} ({count} published scores)"
    for smaller in plan.downsampled:
        yield f"{smaller.what} without reduction: TTFT {format_seconds(smaller.ttft)}; score unknown (none published)"
    if plan.silent:
        yield "no score to go by, or no parameters to search: " + ", ".join(plan.silent)
    if (without := _without(plan)) and plan.best is not None:
        yield without
    where = ", and hold for the images and frames of the published tables" if plan.published_scores else ""
    priced = f"{format_count(plan.candidates)} schedules priced, selection included"
    yield f"{priced}; expected scores are not measured{where}"
    yield from plan.notes


def _without(plan: TaskPlan) -> str:
    """Methods with a score of which nothing qualifies, and by how much."""
    below = ", ".join(f"{name} ({score:.1%})" for name, score in plan.below_floor.items())
    over = ", ".join(f"{name} (by {share:.1%})" for name, share in plan.over_budget.items())
    return "; ".join([f"below the floor: {below}"] * bool(below) + [f"over the budget: {over}"] * bool(over))


def _not_run(plan: TaskPlan, method: Mapping[str, Any]) -> str:
    return cannot_run(plan.run.with_method(method).schedule)


def task_yaml(plan: TaskPlan) -> str:
    """The choice as a run file; a comment holds the sentence."""
    document = {**plan.run.document(), "method": dict(plan.best.method) if plan.best else {}}
    body = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    return f"# {sentence(plan)}.\n{body}"


def front_rows(plans: TaskPlans) -> list[dict[str, Any]]:
    """The Pareto front of expected score against TTFT, by machine; the method column is JSON."""
    return [
        {
            "hardware": plan.run.hardware.name if plan.run.hardware else None,
            **each.to_dict(),
            "method": to_json(dict(each.method), indent=None),
        }
        for plan in plans.plans
        for each in plan.front
    ]


def save_task_plot(plans: TaskPlans, path: Path) -> None:
    """Plot expected score against TTFT, a panel a machine: the Pareto front, and each method's best with its interval.

    Raises
    ------
    MissingExtraError, InvalidValueError, FileFormatError
        matplotlib is not installed, or the file is no picture or cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 5.2 * len(plans.plans), 4.4), layout="constrained")
    draw_tasks(plans, figure)
    save_figure(figure, path)


def draw_tasks(plans: TaskPlans, figure: Any) -> None:
    """Draw what `save_task_plot` writes into a matplotlib figure."""
    count = len(plans.plans)
    names = sorted({each.name for plan in plans.plans for each in plan.by_method})
    for axes, plan in zip(figure.subplots(1, count, squeeze=False)[0], plans.plans, strict=True):
        front = plan.front
        axes.step(
            [each.ttft * KILO for each in front],
            [100 * each.mean for each in front],
            where="post",
            color="0.6",
            label="Pareto front",
        )
        for each in plan.by_method:
            number = names.index(each.name)
            axes.errorbar(
                [each.ttft * KILO],
                [100 * each.mean],
                yerr=[[100 * (each.mean - each.low)], [100 * (each.high - each.mean)]],
                fmt="osD^v"[number // 10 % 5],
                color=f"C{number % 10}",
                markersize=5,
                elinewidth=0.8,
                label=each.name,
            )
        if plan.floor is not None:
            axes.axhline(100 * plan.floor, color="0.4", linestyle=":", linewidth=1, label="floor")
        if plan.budgets.ttft is not None:
            axes.axvline(plan.budgets.ttft * KILO, color="0.4", linestyle="--", linewidth=1, label="budget")
        machine = plan.run.hardware.name if plan.run.hardware else "no hardware"
        axes.set_title(f"{plan.run.model.name}, {machine}", fontsize="medium")
        axes.set_xlabel("predicted time to first token, ms")
        axes.set_ylabel(f"expected score on {', '.join(plan.tasks)},\n% of the unreduced one (80 % interval)")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="x-small", ncols=2)
