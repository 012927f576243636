"""Records of measurements, and what is predicted for what a validation timed."""

from __future__ import annotations

from typing import Any

from ...measure.records import Record
from ...measure.validate import Comparison, compare_record
from ...units import format_seconds
from ..validation_plot import draw_comparison
from . import Views
from .colours import COLOURS

__all__ = ["views"]


def views(shown: Record | Comparison) -> Views:
    """What can be shown of a record, or of its comparison with predictions."""
    return _of_record(shown) if isinstance(shown, Record) else _of_comparison(shown)


def _of_record(record: Record) -> Views:
    cells = [
        [
            " ".join(filter(None, [sample.op, sample.name, *sample.labels.values()])),
            " ".join(f"{name}={value:g}" for name, value in sample.dims.items()),
            sample.dtype,
            format_seconds(sample.median_s),
            f"{sample.spread:.1%}",
            str(len(sample.samples_s)),
        ]
        for sample in record.samples
    ]
    plots: dict[str, Any] = {"medians": lambda figure: _draw_medians(record, figure)}
    if record.kind == "validation":
        plots = {"predicted": lambda figure: draw_comparison(compare_record(record), figure), **plots}
    return Views(
        title=record._line(),
        headers=["what", "sizes", "format", "median", "spread", "repeats"],
        cells=cells,
        left=3,
        notes=[*record.notes, *record.environment.notes],
        frames={"samples": lambda: [_sample(sample) for sample in record.samples]},
        plots=plots,
    )


def _sample(sample: Any) -> dict[str, Any]:
    return {
        "op": sample.op,
        "name": sample.name,
        "dtype": sample.dtype,
        "clock": sample.clock,
        "median_s": sample.median_s,
        "spread": sample.spread,
        "repeats": len(sample.samples_s),
        "dims": dict(sample.dims),
        "labels": dict(sample.labels),
    }


def _draw_medians(record: Record, figure: Any) -> None:
    axes = figure.subplots()
    for number, op in enumerate(dict.fromkeys(sample.op for sample in record.samples)):
        own = [(place, sample.median_s) for place, sample in enumerate(record.samples) if sample.op == op]
        axes.scatter(*zip(*own, strict=True), s=14, color=COLOURS[number % len(COLOURS)], linewidths=0, label=op)
    axes.set(yscale="log", xlabel="sample, as measured", ylabel="median, s")
    axes.set_title(record._line(), fontsize="small")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize="x-small")


def _of_comparison(comparison: Comparison) -> Views:
    cells = [
        [name, str(e.count), f"{e.mape:.1%}", f"{e.worst:+.1%}", f"{e.bias:+.1%}", f"{e.coverage:.0%}"]
        for name, e in comparison.errors.items()
    ]
    return Views(
        title=comparison._line(),
        headers=["part", "timed", "MAPE", "worst", "bias", "in 80 % band"],
        cells=cells,
        notes=comparison.notes,
        frames={
            "points": lambda: [point.to_dict() for point in comparison.points],
            "speedups": lambda: [speedup.to_dict() for speedup in comparison.speedups],
            "memory": lambda: [point.to_dict() for point in comparison.memory],
        },
        plots={"predicted": lambda figure: draw_comparison(comparison, figure)},
    )
