"""Pictures: which files they can be, and how they are written; needs matplotlib (the extra ``report``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import FileFormatError, InvalidValueError, argument
from ..extras import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_plot", "save_figure"]

FORMATS = (".png", ".svg", ".pdf")


def check_plot(path: str | Path) -> Path:
    """The path of a picture, if it can be drawn: called before a search or hours of measuring, too.

    Raises
    ------
    MissingExtraError, InvalidValueError
        matplotlib is not installed, or a suffix other than `FORMATS`.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InvalidValueError(argument("path"), f"a file name ending in {', '.join(FORMATS)}", str(path))
    load("matplotlib", extra="report", purpose="drawing")
    return path


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure; an SVG is the same file from the same figure, so that a repository can keep it.

    Raises
    ------
    FileFormatError
        The file cannot be written.
    """
    from matplotlib import rc_context

    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
    try:
        with rc_context({"svg.hashsalt": "aimcost"}):
            figure.savefig(path, dpi=150, metadata=metadata)
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be written: {error.strerror or error}") from None
