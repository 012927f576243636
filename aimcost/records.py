"""Raw timing records: what was measured, on which machine, with every single sample.

A record is one JSON file that is never edited afterwards. `RecordWriter` replaces the file as a whole
each time something is added, so that a run that is killed leaves what it had finished, marked
incomplete, and never half a file.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field

from .errors import AimcostError, FileFormatError, InvalidValueError
from .loading.schema import Strict, validate
from .units import MEGA

__all__ = ["HELD_OUT", "Environment", "Record", "RecordWriter", "Sample", "load_record", "write_atomically"]

SCHEMA_VERSION = 1
# value of the label "role" of samples that calibration must not see: they tell its error
HELD_OUT = "held_out"
# A record with every sample of a long campaign is a few megabytes.
MAX_RECORD_BYTES = 64_000_000

Kind = Literal["profile", "validation", "campaign"]
Clock = Literal["thread_cpu", "wall", "cuda_event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the software of a measurement.

    Attributes
    ----------
    device, device_name
        ``cpu`` or ``cuda``, and as the CPU or the driver names itself.
    driver
        GPU driver; empty on a CPU.
    threads, memory_bytes
        Threads that computed; memory of the device.
    packages, clocks_mhz
        Version by package; clocks by name (sm, memory, maxima), whatever the machine tells.
    properties
        Further facts: cores, cache sizes, multiprocessors, load average, settings.
    notes
        What may have disturbed the measurement, in plain words.
    """

    device: str
    device_name: str
    driver: str = ""
    threads: int = 1
    memory_bytes: float = 0.0
    packages: Mapping[str, str] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One thing that was timed repeatedly.

    Attributes
    ----------
    op, name
        What ran: a kind of operation (gemm, attention, …), or layer, prefill, decode and so on; and
        which one of its kind, where there are several (add, gated_silu, …).
    dims
        Sizes, by name: those of `aimcost.ops.Cost.dims` where the operation is one of the table.
    dtype
        Number format of the operands.
    samples_s, clock
        Seconds of every repeat, in order, by ``thread_cpu``, ``wall`` or ``cuda_event``.
    labels
        Anything else that tells samples apart: kernel, method, implementation, role.
    """

    op: str
    name: str = ""
    dims: Mapping[str, float] = field(default_factory=dict)
    dtype: str
    samples_s: tuple[float, ...]
    clock: Clock
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def median_s(self) -> float:
        """Median of the samples, in seconds."""
        return statistics.median(self.samples_s)

    @property
    def spread(self) -> float:
        """(max − min) / median of the samples."""
        return (max(self.samples_s) - min(self.samples_s)) / self.median_s if self.median_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A measurement with its circumstances.

    Attributes
    ----------
    started, finished
        ISO 8601 times in UTC; `finished` is None for a run that was cut short.
    settings
        What the run was asked to do (quick, grid, the run file of a validation, …).
    """

    kind: Kind
    environment: Environment
    seed: int
    started: str
    finished: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.finished is not None

    @property
    def date(self) -> str:
        """Day of the measurement, YYYY-MM-DD."""
        return self.started[:10]

    def select(self, op: str, *, name: str | None = None, dtype: str | None = None) -> list[Sample]:
        """Samples of one operation, optionally of one name and number format, in order."""
        return [
            sample
            for sample in self.samples
            if sample.op == op and name in (None, sample.name) and dtype in (None, sample.dtype)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def to_json(self) -> str:
        """JSON text, one sample a line, so that records diff and grep well.

        Raises
        ------
        InvalidValueError
            A time that is not finite, or a setting that JSON cannot express.
        """
        data = self.to_dict()
        lines = [_dump(sample) for sample in data.pop("samples")]
        head = _dump(data, indent=1)
        if not lines:
            return head[:-2] + ',\n "samples": []\n}\n'
        return head[:-2] + ',\n "samples": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


class RecordWriter:
    """A record that grows on disk: each `add` leaves a whole, loadable file behind.

    Used as a context manager the record is marked finished on leaving without an exception.
    """

    def __init__(self, path: str | Path, record: Record) -> None:
        self.path = Path(path)
        self.record = record
        self.save()

    def add(self, *samples: Sample, notes: Iterable[str] = ()) -> None:
        """Append samples and notes, and save."""
        self.record = replace(
            self.record,
            samples=(*self.record.samples, *samples),
            notes=tuple(dict.fromkeys((*self.record.notes, *notes))),
        )
        self.save()

    def finish(self) -> Record:
        """Mark the record as complete, save, and return it."""
        self.record = replace(self.record, finished=now())
        self.save()
        return self.record

    def save(self) -> None:
        """Replace the file by the record as it is now."""
        write_atomically(self.path, self.record.to_json())

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self.record.complete:
            self.finish()


def now() -> str:
    """The time as records write it: ISO 8601, UTC, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_atomically(path: str | Path, text: str) -> None:
    """Write `text` to `path` at once: whoever reads it sees the old file or the new one.

    Raises
    ------
    FileFormatError
        The folder cannot be written to.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The same folder: os.replace is atomic only within one file system.
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp keeps it to its owner
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise FileFormatError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


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
        if path.is_file() and path.stat().st_size > MAX_RECORD_BYTES:
            size, most = path.stat().st_size / MEGA, MAX_RECORD_BYTES / MEGA
            raise FileFormatError(f"{path}: {size:.0f} MB is too big for a record (at most {most:.0f} MB)")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: is not a record: not UTF-8 text") from None
    if not text.strip():
        raise FileFormatError(f"{path}: is empty, not a record")
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FileFormatError(f"{path}: is truncated or not JSON: {error}") from None
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise FileFormatError(f"{path}: must hold one JSON object (got {type(data).__name__})")
    return record_from_mapping(data, where=str(path))


def record_from_mapping(data: Mapping[str, Any], *, where: str = "record") -> Record:
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
    values = file.model_dump(exclude={"schema_version", "environment", "samples", "notes"})
    environment = file.environment.model_dump()
    samples = (_sample(sample.model_dump()) for sample in file.samples)
    return Record(
        **values,
        environment=Environment(**{**environment, "notes": tuple(environment["notes"])}),
        samples=tuple(samples),
        notes=tuple(file.notes),
    )


def _sample(values: dict[str, Any]) -> Sample:
    return Sample(**{**values, "samples_s": tuple(values["samples_s"])})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that a record may hold")


def _dump(value: object, *, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InvalidValueError("record", f"of plain finite values ({error})", None) from None


_Seconds = Annotated[float, Field(ge=0, le=1e6)]
_Number = Annotated[float, Field(ge=-1e30, le=1e30)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _EnvironmentFile(Strict):
    device: _Name
    device_name: str
    driver: str = ""
    threads: Annotated[int, Field(ge=1)] = 1
    memory_bytes: Annotated[float, Field(ge=0, le=1e30)] = 0.0
    packages: dict[str, str] = Field(default_factory=dict)
    clocks_mhz: dict[str, _Number] = Field(default_factory=dict)
    properties: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class _SampleFile(Strict):
    op: _Name
    name: str = ""
    dims: dict[str, _Number] = Field(default_factory=dict)
    dtype: _Name
    samples_s: Annotated[list[_Seconds], Field(min_length=1)]
    clock: Clock
    labels: dict[str, str] = Field(default_factory=dict)


class _RecordFile(Strict):
    schema_version: int
    kind: Kind
    environment: _EnvironmentFile
    seed: int
    started: _Name
    finished: _Name | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: list[_SampleFile] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
