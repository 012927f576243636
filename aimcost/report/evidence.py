"""The evidence as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..evidence.evidence import Bar, Evidence
from ..evidence.formats import Imported
from ..evidence.formats.accuracy import ImportedScores
from ..evidence.held_out import Refit
from ..evidence.joining import Joined, Speedup
from ..evidence.scores import Interval, Score
from ..inputs.method_arguments import method_arguments
from ..units import KILO, format_seconds
from .table import table

__all__ = [
    "bars_text",
    "evidence_dict",
    "evidence_text",
    "figures_text",
    "imported_scores_text",
    "imported_text",
    "joined_dict",
    "kernels_text",
    "pairs_text",
    "refit_dict",
    "scores_text",
]


def evidence_text(evidence: Evidence) -> str:
    """Bars, then every breakdown, then the speed-ups."""
    rows, sources = evidence.rows, evidence.sources
    how = "each source predicted by stacks fitted without it" if evidence.left_out else "stacks as shipped, in-sample"
    parts = [
        f"{_counted(len(rows), 'published timing')} from {_counted(len(sources), 'source')} against predictions "
        f"({how})",
        bars_text(evidence.bars),
        scores_text("by source", sources, mean=True),
        scores_text("by stack", evidence.stacks),
        scores_text("by quantity", evidence.quantities, balanced=dict(evidence.balanced("quantities"))),
        scores_text("by card", evidence.cards, balanced=dict(evidence.balanced("cards"))),
    ]
    if evidence.kernels:
        parts.append(kernels_text(evidence))
    if evidence.speedups:
        parts.append(pairs_text(evidence.speedups))
    if evidence.refits:
        parts.append(figures_text(evidence.refits))
    if evidence.notes:
        parts.append("\n".join(f"note: {note}" for note in evidence.notes))
    return "\n\n".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def bars_text(bars: Sequence[Bar]) -> str:
    """One row per bar: the figure with its bootstrap interval, its value before stacks, the bar and the target."""
    headers, cells = bar_rows(bars)
    return table(cells, headers)


def bar_rows(bars: Sequence[Bar]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of `bars_text`."""
    cells = [
        [
            bar.name,
            str(bar.rows),
            "" if bar.before is None else f"{bar.before:.0%}",
            _interval(bar.figure),
            _bounds(bar),
            "" if bar.aim is None else f"{bar.aim:.0%}",
            "met" if bar.met else "MISSED",
        ]
        for bar in bars
    ]
    return ["figure", "rows", "before", "now (80 % interval)", "bar", "target", ""], cells


def _interval(figure: Interval) -> str:
    value = f"{figure.value:.1%}"
    return value if figure.low == figure.high else f"{value} ({figure.low:.0%} to {figure.high:.0%})"


def _bounds(bar: Bar) -> str:
    return f"≤ {bar.most:.0%}" if bar.least is None else f"{bar.least:.0%} to {bar.most:.0%}"


def scores_text(
    title: str, scores: Sequence[Score], *, mean: bool = False, balanced: dict[str, float] | None = None
) -> str:
    """One row per group: MAPE, bias, coverage of the 80 % band, and its mean edges over the prediction."""
    cells = [
        [
            score.name,
            str(score.rows),
            f"{score.mape:.1%}",
            f"{score.bias:+.1%}",
            f"{score.coverage:.0%}",
            f"{score.low:.2f} to {score.high:.2f}",
            *([] if balanced is None else [f"{balanced[score.name]:.0%}"]),
        ]
        for score in scores
    ]
    if mean:
        count = len(scores)
        means = [sum(getattr(score, name) for score in scores) / count for name in ("mape", "bias", "coverage")]
        total = str(sum(score.rows for score in scores))
        cells.append(["mean over sources", total, f"{means[0]:.1%}", f"{means[1]:+.1%}", f"{means[2]:.0%}", ""])
    headers = [title, "rows", "MAPE", "bias", "in band", "band"]
    return table(cells, headers if balanced is None else [*headers, "in band, per source"])


def kernels_text(evidence: Evidence) -> str:
    """Memory-bound kernels: MAPE by kind on each card."""
    cards = sorted({score.card for score in evidence.kernels})
    by_place = {(score.kind, score.card): score for score in evidence.kernels}
    cells = []
    for kind, mean, _ in evidence.kinds:
        own = [by_place.get((kind, card)) for card in cards]
        cells.append([kind, f"{mean:.1%}", *("" if s is None else f"{s.mape:.1%} ({s.bias:+.0%})" for s in own)])
    return table(cells, ["memory-bound kernel", "mean", *(card.removeprefix("nvidia_") for card in cards)])


