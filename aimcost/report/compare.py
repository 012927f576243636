"""A comparison of machines, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..inputs.run import Run
from ..pricing.estimator import estimator_of
from ..units import format_bytes, format_flops, format_seconds
from .table import table
from .text import stack_label

__all__ = ["compare_text", "comparison_rows"]


def compare_text(run: Run, rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a machine, fastest first; machines that the run does not fit come last."""
    headers, cells = comparison_rows(run, rows)
    stacks = len({row["stack"] for row in rows}) > 1
    named = "stacks as listed" if stacks else stack_label(run) if len(rows) and rows[0]["stack"] else "no stack"
    counts = len({row["flops"] for row in rows}) > 1
    flops = "FLOPs as listed" if counts else format_flops(rows[0]["flops"]) if rows else ""
    each = " per rank" if run.parallel.tp > 1 else ""
    lines = [
        f"{run.model.name}, method {run.schedule.method}, {named}, {flops}{each}, estimator {run.estimator}; "
        "gain over no reduction on the same machine and stack",
        table(cells, headers, left=headers.index("calibration") + 1),
    ]
    if any(row["extrapolated"] for row in rows):
        lines.append("* extrapolated beyond the calibrated range")
    noted: dict[str, list[str]] = {}
    for row in rows:
        for note in row["notes"]:
            where = f"{row['hardware']} under {row['stack']}" if stacks else row["hardware"]
            noted.setdefault(note, []).append(where)
    for note, names in noted.items():
        lines.append(f"note: {note}" + ("" if len(names) == len(rows) else f" ({', '.join(names)})"))
    lines += [f"note: {note}" for note in run.notes]
    return "\n".join(lines)


def comparison_rows(run: Run, rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells of the comparison."""
    stacks = len({row["stack"] for row in rows}) > 1
    counts = len({row["flops"] for row in rows}) > 1
    loads = any("workload" in row for row in rows)
    before = stacks + loads
    decoding = any(row["tpot_s"] is not None for row in rows)
    priced = any(row["cost_per_1000_requests"] is not None for row in rows)
    cells = []
    for row in rows:
        high = row["ttft_high_s"]
        band = (
            estimator_of(run.estimator).time_means
            if high is None
            else f"{format_seconds(row['ttft_low_s'])} – {format_seconds(high)}"
        )
        usable = row["usable_bytes"]
        memory = format_bytes(row["peak_bytes"]) + ("" if usable is None else f" / {format_bytes(usable)}")
        cell = [
            row["hardware"],
            *([row["stack"] or "-"] if stacks else []),
            *([row["workload"]] if loads else []),
            row["calibration"],
            format_seconds(row["ttft_s"]),
            band + (" *" if row["extrapolated"] else ""),
            row["bound"],
            f"{row['mfu']:.0%}",
            "-" if row["speedup"] is None else f"{row['speedup']:.2f}x",
            memory,
            "yes" if row["fits"] else "no",
        ]
        if counts:
            cell.insert(2 + before, format_flops(row["flops"]))
        if decoding:
            cell.insert(4 + counts + before, format_seconds(row["tpot_s"]))
        if priced:
            cost = row["cost_per_1000_requests"]
            cell.append("" if cost is None else f"{cost:.3f}")
        cells.append(cell)
    headers = [
        "hardware",
        *(["stack"] if stacks else []),
        *(["workload"] if loads else []),
        "calibration",
        "TTFT",
        "80 % band",
        "bound",
        "MFU",
        "gain",
        "memory",
        "fits",
    ]
    if counts:
        headers.insert(2 + before, "FLOPs")
    if decoding:
        headers.insert(4 + counts + before, "TPOT")
    currency = next((row["currency"] for row in rows if row.get("currency")), None)
    cost = "cost per 1000 requests" + (f", {currency}" if currency else "")
    return headers + ([cost] if priced else []), cells
