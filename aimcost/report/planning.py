"""A plan, and the answers to inverse questions, for a terminal, a run file and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from pathlib import Path
from typing import Any

import yaml

from ..search.plan.choice import Choice
from ..search.plan.questions import Answer
from ..search.plan.result import Plan, Setting
from ..search.plan.search import Group
from ..units import format_bytes, format_count, format_flops, format_seconds
from .export import to_json
from .pictures import check_plot, save_figure
from .table import table
from .text import stack_label, token_runs

__all__ = ["answer_text", "check_plot", "draw_fronts", "front_rows", "group_rows", "plan_text", "run_yaml", "save_plot"]

_FRONT_LINES = 10


def plan_text(plan: Plan) -> str:
    """Objective and budget, the best schedule, the runner-up, the best of each group, and the Pareto front."""
    parts = [_headline(plan), ""]
    parts += _best(plan)
    parts += ["", _groups(plan)]
    for setting in plan.settings:
        parts += ["", _front(plan, setting)]
    parts += ["", *_remarks(plan)]
    return "\n".join(parts).rstrip()


def _headline(plan: Plan) -> str:
    goal = "highest expected accuracy" if plan.objective == "accuracy" else "most visual tokens (summed over layers)"
    where = f" at {plan.confidence:.0%} confidence" if plan.confidence is not None else ""
    machines = ", ".join(dict.fromkeys(setting.hardware for setting in plan.settings))
    return (
        f"{plan.run.model.name} on {machines}, {stack_label(plan.run)}: {goal} with {plan.budgets.describe()}{where}\n"
        f"searched all {format_count(plan.candidates)} schedules of the grid; first {plan.earliest_cut} of "
        f"{plan.run.model.decoder.layers} layers uncut, text never pruned"
    )


def _best(plan: Plan) -> Iterator[str]:
    if plan.best is not None:
        yield from _choice("best", plan.best, plan)
        if plan.runner_up is not None:
            second = plan.runner_up
            yield f"runner-up: {_name(second)}: {plan.runner_up_lost}"
    elif plan.nearest is not None:
        yield "no schedule meets the budget: " + "; ".join(miss["text"] for miss in plan.shortfalls)
        yield from _choice("closest", plan.nearest, plan)


def _name(choice: Choice) -> str:
    method = choice.run["method"]
    detail = {key: method[key] for key in ("k", "ratio", "l1", "l2") if key in method}
    shown = ", ".join(f"{key} {value}" for key, value in detail.items())
    return f"{choice.label}, {choice.shape}" + (f" ({shown})" if shown else "")


def _choice(title: str, choice: Choice, plan: Plan) -> Iterator[str]:
    result, workload = choice.estimate, choice.estimate.run.workload
    low, high = result.ttft_band_s
    band = "" if high is None else f", 80 % band {format_seconds(low)} to {format_seconds(high)}"
    upper = ""
    if plan.confidence is not None and choice.ttft_upper_s is not None:
        upper = f"; {format_seconds(choice.ttft_upper_s)} at {plan.confidence:.0%} confidence"
    frames = f"{workload.frames} frames, " if workload.frames else ""
    yield f"{title}: {_name(choice)}, {frames}batch {workload.batch}"
    yield f"  tokens by layer: {token_runs(result.run.schedule)}"
    yield f"  TTFT {format_seconds(result.ttft_s)}{band}{upper}"
    decode = result.stages["decode"]
    tpot = f"TPOT {format_seconds(decode.tpot_s)}, " if decode.steps else ""
    yield (
        f"  {tpot}{format_flops(result.totals.flops)}, KV cache {format_bytes(result.memory.kv_bytes)}, "
        f"peak memory {format_bytes(result.memory.peak_bytes)}"
    )
    yield f"  keeps {choice.kept_share:.1%} of the visual tokens, summed over layers{_expected(plan, choice)}"


def _expected(plan: Plan, choice: Choice) -> str:
    if plan.surrogate is None:
        return ""
    if choice.expected_score is None:
        return "; no expected accuracy: outside the range of measured points"
    return f"; expected {plan.surrogate.metric}: {choice.expected_score:.1f} (surrogate, not measured)"


def _groups(plan: Plan) -> str:
    headers, rows, left = group_rows(plan)
    return table(rows, headers, left=left)


def group_rows(plan: Plan) -> tuple[list[str], list[list[str]], int]:
    """The best for each reduction before the language model, over all shapes: headers, cells, columns of text."""
    several = len(plan.settings) > 1
    frames = len({group.grid.run.workload.frames for s in plan.settings for group in s.outcome.groups}) > 1
    rows = []
    for setting in plan.settings:
        kinds: dict[tuple[str, int], list[Group]] = {}
        for group in setting.outcome.groups:
            kinds.setdefault((group.grid.label, group.grid.run.workload.frames), []).append(group)
        for (label, count), groups in kinds.items():
            cells = [f"{setting.hardware}, batch {setting.batch}"] if several else []
            cells += [label, *([str(count)] if frames else [])]
            rows.append([*cells, format_count(sum(group.candidates for group in groups)), *_kind(groups)])
    headers = (["setting"] if several else []) + ["method"] + (["frames"] if frames else [])
    headers += ["schedules", "best shape", "TTFT", "kept tokens", "expected"]
    return headers, rows, 1 + several


def _kind(groups: list[Group]) -> list[str]:
    """Shape, time, tokens and score of the best schedule, or the reason why none qualifies."""
    best = max((group.best for group in groups if group.best is not None), key=lambda found: found.rank, default=None)
    if best is not None:
        score = "" if best.score is None else f"{best.score:.1f}"
        return [best.grid.shape, format_seconds(best.ttft), format_count(best.kept), score]
    excess = min(group.miss_excess for group in groups)
    if excess == float("inf"):
        return ["no score: outside the measured points", "", "", ""]
    return [f"none: {excess - 1:.1%} over budget", "", "", ""]


def _front(plan: Plan, setting: Setting) -> str:
    name = "accuracy" if plan.objective == "accuracy" else "tokens"
    rows = [row for row in plan.front() if row["front"] == name and _of(row, setting)]
    best = plan.best if plan.best is not None and _at(plan.best, setting) else None
    chosen = [index for index, row in enumerate(rows) if best is not None and _is(row, best)]
    shown = [rows[index] for index in _thinned(len(rows), _FRONT_LINES, chosen)]
    cells = []
    for row in shown:
        value = f"{row['value']:.1f}" if name == "accuracy" else format_count(row["value"])
        mark = "best" if best is not None and _is(row, best) else "" if row["within"] else "over"
        cells.append([format_seconds(row["ttft_s"]), value, _short(row["method"]), mark])
    headers = ["TTFT", "expected" if name == "accuracy" else "kept tokens", "schedule", "budget"]
    where = f" on {setting.hardware}, batch {setting.batch}" if len(plan.settings) > 1 else ""
    value = "expected accuracy" if name == "accuracy" else "kept tokens"
    title = f"Pareto front, TTFT against {value}{where} ({len(shown)} of {len(rows)} points)"
    absent = "\n" + _off_front(name) if best is not None and not chosen else ""
    return title + "\n" + _table_right(cells, headers) + absent


def _off_front(name: str) -> str:
    """Why the best schedule is not on the front."""
    if name == "tokens":
        return "best is off the front: schedules that are faster with as many tokens exceed another budget"
    return "best is off the front: faster schedules with its score exceed another budget or keep fewer tokens"


def _table_right(cells: list[list[str]], headers: list[str]) -> str:
    return table(cells, headers, align=["right", "right", "left", "left"])


def _of(row: Mapping[str, Any], setting: Setting) -> bool:
    return bool(row["hardware"] == setting.hardware and row["batch"] == setting.batch)


def _at(choice: Choice, setting: Setting) -> bool:
    run = choice.estimate.run
    return (run.hardware.name if run.hardware else "no hardware", run.workload.batch) == (
        setting.hardware,
        setting.batch,
    )


def _is(row: Mapping[str, Any], choice: Choice) -> bool:
    """Whether a point of its setting's front is the schedule chosen, or the same one written otherwise."""
    if row["frames"] != choice.estimate.run.workload.frames:
        return False
    value = choice.kept_tokens if row["front"] == "tokens" else choice.expected_score
    equal = value is not None and isclose(row["value"], value) and isclose(row["ttft_s"], choice.estimate.ttft_s)
    return bool(row["method"] == choice.run["method"] or (equal and row["within"]))


