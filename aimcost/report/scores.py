"""Published scores, and how well those left out are predicted, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..search.scores.held_out import HeldOut
from ..search.scores.points import FAMILIES, Point, family_of
from .table import table

__all__ = ["held_out_dict", "held_out_text", "scores_text"]


def scores_text(name: str, points: Sequence[Point]) -> str:
    """A line a method, budget and source: mean score by task family, in per cent of the unreduced model's."""
    rows: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        rows.setdefault((point.method, point.budget, point.source_id), []).append(point)
    families = [family for family in FAMILIES if any(family_of(point.benchmark) == family for point in points)]
    cells = []
    for (method, budget, source), group in sorted(rows.items()):
        share = next((f"{point.share_kept:.1%}" for point in group if point.share_kept is not None), "")
        means = [_mean([p.relative for p in group if family_of(p.benchmark) == family]) for family in families]
        cells.append([method, budget, source, share, *means, str(len(group))])
    headers = ["method", "budget", "source", "tokens kept", *families, "scores"]
    sources = {point.source_id: point.source for point in points}
    lines = [f"{key}  {sources[key]}" for key in sorted(sources)]
    title = f"{name}: {len(points)} published scores, in per cent of the unreduced score of the same table"
    return "\n".join([title, table(cells, headers, left=3), "", *lines])


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * sum(known) / len(known):.1f}" if known else ""


_LEFT_OUT = {"cell": "a model, method and budget", "source": "a source, and its copies", "model": "a model"}


def held_out_text(found: Sequence[HeldOut]) -> str:
    """A line for each kind of block that was left out."""
    cells = [
        [
            _LEFT_OUT[each.kind] + (", parameters refitted" if each.refitted else ""),
            f"{len(each.points):,}",
            f"{each.share_answered:.1%}",
            f"{each.error:.2f}",
            f"{each.coverage:.1%}",
            f"{each.error_of_all:.2f}",
            f"{each.error_of_method_mean:.2f}",
        ]
        for each in found
    ]
    headers = ["left out", "scores", "answered", "error", "in 80 % interval", "error of all", "method's mean"]
    from_all = any(not each.refitted for each in found)
    basis = "all points" if from_all else "the rest of the points"
    return (
        "Published scores predicted without the block that they stand in, in points of the unreduced score\n"
        f"{table(cells, headers)}\n"
        "error: mean absolute, where answered; of all: with the task's mean where the surrogate is silent;\n"
        f"method's mean: its other budgets in its place. The variances and task scales come from {basis}."
    )


def held_out_dict(found: Sequence[HeldOut]) -> dict[str, Any]:
    """The JSON form, score by score."""
    return {"schema_version": 1, "left_out": [_held_out(each) for each in found]}


def _held_out(each: HeldOut) -> dict[str, Any]:
    return {
        "left_out": each.kind,
        "refitted": each.refitted,
        "scores": len(each.points),
        "answered": each.share_answered,
        "error": each.error,
        "coverage": each.coverage,
        "error_of_all": each.error_of_all,
        "error_of_method_mean": each.error_of_method_mean,
        "rows": [
            {
                "model": point.model,
                "method": point.method,
                "budget": point.budget,
                "benchmark": point.benchmark,
                "source_id": point.source_id,
                "measured": measured,
                "expected": expected if answered else None,
                "low": expected - half if answered else None,
                "high": expected + half if answered else None,
            }
            for point, measured, expected, half, answered in zip(
                each.points,
                each.measured.tolist(),
                each.expected.tolist(),
                each.half.tolist(),
                each.answered.tolist(),
                strict=True,
            )
        ],
    }
