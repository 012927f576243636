"""At a terminal: tables that fit its width, prose wrapped at words, bounds in colour. Needs rich; text that is piped or
written to a file never comes here.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["fitted", "show"]

# Between columns.
GAP = 2
# Left-flush text is wrapped before columns are folded, down to this width.
NARROWEST = 18
_BOUNDS = {"compute": "cyan", "memory": "yellow", "launch": "magenta", "network": "green"}
_BAD = ("FAILED", "MISSED", "DOES NOT FIT", "NOT as scheduled")
# A cell of its own: text columns are two spaces apart.
_CELL = re.compile(rf"(?<=  )({'|'.join(_BOUNDS)})(?:-bound)?(?=  |$)")
_RULE = re.compile(r"^ *─+(?: *─+)* *$")
# Of a file that is shown: a key below another, and a comment.
_KEY = re.compile(r"^( +)(?:- )?[\w.\"'-]+: ")
_COMMENT = re.compile(r"^ *# ")
_LABEL = re.compile(r"^(?: +|- |\S.{0,15}?  +)")


def fitted(cells: Sequence[Sequence[str]], headers: Sequence[str], left: Sequence[bool], width: int) -> str:
    """A table no wider than `width` where its words allow: empty columns are dropped, text wraps between words, and
    columns that are still too many go into further tables under the same first columns.

    Parameters
    ----------
    left
        Whether a column is flush left.
    """
    columns = [n for n in range(len(headers)) if any(row[n] for row in cells) or n == 0]
    natural = [max(cell_len(line) for line in [headers[n], *(row[n] for row in cells)]) for n in range(len(headers))]
    narrow = [
        max(cell_len(word) for text in [headers[n], *(row[n] for row in cells)] for word in text.split() or [""])
        for n in range(len(headers))
    ]
    least = [max(narrow[n], min(natural[n], NARROWEST)) if left[n] else natural[n] for n in range(len(headers))]
    widths = _shrunk({n: natural[n] for n in columns}, least, width)
    if _total(widths.values()) <= width:
        return _drawn(cells, headers, left, [widths], width)
    keys = _keys(cells, columns, left)
    rest = columns[len(keys) :]
    head = _shrunk({n: natural[n] for n in keys}, narrow, width - GAP - max((narrow[n] for n in rest), default=0))
    blocks: list[dict[int, int]] = [] if rest else [head]
    for n in rest:
        if blocks and _total([*blocks[-1].values(), natural[n]]) <= width:
            blocks[-1][n] = natural[n]
            continue
        room = width - _total([*head.values(), 0])
        blocks.append({**head, n: max(narrow[n], min(natural[n], room))})
    return _drawn(cells, headers, left, blocks, width)


def _total(widths: Iterable[int]) -> int:
    found = [*widths]
    return sum(found) + GAP * (len(found) - 1)


def _shrunk(widths: dict[int, int], least: Sequence[int], width: int) -> dict[int, int]:
    """Columns of so many widths, the widest made narrower as far as it takes to fit, or as far as they can be."""
    widths = dict(widths)
    while (over := _total(widths.values()) - width) > 0:
        room = {n: own - least[n] for n, own in widths.items() if own > least[n]}
        if not room:
            break
        widest = max(room, key=lambda n: widths[n])
        widths[widest] -= min(over, room[widest])
    return widths


def _keys(cells: Sequence[Sequence[str]], columns: Sequence[int], left: Sequence[bool]) -> list[int]:
    """The first columns of text that tell the rows apart."""
    count = 1
    while count < len(columns) - 1 and left[columns[count]] and _repeat(cells, columns[:count]):
        count += 1
    return [*columns[:count]] if not _repeat(cells, columns[:count]) else [columns[0]]


def _repeat(cells: Sequence[Sequence[str]], keys: Sequence[int]) -> bool:
    return len({tuple(row[n] for n in keys) for row in cells}) < len(cells)


def _drawn(
    cells: Sequence[Sequence[str]],
    headers: Sequence[str],
    left: Sequence[bool],
    blocks: Sequence[dict[int, int]],
    width: int,
) -> str:
    parts = []
    for widths in blocks:
        drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for n, own in widths.items():
            drawn.add_column(Text(headers[n]), width=own, justify="left" if left[n] else "right", overflow="fold")
        for row in cells:
            drawn.add_row(*(Text(row[n]) for n in widths))
        stream = io.StringIO()
        # as wide as its columns: a word that is longer than the terminal is printed whole
        Console(file=stream, width=max(width, _total(widths.values())), color_system=None).print(drawn)
        parts.append("\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n")))
    return "\n\n".join(parts)


def show(text: str, width: int, *, end: str = "\n") -> None:
    """Print text: lines that are too long wrapped between words, heads of tables bold, bounds and failures coloured."""
    lines = [part for line in text.split("\n") for part in _wrapped(line, width)]
    console = Console(highlight=False, soft_wrap=True)
    for number, line in enumerate(lines):
        head = number + 1 < len(lines) and _RULE.match(lines[number + 1])
        shown = Text(line, style="bold" if head else "dim" if _RULE.match(line) else "")
        if not head:
            for found in _CELL.finditer(line):
                shown.stylize(_BOUNDS[found[1]], *found.span())
            shown.highlight_words(_BAD, "bold red")
        console.print(shown, end=end if number + 1 == len(lines) else "\n")


def _wrapped(line: str, width: int) -> list[str]:
    if cell_len(line) <= width or "─" in line:
        return [line]
    label, key, comment = _LABEL.match(line), _KEY.match(line), _COMMENT.match(line)
    indent = " " * (len(label[0]) if label and len(label[0]) < width // 2 else 2)
    if key or comment:
        indent = key[1] + "  " if key else comment[0] if comment else indent
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
