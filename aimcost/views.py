"""How a result shows itself: a line at a prompt, HTML in a notebook, a data frame, a plot.

A result gives its line. Tables and pictures of all results are made in `aimcost.report.notebook`, which stands above
them and is loaded when one is asked for: nothing here imports it, pandas or matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["Viewable"]


class Viewable:
    """A result that can be looked at.

    Attributes
    ----------
    _views_in
        The module of `aimcost.report.notebook` that holds its tables and plots.
    """

    __slots__ = ()
    _views_in = ""

    def _line(self) -> str:
        """The figures that matter, on one line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._line()}>"

    def _repr_html_(self) -> str:
        return str(self._notebook().html_of(self))

    def to_frame(self, table: str = "") -> Any:
        """A table as a `pandas.DataFrame`, in SI units; nested values become dotted columns.

        Parameters
        ----------
        table
            Which; the first by default. An unknown name raises with those there are.

        Raises
        ------
        MissingExtraError, UnknownNameError
            pandas is not installed (the extra ``notebook``), or no such table.
        """
        return self._notebook().frame_of(self, table)

    def plot(self, kind: str = "", *, figure: Figure | SubFigure | None = None) -> Any:
        """A matplotlib figure, which a notebook shows and whose `savefig` writes a file.

        Parameters
        ----------
        kind
            Which; the first by default. An unknown name raises with those there are.
        figure
            Where to draw, such as a sub-figure; a new figure by default.

        Raises
        ------
        MissingExtraError, UnknownNameError
            matplotlib is not installed (the extra ``notebook``), or no such plot.
        """
        return self._notebook().picture_of(self, kind, figure)

    @staticmethod
    def _notebook() -> Any:
        return importlib.import_module("aimcost.report.notebook")
