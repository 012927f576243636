"""A check's verdict: for a terminal, as Markdown for a job summary, as JUnit, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from ..errors import printable
from ..guard.check import CheckResult, RunCheck
from ..guard.compare import Change, Moved
from ..search.sweep.sweep import SweepResult
from ..units import format_bytes, format_flops, format_seconds
from .table import table

__all__ = ["check_json", "check_junit", "check_markdown", "check_rows", "check_text", "sweep_text"]

_TITLES = {"flops": "FLOPs", "ttft": "TTFT", "tpot": "TPOT", "kv": "KV cache", "memory": "peak memory"}
_FORMATS: dict[str, Callable[[float], str]] = {
    "flops": format_flops,
    "ttft": format_seconds,
    "tpot": format_seconds,
    "kv": format_bytes,
    "memory": format_bytes,
}
_MOST_OPS = 8
_FIGURE_HEADERS = ["figure", "baseline", "now", "change", "tolerance", "verdict"]
_OP_HEADERS = ["stage", "operation", "layers", "time before", "now", "change", "FLOPs change", "bytes change"]


def sweep_text(result: SweepResult) -> str:
    """One line on what a sweep wrote."""
    chunks = f"{result.chunks} chunk" + ("s" if result.chunks != 1 else "")
    left = f" ({result.resumed} resumed)" if result.resumed else ""
    bad = f"; {result.errors:,} could not be priced (see column error)" if result.errors else ""
    return f"{result.output}: {result.points:,} points in {chunks}{left}{bad}"


def check_text(result: CheckResult) -> str:
    """For each run its figures, budgets, the ops and layers that moved, and why."""
    parts = [_run_text(run) for run in result.runs]
    return "\n\n".join([*parts, _verdict(result)])


def _run_text(run: RunCheck) -> str:
    lines = [f"{printable(run.run, line=True)}: {_state(run)}"]
    if run.changes:
        lines.append(table(_figure_rows(run), _FIGURE_HEADERS, left=1))
    lines += [_budget_line(budget) for budget in run.budgets]
    lines += [f"why      {cause.text}" for cause in run.causes]
    lines += [f"note     {note}" for note in run.notes]
    if run.moved:
        more = len(run.moved) - _MOST_OPS
        lines.append(table([_op_row(op) for op in run.moved[:_MOST_OPS]], _OP_HEADERS, left=3))
        lines += [f"and {more} more ops"] if more > 0 else []
    return "\n".join(lines)


def _state(run: RunCheck) -> str:
    failed = [_TITLES[change.metric] for change in run.changes if run.failed(change)]
    over = [budget.key for budget in run.budgets if not budget.ok]
    if not run.ok:
        return "FAILED: " + ", ".join([*failed, *over])
    if run.updated:
        moved = any(change.status != "same" for change in run.changes)
        return "baseline updated" if moved or run.causes else "baseline unchanged"
    if any(change.status == "better" for change in run.changes):
        return "ok, better than the baseline (--update records it)"
    return "ok: same figures from changed inputs" if run.causes else "ok"


def _verdict(result: CheckResult) -> str:
    bad = sum(1 for run in result.runs if not run.ok)
    runs = "1 run" if len(result.runs) == 1 else f"{len(result.runs)} runs"
    against = "their budgets" if result.baseline is None else result.baseline
    if result.updated:
        return f"{runs} written to {against}" + (f", {bad} over budget" if bad else "")
    moved = any(run.failed(change) for run in result.runs for change in run.changes)
    remedy = "; --update records the present figures, where they are meant" if moved else ""
    return f"{runs} checked against {against}: " + (f"{bad} failed{remedy}" if bad else "all pass")


def _figure_rows(run: RunCheck) -> list[list[str]]:
    return [_figure_row(run, change) for change in run.changes if change.after or change.before]


def _figure_row(run: RunCheck, change: Change) -> list[str]:
    form = _FORMATS[change.metric]
    word = "FAILED" if run.failed(change) else {"same": "ok", "worse": "written"}.get(change.status, change.status)
    return [
        _TITLES[change.metric],
        "-" if change.before is None else form(change.before),
        form(change.after),
        "-" if change.relative is None else _signed(change.relative),
        "exact" if change.tolerance < 1e-5 else f"{change.tolerance:.3g}" if change.tolerance > 1 else _share(change),
        word,
    ]


def _share(change: Change) -> str:
    return f"{change.tolerance * 100:.3g}%"


def _signed(relative: float) -> str:
    if relative == 0:
        return "0"
    return f"{relative:+.2%}" if abs(relative) >= 1e-4 else f"{relative:+.1e}"


def _budget_line(budget: Any) -> str:
    sign = "≤" if budget.ok else ">"
    return f"budget   {budget.key}: {budget.value:.4g} {sign} {budget.limit:.4g}" + ("" if budget.ok else "  FAILED")


def _op_row(op: Moved) -> list[str]:
    before, after = op.seconds
    return [
        op.stage,
        op.name,
        op.layers or "-",
        "-" if op.kind == "new" else format_seconds(before),
        "-" if op.kind == "gone" else format_seconds(after),
        f"{'+' if op.delta_s >= 0 else '−'}{format_seconds(abs(op.delta_s))}",
        _change_of(op.flops, format_flops),
        _change_of(op.bytes, format_bytes),
    ]


def _change_of(pair: tuple[float, float], form: Callable[[float], str]) -> str:
    delta = pair[1] - pair[0]
    return "0" if not delta else ("+" if delta > 0 else "−") + form(abs(delta))


def check_markdown(result: CheckResult) -> str:
    """The same for a job summary: one table of figures, and for what moved its operations, folded."""
    lines = [f"### aimcost check: {_markdown(_verdict(result))}", ""]
    for run in result.runs:
        name = printable(run.run, line=True).replace("`", "\\u0060")
        lines += [f"**{'✅' if run.ok else '❌'} `{name}`**: {_state(run)}", ""]
        if run.changes:
            lines += [*_markdown_table(_figure_rows(run), _FIGURE_HEADERS), ""]
        lines += [f"- {_budget_line(budget)}" for budget in run.budgets]
        lines += [f"- why: {_markdown(cause.text)}" for cause in run.causes]
        lines += [f"- note: {_markdown(note)}" for note in run.notes]
        if run.moved:
            rows = [_op_row(op) for op in run.moved[: 3 * _MOST_OPS]]
            head = f"<details><summary>{len(run.moved)} ops moved</summary>"
            lines += ["", head, "", *_markdown_table(rows, _OP_HEADERS), "", "</details>"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


# What Markdown or HTML inside it would act on, where text of names and files stands.
_ENTITIES = {ord(char): f"&#{ord(char)};" for char in "&<>[]`|@!*~\\"}


def _markdown(text: str) -> str:
    """Text of names and files as Markdown shows it, on one line."""
    return printable(text.translate(_ENTITIES), line=True)


def _markdown_table(rows: list[list[str]], headers: list[str]) -> list[str]:
    cells = [[_markdown(cell) for cell in row] for row in [headers, ["---"] * len(headers), *rows]]
    return ["| " + " | ".join(row) + " |" for row in cells]


def check_junit(result: CheckResult) -> str:
    """One test case a figure and a budget; a failure's text names what moved and why."""
    suite = ElementTree.Element("testsuite", name="aimcost check")
    failures = 0
    for run in result.runs:
        why = _run_text(run)
        for change in run.changes:
            message = None
            if run.failed(change):
                row = _figure_row(run, change)
                message = f"{row[0]} {row[1]} → {row[2]} ({row[3]}, tolerance {row[4]})"
            failures += _case(suite, run.run, change.metric, message, why)
        for budget in run.budgets:
            message = None if budget.ok else _budget_line(budget)
            failures += _case(suite, run.run, budget.key, message, why)
    suite.attrib.update(tests=str(len(suite)), failures=str(failures), errors="0", skipped="0")
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, run: str, name: str, message: str | None, why: str) -> bool:
    """Add a test case; whether it failed. XML has no form for control characters."""
    case = ElementTree.SubElement(suite, "testcase", classname=printable(run, line=True), name=name)
    if message is None:
        return False
    ElementTree.SubElement(case, "failure", message=printable(message, line=True)).text = printable(why)
    return True


def check_rows(result: CheckResult) -> list[dict[str, Any]]:
    """A row for each figure of each run, beside its baseline."""
    return [
        {"run": run.run, **asdict(change), "relative": change.relative, "ok": not run.failed(change)}
        for run in result.runs
        for change in run.changes
    ]


def check_json(result: CheckResult) -> dict[str, Any]:
    """Plain values; seconds, bytes and FLOPs without prefixes."""
    runs = []
    for run in result.runs:
        runs.append(
            {
                "run": run.run,
                "ok": run.ok,
                "figures": [
                    {**asdict(change), "relative": change.relative, "ok": not run.failed(change)}
                    for change in run.changes
                ],
                "budgets": [{**asdict(budget), "ok": budget.ok} for budget in run.budgets],
                "causes": [asdict(cause) for cause in run.causes],
                "notes": list(run.notes),
                "operations": [{**asdict(op), "delta_s": op.delta_s} for op in run.moved],
            }
        )
    return {"ok": result.ok, "baseline": result.baseline, "updated": result.updated, "runs": runs}
