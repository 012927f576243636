"""The baseline file: one JSON text for one content, read strictly, replaced as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..errors import AimcostError, FileFormatError, InvalidValueError, argument
from ..inputs.files import read_json, write_atomically
from ..inputs.schema import validate
from ..inputs.strict_json import canonical, digest, to_json
from ..types.strict_model import StrictModel
from .facts import FIGURES

__all__ = ["SCHEMA_VERSION", "load_baseline", "save_baseline", "to_text", "unchanged"]

SCHEMA_VERSION = 1
MAX_BYTES = 64_000_000
# Of one run: ten thousand layers of a hundred ops in five stages are more than any model has.
MAX_LAYER_ROWS = 1_000_000
# Machines differ in the last bits of a sum; nine digits are stored, and the ninth may round either way.
SAME = 1e-8
_INDENTED = 4

Number = Annotated[float, Field(ge=0, le=1e30)] | Annotated[int, Field(ge=0, le=10**30)]
Layer = Annotated[int, Field(ge=0, le=100_000)] | None
Digest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class _Figures(StrictModel):
    flops: Number
    kv_bytes: Number
    peak_bytes: Number
    tpot_s: Number
    ttft_s: Number


class _Digests(StrictModel):
    model: Digest
    workload: Digest
    schedule: Digest
    hardware: Digest
    settings: Digest
    operations: Digest


class _Schedule(StrictModel):
    tokens: list[Annotated[list[Annotated[int, Field(ge=0, le=10**9)]], Field(min_length=2, max_length=2)]]
    events: list[list[Any]]


class _Facts(StrictModel):
    model: dict[str, Any]
    workload: dict[str, Any]
    schedule: _Schedule
    method: dict[str, Any]
    hardware: dict[str, Any]
    card: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any]
    files: dict[str, str] = Field(default_factory=dict)


class _Entry(StrictModel):
    figures: _Figures
    digests: _Digests
    facts: _Facts
    operations: dict[str, list[tuple[Layer, Layer, Number, Number, Number]]]
    sha: Digest


class _File(StrictModel):
    schema_version: int
    written_by: str
    runs: dict[str, dict[str, Any]]


def load_baseline(path: str | Path) -> dict[str, Any]:
    """The entries of a baseline by run, and ``written_by`` of the file.

    Raises
    ------
    FileFormatError
        Missing, truncated, not JSON, another schema version, an entry that is incomplete, or one
        whose content does not match its digest.
    """
    path = Path(path)
    data = _parse(path)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise FileFormatError(f"{path}: 'schema_version' must be {SCHEMA_VERSION} in a baseline (got {version!r})")
    try:
        file = validate(_File, data, where=str(path))
        for name, entry in file.runs.items():
            _check_entry(entry, f"{path}: {name}")
    except AimcostError as error:
        raise FileFormatError(*error.args) from None
    return {"written_by": file.written_by, "runs": file.runs}


def _check_entry(entry: Mapping[str, Any], where: str) -> None:
    # tuples of the schema are lists in JSON
    operations = entry.get("operations")
    shaped = dict(entry)
    if isinstance(operations, Mapping):
        shaped["operations"] = {
            key: [tuple(row) if isinstance(row, list) else row for row in rows] if isinstance(rows, list) else rows
            for key, rows in operations.items()
        }
    file = validate(_Entry, shaped, where=where)
    layers = sum(run for _, run in file.facts.schedule.tokens)
    for key, rows in file.operations.items():
        for first, last, *_ in rows:
            if (first is None) != (last is None) or (first or 0) > (last or 0):
                what = "rows of a first and a last layer"
                raise InvalidValueError(f"operations.{key}", what, [first, last], where=where)
            layers += 1 + (last or 0) - (first or 0)
    # written out layer by layer when it is compared
    if layers > MAX_LAYER_ROWS:
        raise InvalidValueError("operations", f"at most {MAX_LAYER_ROWS:,} ops in layers", layers, where=where)
    if entry["sha"] != digest({key: value for key, value in entry.items() if key != "sha"}):
        raise FileFormatError(
            f"{where}: edited or damaged: content does not match its digest (delete the entry and {argument('update')})"
        )


def save_baseline(path: str | Path, entries: Mapping[str, Mapping[str, Any]], written_by: str) -> None:
    """Replace the file at once, by the one text that stands for these entries."""
    runs = {
        name: {**entry, "sha": digest({key: value for key, value in entry.items() if key != "sha"})}
        for name, entry in entries.items()
    }
    write_atomically(path, to_text({"schema_version": SCHEMA_VERSION, "written_by": written_by, "runs": runs}))


def to_text(data: Mapping[str, Any]) -> str:
    """JSON with sorted keys, one operation or fact a line, so that it diffs well."""
    return _dump(data, 0) + "\n"


def _dump(value: Any, depth: int) -> str:
    if not isinstance(value, Mapping) or not value or depth > _INDENTED:
        return to_json(value, indent=None, sort_keys=True)
    pad = " " * (depth + 1)
    items = (f"{pad}{to_json(key, indent=None)}: {_dump(value[key], depth + 1)}" for key in sorted(value))
    return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"


def unchanged(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two entries differ in nothing but the last bits of their figures."""
    parts = [part for part in before["digests"] if part != "operations"]
    if any(before["digests"][part] != after["digests"].get(part) for part in parts):
        return False
    if canonical(before["facts"]) != canonical(after["facts"]):
        return False
    if not all(_close(before["figures"][name], after["figures"][name]) for name in FIGURES):
        return False
    ours, theirs = before["operations"], after["operations"]
    return ours.keys() == theirs.keys() and all(_same_rows(ours[key], theirs[key]) for key in ours)


def _same_rows(ours: list[list[Any]], theirs: list[list[Any]]) -> bool:
    if len(ours) != len(theirs):
        return False
    return all(a[:2] == b[:2] and all(map(_close, a[2:], b[2:])) for a, b in zip(ours, theirs, strict=True))


def _close(before: float, after: float) -> bool:
    return math.isclose(before, after, rel_tol=SAME, abs_tol=1e-30)


def _parse(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileFormatError(f"{path}: no such baseline ({argument('update')} with run files writes it)")
    return read_json(path, limit=MAX_BYTES)
