"""Format: one way of writing a report. A file in report/formats/ registers by holding one.

A file ``formats/<name>.py`` with a ``FORMAT`` is known to `aimcost list formats`, to ``--format`` and, by its suffix,
to ``-o`` of every command that prints a report; nothing else names it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidValueError, UnknownNameError, argument
from ..frozen import dataclass
from ..inputs.discover import modules

__all__ = ["Format", "Report", "format_by_suffix", "format_names", "format_of", "suffixes"]

_FOLDER = str(Path(__file__).resolve().parent / "formats")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What there is to say, before it has a form. A format calls what it needs.

    Attributes
    ----------
    text
        For a terminal.
    data
        Everything, as plain mappings and lists.
    rows
        The table at the heart of it: a mapping a row, with plain values.
    """

    text: Callable[[], str]
    data: Callable[[], Any]
    rows: Callable[[], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way of writing a report.

    Attributes
    ----------
    name, summary
        The name of its file, and a line for `aimcost list formats`.
    suffix
        Of the files that hold it, with the dot.
    render
        The report as text.
    """

    name: str
    summary: str
    suffix: str
    render: Callable[[Report], str]


def format_names() -> list[str]:
    """The formats, without importing them."""
    return modules(_FOLDER)


def format_of(name: str) -> Format:
    """The format of this name.

    Raises
    ------
    UnknownNameError
        No file holds it.
    """
    if name not in format_names():
        raise UnknownNameError("format", name, format_names())
    found: Format = importlib.import_module(f"{__package__}.formats.{name}").FORMAT
    return found


def suffixes() -> set[str]:
    """How file names of all formats end."""
    return {format_of(name).suffix for name in format_names()}


def format_by_suffix(path: Path) -> Format:
    """The format that a file's name asks for.

    Raises
    ------
    InvalidValueError
        No format has that suffix.
    """
    known = {found.suffix: found for found in map(format_of, format_names())}
    if path.suffix.lower() not in known:
        raise InvalidValueError(argument("output"), f"a file name ending in {', '.join(known)}", path.name)
    return known[path.suffix.lower()]
