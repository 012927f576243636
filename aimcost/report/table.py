"""Rows as a table: plain for a terminal, or Markdown as GitHub reads it.

tabulate would do; importing it takes a sixth of the CPU of `aimcost estimate`, since it looks up its own version.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

__all__ = ["Align", "Style", "table"]

Style = Literal["simple", "github"]
Align = Literal["left", "right"]


def table(
    rows: Iterable[Sequence[Any]],
    headers: Sequence[str],
    *,
    left: int = 1,
    align: Sequence[Align] | None = None,
    style: Style = "simple",
) -> str:
    """A table of text: the first `left` columns flush left, the others right, unless `align` says otherwise.

    A column is as wide as its longest cell, and two wider than its header.
    """
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    widths = [max([len(header) + 2, *(len(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    flush = (align or ["left"] * left + ["right"] * (len(headers) - left)) if cells else ["left"] * len(headers)
    pads = [str.ljust if each == "left" else str.rjust for each in flush]
    lines = [
        [pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)] for row in (headers, *cells)
    ]
    if style == "github":
        head, *body = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([head, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *body])
    head, *body = ("  ".join(line).rstrip() for line in lines)
    return "\n".join([head, "  ".join("-" * width for width in widths), *body])
