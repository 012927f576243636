"""Rows as a table: plain for a terminal, or Markdown as GitHub reads it."""

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
    """A table of text: the first `left` columns flush left, the others right, unless `align` says otherwise."""
    # a sixth of the CPU of a cold `aimcost estimate`, which JSON need not pay
    from tabulate import tabulate

    cells = [list(row) for row in rows]
    flush = list(align or ["left"] * left + ["right"] * (len(headers) - left))
    return tabulate(cells, headers=headers, tablefmt=style, disable_numparse=True, colalign=flush if cells else None)
