"""Reading records strictly: a file that is no record, or not a whole one, is refused with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ...errors import AimcostError, FileFormatError
from ...inputs.files import read_bytes
from ...inputs.schema import validate
from ...inputs.strict_json import parse_object
from ...types.strict_model import StrictModel
from .contents import SCHEMA_VERSION, Clock, Environment, Kind, Record, Sample

__all__ = ["load_record"]

# A record with every sample of a long campaign is a few megabytes.
MAX_RECORD_BYTES = 64_000_000


def load_record(path: str | Path) -> Record:
    """Read a record strictly.

    Raises
    ------
    FileFormatError
        Missing, truncated, no JSON, another schema version, unknown or missing keys, or values that
        cannot be; the message names the file and the place.
    """
    path = Path(path)
    try:
        text = read_bytes(path, limit=MAX_RECORD_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: is not a record: not UTF-8 text") from None
    if not text.strip():
        raise FileFormatError(f"{path}: is empty, not a record")
    return _from_mapping(parse_object(text, str(path)), where=str(path))


def _from_mapping(data: Mapping[str, Any], *, where: str) -> Record:
    """A record from its JSON form.

    Raises
    ------
    FileFormatError
        Another schema version, unknown or missing keys, or values that cannot be.
    """
    version = data.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise FileFormatError(
            f"{where}: 'schema_version' must be {SCHEMA_VERSION}, the only one this aimcost reads (got {version!r})"
        )
    try:
        file = validate(_RecordFile, data, where=where)
    except AimcostError as error:
        raise FileFormatError(str(error)) from None
    started = _moment(file.started, "started", where)
    if file.finished is not None and _moment(file.finished, "finished", where) < started:
        raise FileFormatError(f"{where}: 'finished' is before 'started' ({file.finished} < {file.started})")
    values = file.model_dump(exclude={"schema_version", "environment", "samples", "notes"})
    environment = file.environment.model_dump()
    samples = (_sample(sample.model_dump()) for sample in file.samples)
    return Record(
        **values,
        environment=Environment(**{**environment, "notes": tuple(environment["notes"])}),
        samples=tuple(samples),
        notes=tuple(file.notes),
    )


def _moment(text: str, key: str, where: str) -> datetime:
    """A time as records write it.

    Raises
    ------
    FileFormatError
        It is none.
    """
    try:
        found = datetime.fromisoformat(text)
        # one without an offset is in UTC
        return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
    except ValueError:
        raise FileFormatError(f"{where}: {key!r} must be an ISO 8601 time (got {text[:80]!r})") from None


def _sample(values: dict[str, Any]) -> Sample:
    return Sample(**{**values, "samples_s": tuple(values["samples_s"])})


_Seconds = Annotated[float, Field(ge=0, le=1e6)]
_Number = Annotated[float, Field(ge=-1e30, le=1e30)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _EnvironmentFile(StrictModel):
    device: _Name
    device_name: str
    driver: str = ""
    threads: Annotated[int, Field(ge=1)] = 1
    memory_bytes: Annotated[float, Field(ge=0, le=1e30)] = 0.0
    packages: dict[str, str] = Field(default_factory=dict)
    clocks_mhz: dict[str, _Number] = Field(default_factory=dict)
    properties: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class _SampleFile(StrictModel):
    op: _Name
    name: str = ""
    dims: dict[str, _Number] = Field(default_factory=dict)
    dtype: _Name
    samples_s: Annotated[list[_Seconds], Field(min_length=1)]
    clock: Clock
    labels: dict[str, str] = Field(default_factory=dict)


class _RecordFile(StrictModel):
    schema_version: int
    kind: Kind
    environment: _EnvironmentFile
    seed: int
    started: _Name
    finished: _Name | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: list[_SampleFile] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
