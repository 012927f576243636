"""What users hand over, declared once: records that accept what is plainly valid, and pydantic models for the rest.

A cold estimate reads a run, a profile, a stack and a model; importing pydantic and building their schemas would take
longer than all else that it does. So `Strict` accepts by itself what leaves no doubt. Whatever it has a doubt about is
put to a pydantic model of the same declarations, which converts it or says what is wrong with it, and which writes the
JSON Schema: there is one declaration, and pydantic has the last word on it.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["Before", "Bounds", "Strict", "descriptions", "made", "pydantic_model"]

Record = TypeVar("Record", bound="Strict")
_MISSING: Any = object()
# Whole numbers up to here are exact as floats.
_EXACT = 2**53


class Bounds:
    """Limits on a number, a text or a list, in the words of `pydantic.Field`."""

    def __init__(
        self,
        *,
        ge: float | None = None,
        gt: float | None = None,
        le: float | None = None,
        lt: float | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.ge, self.gt, self.le, self.lt = ge, gt, le, lt
        self.min_length, self.max_length = min_length, max_length

    def hold(self, value: Any) -> bool:
        """Whether a value is within them."""
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
            and (self.min_length is None or len(value) >= self.min_length)
            and (self.max_length is None or len(value) <= self.max_length)
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Field

        given = {name: value for name, value in vars(self).items() if value is not None}
        return handler.generate_schema(Annotated[source, Field(**given)])


class Before:
    """A function that a value goes through first, and what JSON may hold there."""

    def __init__(self, function: Callable[[Any], Any], json_type: Any) -> None:
        self.function, self.json_type = function, json_type


class _Made:
    """A default that is made anew for each record."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory


def made(factory: Callable[[], Any]) -> Any:
    """Declare a default that `factory` makes anew for each record."""
    return _Made(factory)


class Strict:
    """A record declared by its annotations: no unknown keys, no coercion, no NaN or infinity; frozen.

    A default that is made anew for each record is declared with `made`.
    """

    _given: frozenset[str]

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(type(self).read(values).__dict__)

    @classmethod
    def read(cls: type[Record], data: Mapping[str, Any]) -> Record:
        """The record that `data` holds.

        Raises
        ------
        pydantic.ValidationError
            What is wrong with it.
        """
        try:
            return _accepted(cls, data)
        except _Doubt:
            model = pydantic_model(cls).model_validate(dict(data))
            found: Record = _record(model)
            return found

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all keys."""
        declared: Any = cls  # mypy takes a class with __hash__ for one that cannot be hashed itself
        return _names(declared)

    @property
    def given(self) -> frozenset[str]:
        """The keys that were given."""
        return self._given

    def changed(self: Record, **values: Any) -> Record:
        """A copy with these keys given; their values are not checked."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__, **values, _given=self._given | values.keys())
        return copy

    def dump(self, *, given: bool = False, exclude_none: bool = False) -> dict[str, Any]:
        """As the mapping that a file holds.

        Parameters
        ----------
        given
            Only keys that were given.
        """
        return {
            name: _dumped(value, given, exclude_none)
            for name in type(self).names()
            if (not given or name in self._given) and not ((value := getattr(self, name)) is None and exclude_none)
        }

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """As a part of a pydantic model."""
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(_record, handler.generate_schema(pydantic_model(cls)))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).names())

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in type(self).names()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in type(self).names())})"


@cache
def _names(cls: type[Strict]) -> tuple[str, ...]:
    return tuple(
        name
        for base in reversed(cls.__mro__)
        if issubclass(base, Strict) and base is not Strict
        for name in inspect.get_annotations(base)
    )


def _dumped(value: Any, given: bool, exclude_none: bool) -> Any:
    if isinstance(value, Strict):
        return value.dump(given=given, exclude_none=exclude_none)
    if isinstance(value, dict):
        return {key: _dumped(each, given, exclude_none) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_dumped(each, given, exclude_none) for each in value)
    return value


class _Doubt(Exception):
    """Not plainly valid."""


Reader = Callable[[Any], Any]


@cache
def _defaults(cls: Any) -> dict[str, Any]:
    """By key: its default, or `_MISSING`."""
    given = {name: getattr(cls, name, _MISSING) for name in cls.names()}
    return {name: _MISSING if _is_pydantics(default) else default for name, default in given.items()}


@cache
def _reader_of(cls: Any, name: str) -> Reader:
    """What reads the value of a key. Made for the keys that are given: a file gives few of those declared."""
    if _is_pydantics(getattr(cls, name, _MISSING)):
        return lambda value: _doubt()
    home = next(base for base in cls.__mro__ if name in inspect.get_annotations(base))
    declared = SimpleNamespace(__annotations__={name: inspect.get_annotations(home)[name]})
    return _reader(get_type_hints(declared, vars(sys.modules[home.__module__]), include_extras=True)[name])


def _is_pydantics(default: Any) -> bool:
    """Whether pydantic itself declares or copies this default."""
    return isinstance(default, list | dict | set) or type(default).__module__.startswith("pydantic")


def _accepted(cls: type[Record], data: Mapping[str, Any]) -> Record:
    declared: Any = cls  # mypy takes a class with __hash__ for one that cannot be hashed itself
    defaults = _defaults(declared)
    if not defaults.keys() >= data.keys():
        raise _Doubt
    record = cls.__new__(cls)
    values = record.__dict__
    for name, default in defaults.items():
        if name in data:
            values[name] = _reader_of(declared, name)(data[name])
        elif default is _MISSING:
            raise _Doubt
        else:
            values[name] = default.factory() if isinstance(default, _Made) else default
    values["_given"] = frozenset(data)
    return record