def pairs_text(pairs: Sequence[Speedup]) -> str:
    """Every published speed-up and its prediction, with milliseconds saved."""
    cells = [
        [
            pair.timing.id,
            f"{pair.published:.2f}x",
            f"{pair.predicted:.2f}x",
            f"{pair.low:.2f} to {pair.high:.2f}",
            f"{pair.error:+.0%}",
            "" if pair.inside else "outside",
            f"{pair.saved_published_s * KILO:.0f}",
            f"{pair.saved_s * KILO:.0f} ({pair.saved_low_s * KILO:.0f} to {pair.saved_high_s * KILO:.0f})",
        ]
        for pair in pairs
    ]
    headers = ["speed-up", "published", "predicted", "80 % band", "error", "", "ms saved", "predicted"]
    inside, saved = (sum(getattr(pair, name) for pair in pairs) for name in ("inside", "saved_inside"))
    counts = f"inside the band: {inside} of {len(pairs)} speed-ups, {saved} of {len(pairs)} savings in ms"
    return f"{table(cells, headers)}\n{counts}"


def figures_text(refits: Sequence[Refit]) -> str:
    """Fitted coefficients of each stack by what was left out, beside the shipped ones."""
    cells = []
    for refit in refits:
        for path, value in refit.figures.items():
            cells.append([refit.stack, path, f"{refit.shipped[path]:.4g}", refit.left_out or "nothing", f"{value:.4g}"])
    return table(cells, ["stack", "coefficient", "shipped", "left out", "fitted"], left=2)


def imported_text(imported: Imported, rows: Sequence[Joined]) -> str:
    """One row per timing of a result file."""
    cells = [
        [
            row.timing.id,
            row.timing.quantity,
            format_seconds(row.published),
            format_seconds(row.predicted),
            f"{format_seconds(row.low)} to {format_seconds(row.high)}",
            f"{row.error:+.0%}",
            "" if row.inside else "outside",
        ]
        for row in rows
    ]
    stacks = ", ".join(sorted({row.timing.stack for row in rows}))
    headers = ["timing", "quantity", "measured", "predicted", "80 % band", "error", ""]
    notes = [f"note: {note}" for note in imported.notes]
    return "\n".join([f"{imported.tool}, priced under stack {stacks}", "", table(cells, headers, left=2), *notes])


def imported_scores_text(imported: ImportedScores) -> str:
    """One row per score of some result files."""
    cells = [
        [
            method_arguments(row.method),
            row.benchmark,
            f"{row.score:.4g}",
            "" if not row.vanilla else f"{row.score / row.vanilla:.1%}",
        ]
        for row in imported.scores
    ]
    headers = ["method", "benchmark", "score", "of unreduced"]
    notes = [f"note: {note}" for note in imported.notes]
    return "\n".join([", ".join(imported.tools), "", table(cells, headers, left=2), *notes])


def evidence_dict(evidence: Evidence) -> dict[str, Any]:
    """The JSON form."""
    return {
        "leave_out": evidence.left_out or None,
        "bars": [
            {
                "name": bar.name,
                "value": bar.figure.value,
                "low": bar.figure.low,
                "high": bar.figure.high,
                "least": bar.least,
                "most": bar.most,
                "aim": bar.aim,
                "before": bar.before,
                "rows": bar.rows,
                "met": bar.met,
            }
            for bar in evidence.bars
        ],
        "sources": [asdict(score) for score in evidence.sources],
        "stacks": [asdict(score) for score in evidence.stacks],
        "quantities": _balanced(evidence, "quantities"),
        "cards": _balanced(evidence, "cards"),
        "kernels": [asdict(score) for score in evidence.kernels],
        "speedups": [_speedup(pair) for pair in evidence.speedups],
        "rows": [joined_dict(row) for row in evidence.rows],
        "figures": [refit_dict(refit) for refit in evidence.refits],
        "notes": list(evidence.notes),
    }


def refit_dict(refit: Refit) -> dict[str, Any]:
    """Fitted figures of one stack."""
    return {
        "stack": refit.stack,
        "left_out": refit.left_out or None,
        "shipped": dict(refit.shipped),
        "figures": dict(refit.figures),
    }


def _balanced(evidence: Evidence, name: str) -> list[dict[str, Any]]:
    balanced = dict(evidence.balanced(name))
    return [{**asdict(score), "coverage_balanced": balanced[score.name]} for score in getattr(evidence, name)]


def joined_dict(row: Joined) -> dict[str, Any]:
    """One timing and its prediction."""
    timing = row.timing
    return {
        "id": timing.id,
        "group": timing.group,
        "stack": timing.stack,
        "quantity": timing.quantity,
        "published_s": row.published,
        "predicted_s": row.predicted,
        "low_s": row.low,
        "high_s": _finite(row.high),
        "error": row.error,
        "inside": row.inside,
        "card": row.card,
    }


def _finite(value: float) -> float | None:
    """None for the upper bound of an estimator without a band."""
    return value if math.isfinite(value) else None


def _speedup(pair: Speedup) -> dict[str, Any]:
    values = {name: _finite(getattr(pair, name)) for name in Speedup.__slots__ if name != "timing"}
    return {
        "id": pair.timing.id,
        "group": pair.timing.group,
        **values,
        "error": pair.error,
        "inside": pair.inside,
        "saved_inside": pair.saved_inside,
    }
