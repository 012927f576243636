"""Machines compared: a row and a bar each."""

from __future__ import annotations

from typing import Any

from ...pricing.comparison import MachineComparison
from ...units import KILO
from ..compare import comparison_rows
from . import Views
from .colours import COLOURS

__all__ = ["views"]


def views(comparison: MachineComparison) -> Views:
    """What can be shown of a comparison."""
    headers, cells = comparison_rows(comparison.run, comparison)
    notes = dict.fromkeys(note for row in comparison for note in row["notes"])
    return Views(
        title=comparison._line(),
        headers=headers,
        cells=cells,
        left=headers.index("calibration") + 1,
        notes=[*notes, *comparison.run.notes],
        frames={"machines": lambda: comparison},
        plots={"ttft": lambda figure: draw_machines(comparison, figure)},
    )


def draw_machines(comparison: MachineComparison, figure: Any) -> None:
    """Time to first token by machine and stack, with the 80 % band; hatched where the run does not fit."""
    axes = figure.subplots()
    names = [" · ".join(filter(None, [row["hardware"], row["stack"], row.get("workload")])) for row in comparison]
    for place, row in enumerate(comparison):
        value = row["ttft_s"] * KILO
        high = row["ttft_high_s"]
        reach = None if high is None else [[value - row["ttft_low_s"] * KILO], [high * KILO - value]]
        axes.barh(
            place,
            value,
            xerr=reach,
            color=COLOURS[5] if row["fits"] else "0.8",
            hatch=None if row["fits"] else "//",
            error_kw={"ecolor": "0.35", "elinewidth": 1, "capsize": 3},
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    missing = "" if all(row["fits"] for row in comparison) else "; hatched: does not fit"
    axes.set_xlabel(f"time to first token, ms (80 % band){missing}")
    axes.set_title(f"{comparison.run.model.name}, method {comparison.run.schedule.method}", fontsize="medium")
