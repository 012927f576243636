"""A campaign's tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..units import GIGA, KILO, TERA, format_bytes, format_seconds
from .text import table

__all__ = ["summary_text"]


def summary_text(found: Mapping[str, Any]) -> str:
    """Steps, kernels beside their floors, prefills, and the paper's rows beside what it printed."""
    parts = [_head(found), _steps(found["steps"])]
    for title, text in (
        ("kernels alone", _kernels(found["kernels"])),
        ("against the reference in fp64", _checks(found["checks"])),
        ("dense prefill", _dense(found["dense"])),
        ("the paper's rows, measured", _rows(found["rows"])),
        ("predicted from the campaign's own profile, prefills it never saw", _errors(found)),
        ("other stages", _stages(found["stages"])),
        ("memory of a prefill", _memory(found["memory"])),
    ):
        if text:
            parts.append(f"{title}\n{text}")
    if found["overhead"]:
        parts.append(_overhead(found["overhead"]))
    return "\n\n".join(parts)


def _head(found: Mapping[str, Any]) -> str:
    ended = found["finished"] or "not ended"
    lines = [f"{found['device_name']}, {found['dtype']}, {found['started']} to {ended}"]
    if found["tiny"]:
        lines.append("dry run on a tiny model: its times say nothing about the machine")
    if found["peaks"]:
        peaks = found["peaks"]
        lines.append(
            f"measured ceilings: {peaks['flops_per_s'] / TERA:.3g} TFLOP/s, {peaks['bytes_per_s'] / GIGA:.4g} GB/s"
        )
    after = found.get("state_after", {}).get("throttle_reasons")
    if after:
        lines.append(f"note: at the end the GPU was throttled: {', '.join(after)}")
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])


def _steps(steps: list[Mapping[str, Any]]) -> str:
    rows = [[s["name"], s["state"], f"{s['seconds']:.1f}", s["message"][:90]] for s in steps]
    return table(rows, ["step", "state", "s", "remarks"], left=2).rstrip()


def _kernels(kernels: list[Mapping[str, Any]]) -> str:
    rows = [
        [
            k["op"],
            k["name"],
            " ".join(f"{name}={value:g}" for name, value in k["dims"].items()),
            k["dtype"],
            format_seconds(k["median_s"]),
            "" if k["floor_s"] is None else format_seconds(k["floor_s"]),
            "" if k["over_floor"] is None else f"{k['over_floor']:.2f}x",
        ]
        for k in kernels
    ]
    return table(rows, ["op", "name", "sizes", "format", "median", "floor", "over"], left=4) if rows else ""


def _checks(checks: list[Mapping[str, Any]]) -> str:
    rows = [
        [
            c["check"],
            c["dtype"],
            c["size"],
            c["path"],
            f"{c['value']:.2e}",
            f"{c['bar']:.0e}",
            "yes" if c["ok"] else "NO",
        ]
        for c in checks
    ]
    return table(rows, ["kernel", "format", "size", "path", "error", "bar", "within"], left=4) if rows else ""


def _dense(dense: list[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(d["tokens"]),
            _ms(d["eager_s"]),
            _ms(d["graph_s"]),
            f"{d['tflops_per_s']:.3g}",
            "" if d["mfu"] is None else f"{d['mfu']:.0%}",
        ]
        for d in dense
    ]
    return table(rows, ["tokens", "eager ms", "graph ms", "TFLOP/s", "of ceiling"]) if rows else ""


def _rows(rows: list[Mapping[str, Any]]) -> str:
    cells = [
        [
            ", ".join(row["rows"]) + (" *" if row["selection_left_out"] else ""),
            row["implementation"],
            row["tokens"] if len(row["tokens"]) <= 40 else row["tokens"][:37] + "...",
            _ms(row["eager_s"]),
            _ms(row["graph_s"]),
            _times(row["speedup"]),
            "" if row["printed_ms"] is None else f"{row['printed_ms']:.2f}",
            _times(row["printed_speedup"]),
        ]
        for row in rows
    ]
    headers = ["rows", "implementation", "tokens by layer", "eager ms", "graph ms", "speedup", "printed ms", "printed"]
    if not cells:
        return ""
    starred = any(row["selection_left_out"] for row in rows)
    note = "\n* a prompt of the reduced length: what the tower's attention chooses was not run" if starred else ""
    return (
        table(cells, headers, left=3) + "\nspeedup: over the dense prefill of the same prompt, best path of each" + note
    )


def _errors(found: Mapping[str, Any]) -> str:
    rows = [
        [
            e["path"],
            e["implementation"],
            str(e["prefills"]),
            *(f"{e[key]:.1%}" if key == "mape" else f"{e[key]:+.1%}" for key in ("mape", "worst", "bias")),
        ]
        for e in found["prediction_errors"]
    ]
    if not rows or found["tiny"]:
        return ""  # a tiny profile's grid holds none of a model's widths
    return table(rows, ["path", "implementation", "prefills", "MAPE", "worst", "bias"], left=2)


def _stages(stages: list[Mapping[str, Any]]) -> str:
    rows = [[s["op"], s["name"], s["path"], format_seconds(s["median_s"]), str(s["repeats"])] for s in stages]
    return table(rows, ["stage", "of", "path", "median", "repeats"], left=3) if rows else ""


def _memory(entries: list[Mapping[str, Any]]) -> str:
    rows = [
        [
            e["memory"],
            e["implementation"],
            *(_bytes(e[f"{key}_bytes"]) for key in ("weights", "kv", "peak", "held")),
        ]
        for e in entries
    ]
    return (
        table(rows, ["prefill", "implementation", "weights", "KV cache", "peak", "held after"], left=2) if rows else ""
    )


def _bytes(size: float) -> str:
    # a CPU does not tell
    return format_bytes(size) if size else "-"


def _overhead(overhead: Mapping[str, Any]) -> str:
    floor = "" if overhead["floor_s"] is None else f" (floor {format_seconds(overhead['floor_s'])})"
    parts = ", ".join(f"{op} {format_seconds(overhead[op])}" for op in ("merge", "score", "select", "gather"))
    return (
        f"reduction kernels of the 25 % schedule, alone: {format_seconds(overhead['total_s'])}{floor}, "
        f"{overhead['share']:.1%} of its prefill: {parts}"
    )


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * KILO:.2f}"
