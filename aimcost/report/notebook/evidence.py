"""Evidence: published timings and speed-ups beside their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ...evidence.evidence import Evidence
from ...units import KILO
from ..evidence import bar_rows, evidence_dict
from . import Views
from .colours import COLOURS

__all__ = ["draw_pairs", "views"]


def views(evidence: Evidence) -> Views:
    """What can be shown of the evidence."""
    headers, cells = bar_rows(evidence.bars)
    return Views(
        title=evidence._line(),
        headers=headers,
        cells=cells,
        notes=evidence.notes,
        frames={
            "rows": lambda: evidence_dict(evidence)["rows"],
            "speedups": lambda: evidence_dict(evidence)["speedups"],
            "sources": lambda: [asdict(score) for score in evidence.sources],
            "bars": lambda: evidence_dict(evidence)["bars"],
        },
        plots={
            "predicted": lambda figure: _draw_rows(evidence, figure),
            "speedups": lambda figure: _draw_speedups(evidence, figure),
        },
    )


def _draw_rows(evidence: Evidence, figure: Any) -> None:
    groups = {score.name: list[tuple[float, float]]() for score in evidence.quantities}
    for row in evidence.rows:
        groups[row.timing.quantity].append((row.published * KILO, row.predicted * KILO))
    draw_pairs(figure, groups, "ms", "published")


def _draw_speedups(evidence: Evidence, figure: Any) -> None:
    groups: dict[str, list[tuple[float, float]]] = {}
    for pair in evidence.speedups:
        groups.setdefault(pair.timing.group, []).append((pair.published, pair.predicted))
    draw_pairs(figure, groups, "speed-up", "published")


def draw_pairs(figure: Any, groups: dict[str, list[tuple[float, float]]], unit: str, found: str) -> None:
    """Predicted against published or measured values, on log axes around the line where they agree."""
    axes = figure.subplots()
    for number, (name, pairs) in enumerate(groups.items()):
        axes.scatter(
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            s=26,
            marker="osD^vXP*"[number // len(COLOURS) % 8],
            color=COLOURS[number % len(COLOURS)],
            alpha=0.8,
            linewidths=0,
            label=name,
        )
    values: Sequence[float] = [value for pairs in groups.values() for pair in pairs for value in pair] or [1.0]
    line = [0.7 * min(values), 1.4 * max(values)]
    axes.fill_between(line, [0.8 * each for each in line], [each / 0.8 for each in line], color="0.92", zorder=0)
    axes.plot(line, line, color="0.4", linewidth=1)
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line, xlabel=f"{found}, {unit}", ylabel=f"predicted, {unit}")
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.set_title("shaded: within a factor of 0.8", fontsize="small")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="x-small")
