"""Predicted against measured as a picture; needs matplotlib (the extra ``report``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pictures import check_plot, save_figure

if TYPE_CHECKING:
    from ..measure.validate import Comparison, Point

__all__ = ["draw_comparison", "draw_validation"]

# Colour tells the number format, shape what was timed; both are told apart in grey and by the colour-blind.
_COLOURS = {"fp32": "#0072b2", "bf16": "#d55e00", "fp16": "#009e73"}
_PARTS = {
    "prefill": ("whole prefill", "o", 60.0),
    "layer": ("one layer", ".", 45.0),
    "decode": ("decode step", "v", 45.0),
    "vision": ("vision tower", "s", 45.0),
    "selection": ("selection", "x", 30.0),
    "merge": ("merging", "+", 45.0),
}


def draw_validation(comparison: Comparison, path: str | Path) -> None:
    """Draw every whole pass, layer and reduction step: times on log axes, errors below them.

    Raises
    ------
    MissingExtraError, InvalidValueError, FileFormatError
        matplotlib is not installed, or the file is no picture or cannot be written.
    """
    path = check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 7.6), layout="constrained")
    draw_comparison(comparison, figure)
    save_figure(figure, path)


def draw_comparison(comparison: Comparison, figure: Any) -> None:
    """Draw what `draw_validation` writes into a matplotlib figure."""
    times, errors = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    points = [point for part in reversed(_PARTS) for point in comparison.of(part)]
    _draw_times(times, points)
    _draw_errors(errors, points)
    summary = comparison.prefill
    speed = [abs(speedup.error) for speedup in comparison.speedups]
    summary_line = f"prefill MAPE {summary.mape:.1%}, worst {summary.worst:+.1%}"
    times.set_title(
        f"{comparison.record.environment.device_name}, {comparison.record.date}\n"
        + summary_line
        + (f"; speed-up within {max(speed):.1%}" if speed else ""),
        fontsize=11,
    )


def _draw_times(axes: Any, points: list[Point]) -> None:
    low = 0.7 * min(min(p.measured_s, p.predicted_s) for p in points) * 1e3
    high = 1.4 * max(max(p.measured_s, p.predicted_s) for p in points) * 1e3
    line = [low, high]
    axes.fill_between(line, [0.9 * v for v in line], [v / 0.9 for v in line], color="0.9", label="within 10 %")
    axes.plot(line, line, color="0.4", linewidth=1, label="exact")
    _scatter(axes, points, lambda point: point.predicted_s * 1e3, labels=True)
    axes.set(xscale="log", yscale="log", xlim=line, ylim=line, ylabel="predicted, ms")
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.legend(loc="upper left", fontsize=8, ncols=2, frameon=False)


def _draw_errors(axes: Any, points: list[Point]) -> None:
    axes.axhspan(-10, 10, color="0.9")
    axes.axhline(0, color="0.4", linewidth=1)
    _scatter(axes, points, lambda point: point.error * 100, labels=False)
    axes.set(xlabel="measured, ms", ylabel="predicted / measured − 1, %")
    axes.grid(alpha=0.25, which="both", linewidth=0.5)


def _scatter(axes: Any, points: list[Point], value: Any, *, labels: bool) -> None:
    for part, (name, marker, size) in _PARTS.items():
        for dtype in dict.fromkeys(point.dtype for point in points):
            chosen = [point for point in points if point.part == part and point.dtype == dtype]
            if not chosen:
                continue
            axes.scatter(
                [point.measured_s * 1e3 for point in chosen],
                [value(point) for point in chosen],
                marker=marker,
                s=size,
                color=_COLOURS.get(dtype, "#555555"),
                linewidths=1.0,
                alpha=0.85,
                label=f"{name}, {dtype}" if labels else None,
            )
