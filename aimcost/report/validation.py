"""Predicted against measured, for a terminal and for the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import format_bytes, format_seconds
from .table import Style, table

if TYPE_CHECKING:
    from ..measure.validate import Comparison, Errors, Point

__all__ = ["validation_section", "validation_text"]


def validation_text(comparison: Comparison) -> str:
    """For a terminal: each prefill, errors by part, speed-ups, and whether the shapes were held out."""
    notes = "\n".join([_held_out(comparison), *(f"note: {note}" for note in comparison.notes)])
    return "\n\n".join(["\n".join(_headline(comparison)), *_tables(comparison, "simple"), notes])


def validation_section(comparison: Comparison, path: str) -> str:
    """The same in Markdown for the documentation, headed by the device name."""
    device, summary = _headline(comparison)
    environment, date = comparison.record.environment, comparison.record.date
    notes = "\n".join(f"- {note}" for note in (_held_out(comparison), *comparison.notes))
    head = f"### {environment.device_name}, {date}: `{path}`"
    return "\n\n".join([head, f"{device}.", f"**{summary}**", *_tables(comparison, "github"), notes]) + "\n"


def _tables(comparison: Comparison, tablefmt: Style) -> list[str]:
    tables = [_prefills(comparison, tablefmt), _parts(comparison, tablefmt)]
    tables += [_speedups(comparison, tablefmt)] if comparison.speedups else []
    return tables + ([_memory(comparison, tablefmt)] if comparison.memory else [])


def _headline(comparison: Comparison) -> tuple[str, str]:
    """Device, versions and profile; and the errors over whole prefills."""
    record, errors = comparison.record, comparison.prefill
    environment = record.environment
    versions = ", ".join(
        f"{name} {environment.packages[name]}" for name in ("torch", "transformers") if name in environment.packages
    )
    clock = "one thread's CPU time" if environment.device == "cpu" else "CUDA events"
    profile = record.settings.get("profile_from", "in the record")
    steady = "DISTURBED: repeats of a prefill differ widely" if comparison.disturbed else "repeats of a prefill agree"
    device = f"{environment.device_name}, {record.date} ({versions}; {clock}); profile: {profile}; {steady}"
    speedups = [abs(speedup.error) for speedup in comparison.speedups]
    gain = f"; speed-up within {max(speedups):.1%}" if speedups else ""
    return device, (
        f"prefill MAPE {errors.mape:.1%} over {errors.count}, worst {errors.worst:+.1%}, bias {errors.bias:+.1%}{gain}"
    )


def _prefills(comparison: Comparison, tablefmt: Style) -> str:
    rows = [
        [
            point.run,
            point.variant,
            point.dtype,
            f"{point.tokens:,}" if point.tokens is not None else "",
            format_seconds(point.predicted_s),
            format_seconds(point.measured_s),
            f"{point.spread:.1%}",
            f"{point.error:+.1%}",
            _band(point),
        ]
        for point in comparison.of("prefill")
    ]
    headers = ["run", "prefill", "format", "tokens", "predicted", "measured", "spread", "error", "80 % band"]
    return table(rows, headers, left=3, style=tablefmt)


def _band(point: Point) -> str:
    inside = "in" if point.in_band else "out"
    return f"{inside}, extrapolated" if point.extrapolated else inside


def _parts(comparison: Comparison, tablefmt: Style) -> str:
    whole = sum(point.measured_s for point in comparison.of("prefill"))
    rows = [_part(name, errors, _share(comparison, name, whole)) for name, errors in comparison.errors.items()]
    headers = ["part", "timed", "share of prefill", "MAPE", "worst", "bias", "in 80 % band"]
    return table(rows, headers, left=1, style=tablefmt)


def _share(comparison: Comparison, name: str, whole: float) -> str:
    """Share of a part in the time of all prefills."""
    part, _, group = name.partition(" ")
    if part not in ("layer", "selection", "group"):
        return ""
    return f"{sum(point.measured_s for point in comparison.of(part, name=group)) / whole:.1%}"


def _part(name: str, errors: Errors, share: str) -> list[str]:
    percent = [f"{errors.mape:.1%}", f"{errors.worst:+.1%}", f"{errors.bias:+.1%}", f"{errors.coverage:.0%}"]
    return [name, str(errors.count), share, *percent]


def _speedups(comparison: Comparison, tablefmt: Style) -> str:
    rows = [
        [speedup.run, speedup.dtype, f"{speedup.predicted:.3f}x", f"{speedup.measured:.3f}x", f"{speedup.error:+.1%}"]
        for speedup in comparison.speedups
    ]
    return table(rows, ["prefill speed-up", "format", "predicted", "measured", "error"], left=2, style=tablefmt)


def _memory(comparison: Comparison, tablefmt: Style) -> str:
    rows = [
        [
            point.run,
            point.variant,
            format_bytes(point.predicted_bytes),
            format_bytes(point.measured_bytes),
            f"{point.predicted_bytes / point.measured_bytes - 1.0:+.1%}",
        ]
        for point in comparison.memory
    ]
    return table(rows, ["peak memory", "prefill", "predicted", "measured", "error"], left=2, style=tablefmt)


def _held_out(comparison: Comparison) -> str:
    held = comparison.held_out
    if not held.grid:
        return "held out: not applicable, the profile holds fitted coefficients and no grid"
    if held.clean:
        return (
            f"held out: none of the {held.products} GEMM shapes and {held.lengths} attention lengths of these runs "
            "is a node of the profile's grid"
        )
    on_nodes = len(held.seen_products) + len(held.seen_lengths)
    shapes = ", ".join(str(tuple(int(value) for value in shape)) for shape in held.seen_products[:4])
    lengths = ", ".join(f"{stage} {int(length)}" for stage, _, length in held.seen_lengths[:4])
    found = "; ".join(part for part in (shapes, lengths) if part)
    return f"NOT held out: {on_nodes} of {held.products + held.lengths} shapes are nodes of the profile's grid: {found}"
