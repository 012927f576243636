"""Scores that a user measured: a CSV of schedules or methods, with benchmark, score and the unreduced score."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError
from ...inputs.files import parse_value, read_text
from ...inputs.run import Run, plan_schedule
from ...inputs.strict_json import to_json
from ...types import Schedule, Workload
from .points import Point, benchmark_named, benchmark_of_harness, method_named, models_named

__all__ = ["YOURS", "tokens_chosen_from", "with_yours"]

# The source of a user's scores: what the planner answers for is measured as these were.
YOURS = "yours"
# A reduced model that gains more than this over the unreduced one was scored in other units.
MOST_GAIN = 1.5
# So was one that keeps less than this of it, but for nothing at all.
LEAST_LEFT = 0.05
_COLUMNS = ("schedule", "method", "parameters", "benchmark", "score", "vanilla")


def with_yours(run: Run, points: Sequence[Point], path: Path) -> tuple[Point, ...]:
    """Published points with the user's, which replace those of the same model, method and benchmark.

    The file has the columns ``schedule`` (a ``method:`` mapping, or counts as runs of [tokens, layers]) or ``method``
    and ``parameters`` (a mapping), then ``benchmark``, ``score`` and, unless a row of the method none has it,
    ``vanilla``. Benchmarks may have the names that lmms-eval and VLMEvalKit give them.

    Raises
    ------
    FileFormatError, InvalidValueError, UnknownNameError
        A file that cannot be read, a column of another name, a schedule that the model cannot run, or a score without
        an unreduced one.
    """
    named = models_named(points)
    printed = next((model for model, name in named.items() if name == run.model.name), run.model.name)
    names = {method_named(p.method): p.method for p in points if method_named(p.method)}
    rows = list(_rows(path))
    unreduced: dict[str, float] = {}
    for row in rows:
        if row["method"].get("name") == "none" and unreduced.setdefault(row["benchmark"], row["score"]) != row["score"]:
            known = f"{unreduced[row['benchmark']]:g}, as in a row above"
            raise InvalidValueError("score", known, row["score"], where=row["where"])
    mine = []
    for row in rows:
        method, where = row["method"], row["where"]
        if method.get("name") == "none":
            if row["vanilla"] not in (None, row["score"]):
                stated = f"empty, or the score ({row['score']:g}), in a row of the method none"
                raise InvalidValueError("vanilla", stated, row["vanilla"], where=where)
            continue
        vanilla = row["vanilla"] if row["vanilla"] is not None else unreduced.get(row["benchmark"])
        if vanilla is None or vanilla <= 0:
            raise InvalidValueError("vanilla", "given, or a row with the method none", vanilla, where=where)
        if not 0 <= row["score"] <= MOST_GAIN * vanilla:
            limit = f"from 0 to {MOST_GAIN:g} times vanilla ({vanilla:g}), in its units"
            raise InvalidValueError("score", limit, row["score"], where=where)
        if 0 < row["score"] < LEAST_LEFT * vanilla:
            limit = f"0, or at least {LEAST_LEFT:g} times vanilla ({vanilla:g}): in its units"
            raise InvalidValueError("score", limit, row["score"], where=where)
        try:
            schedule = plan_schedule(run.model, run.workload, method, where=where)
        except AimcostError as error:
            error.prefix(where) if not str(error).startswith(where) else None
            raise
        visual = sum(max(0, count - schedule.text_tokens) for count in schedule.tokens)
        share = visual / len(schedule.tokens) / tokens_chosen_from(schedule, run.workload)
        name = str(method["name"])
        mine.append(
            Point(
                model=printed,
                method=names.get(name, name),
                parameters=to_json({key: value for key, value in method.items() if key != "name"}, indent=None),
                budget=to_json(method, indent=None, sort_keys=True),
                share_kept=min(1.0, share),
                benchmark=row["benchmark"],
                score=row["score"],
                vanilla=vanilla,
                relative=row["score"] / vanilla,
                source_id=YOURS,
                source=str(path),
                measured_by="yours",
            )
        )
    if not mine:
        raise FileFormatError(f"{path}: has no score of a reduced schedule")
    replaced = {(point.model, point.method, benchmark_named(point.benchmark)) for point in mine}
    return (*(p for p in points if (p.model, p.method, benchmark_named(p.benchmark)) not in replaced), *mine)


def tokens_chosen_from(schedule: Schedule, workload: Workload) -> int:
    """Visual tokens that a method's share is of: those of all crops where it reduces them before they are unpadded.

    LLaVA-NeXT's tables count so: 640 tokens are 22.2 % of 5 crops of 576, whatever unpadding leaves of these.
    """
    crops = (event.groups * event.tokens_in for event in schedule.pre_llm_events)
    return max(1, workload.visual_tokens, *crops)


def _rows(path: Path) -> list[dict[str, Any]]:
    reader = csv.DictReader(read_text(path).lstrip("\ufeff").splitlines())
    reader.fieldnames = header = [str(name).strip() for name in reader.fieldnames or []]
    for name in header:
        if name not in _COLUMNS:
            raise UnknownNameError("column", name, _COLUMNS, where=str(path))
        if header.count(name) > 1:
            raise FileFormatError(f"{path}: has the column {name} twice")
    for needed in ("benchmark", "score"):
        if needed not in header:
            raise FileFormatError(f"{path}: needs the column {needed} (found {', '.join(header) or 'no columns'})")
    if "schedule" not in header and "method" not in header:
        raise FileFormatError(f"{path}: needs the column schedule, or method and parameters")
    found = []
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        if None in row:
            raise FileFormatError(f"{where}: more fields than the {len(header)} columns")
        found.append(
            {
                "where": where,
                "method": _method(row, where),
                "benchmark": benchmark_of_harness((row.get("benchmark") or "").strip() or _missing("benchmark", where)),
                "score": _number("score", row.get("score"), where),
                "vanilla": _number("vanilla", row.get("vanilla"), where, needed=False),
            }
        )
    return found


def _missing(name: str, where: str) -> str:
    raise FileFormatError(f"{where}: {name} is empty")


def _number(name: str, text: str | None, where: str, *, needed: bool = True) -> float | None:
    if not text and not needed:
        return None
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidValueError(name, "a number", text, where=where)
    return value


def _method(row: Mapping[str, str | None], where: str) -> dict[str, Any]:
    given = row.get("schedule")
    try:
        if given:
            found = parse_value(given)
            found = {"name": "explicit", "tokens_per_layer": found} if isinstance(found, list) else found
        else:
            found = {"name": row.get("method") or None, **(parse_value(row.get("parameters") or "{}") or {})}
    except FileFormatError as error:
        raise FileFormatError(f"{where}: {str(error).removeprefix('line 1: ')}") from None
    except TypeError:
        found = None
    if not isinstance(found, Mapping) or not found.get("name"):
        raise FileFormatError(f"{where}: needs a schedule, or a method and its parameters as a mapping")
    return dict(found)
