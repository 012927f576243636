"""What a record holds: the machine, and every sample."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ...errors import InvalidValueError
from ...inputs.strict_json import to_json
from ...views import Viewable

__all__ = ["HELD_OUT", "SCHEMA_VERSION", "Clock", "Environment", "Kind", "Record", "Sample"]

SCHEMA_VERSION = 1
# value of the label "role" of samples that calibration must not see: they tell its error
HELD_OUT = "held_out"

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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Record(Viewable):
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
    _views_in = "records"

    def _line(self) -> str:
        cut = "" if self.complete else ", cut short"
        return f"{self.kind} on {self.environment.device_name}, {self.date}: {len(self.samples)} samples{cut}"

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


def _dump(value: object, *, indent: int | None = None) -> str:
    try:
        return to_json(value, indent=indent)
    except (TypeError, ValueError) as error:
        raise InvalidValueError("record", f"of plain finite values ({error})", None) from None
