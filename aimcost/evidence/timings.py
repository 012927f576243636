"""Published timings: one JSON object a line, one file a source, in ``configs/timings/``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..errors import FileFormatError, InvalidValueError, UnknownNameError
from ..inputs import discover
from ..inputs.files import read_text
from ..inputs.schema import Positive, validate
from ..inputs.strict_json import parse_object, to_json
from ..types.stages import STAGES
from ..types.strict_model import StrictModel

__all__ = ["TPOT", "TRUST", "KernelTiming", "Timing", "Timings", "load_timings", "timing_lines"]

# What `stages` says of a decode step; any other interval is a list of stages.
TPOT = "tpot"
# Weight of a timing in a fit: high is controlled and stated, medium has something assumed (its notes say what).
TRUST: Mapping[str, float] = {"high": 1.0, "medium": 0.7, "low": 0.4}

_Text = Annotated[str, Field(min_length=1)]
_Stages = Literal["tpot"] | Annotated[list[Literal[STAGES]], Field(min_length=1)]  # type: ignore[valid-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One published time of a request, or of a part of it.

    Attributes
    ----------
    id, pair
        Name of the row; of the unreduced run that it is compared with, or None.
    group, source
        Short name of the source (left out whole when a fit is judged), and where it was published.
    gpu, framework, stack
        As stated; the stack that the run is priced under.
    quantity
        prefill, ttft, tpot, e2e, vision …
    value_s
        Seconds, published.
    stages
        The stages that the interval covers, or ``"tpot"``: a decode step.
    run
        As `aimcost.estimate` takes it, the stack included.
    trust
        ``high``, ``medium`` or ``low``; see `TRUST`.
    """

    id: str
    group: str
    source: str
    quantity: str
    value_s: float
    stages: tuple[str, ...] | str
    run: Mapping[str, Any]
    stack: str
    trust: str = "medium"
    pair: str | None = None
    notes: str = ""
    gpu: str = ""
    framework: str = ""
    method: str = ""

    @property
    def weight(self) -> float:
        """Weight of its trust."""
        return TRUST[self.trust]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTiming:
    """One published time of a single kernel; `kernel` names card, kind, number format and sizes."""

    id: str
    group: str
    source: str
    quantity: str
    value_s: float
    kernel: Mapping[str, Any]
    notes: str = ""
    input_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Rows of timing files, requests and kernels apart."""

    requests: tuple[Timing, ...]
    kernels: tuple[KernelTiming, ...] = ()


class _Row(StrictModel):
    """What both kinds of row state, in the order of the files."""

    id: _Text
    source: _Text
    gpu: str = ""
    framework: str = ""
    model: str = ""
    dtype: str = ""
    attention: str = ""
    batch: int | str | None = None
    input_tokens: int | str | None = None
    output_tokens: int | str | None = None
    method: str = ""
    quantity: _Text
    value_s: Positive
    trust: Literal["high", "medium", "low"] = "medium"
    notes: str = ""
    pair: str | None = None
    group: _Text


class _RequestRow(_Row):
    run: dict[str, Any]
    stages: _Stages
    stack: str | None = None
    # how the row was priced before there were stacks
    execution_before_stacks: str | None = None


class _KernelRow(_Row):
    kernel: dict[str, Any]


def load_timings(paths: Sequence[Path] | None = None) -> Timings:
    """Every row of `paths`, or of all ``configs/timings/*.jsonl`` that are found.

    Raises
    ------
    FileFormatError, InvalidValueError, UnknownNameError
        With the file and the line: no JSON object, a key that is missing, unknown or out of range, an id twice.
    """
    requests: list[Timing] = []
    kernels: list[KernelTiming] = []
    places: dict[str, str] = {}
    files = list(discover.names("timings").values()) if paths is None else paths
    if not files:
        raise FileFormatError("no timings found: no configs/timings/*.jsonl here or in this installation")
    for path in files:
        for where, data in _lines(path):
            row = _kernel(data, where) if "kernel" in data else _request(data, where)
            if row.id in places:
                raise InvalidValueError("id", f"unique (also used in {places[row.id]})", row.id, where=where)
            places[row.id] = where
            if isinstance(row, Timing):
                requests.append(row)
            else:
                kernels.append(row)
    return Timings(requests=tuple(requests), kernels=tuple(kernels))


def of_quantity(timings: Sequence[Timing], quantity: str, *, where: str = "") -> list[Timing]:
    """Those of one clock.

    Raises
    ------
    UnknownNameError
        None is of it.
    """
    found = {timing.quantity for timing in timings}
    if quantity not in found:
        raise UnknownNameError("quantity", quantity, sorted(found), where=where)
    return [timing for timing in timings if timing.quantity == quantity]


def _lines(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        yield where, parse_object(line, where)


def _request(data: Mapping[str, Any], where: str) -> Timing:
    row = validate(_RequestRow, data, where=where)
    stack = row.run.get("stack", row.stack)
    if not isinstance(stack, str):
        raise InvalidValueError("stack", "given: the name of a stack", stack, where=where)
    if row.stack not in (None, stack):
        raise InvalidValueError("stack", f"that of the run ({stack!r})", row.stack, where=where)
    return Timing(
        id=row.id,
        group=row.group,
        source=row.source,
        quantity=row.quantity,
        value_s=row.value_s,
        stages=TPOT if row.stages == TPOT else tuple(row.stages),
        run={**row.run, "stack": stack},
        stack=stack,
        trust=row.trust,
        pair=row.pair,
        notes=row.notes,
        gpu=row.gpu,
        framework=row.framework,
        method=row.method,
    )


def _kernel(data: Mapping[str, Any], where: str) -> KernelTiming:
    row = validate(_KernelRow, data, where=where)
    return KernelTiming(
        id=row.id,
        group=row.group,
        source=row.source,
        quantity=row.quantity,
        value_s=row.value_s,
        kernel=row.kernel,
        notes=row.notes,
        input_tokens=row.input_tokens if isinstance(row.input_tokens, int) else None,
    )


def timing_lines(timings: Iterable[Timing]) -> str:
    """The rows as a timing file holds them."""
    lines = []
    for timing in timings:
        row = {name: getattr(timing, name) for name in Timing.__slots__}
        row["stages"] = timing.stages if isinstance(timing.stages, str) else list(timing.stages)
        lines.append(to_json(row, indent=None) + "\n")
    return "".join(lines)
