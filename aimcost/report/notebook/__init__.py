"""Results in a notebook: HTML, data frames (pandas) and plots (matplotlib), a module a kind of result.

A result (`aimcost.views.Viewable`) names its module, whose ``views(result)`` gives a `Views`.
"""

from __future__ import annotations

import html
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import UnknownNameError
from ...extras import load
from ...frozen import dataclass
from ...views import Viewable

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Views", "frame_of", "html_of", "picture_of"]

# Rows of the table that HTML shows.
MOST_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What can be shown of a result.

    Attributes
    ----------
    facts
        Lines of text under the title.
    headers, cells, left
        The table of the HTML form, and how many columns of text it begins with: the others are flush right.
    notes
        What a reader should know, folded away.
    frames, plots
        Rows of each table and the drawing of each plot, by name; the first is the default.
    """

    title: str
    facts: Sequence[str] = ()
    headers: Sequence[str] = ()
    cells: Sequence[Sequence[str]] = ()
    left: int = 1
    notes: Sequence[str] = ()
    frames: Mapping[str, Callable[[], Sequence[Mapping[str, Any]]]]
    plots: Mapping[str, Callable[[Any], None]]


def _views(result: Viewable) -> Views:
    found: Views = importlib.import_module(f"{__name__}.{result._views_in}").views(result)
    return found


def _chosen(what: str, name: str, among: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name and name not in among:
        raise UnknownNameError(what, name, list(among))
    return among[name or next(iter(among))]


def frame_of(result: Viewable, table: str = "") -> Any:
    """`Viewable.to_frame`."""
    rows = _chosen("table", table, _views(result).frames)
    pandas = load("pandas", extra="notebook", purpose="a data frame")
    return pandas.json_normalize([dict(row) for row in rows()])


def picture_of(result: Viewable, kind: str = "", figure: Figure | SubFigure | None = None) -> Any:
    """`Viewable.plot`."""
    draw = _chosen("plot", kind, _views(result).plots)
    load("matplotlib", extra="notebook", purpose="drawing")
    if figure is None:
        figure = importlib.import_module(f"{__name__}.picture").Picture(layout="constrained")
    draw(figure)
    return figure


def html_of(result: Viewable) -> str:
    """The HTML form: no script, no style of its own but alignment, and every name as text."""
    views = _views(result)
    parts = [f"<p><b>{_text(views.title)}</b></p>", *(f"<p>{_text(fact)}</p>" for fact in views.facts)]
    if views.cells:
        parts.append(_table(views))
        if len(views.cells) > MOST_ROWS:
            parts.append(f"<p>{MOST_ROWS} of {len(views.cells)} rows; .to_frame() has all.</p>")
    if views.notes:
        notes = "".join(f"<li>{_text(note)}</li>" for note in views.notes)
        count = "1 note" if len(views.notes) == 1 else f"{len(views.notes)} notes"
        parts.append(f"<details><summary>{count}</summary><ul>{notes}</ul></details>")
    tables, plots = (", ".join(map(repr, each)) for each in (views.frames, views.plots))
    parts.append(f"<p><small>.to_frame({_text(tables)}) · .plot({_text(plots)})</small></p>")
    return f"<div>{''.join(parts)}</div>"


def _table(views: Views) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        sides = ["left" if place < views.left else "right" for place in range(len(cells))]
        line = "".join(
            f'<{tag} style="text-align: {side}; white-space: pre">{_text(cell)}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{line}</tr>"

    body = "".join(row(cells, "td") for cells in views.cells[:MOST_ROWS])
    return f"<table><thead>{row(views.headers, 'th')}</thead><tbody>{body}</tbody></table>"


def _text(given: str) -> str:
    return html.escape(given)
