"""Typed reading of HF-style configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidValueError

__all__ = ["Reader"]

MAX_SIZE = 10_000_000
MAX_LAYERS = 10_000


class Reader:
    """Typed access to one mapping, with errors that name the file and the key."""

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.data, self.where, self.prefix = data, where, prefix

    def count(self, key: str, default: int | None = None, *, most: int = MAX_SIZE) -> int:
        value = self.data.get(key)
        if value is None:
            if default is not None:
                return default
            raise InvalidValueError(self.prefix + key, "given (a whole number)", None, where=self.where)
        if key in ("num_hidden_layers", "depth", "num_global_layers"):
            most = min(most, MAX_LAYERS)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InvalidValueError(self.prefix + key, f"a whole number from 1 to {most}", value, where=self.where)
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidValueError(self.prefix + key, "true or false", value, where=self.where)
        return value

    def section(self, key: str) -> Reader:
        value = self.data.get(key)
        if not isinstance(value, Mapping):
            raise InvalidValueError(self.prefix + key, "given (a mapping)", value, where=self.where)
        return Reader(value, self.where, f"{self.prefix}{key}.")

    def optional_section(self, key: str) -> Reader:
        """The mapping under `key`, an empty one where it is absent."""
        return self.section(key) if self.data.get(key) is not None else Reader({}, self.where, f"{key}.")

    def layer_list(self, key: str, layers: int) -> tuple[int, ...]:
        """Indices of some of `layers` layers."""
        given = self.data.get(key)
        right = isinstance(given, list | tuple) and all(isinstance(n, int) and 0 <= n < layers for n in given)
        if not isinstance(given, list | tuple) or not right:
            raise self.fail(key, f"a list of layers from 0 to {layers - 1}")
        return tuple(given)

    def fail(self, key: str, expected: str) -> InvalidValueError:
        return InvalidValueError(self.prefix + key, expected, self.data.get(key), where=self.where)
