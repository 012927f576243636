"""Mutations of nested values and of text, all by the random generator that they are given."""

from __future__ import annotations

import copy
import decimal
import math
import random
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["flag_text", "mutated", "mutated_text"]

NUMBERS: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 3, 7, 10**4, 10**5, 10**7, 10**8, 2**31, 2**53 + 1, 10**30, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.5, 1e-12, 1e-300, 5e-324, 1e30, 1e300, 1.7e308, math.nan, math.inf, -math.inf),
)
TEXTS = (
    *("", " ", "x", "0", "1", "1e3", "989e12", "1:30", "2024-13-45", "2024-01-01", "~", "null", "true", "none", "auto"),
    *(".", "..", "../aim", "/dev/zero", "/dev/null", "/", "a/b", "\0", "x\0y", "a" * 3000, "\ud800", "é", "\u202e"),
    *("x\n::error::y", "\x1b[2J", "<b>&\"'", "=1+1", "{}", "[", "&a [*a]", "%s", "{0}", "nvidia_l4", "aim", "llama"),
)
SHAPES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [{}], {"a": 1}, {"": {}}, [0], [1, 2], [None], [[1, 2]])
# What only Python can hand over.
OBJECTS: tuple[Any, ...] = (
    *(b"bytes", {1: 2}, {1, 2}, (1, 2), 1j, decimal.Decimal(3), range(3), object, len, Path("x"), {None: 1, "a": 2}),
    *(np.float64("nan"), np.int64(3), np.array([1, 2]), np.array(5.0), np.bool_(True), bytearray(b"x"), ...),
)


def _odd(rng: random.Random, objects: bool) -> Any:
    kinds = [NUMBERS, NUMBERS, TEXTS, SHAPES] + ([OBJECTS] if objects else [])
    value = _copy(rng.choice(rng.choice(kinds)))
    if rng.random() < 0.05:
        for _ in range(rng.choice((2, 30, 500))):
            value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _places(value: Any, found: list[tuple[Any, Any]], depth: int = 0) -> list[tuple[Any, Any]]:
    """(container, key) of every part."""
    if depth < 12 and len(found) < 5000:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            found.append((value, key))
            _places(inner, found, depth + 1)
    return found


def _copy(value: Any) -> Any:
    """A deep copy; None in place of what is nested too deep to be copied, which would stand inside itself."""
    try:
        return copy.deepcopy(value)
    except RecursionError:
        return None


def _nudged(rng: random.Random, value: Any) -> Any:
    """A number near or far from another one; text with something odd in it; a list shorter, longer or twice."""
    if isinstance(value, bool) or value is None:
        return rng.choice((0, 1, "yes", not value))
    if isinstance(value, int) and abs(value) > 2**70:
        return -value
    if isinstance(value, int):
        near = (value + 1, value - 1, -value, value * 10, value * 1000, value // 2)
        return rng.choice((*near, value / 7e7, str(value)))
    if isinstance(value, float):
        return rng.choice((value * 1e6, value / 1e6, -value, round(value) if math.isfinite(value) else 0, str(value)))
    if isinstance(value, str):
        place = rng.randint(0, len(value))
        return value[:place] + rng.choice(TEXTS) + value[place + rng.randint(0, 2) :]
    if isinstance(value, list) and value:
        return rng.choice((value[1:], value[:-1], value * 2, value[::-1], [value], value * rng.choice((10, 1000))))
    if isinstance(value, dict):
        return rng.choice((list(value), list(value.values()), [value], {}))
    return value


def mutated(rng: random.Random, value: Any, *, names: tuple[str, ...] = (), objects: bool = False) -> Any:
    """`value` with one to four parts changed.

    Parameters
    ----------
    names
        Keys that may be added somewhere.
    objects
        Whether parts may be what no file holds.
    """
    value = _copy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        places = _places(value, [])
        if not places:
            return _odd(rng, objects)
        inside, key = rng.choice(places)
        how = rng.random()
        if how < 0.35:
            inside[key] = _odd(rng, objects)
        elif how < 0.65:
            inside[key] = _nudged(rng, inside[key])
        elif how < 0.75:
            del inside[key]
        elif how < 0.85 and names and isinstance(inside, dict):
            inside[rng.choice(names)] = _odd(rng, objects)
        elif how < 0.95:
            other, at = rng.choice(places)
            if at in other if isinstance(other, dict) else at < len(other):
                inside[key] = _copy(other[at])
        elif isinstance(inside, dict):
            inside[rng.choice((str(key) + "s", str(key)[1:], rng.choice(TEXTS)))] = inside.pop(key)
    return value


PIECES = (
    *(
        "[",
        "]",
        "{",
        "}",
        ":",
        ": ",
        "-",
        "- ",
        ",",
        "\n",
        "\t",
        "'",
        '"',
        "&a ",
        "*a",
        "<<: *a",
        "!!set ",
        "!!binary x",
    ),
    *("---\n", "...", "|\n", ">", "?", "%", "@", "#", "~", ".inf", ".nan", "1e999", "0x", "9" * 50, "9" * 5000, "\0"),
    *(
        "\ufeff",
        "é",
        "NaN",
        "Infinity",
        "null",
        "\\ud800",
        "\x1b",
        "!!python/object:os.system",
        "[" * 200,
        "{a: " * 200,
    ),
)


def mutated_text(rng: random.Random, text: str) -> bytes:
    """The bytes of a text with some of it cut, doubled, moved, or replaced by what a parser stumbles over."""
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        start = rng.randint(0, len(text))
        stop = min(len(text), start + rng.choice((0, 1, 3, 20, 200)))
        how = rng.random()
        if how < 0.4:
            text = text[:start] + rng.choice(PIECES) + text[stop:]
        elif how < 0.55:
            text = text[:start] + text[stop:]
        elif how < 0.7:
            text = text[:start] + text[start:stop] * rng.choice((2, 3, 50)) + text[stop:]
        elif how < 0.8:
            text = text[:start]
        elif how < 0.9:
            lines = text.splitlines(keepends=True)
            rng.shuffle(lines)
            text = "".join(lines)
        else:
            text = text[:start] + str(rng.choice(NUMBERS))[:400] + text[stop:]
    content = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        place = rng.randint(0, len(content))
        content = content[:place] + bytes([rng.randint(0, 255)]) + content[place + 1 :]
    return content


def flag_text(rng: random.Random) -> str:
    """A value on a command line, which holds no zero byte."""
    how = rng.random()
    if how < 0.35:
        text = str(rng.choice(NUMBERS))[:400]
    elif how < 0.7:
        text = rng.choice(TEXTS)
    elif how < 0.85:
        text = rng.choice(PIECES)
    else:
        text = "".join(rng.choice("[]{}:,-&*!|>'\"%@`#?~= \n\t1aé.0") for _ in range(rng.randint(1, 12)))
    return text.replace("\0", "0")
