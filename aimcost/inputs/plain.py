"""What Python callers hand over, as the plain values that a YAML file would hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Mappings as dicts, tuples and arrays as lists, NumPy's scalars as Python's, paths as text.

    Anything else is passed on, for the schema to refuse. What stands in several places (a YAML alias) is copied
    once, so that a copy is as large as its original, not as large as what its aliases spell out.
    """
    return _copied(value, {})


def _copied(value: Any, made: dict[int, Any]) -> Any:
    """`plain` of a part; `made` holds the copies of the mappings and lists met so far, by identity."""
    if isinstance(value, Mapping):
        if id(value) not in made:
            mapping = made[id(value)] = dict[Any, Any]()
            mapping.update((key, _copied(inner, made)) for key, inner in value.items())
        return made[id(value)]
    if isinstance(value, list | tuple):
        if id(value) not in made:
            items = made[id(value)] = list[Any]()
            items.extend(_copied(inner, made) for inner in value)
        return made[id(value)]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else value
