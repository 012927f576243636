"""JSON without NaN, infinity or a key twice; the one text of a value, and its digest."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from ..errors import FileFormatError

__all__ = ["canonical", "digest", "digest_bytes", "parse", "parse_object", "plain", "tagged", "to_json", "untagged"]

# Of one JSON text: a list of this many empty lists takes 250 MB.
MAX_VALUES = 4_000_000
# How transformers 5 writes numbers for which JSON has no form: {"__float__": "Infinity"}.
_TAG = "__float__"
_TAGGED = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def parse(text: str, *, finite: bool = True) -> Any:
    """The value of a JSON text.

    Parameters
    ----------
    finite
        Whether to refuse NaN and Infinity, which Python's own parser takes; else tagged ones are read too.

    Raises
    ------
    FileFormatError
        Truncated, not JSON, nested too deep, more than `MAX_VALUES` values, a key twice, or a number that is not
        finite.
    """
    if len(text) > MAX_VALUES and sum(map(text.count, ",[{")) > MAX_VALUES:
        raise FileFormatError(f"more than {MAX_VALUES:,} values")
    try:
        if finite:
            value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
        else:
            value = json.loads(text, object_pairs_hook=_unique)
            value = untagged(value) if f'"{_TAG}"' in text else value
        if "\\ud" in text or "\\uD" in text:
            # escapes of a pair are one character; half of one can be written nowhere
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise FileFormatError("holds half of a surrogate pair, which is no text") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"is truncated or not JSON: {error}") from None
    except ValueError as error:  # a number of more digits than Python converts
        raise FileFormatError(str(error)) from None


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises
    ------
    FileFormatError
        As `parse`, or another value; `where` is named.
    """
    try:
        data = parse(text)
    except FileFormatError as error:
        raise FileFormatError(f"{where}: {error}") from None
    if not isinstance(data, dict):
        raise FileFormatError(f"{where}: must hold one JSON object (got {type(data).__name__})")
    return data


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(items)
    if len(result) < len(items):
        before = set[str]()
        for name, _ in items:
            if name in before:
                raise FileFormatError(f"duplicate key {name[:200]!r}")
            before.add(name)
    return result


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):  # 1e999 is a number of JSON that no float holds
        _refuse(digits[:40])
    return value


def _refuse(name: str) -> NoReturn:
    raise FileFormatError(f"{name} is not a finite number")


def to_json(data: Any, *, indent: int | None = 1, sort_keys: bool = False) -> str:
    """`data` as JSON, characters beyond ASCII as they are.

    Raises
    ------
    ValueError
        NaN or infinity, which JSON has no form for.
    """
    return json.dumps(data, indent=indent, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False)


def tagged(value: Any) -> Any:
    """`value` with NaN and infinity as transformers writes them to JSON."""
    if isinstance(value, dict):
        return {key: tagged(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [tagged(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG: next(name for name, one in _TAGGED.items() if one == value or name == "NaN")}
    return value


def untagged(value: Any) -> Any:
    """The reverse of `tagged`."""
    if isinstance(value, dict):
        if value.keys() == {_TAG} and isinstance(value[_TAG], str) and value[_TAG] in _TAGGED:
            return _TAGGED[value[_TAG]]
        return {key: untagged(one) for key, one in value.items()}
    return [untagged(one) for one in value] if isinstance(value, list) else value


def canonical(value: Any, *, finite: bool = True) -> str:
    """The one JSON text of a value: sorted keys, no spaces; NaN and infinity as Python writes them if not `finite`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=not finite, ensure_ascii=False)


def plain(data: Any) -> Any:
    """`data` as its JSON gives it back: lists for tuples, and the digits that a file would hold."""
    return json.loads(to_json(data, indent=None))


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical text of a value.

    NaN and infinity have one as well: configurations of Hugging Face hold them.
    """
    return digest_bytes(canonical(value, finite=False).encode("utf-8", "surrogatepass"))


def digest_bytes(content: bytes) -> str:
    """Sixteen hexadecimal digits of SHA-256 over bytes."""
    import hashlib  # loads OpenSSL

    return hashlib.sha256(content).hexdigest()[:16]
