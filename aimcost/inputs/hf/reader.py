"""Typed reading of HF-style configurations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...errors import InvalidValueError, UnknownNameError
from .class_defaults import CLASS_DEFAULTS, SECTION_TYPES

__all__ = ["Reader", "assumed"]

MAX_SIZE = 10_000_000
MAX_LAYERS = 10_000
# Similarity from which a key is taken for a slip: one letter more, less or other in a dozen.
SLIP = 0.9


def _may_be(key: str, other: str) -> bool:
    """Whether `key` has so many letters of `other`, in any order, that it may be a slip: difflib need not be loaded."""
    shared = sum((Counter(key) & Counter(other)).values())
    return 2 * shared >= SLIP * (len(key) + len(other))


def assumed(filled: Mapping[str, object], what: str = "sizes") -> str:
    """A note on keys that a configuration leaves to its class, with the values that they take there."""
    values = ", ".join(f"{key} {str(value).lower()}" for key, value in filled.items())
    return f"{what} not in config.json, transformers' defaults assumed: {values}"


class Reader:
    """Typed access to one mapping, with errors that name the file and the key.

    Parameters
    ----------
    defaults
        Values of absent keys: those of the configuration class that transformers would build.
    """

    def __init__(
        self, data: Mapping[str, Any], where: str, prefix: str = "", defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.data, self.where, self.prefix = data, where, prefix
        self.defaults = defaults or {}
        self.asked: set[str] = set()
        self.filled: dict[str, int | bool] = {}
        self.sections: list[Reader] = []

    def get(self, key: str, default: Any = None) -> Any:
        """A value, noting that the key was looked for; `default` where neither file nor class has the key."""
        self.asked.add(key)
        return self.data.get(key, self.defaults.get(key, default))

    def notes(self) -> tuple[str, ...]:
        """Which sizes, and which flags that are set, come from the class and not from the file."""
        if not self.filled:
            return ()
        return (assumed(self.filled, self.prefix.rstrip(".") or "sizes"),)

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
            if key in self.asked or not any(_may_be(str(key), other) for other in missing):
                continue
            import difflib

            if close := difflib.get_close_matches(str(key), missing, n=1, cutoff=SLIP):
                raise UnknownNameError("key", self.prefix + str(key), [self.prefix + close[0]], where=self.where)
        for section in self.sections:
            section.check_spelling()

    def count(self, key: str, default: int | None = None, *, most: int = MAX_SIZE) -> int:
        value = self.get(key)
        if value is None:
            if default is not None:
                return default
            raise InvalidValueError(self.prefix + key, "given (a whole number)", None, where=self.where)
        if key in ("num_hidden_layers", "depth", "layers", "num_global_layers"):
            most = min(most, MAX_LAYERS)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InvalidValueError(self.prefix + key, f"a whole number from 1 to {most}", value, where=self.where)
        if key not in self.data and key in self.defaults:
            self.filled[key] = value
        return value

    def number(self, key: str, default: float = 0.0) -> float:
        """A number above zero."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-6 <= value <= MAX_SIZE:
            raise InvalidValueError(self.prefix + key, "a number above zero", value, where=self.where)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidValueError(self.prefix + key, "true or false", value, where=self.where)
        if value and key not in self.data and key in self.defaults:
            self.filled[key] = True
        return bool(value)

    def limit(self, key: str) -> int | None:
        """A count that changes no cost; None where neither file nor class states one."""
        value = self.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def section(self, key: str) -> Reader:
        """The mapping under `key`.

        Raises
        ------
        InvalidValueError
            It is absent, or no mapping.
        """
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise InvalidValueError(self.prefix + key, "given (a mapping)", value, where=self.where)
        self.sections.append(Reader(value, self.where, f"{self.prefix}{key}."))
        return self.sections[-1]

    def part(self, key: str) -> Reader:
        """The section of a composite's language model or tower, with the defaults of its configuration class.

        Raises
        ------
        InvalidValueError
            It is absent, empty, or no mapping.
        """
        reader = self.section(key)
        if not reader.data:
            raise self.fail(key, "not empty")
        own = SECTION_TYPES.get(str(self.data.get("model_type")), {}).get(key)
        # Qwen's composites have one class for each part, whatever its section calls itself
        fixed = own is not None and own.startswith("qwen") and own != "qwen2"
        kind = own if fixed else reader.data.get("model_type", own)
        reader.defaults = {"model_type": kind, **CLASS_DEFAULTS.get(str(kind), {})}
        return reader

    def optional_section(self, key: str) -> Reader:
        """The mapping under `key`, an empty one where it is absent."""
        return self.section(key) if self.data.get(key) is not None else Reader({}, self.where, f"{key}.")

    def layer_list(self, key: str, layers: int, *, beyond: bool = False) -> tuple[int, ...]:
        """Indices of some of `layers` layers.

        Parameters
        ----------
        beyond
            Leave out those past the last layer, as classes do that look up each layer's own index: a configuration
            made shallow keeps the list of the deep one.
        """
        given, most = self.get(key), math.inf if beyond else layers - 1
        right = isinstance(given, list | tuple) and all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= most for n in given
        )
        if not isinstance(given, list | tuple) or not right:
            raise self.fail(key, f"a list of layers from 0 to {layers - 1}" if not beyond else "a list of layers")
        return tuple(n for n in given if n < layers)

    def fail(self, key: str, expected: str) -> InvalidValueError:
        return InvalidValueError(self.prefix + key, expected, self.get(key), where=self.where)