def _thinned(length: int, count: int, always: Sequence[int]) -> list[int]:
    """About `count` positions evenly spread over a front, including first, last and `always`."""
    if length <= count:
        return list(range(length))
    return sorted({round(i * (length - 1) / (count - 1)) for i in range(count)} | set(always))


def _short(method: Mapping[str, Any]) -> str:
    """A method on one line: its name and parameters, token counts run-length encoded."""
    parts = []
    for key, value in method.items():
        if key == "tokens_per_layer":
            parts.append(", ".join(f"{tokens} × {layers}" for tokens, layers in value))
        elif key not in ("name", "select"):
            parts.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return f"{method['name']}: " + "; ".join(parts)


def _remarks(plan: Plan) -> Iterator[str]:
    if plan.surrogate is not None:
        yield plan.surrogate.describe()
        if plan.objective == "accuracy" and plan.best is not None and plan.best.shape in ("step", "free"):
            yield "scores were measured for AIM's linear shape only; other shapes are scored by the same features"
        if plan.beyond:
            yield f"{format_count(plan.beyond)} schedules lie outside the measured points and have no expected accuracy"
    yield from plan.notes


def run_yaml(plan: Plan, choice: Choice) -> str:
    """A planned schedule as a run file; comments state the budget and the expected figures."""
    lines = [f"# Planned for {plan.budgets.describe()}: {_name(choice)}."]
    lines.append(f"# Expected: TTFT {format_seconds(choice.estimate.ttft_s)}{_expected(plan, choice)}.")
    body = yaml.safe_dump(choice.run, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
    return "\n".join(lines) + "\n" + body


def front_rows(plan: Plan) -> list[dict[str, Any]]:
    """All points of all fronts; the method column is JSON."""
    return [{**row, "method": to_json(row["method"], indent=None)} for row in plan.front()]


def save_plot(plan: Plan, path: Path) -> None:
    """Plot the fronts.

    Raises
    ------
    MissingExtraError, InvalidValueError, FileFormatError
        matplotlib is not installed, or the file is no picture or cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(_fronts_of(plan)), 4.0), layout="constrained")
    draw_fronts(plan, figure)
    save_figure(figure, path)


def _fronts_of(plan: Plan) -> list[str]:
    fronts = {row["front"] for row in plan.front()}
    return [name for name in ("tokens", "accuracy") if name in fronts]


def draw_fronts(plan: Plan, figure: Any) -> None:
    """Draw the fronts into a matplotlib figure, a panel each."""
    rows, names = plan.front(), _fronts_of(plan)
    for position, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), position + 1)
        for setting in plan.settings:
            own = [row for row in rows if row["front"] == name and _of(row, setting)]
            times = [row["ttft_s"] * 1e3 for row in own]
            axes.step(times, [row["value"] for row in own], where="post", label=_legend(plan, setting))
        _mark(axes, plan, name)
        axes.set_xlabel("time to first token, ms")
        axes.set_ylabel(_axis(plan, name))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", fontsize="small")
    figure.suptitle(f"{plan.run.model.name}: Pareto fronts", fontsize="medium")


def _legend(plan: Plan, setting: Setting) -> str:
    return setting.hardware + (f", batch {setting.batch}" if len({s.batch for s in plan.settings}) > 1 else "")


def _axis(plan: Plan, name: str) -> str:
    if name == "tokens":
        return "visual tokens kept, summed over layers"
    metric = plan.surrogate.metric if plan.surrogate is not None else "score"
    return f"expected {metric}\n(surrogate, not measured)"


def _mark(axes: Any, plan: Plan, name: str) -> None:
    if plan.budgets.ttft is not None:
        axes.axvline(plan.budgets.ttft * 1e3, color="0.4", linestyle="--", linewidth=1, label="budget")
    if plan.best is not None:
        value = plan.best.kept_tokens if name == "tokens" else plan.best.expected_score
        if value is not None:
            axes.plot([plan.best.estimate.ttft_s * 1e3], [value], "o", color="black", label="best")


def answer_text(answer: Answer) -> str:
    """One line per method."""
    run = answer.run
    hardware = run.hardware.name if run.hardware else "no hardware"
    sure = f" at {answer.confidence:.0%} confidence" if answer.confidence is not None else ""
    if answer.question == "break-even":
        cells = [[row["method"], *_window(row)] for row in answer.rows]
        headers = ["method", "pays from", "visual tokens", "TTFT", "TTFT unreduced"]
        title = f"{run.model.name} on {hardware}, {stack_label(run)}: size from which reduction pays"
        return f"{title}\n{table(cells, headers)}"
    cells = [
        [
            row["method"],
            str(row["most"]),
            "" if row["ttft_s"] is None else format_seconds(row["ttft_s"]),
            "" if row["kv_bytes"] is None else format_bytes(row["kv_bytes"]),
            row["stops"],
        ]
        for row in answer.rows
    ]
    headers = ["method", f"max {answer.question if answer.question == 'frames' else 'requests'}", "TTFT", "KV cache"]
    headers.append("limited by (at one more)")
    title = f"{run.model.name} on {hardware}, {stack_label(run)}, with {answer.budgets.describe()}{sure}"
    return f"{title}\n" + table(cells, headers, align=["left", "right", "right", "right", "left"])


def _window(row: Mapping[str, Any]) -> list[str]:
    """The size from which reduction pays, and TTFT with and without it there."""
    if row["from"] is None:
        return ["nowhere", "", "", ""]
    until = "" if row["until"] is None else f" to {row['until']}"
    return [
        f"{row['from']}{until} {row['unit'].replace('_', ' ')}",
        format_count(row["visual_tokens"]),
        format_seconds(row["ttft_s"]),
        format_seconds(row["plain_s"]),
    ]
