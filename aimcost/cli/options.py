"""Commands and their options as declared, and the plain way of giving them.

typer makes help and error lines of these declarations (`aimcost.cli.typed`), and imports for longer than an estimate
takes. So a command line that is plain, its flags spelled out and its values whole, is read here; any other, help and
mistakes among them, goes to typer.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..frozen import dataclass
from ..inputs.discover import modules

__all__ = ["Argument", "Call", "Commands", "Context", "Declared", "Exit", "Option", "hints_of", "parse"]

Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Declared:
    """An option or argument, in the words of `typer.Option` and `typer.Argument`.

    ``complete`` among them: kinds of names (`aimcost.inputs.discover.KINDS`, method, estimator, format) that a shell
    completes.
    """

    what: Literal["option", "argument"]
    names: tuple[str, ...]
    words: Mapping[str, Any]


def Option(*names: str, **words: Any) -> Declared:
    """An option; without names it is called as its parameter."""
    return Declared("option", names, words)


def Argument(**words: Any) -> Declared:
    """A positional argument."""
    return Declared("argument", (), words)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Context:
    """What a command that asks for it learns of its call: all parameters by name. typer passes its own."""

    params: Mapping[str, Any]


class Exit(Exception):
    """End with this status; everything is printed already."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Commands:
    """The commands by name: each is declared in a file of its function's name, imported when it is asked for.

    Attributes
    ----------
    package
        The package of those files; without one, what was declared is all there is.
    declared
        What was imported so far.
    timed
        Commands that time the machine, for which it is left as it is.
    """

    package: str = ""
    declared: dict[str, Callable[..., None]] = field(default_factory=dict)
    timed: set[str] = field(default_factory=set)

    def command(self, *, times_machine: bool = False) -> Callable[[Function], Function]:
        """Declare a command named after its function: ``calibrate_stack`` as ``calibrate-stack``."""

        def declare(function: Function) -> Function:
            name = _spelled(function.__name__)
            self.declared[name] = function
            if times_machine:
                self.timed.add(name)
            return function

        return declare

    def find(self, name: str) -> Callable[..., None] | None:
        """The command of that name, with no other imported."""
        if name not in self.declared and name in (files := self._files()):
            importlib.import_module(f"{self.package}.{files[name]}")
        return self.declared.get(name)

    def all(self) -> dict[str, Callable[..., None]]:
        """Every command, by name."""
        for name in self._files():
            self.find(name)
        return dict(sorted(self.declared.items()))

    def _files(self) -> dict[str, str]:
        if not self.package:
            return {}
        (folder,) = importlib.import_module(self.package).__path__
        return {_spelled(module): module for module in modules(folder)}


def _spelled(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call:
    """A command and its parameters."""

    name: str
    function: Callable[..., None]
    values: Mapping[str, Any]

    def __call__(self) -> None:
        self.function(**self.values)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Parameter:
    """One parameter of a command: how a value is read, and whether it collects several."""

    name: str
    read: Callable[[str], Any] | None
    many: bool


def parse(commands: Commands, arguments: Sequence[str]) -> Call | None:
    """The call that a plain command line means; None for any other, which typer reads."""
    function = commands.find(arguments[0]) if arguments else None
    if function is None:
        return None
    values: dict[str, Any] = {}
    context, flags, places = None, dict[str, _Parameter](), list[_Parameter]()
    hints = hints_of(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if hints[name] is Context:
            context = name
            continue
        if parameter.default is not parameter.empty:
            values[name] = parameter.default
        found = _parameter(name, hints[name])
        if found is None:
            return None
        read, declared = found
        if declared.what == "argument":
            places.append(read)
        else:
            flags.update(dict.fromkeys(declared.names or ("--" + name.replace("_", "-"),), read))
    given = _given(arguments[1:], flags, places)
    if given is None:
        return None
    values.update(given)
    if any(name not in values for name in hints if name not in (context, "return")):
        return None
    if context is not None:
        values[context] = Context(dict(values))
    return Call(arguments[0], function, values)


def hints_of(function: Callable[..., None]) -> dict[str, Any]:
    """Types of the parameters with their declarations.

    Python 3.10 makes the type of a parameter whose default is None optional once more, around the declaration.
    """
    hints = get_type_hints(function, include_extras=True)
    return {
        name: next((each for each in get_args(hint) if get_origin(each) is Annotated), hint)
        for name, hint in hints.items()
    }


def _parameter(name: str, hint: Any) -> tuple[_Parameter, Declared] | None:
    """How a parameter of this type is read; None for one that only typer reads."""
    kind, *extras = get_args(hint) or (hint,)
    if len(extras) != 1 or not isinstance(extras[0], Declared):
        return None
    (declared,) = extras
    if get_origin(kind) in (Union, UnionType):
        kind = next(each for each in get_args(kind) if each is not NoneType)
    many = get_origin(kind) is list
    if many:
        (kind,) = get_args(kind)
    if kind not in (str, Path, int, float, bool) or {"min", "max"} & set(declared.words):
        return None
    return _Parameter(name, None if kind is bool else kind, many), declared


def _given(
    arguments: Sequence[str], flags: Mapping[str, _Parameter], places: Sequence[_Parameter]
) -> dict[str, Any] | None:
    """Values by parameter, or None where the command line is not plain."""
    values: dict[str, Any] = {}
    rest, left = list(places), list(arguments)
    while left:
        text = left.pop(0)
        if text.startswith("-"):
            head, equals, value = text.partition("=") if text.startswith("--") else (text, "", "")
            found = flags.get(head)
            if found is None or (found.read is None and equals):
                return None
            if found.read is None:
                values[found.name] = True
                continue
            if not equals:
                if not left or left[0].startswith("-"):
                    return None
                value = left.pop(0)
        else:
            if not rest:
                return None
            found, value = rest[0], text
            if not found.many:
                rest.pop(0)
        try:
            read = found.read(value) if found.read is not None else value
        except ValueError:
            return None
        values[found.name] = [*values.get(found.name, ()), read] if found.many else read
    return values
