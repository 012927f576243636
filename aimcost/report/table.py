"""Rows as a table: plain for a terminal, or Markdown as GitHub reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, Literal

from ..errors import printable

__all__ = ["Align", "Style", "fit_to", "plain_table", "sparkline", "table", "terminal_width"]

Style = Literal["simple", "github"]
Align = Literal["left", "right"]
_BARS = "▁▂▃▄▅▆▇█"
# Columns of the terminal that tables are drawn for; None where they go to a pipe or a file.
_WIDTH: ContextVar[int | None] = ContextVar("terminal_width", default=None)


def fit_to(width: int | None) -> None:
    """Draw tables for a terminal of so many columns from here on, or plainly (None)."""
    _WIDTH.set(width)


def terminal_width() -> int | None:
    """Columns of the terminal that text is made for; None where it is no terminal."""
    return _WIDTH.get()


def sparkline(values: Sequence[float], width: int) -> str:
    """Values from 0 to their largest as a line of blocks; neighbours are averaged where there are more than `width`."""
    count = min(len(values), max(1, width))
    edges = [len(values) * place // count for place in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    most = max(means, default=0.0) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, int(len(_BARS) * each / most))] for each in means)


def table(
    rows: Iterable[Sequence[Any]],
    headers: Sequence[str],
    *,
    left: int = 1,
    align: Sequence[Align] | None = None,
    style: Style = "simple",
) -> str:
    """A table of text: the first `left` columns flush left, the others right, unless `align` says otherwise."""
    cells = [[printable(cell, line=True) if isinstance(cell, str) else cell for cell in row] for row in rows]
    flush = list(align or ["left"] * left + ["right"] * (len(headers) - left))
    width = terminal_width()
    if width is not None and style == "simple":
        from .terminal import fitted

        text = [["" if cell is None else str(cell) for cell in row] for row in cells]
        return fitted(text, headers, [side == "left" for side in flush], width)
    # what it imports takes an eighth of the CPU of a cold `aimcost estimate`
    from tabulate import tabulate

    return tabulate(cells, headers=headers, tablefmt=style, disable_numparse=True, colalign=flush if cells else None)


def plain_table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """`table(rows, headers)` without tabulate, for the two tables that every cold `aimcost estimate` prints."""
    if not rows or terminal_width() is not None:
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
