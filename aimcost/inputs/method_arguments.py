"""A method as arguments in one line, ``method=aim,method.l1=14``: how evaluation harnesses are told, and tell, it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .files import parse_value
from .run import merge_overrides
from .strict_json import to_json

__all__ = ["method_arguments", "method_in"]


def method_arguments(method: Mapping[str, Any]) -> str:
    """A ``method:`` mapping in one line; `method_in` reads it."""
    values = {"method" if key == "name" else f"method.{key}": value for key, value in method.items()}
    return ",".join(
        f"{key}={value if isinstance(value, str) else to_json(value, indent=None)}" for key, value in values.items()
    )


def method_in(arguments: str | Mapping[str, Any]) -> dict[str, Any] | None:
    """The method among other arguments (comma-separated text, or a mapping of them); None without one.

    Raises
    ------
    FileFormatError, InvalidValueError
        A value that is no YAML, or parameters without ``method=NAME``.
    """
    if isinstance(arguments, str):
        pairs = [part.partition("=") for part in _split(arguments)]
        arguments = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    stated = {
        key: parse_value(value) if isinstance(value, str) else value
        for key, value in arguments.items()
        if key == "method" or key.startswith("method.")
    }
    # the name first: parameters of another method would not carry over
    ordered = {key: stated[key] for key in sorted(stated, key=lambda key: key != "method")}
    found = merge_overrides({}, ordered).get("method")
    return {"name": found} if isinstance(found, str) else found


def _split(text: str) -> list[str]:
    """At commas outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts
