"""A campaign's tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..units import GIGA, KILO, TERA, format_bytes, format_seconds
from .table import table

__all__ = ["summary_text"]

Rows = Sequence[Mapping[str, Any]]
STACKS = {"transformers": "eager", "aimcost_graph": "graph"}


def summary_text(found: Mapping[str, Any]) -> str:
    """Steps, kernels beside their floors, prefills beside what the paper printed, errors of the predictions."""
    parts = [_head(found), _steps(found["steps"])]
    for title, text in (
        ("kernels alone", _kernels(found["kernels"])),
        ("kernels against their references", _checks(found["checks"])),
        ("prefills", _runs(found["runs"])),
        # a tiny profile's grid holds none of a model's widths
        ("predicted from the profile of this campaign", "" if found["tiny"] else _errors(found["errors"])),
        ("other stages", _stages(found["stages"])),
        ("memory of a prefill", _memory(found["memory"])),
    ):
        if text:
            parts.append(f"{title}\n{text}")
    if found["overhead"]:
        parts.append(_overhead(found["overhead"]))
    return "\n\n".join(parts)


def _head(found: Mapping[str, Any]) -> str:
    ended = found["finished"] or "not finished"
    lines = [f"{found['device_name']}, {found['dtype']}, {found['started']} to {ended}"]
    if found["tiny"]:
        lines.append("dry run on a tiny model: its times say nothing about the machine")
    if found["ceilings"]:
        ceilings = found["ceilings"]
        flops, moved = ceilings["flops_per_s"] / TERA, ceilings["bytes_per_s"] / GIGA
        lines.append(f"measured ceilings: {flops:.3g} TFLOP/s, {moved:.4g} GB/s")
    after = found.get("state_after", {}).get("throttle_reasons")
    if after:
        lines.append(f"note: at the end the GPU was throttled: {', '.join(after)}")
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])


def _steps(steps: Rows) -> str:
    rows = [[s["name"], s["state"], f"{s['seconds']:.1f}", s["message"][:90]] for s in steps]
    return table(rows, ["step", "state", "s", "remarks"], left=2).rstrip()


def _kernels(kernels: Rows) -> str:
    rows = [
        [
            k["op"],
            k["name"],
            " ".join(f"{name}={value:g}" for name, value in k["dims"].items()),
            k["dtype"],
            format_seconds(k["median_s"]),
            "" if k["floor_s"] is None else format_seconds(k["floor_s"]),
            _times(k["over_floor"]),
        ]
        for k in kernels
    ]
    return _table(rows, ["op", "name", "sizes", "format", "median", "floor", "over"], left=4)


def _checks(checks: Rows) -> str:
    rows = [
        [
            *(c[key] for key in ("check", "dtype", "size", "path")),
            f"{c['value']:.2e}",
            f"{c['bar']:.0e}",
            "yes" if c["ok"] else "NO",
        ]
        for c in checks
    ]
    return _table(rows, ["kernel", "format", "size", "path", "error", "bar", "within"], left=4)


def _runs(runs: Rows) -> str:
    stacks = [stack for stack in STACKS if any(stack in row["seconds"] for row in runs)]
    variants = [(stack, variant) for stack in stacks for variant in ("dense", "reduced")]
    rows = [
        [
            ", ".join(row["rows"]) + (" *" if row["compared_with"] else ""),
            row["tokens"] if len(row["tokens"]) <= 40 else row["tokens"][:37] + "...",
            *(_ms(row["seconds"].get(stack, {}).get(variant)) for stack, variant in variants),
            "" if row["mfu"] is None else f"{row['mfu']:.0%}",
            _times(row["speedup"]) if row["speedup"] != 1.0 else "",
            "" if row["printed_ms"] is None else f"{row['printed_ms']:.2f}",
            _times(row["printed_speedup"]),
        ]
        for row in runs
    ]
    columns = [f"{STACKS[stack]} {variant} ms" for stack, variant in variants]
    headers = ["run", "tokens by layer", *columns, "dense MFU", "speed-up", "printed ms", "printed"]
    if not rows:
        return ""
    text = (
        _table(rows, headers, left=2) + "\nspeed-up: over the dense prefill of the same prompt, fastest stack of each"
    )
    if any(row["compared_with"] for row in runs):
        text += "\n* a prompt of the reduced length: what the tower's attention chooses was not run"
    return text


def _errors(errors: Rows) -> str:
    rows = [
        [
            STACKS.get(e["stack"], e["stack"]),
            e["implementation"],
            e["part"],
            str(e["count"]),
            f"{e['mape']:.1%}",
            f"{e['worst']:+.1%}",
            f"{e['bias']:+.1%}",
            f"{e['coverage']:.0%}",
        ]
        for e in errors
    ]
    return _table(rows, ["stack", "implementation", "part", "timed", "MAPE", "worst", "bias", "in 80 % band"], left=3)


def _stages(stages: Rows) -> str:
    rows = [
        [s["op"], s["run"], STACKS.get(s["stack"], s["stack"]), s["variant"], format_seconds(s["median_s"])]
        for s in stages
    ]
    return _table(rows, ["stage", "run", "stack", "variant", "median"], left=4)


def _memory(entries: Rows) -> str:
    rows = [[e["run"], e["variant"], *(_bytes(e[f"{key}_bytes"]) for key in ("held", "kv", "peak"))] for e in entries]
    return _table(rows, ["run", "variant", "held before", "KV cache", "peak"], left=2)


def _overhead(overhead: Mapping[str, Any]) -> str:
    floor = "" if overhead["floor_s"] is None else f" (floor {format_seconds(overhead['floor_s'])})"
    parts = ", ".join(f"{op} {format_seconds(overhead[op])}" for op in ("merge", "score", "select", "gather"))
    return (
        f"reduction kernels of the 25 % schedule, alone: {format_seconds(overhead['total_s'])}{floor}, "
        f"{overhead['share']:.1%} of its prefill: {parts}"
    )


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, left: int) -> str:
    return table(rows, headers, left=left) if rows else ""


def _bytes(size: float | None) -> str:
    return format_bytes(size) if size else "-"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * KILO:.2f}"
