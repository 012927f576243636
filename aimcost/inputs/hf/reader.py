"""Typed reading of HF-style configurations."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ...errors import InvalidValueError, UnknownNameError

__all__ = ["Reader"]

MAX_SIZE = 10_000_000
MAX_LAYERS = 10_000
# Similarity from which a key is taken for a slip: one letter more, less or other in a dozen.
SLIP = 0.9


class Reader:
    """Typed access to one mapping, with errors that name the file and the key."""

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.data, self.where, self.prefix = data, where, prefix
        self.asked: set[str] = set()
        self.sections: list[Reader] = []

    def get(self, key: str, default: Any = None) -> Any:
        """A value, noting that the key was looked for."""
        self.asked.add(key)
        return self.data.get(key, default)

    def check_spelling(self) -> None:
        """Configurations carry keys that no cost depends on; one that nearly is a key that was looked for
        in vain is a slip that would change the answer.

        Raises
        ------
        UnknownNameError
            Naming the key and what it was probably meant to be.
        """
        missing = [key for key in self.asked if key not in self.data]
        for key in self.data:
            close = difflib.get_close_matches(str(key), missing, n=1, cutoff=SLIP)
            if close and key not in self.asked:
                raise UnknownNameError("key", self.prefix + str(key), [self.prefix + close[0]], where=self.where)
        for section in self.sections:
            section.check_spelling()

    def count(self, key: str, default: int | None = None, *, most: int = MAX_SIZE) -> int:
        value = self.get(key)
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
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidValueError(self.prefix + key, "true or false", value, where=self.where)
        return value

    def section(self, key: str) -> Reader:
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise InvalidValueError(self.prefix + key, "given (a mapping)", value, where=self.where)
        self.sections.append(Reader(value, self.where, f"{self.prefix}{key}."))
        return self.sections[-1]

    def with_defaults(self, defaults: Mapping[str, Any]) -> Reader:
        """The same mapping with values for keys that it lacks."""
        filled = Reader({**self.data, **defaults}, self.where, self.prefix)
        filled.asked = self.asked
        self.sections.append(filled)
        return filled

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
