"""Published scores, and how well those left out are predicted, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ..search.scores.points import FAMILIES, Point, family_of
from .table import table

__all__ = ["scores_text"]


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
