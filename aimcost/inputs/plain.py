"""What Python callers hand over, as the plain values that a YAML file would hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from ..errors import InvalidValueError, argument

__all__ = ["MAX_DEPTH", "items_of", "names_of", "number_of", "plain"]

MAX_DEPTH = 100


def plain(value: Any) -> Any:
    """Mappings as dicts, tuples and arrays as lists, NumPy's scalars as Python's, paths as text.

    Anything else is passed on, for the schema to refuse. What stands in several places (a YAML alias) is copied
    once, so that a copy is as large as its original, not as large as what its aliases spell out.

    Raises
    ------
    InvalidValueError
        Nested deeper than `MAX_DEPTH`, or in a circle.
    """
    return _copied(value, {}, MAX_DEPTH)


def items_of(name: str, value: Any, kinds: type | tuple[type, ...], words: str) -> tuple[Any, ...]:
    """The items of a list that is an argument of a Python function.

    Parameters
    ----------
    name
        Of the argument, for the error.
    kinds, words
        What each item has to be, as types and in words.

    Raises
    ------
    InvalidValueError
        No list, or items of another type.
    """
    items = plain(list(value) if isinstance(value, tuple | range) else value)
    if not isinstance(items, list) or not all(isinstance(each, kinds) and each is not True for each in items):
        raise InvalidValueError(argument(name), f"a list of {words}", value)
    return tuple(items)


def names_of(name: str, value: Any) -> tuple[str, ...]:
    """Names in a list that is an argument of a Python function; a string is one name.

    Raises
    ------
    InvalidValueError
        No list, or items that are no text.
    """
    return (value,) if isinstance(value, str) else items_of(name, value, str, "names")


def number_of(name: str, value: Any, words: str = "a number", kinds: type | tuple[type, ...] = (int, float)) -> Any:
    """A number that is an argument of a Python function, None where it is None; NumPy's scalars are Python's.

    Raises
    ------
    InvalidValueError
        Text, a truth value, or anything else that is none of `kinds`; `words` say what it has to be.
    """
    number = plain(value)
    if number is not None and (isinstance(number, bool) or not isinstance(number, kinds)):
        raise InvalidValueError(argument(name), words, value)
    return number


# What is plain already; tested for first, since most values are.
_SCALARS = (str, int, float, bool, type(None))


def _copied(value: Any, made: dict[int, Any], depth: int) -> Any:
    """`plain` of a part; `made` holds the copies of the mappings and lists met so far, by identity."""
    if not depth:
        raise InvalidValueError("run", f"nested at most {MAX_DEPTH} levels", value)
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        if id(value) not in made:
            mapping = made[id(value)] = dict[Any, Any]()
            mapping.update((key, _copied(inner, made, depth - 1)) for key, inner in value.items())
        return made[id(value)]
    if isinstance(value, list | tuple):
        if id(value) not in made:
            items = made[id(value)] = list[Any]()
            items.extend(_copied(inner, made, depth - 1) for inner in value)
        return made[id(value)]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else value