def _reader(hint: Any) -> Reader:
    """What accepts a value of this type, or raises _Doubt."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if hint is float:
        return _float
    if hint in (int, str, bool, NoneType):
        return lambda value: value if type(value) is hint else _doubt()
    if isinstance(hint, type) and issubclass(hint, Strict):
        return lambda value: _accepted(hint, value) if type(value) is dict else _doubt()
    if origin is Literal:
        allowed = {(type(each), each) for each in args}
        return lambda value: value if isinstance(value, int | str) and (type(value), value) in allowed else _doubt()
    if origin is list:
        return _list(_reader(args[0]))
    if origin is dict and args[0] is str:
        return _dict(_reader(args[1]))
    if origin in (Union, UnionType):
        return _union(args)
    if origin is Annotated:
        return _annotated(_reader(args[0]), args[1:])
    return lambda value: _doubt()


def _doubt() -> Any:
    raise _Doubt


def _float(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and -_EXACT <= value <= _EXACT:
        return float(value)
    raise _Doubt


def _list(read: Reader) -> Reader:
    return lambda value: [read(each) for each in value] if type(value) is list else _doubt()


def _dict(read: Reader) -> Reader:
    def accept(value: Any) -> Any:
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise _Doubt
        return {key: read(each) for key, each in value.items()}

    return accept


def _union(options: tuple[Any, ...]) -> Reader:
    bare = {get_args(each)[0] if get_origin(each) is Annotated else each for each in options}
    if {int, float} <= bare:
        return lambda value: _doubt()  # which of the two a whole number becomes is for pydantic to say
    readers = [_reader(each) for each in options]

    def accept(value: Any) -> Any:
        for read in readers:
            try:
                return read(value)
            except _Doubt:
                continue
        raise _Doubt

    return accept


def _annotated(read: Reader, extras: tuple[Any, ...]) -> Reader:
    if not all(isinstance(each, Bounds | Before) for each in extras):
        return lambda value: _doubt()
    before = [each.function for each in extras if isinstance(each, Before)]
    bounds = [each for each in extras if isinstance(each, Bounds)]

    def accept(value: Any) -> Any:
        for function in before:
            value = function(value)
        value = read(value)
        if not all(each.hold(value) for each in bounds):
            raise _Doubt
        return value

    return accept


# pydantic's side


def pydantic_model(cls: type[Strict]) -> Any:
    """The pydantic model of the same declarations: a subclass of `pydantic.BaseModel`; one for each."""
    declared: Any = cls
    return _model(declared)


@cache
def _model(cls: Any) -> Any:
    from pydantic import Field, create_model

    from .strict_model import StrictModel

    hints, fields = get_type_hints(cls, include_extras=True), dict[str, Any]()
    said = descriptions(cls)
    for name in cls.names():
        default = getattr(cls, name, _MISSING)
        if default is _MISSING:
            default = ...
        elif isinstance(default, _Made):
            default = Field(default_factory=_translated(default.factory))
        fields[name] = (_translated(hints[name]), default)
        if name in said:
            fields[name] = (Annotated[fields[name][0], Field(description=said[name])], default)
    own: dict[str, Any] = {"__base__": StrictModel, "__doc__": cls.__doc__, "__module__": cls.__module__}
    model: Any = create_model(cls.__name__, **own, **fields)
    _RECORDS[model] = cls
    return model


def descriptions(cls: type[Strict]) -> dict[str, str]:
    """What the docstrings of a record and of its bases say of each key, under ``Attributes`` as numpydoc has it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes\n----------\n")
        names: list[str] = []
        for line in section.split("\n"):
            if line[:1].strip():
                names = [name.strip() for name in line.split(",")]
                found.update(dict.fromkeys(names, ""))
            elif line.strip():
                found.update({name: f"{found[name]} {line.strip()}".strip() for name in names})
    return found


# The declaration of each pydantic model made here; there are as many as declarations.
_RECORDS: dict[Any, type[Strict]] = {}


def _translated(hint: Any) -> Any:
    """A type with pydantic's models and markers in place of ours."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and origin is None and issubclass(hint, Strict):
        return pydantic_model(hint)
    if origin is Annotated:
        parts = (_translated(args[0]), *map(_marker, args[1:]))
        return Annotated[parts]
    if origin in (Union, UnionType):
        return Union[tuple(_translated(each) for each in args)]  # noqa: UP007
    if origin in (list, dict, tuple):
        return origin[tuple(_translated(each) for each in args)]
    return hint


def _marker(marker: Any) -> Any:
    from pydantic import BeforeValidator, Field

    if isinstance(marker, Bounds):
        return Field(**{name: value for name, value in vars(marker).items() if value is not None})
    if isinstance(marker, Before):
        return BeforeValidator(marker.function, json_schema_input_type=marker.json_type)
    return marker


def _record(value: Any) -> Any:
    """A validated pydantic model as our record."""
    cls = _RECORDS.get(type(value))
    if cls is not None:
        record = cls.__new__(cls)
        record.__dict__.update({name: _record(getattr(value, name)) for name in cls.names()})
        record.__dict__["_given"] = frozenset(value.model_fields_set)
        return record
    if isinstance(value, dict):
        return {key: _record(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_record(each) for each in value)
    return value
