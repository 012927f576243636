"""The reproduction of a paper's tables, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ..pricing.reproduce import as_printed
from .table import table

__all__ = ["reproduce_text"]

_WIDTH = 110


def reproduce_text(result: Mapping[str, Any]) -> str:
    """Rows by table with the corrected figures, the slips, overhead and the end-to-end ratio."""
    parts = [f"{result['title']}\n{result['source']}"]
    for name, group in groupby(result["rows"], key=lambda row: row["table"]):
        parts.append(f"{result['tables'].get(name, name)}\n{_rows(list(group))}")
    parts.append(f"{result['tables'].get('overhead', 'overhead')}\n{_overhead(result['overhead'])}")
    parts.append("Slips in the paper, with corrections\n" + _slips(result["slips"]))
    parts += [_end_to_end(entry) for entry in result["end_to_end"]]
    parts.append(_summary(result["summary"]))
    return "\n\n".join(parts)


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        cell = [row["id"], _tokens(row["tokens"])]
        for key in ("tflops", "ms"):
            printed = f"{row['printed'][key]:.2f}"
            cell += [as_printed(row["computed"][key]), printed, "=" if row["match"][key] else "differs"]
        corrected = row["corrected"]
        cell += (
            [as_printed(corrected["tflops"]), as_printed(corrected["ms"]), corrected["slip"]]
            if corrected
            else ["", "", ""]
        )
        cells.append(cell)
    headers = ["row", "tokens", "TFLOP", "printed", "", "ms", "printed", "", "true TFLOP", "true ms", "slip"]
    return table(cells, headers, left=2)


def _tokens(tokens: Sequence[int]) -> str:
    """First count × layers … last count."""
    first = sum(1 for count in tokens if count == tokens[0])
    return f"{tokens[0]} × {first}" + (f" … {tokens[-1]}" if tokens[-1] != tokens[0] else "")


def _overhead(entries: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for entry in entries:
        printed = entry["printed_gflops"]
        digits = 0 if printed >= 1000 else 2
        corrected = entry["corrected_gflops"]
        cells.append(
            [
                entry["id"],
                as_printed(entry["computed_gflops"], digits),
                f"{printed:.{digits}f}",
                "=" if entry["match"] else "differs",
                "" if corrected is None else as_printed(corrected),
                entry["construction"],
            ]
        )
    return table(cells, ["overhead", "GFLOP", "printed", "", "true GFLOP", "as printed"])


def _slips(slips: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for slip in slips:
        text = f"{slip['id']}: {slip['what_was_done']}. Correct: {slip['what_is_true']}."
        lines.append(textwrap.fill(text, _WIDTH, initial_indent="- ", subsequent_indent="  "))
    return "\n".join(lines)


def _end_to_end(entry: Mapping[str, Any]) -> str:
    return (
        f"End to end, vision tower included ({entry['tower_tflops']:.2f} TFLOP): "
        f"{entry['ratio_full_square']:.2f}x fewer FLOPs with full-square attention, "
        f"{entry['ratio_causal']:.2f}x causal;\n"
        f"the language model alone {entry['llm_tflops_before']:.2f} → {entry['llm_tflops_after']:.2f} TFLOP, "
        f"{entry['llm_ratio_causal']:.2f}x causal; the paper's figures give {entry['printed_ratio']:.2f}x."
    )


def _summary(summary: Mapping[str, Any]) -> str:
    equal, total = summary["equal_to_the_printed_digits"], summary["rows"]
    lines = [f"{equal} of {total} rows match the printed digits."]
    for row in summary["unequal"]:
        lines.append(textwrap.fill(f"{row['id']}: {row['reason']}", _WIDTH, subsequent_indent="  "))
    return "\n".join(lines)
