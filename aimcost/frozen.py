"""Frozen dataclasses whose methods are not compiled one by one.

The standard decorator writes the source of six methods for every class and compiles each: with the eighty classes of
an estimate, a quarter of the CPU time of the command. Here a class compiles ``__init__`` alone; the other methods
share one closure each. What a class does is the same, and `dataclasses.replace`, `fields` and `asdict`, `copy` and
`pickle` take it. Refused: ``ClassVar``, fields of a base class, methods of comparison or assignment of the class's own.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import MISSING, Field, FrozenInstanceError
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["dataclass"]

_set = object.__setattr__


def _build(cls: type[Any], *, slots: bool, kw_only: bool, eq: bool, repr: bool) -> type[Any]:
    """The class with the fields, slots and methods of a frozen dataclass."""
    own = set(cls.__dict__)
    cls.__doc__ = cls.__doc__ or cls.__name__  # else the standard decorator makes a signature for it
    cls = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
    declared = list(cls.__dataclass_fields__.values())
    if (
        own & {"__init__", "__eq__", "__setattr__", "__delattr__"}
        or any(map(dataclasses.is_dataclass, cls.__mro__[1:]))
        or any("ClassVar" in str(each.type) for each in declared)
    ):
        raise TypeError(f"{cls.__qualname__} needs the standard dataclass")
    fields = dataclasses.fields(cls)
    methods = [_init(cls, declared, {each.name for each in fields}), _setattr, _delattr]
    if repr:
        methods.append(_repr([each.name for each in fields if each.repr]))
    if eq:
        methods.append(_eq([each.name for each in fields if each.compare]))
        methods.append(_hash([each.name for each in fields if (each.compare if each.hash is None else each.hash)]))
    if slots:
        methods += _state([each.name for each in fields])
    for method in methods:
        if method.__name__ not in own:
            setattr(cls, method.__name__, method)
    return cls


class _Factory:
    """Default of a parameter whose field is made anew for every instance."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _init(cls: type[Any], declared: list[Field[Any]], stored: set[str]) -> Any:
    """``__init__``; what is declared but not stored is an ``InitVar``, which goes to ``__post_init__``."""
    names: dict[str, Any] = {"_set": _set, "_FACTORY": _FACTORY}
    by_place: list[str] = []
    by_name: list[str] = []
    body, passed = [], []
    for field in declared:
        name = value = field.name
        parameter = name
        if field.default_factory is not MISSING:
            names[f"_make_{name}"] = field.default_factory
            value = f"_make_{name}()" + (f" if {name} is _FACTORY else {name}" if field.init else "")
            parameter = f"{name}=_FACTORY"
        elif field.default is not MISSING:
            names[f"_default_{name}"] = field.default
            value = name if field.init else f"_default_{name}"
            parameter = f"{name}=_default_{name}"
        elif not field.init:
            continue  # `__post_init__` sets it
        if field.init:
            (by_name if field.kw_only else by_place).append(parameter)
        if name in stored:
            body.append(f"_set(self, {name!r}, {value})")
        else:
            passed.append(name)
    if hasattr(cls, "__post_init__"):
        body.append(f"self.__post_init__({', '.join(passed)})")
    parameters = ", ".join(["self", *by_place, *(["*", *by_name] if by_name else [])])
    # a closure over `names`, so that the globals are the module's own, where annotations are looked up
    source = f"def _make({', '.join(names)}):\n def __init__({parameters}):\n  "
    module = sys.modules.get(cls.__module__)
    made_by: dict[str, Any] = {}
    exec(source + "\n  ".join(body or ["pass"]) + "\n return __init__", vars(module) if module else {}, made_by)
    made = made_by["_make"](**names)
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    made.__annotations__ = {**{each.name: each.type for each in declared if each.init}, "return": None}
    return made


def _setattr(self: Any, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


_setattr.__name__, _delattr.__name__ = "__setattr__", "__delattr__"


def _values(names: list[str]) -> Any:
    """A function of an instance that gives these attributes as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda self: tuple(getattr(self, name) for name in names)


def _repr(names: list[str]) -> Any:
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _eq(names: list[str]) -> Any:
    values = _values(names)

    def __eq__(self: Any, other: object) -> Any:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash(names: list[str]) -> Any:
    values = _values(names)

    def __hash__(self: Any) -> int:
        return hash(values(self))

    return __hash__


def _state(names: list[str]) -> tuple[Any, Any]:
    """What `copy` and `pickle` call: by themselves they would assign to slots."""

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            _set(self, name, value)

    return __getstate__, __setstate__


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen, slots=False, kw_only=False, eq=True, repr=True):
        """As `dataclasses.dataclass`, of classes that are frozen."""
        if not frozen:
            raise TypeError("a class that changes needs the standard dataclass")
        return lambda cls: _build(cls, slots=slots, kw_only=kw_only, eq=eq, repr=repr)
