"""JSON without NaN or infinity, the one text of a value, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn

from ..errors import FileFormatError

__all__ = ["canonical", "digest", "digest_bytes", "parse", "plain", "to_json"]


def to_json(data: Any, *, indent: int | None = 1, sort_keys: bool = False) -> str:
    """`data` as JSON, characters beyond ASCII as they are.

    Raises
    ------
    ValueError
        NaN or infinity, which JSON has no form for.
    """
    return json.dumps(data, indent=indent, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False)


def parse(text: str, *, finite: bool = True) -> Any:
    """The value of a JSON text.

    Parameters
    ----------
    finite
        Refuse NaN and infinity, which Python's reader takes.

    Raises
    ------
    FileFormatError
        A key twice, or a number that is not finite.
    json.JSONDecodeError, RecursionError
        No JSON, or nested too deep.
    """
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse if finite else None)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise FileFormatError(f"duplicate key {twice!r}")
    return result


def _refuse(name: str) -> NoReturn:
    raise FileFormatError(f"{name} is not a finite number")


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def plain(data: Any) -> Any:
    """`data` as its JSON gives it back: lists for tuples, and the digits that a file would hold."""
    return json.loads(to_json(data, indent=None))


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical text of a value."""
    return digest_bytes(canonical(value).encode())


def digest_bytes(content: bytes) -> str:
    """Sixteen hexadecimal digits of SHA-256 over bytes."""
    return hashlib.sha256(content).hexdigest()[:16]
