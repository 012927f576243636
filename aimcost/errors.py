"""One class per failure. Every message is one line: where, what was found, what is allowed.

The command line prints ``str(error)`` to stderr and exits with ``error.exit_code``:
2 for bad input, 1 for a check that failed.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable

__all__ = [
    "AimcostError",
    "CalibrationError",
    "CheckFailedError",
    "FileFormatError",
    "InvalidValueError",
    "MissingArgumentError",
    "MissingExtraError",
    "ScheduleError",
    "UnknownArgumentError",
    "UnknownNameError",
    "UnsupportedModelError",
    "argument",
    "nearest",
    "one_line",
    "printable",
]

# Private-use characters around the name of an argument: no file and no user holds them.
_ARGUMENT = re.compile("\ue000(.*?)\ue001")


# What a terminal, a log or XML would act on or refuse: control characters, marks that turn the direction of text, and
# halves of characters; a line and a tab are what they are.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)
# Longer than any message of names that are all listed.
_MOST_CHARACTERS = 1200


def printable(text: str, *, line: bool = False) -> str:
    """`text` as any output shows it: control characters are written out as JSON does (``\\u001b``).

    Parameters
    ----------
    line
        Whether it stands inside a line, where a line feed is a control character as well.
    """
    shown = _CONTROL.sub(_written_out, text)
    return shown.replace("\n", "\\n").replace("\t", "\\t") if line else shown


def _written_out(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def argument(name: str) -> str:
    """An argument of a Python function, for the text of an error.

    Python callers read the name (``confidence``), the command line prints its flag (``--confidence``).
    """
    return f"\ue000{name}\ue001"


def nearest(found: str, allowed: Iterable[str], *, count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Names in `allowed` that look most like `found`, best first, ignoring case and separators.

    A name that continues or contains `found` (a100 → nvidia_a100_sxm_40gb) beats one that resembles it.
    """

    import difflib  # of no use to a run without a mistake

    def plain(name: str) -> str:
        return name.lower().replace("-", "").replace("_", "").replace(".", "")

    by_plain = {plain(name): name for name in allowed}
    wanted = plain(str(found))[:200]
    hits = [name for name in by_plain if len(wanted) >= 3 and name.startswith(wanted)]
    hits += [name for name in by_plain if len(wanted) >= 2 and wanted in name]
    hits += difflib.get_close_matches(wanted, list(by_plain), n=count, cutoff=cutoff)
    return [by_plain[hit] for hit in dict.fromkeys(hits)][:count]


def _shown(found: object) -> str:
    """A value as it was found, short enough for one line; reprlib stops in deep nesting."""
    try:
        text = repr(found) if isinstance(found, str | int | float | bool | None) else reprlib.repr(found)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = f"a value of type {type(found).__name__} that cannot be written"
    return text if len(text) <= 80 else text[:77] + "..."


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of any exception on one line, for a record or a note."""
    return printable(" ".join(str(error).split()))[:limit]


class AimcostError(Exception):
    """Base of every error that aimcost raises on purpose."""

    exit_code = 2

    def __str__(self) -> str:
        return self.text(lambda name: name)

    def text(self, name_of: Callable[[str], str]) -> str:
        """The message on one line, with each `argument` named by `name_of`."""
        text = " ".join(_ARGUMENT.sub(lambda found: name_of(found[1]), super().__str__()).split())
        text = printable(text)
        return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."

    def prefix(self, where: str) -> None:
        """Put `where: ` (a file, a section) in front of the message."""
        self.args = (f"{where}: {self.args[0]}",)


class UnknownNameError(AimcostError):
    """A name that nothing answers to. Names are looked up exactly; the nearest are offered.

    Of names that are equally near, the first of `allowed` come first. `cutoff` says how near a name must be, and
    `remedy` what to do where none is meant.
    """

    # no command lists these: the message names them all
    UNLISTED = frozenset({"scorer"})

    def __init__(
        self,
        what: str,
        found: str,
        allowed: Iterable[str],
        *,
        where: str = "",
        cutoff: float = 0.5,
        remedy: str = "",
    ) -> None:
        ordered = list(allowed)
        names = sorted(ordered)
        self.what, self.found, self.allowed = what, found, tuple(names)
        close = nearest(found, ordered, cutoff=cutoff)
        if close:
            hint = "did you mean " + " or ".join(repr(name) for name in close) + "?"
            if len(names) <= 8:
                hint += " (known: " + ", ".join(names) + ")"
        elif len(names) <= 12 or what in self.UNLISTED:
            hint = "known: " + ", ".join(names)
        elif remedy:
            hint = ""
        else:
            hint = f"{len(names)} are known: `aimcost {'schema' if what == 'key' else 'list'}` shows them"
        prefix = f"{where}: " if where else ""
        said = "; ".join(part for part in (f"unknown {what} {_shown(found)}", hint, remedy) if part)
        super().__init__(prefix + said)


class InvalidValueError(AimcostError):
    """A value of the wrong type, out of range, or in conflict with another."""

    def __init__(self, key: str, expected: str, found: object, *, where: str = "") -> None:
        self.key, self.expected, self.found = _ARGUMENT.sub(r"\1", key), expected, found
        prefix = f"{where}: " if where else ""
        shown = repr(key) if key == self.key else f"'{key}'"
        got = "" if found is None and expected.startswith("given") else f" (got {_shown(found)})"
        super().__init__(f"{prefix}{shown} must be {expected}{got}")


class UnknownArgumentError(UnknownNameError, TypeError):
    """A keyword that a Python function does not take."""

    def __init__(self, found: str, allowed: Iterable[str], *, remedy: str = "") -> None:
        super().__init__("argument", found, allowed, remedy=remedy)


class MissingArgumentError(InvalidValueError, TypeError):
    """What a Python function cannot do without."""


class FileFormatError(AimcostError):
    """A file that cannot be read as what it should be: missing, too big, binary, not YAML or JSON."""


class ScheduleError(AimcostError):
    """A token schedule that no model could run."""


class UnsupportedModelError(AimcostError):
    """A model whose shape or classes aimcost does not know, or has no scores; raised before anything is changed."""


class CalibrationError(AimcostError):
    """Coefficients or timing tables that cannot be true, or that name no source."""


class MissingExtraError(AimcostError):
    """An optional package is needed for this; the message says which extra installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'aimcost[{extra}]'")


class CheckFailedError(AimcostError):
    """A check ran and the answer is no (a budget missed, a figure that moved)."""

    exit_code = 1
