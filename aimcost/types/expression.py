"""Sizes as expressions of counts: sums of products, ``min``, ``max`` and ``ceil`` of named counts."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass

__all__ = ["COUNTS", "Expression"]

Array = float | NDArray[np.float64]

# What a size may depend on: requests, new tokens, all tokens attended to, images, patches of an image.
COUNTS = ("batch", "tokens", "kv", "images", "patches")
_FUNCTIONS: Mapping[str, Any] = {"min": np.minimum, "max": np.maximum, "ceil": np.ceil}
_ARGUMENTS = {"min": 2, "max": 2, "ceil": 1}
_MAX_TEXT = 400


@dataclass(frozen=True, slots=True)
class Expression:
    """A number, or an expression of `COUNTS`.

    Raises
    ------
    ValueError
        Anything but numbers, counts, ``+ - * /``, ``min(a, b)``, ``max(a, b)`` and ``ceil(a)``.
    """

    text: str

    def __post_init__(self) -> None:
        _compiled(self.text)

    @classmethod
    def of(cls, given: str | float) -> Expression:
        """A number as read from a file, or the text of an expression."""
        return cls(given if isinstance(given, str) else repr(float(given)))

    def __call__(self, counts: Mapping[str, Array]) -> Array:
        """Its value; counts may be arrays (one entry a layer, or a decode step)."""
        value: Array = eval(_compiled(self.text), {"__builtins__": {}, **_FUNCTIONS}, dict(counts))
        return value


@lru_cache(maxsize=4096)
def _compiled(text: str) -> CodeType:
    if len(text) > _MAX_TEXT:
        raise ValueError(f"an expression of over {_MAX_TEXT} characters")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"not an expression: {text}") from None
    _check(tree.body, text)
    return compile(tree, "<expression>", "eval")


def _check(node: ast.AST, text: str) -> None:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and 0 <= number < np.inf:
            node.value = float(number)  # all arithmetic is that of floats
        case ast.Name(id=name) if name in COUNTS:
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand, text)
        case ast.BinOp(op=ast.Div(), left=left, right=ast.Constant(value=int() | float() as divisor)) if divisor > 0:
            _check(left, text)
            _check(node.right, text)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult(), left=left, right=right):
            _check(left, text)
            _check(right, text)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if _ARGUMENTS.get(name) == len(arguments):
            for argument in arguments:
                _check(argument, text)
        case _:
            raise ValueError(f"not an expression of {', '.join(COUNTS)}: {text}")
