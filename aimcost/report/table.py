"""Rows as a table: plain for a terminal, or Markdown as GitHub reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from ..errors import printable

__all__ = ["Align", "Style", "plain_table", "table"]

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
    """A table of text: the first `left` columns flush left, the others right, unless `align` says otherwise."""
    # what it imports takes an eighth of the CPU of a cold `aimcost estimate`
    from tabulate import tabulate

    cells = [[printable(cell, line=True) if isinstance(cell, str) else cell for cell in row] for row in rows]
    flush = list(align or ["left"] * left + ["right"] * (len(headers) - left))
    return tabulate(cells, headers=headers, tablefmt=style, disable_numparse=True, colalign=flush if cells else None)


def plain_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """`table(rows, headers)` without tabulate, for the two tables that every cold `aimcost estimate` prints."""
    if not rows:
        return table(rows, headers)
    cells = [[printable(cell, line=True) for cell in row] for row in rows]
    widths = [max(len(head) + 2, *map(len, column)) for head, *column in zip(headers, *cells, strict=True)]
    lines = [headers, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        ).rstrip()
        for first, *rest in lines
    )
