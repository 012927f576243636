"""A grid file as points: which runs, in which order, cut into which chunks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ... import __version__
from ...errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError, nearest
from ...inputs import discover
from ...inputs.files import read_mapping
from ...inputs.hardware import load_hardware
from ...inputs.model import load_model
from ...inputs.run import Run, load_run, varied
from ...inputs.schema import RunFile, validate
from ...inputs.strict_json import canonical, digest, parse, to_json
from ...pricing.facts import hardware_facts, model_facts
from ...types.strict_model import StrictModel
from .schedules import Schedules, schedules_of

__all__ = ["Chunk", "Grid", "GridFile", "load_grid"]

MAX_POINTS = 10**10
# Contexts of schedules are resolved before the first is priced, at a millisecond each.
MAX_CONTEXTS = 10_000
RUN_CHUNK, SCHEDULE_CHUNK = 256, 65_536
# A chunk is held in memory: rows of about 1 kB, or of a count for each layer.
MAX_RUN_CHUNK, MAX_COUNTS = 100_000, 50_000_000
_MAX_STEPS = 100_000

Step = Annotated[float, Field(ge=-1e15, le=1e15)] | Annotated[int, Field(ge=-(10**15), le=10**15)]


class _Range(StrictModel):
    """from, from + step, … up to and with `to`."""

    start: Annotated[Step, Field(alias="from")]
    to: Step
    step: Step = 1


class GridFile(StrictModel):
    """A sweep: what all points share, the axes, and optionally a set of schedules for each of them.

    `axes` maps keys of a run (dotted ones reach inside) to lists of values; a list of such mappings
    is swept one after another. `chunk` is how many points are computed, and lost by a kill, at once.
    """

    base: str | dict[str, Any] = Field(default_factory=dict, description="What all points share: a run, or its name.")
    axes: dict[str, Any] | list[dict[str, Any]] = Field(
        default_factory=dict, description="Values by key of a run; a list of such mappings is swept one by one."
    )
    schedules: dict[str, Any] | None = Field(default=None, description="Schedules swept at each point.")
    chunk: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="Points that are computed, and lost by a kill, at once."
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """Points `start` to `stop`; with schedules, of the one context `context`."""

    number: int
    start: int
    stop: int
    context: int


@dataclass(frozen=True)
class Grid:
    """A sweep, ready to be cut up.

    Attributes
    ----------
    base
        The keys that all points share.
    axes
        One mapping of key to values a sub-grid; the last key varies fastest.
    schedules
        What is swept inside each point of the axes, by the bulk path; None: nothing.
    """

    base: Mapping[str, Any]
    axes: tuple[dict[str, tuple[Any, ...]], ...]
    schedules: Mapping[str, Any] | None
    chunk: int

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """All keys that are swept, in order of appearance."""
        return tuple(dict.fromkeys(key for axes in self.axes for key in axes))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Points of the axes, by sub-grid."""
        sizes = []
        for axes in self.axes:
            size = 1
            for values in axes.values():
                size *= len(values)
            sizes.append(size)
        return tuple(sizes)

    @property
    def contexts(self) -> int:
        """Points of the axes: runs, or what schedules are swept in."""
        return sum(self.sizes)

    @cached_property
    def per_context(self) -> int:
        """Schedules in each context; 1 without any."""
        return 1 if self.schedules is None else self.schedules_in(0).count

    @property
    def points(self) -> int:
        """All points."""
        return self.contexts * self.per_context

    def overrides(self, context: int) -> dict[str, Any]:
        """The values of the axes at one of their points."""
        for axes, size in zip(self.axes, self.sizes, strict=True):
            if context < size:
                chosen: dict[str, Any] = {}
                for key in reversed(axes):
                    context, index = divmod(context, len(axes[key]))
                    chosen[key] = axes[key][index]
                return {key: chosen[key] for key in axes}
            context -= size
        raise IndexError(context)

    def run_mapping(self, context: int) -> dict[str, Any]:
        """The run at a point of the axes, as a mapping."""
        data = dict(self.base)
        for key, value in self.overrides(context).items():
            data = varied(data, {key: value})
        return data

    def run(self, context: int) -> Run:
        """The run at a point of the axes.

        Raises
        ------
        AimcostError
            Values that do not go together.
        """
        return load_run(self.run_mapping(context))

    def schedules_in(self, context: int) -> Schedules:
        """The schedules that are swept in a context."""
        return schedules_of(self.schedules or {}, self.run(context))

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in order; one never spans two contexts with schedules."""
        if self.schedules is None:
            for number, start in enumerate(range(0, self.contexts, self.chunk)):
                yield Chunk(number, start, min(start + self.chunk, self.contexts), -1)
            return
        each, number = self.per_context, 0
        for context in range(self.contexts):
            for start in range(0, each, self.chunk):
                base = context * each
                yield Chunk(number, base + start, base + min(start + self.chunk, each), context)
                number += 1

    @property
    def chunk_count(self) -> int:
        """How many chunks there are."""
        each = -(-self.per_context // self.chunk)
        return -(-self.contexts // self.chunk) if self.schedules is None else self.contexts * each

    def to_json(self) -> str:
        """The grid as one text: what a worker needs to compute any of its chunks."""
        axes = [{key: list(values) for key, values in axes.items()} for axes in self.axes]
        # not sorted: the order of the axes is the order of the points
        data = {"base": dict(self.base), "axes": axes, "schedules": self.schedules, "chunk": self.chunk}
        return to_json(data, indent=None)

    @staticmethod
    def from_json(text: str) -> Grid:
        """What `to_json` gave."""
        data = parse(text)
        axes = tuple({key: tuple(values) for key, values in axes.items()} for axes in data["axes"])
        return Grid(base=data["base"], axes=axes, schedules=data["schedules"], chunk=data["chunk"])

    @cached_property
    def digest(self) -> str:
        """Stands for all that the output follows from: grid, models, profiles, and aimcost's own code."""
        values = [self.base, *(dict(zip(axes, v, strict=True)) for axes in self.axes for v in _edges(axes))]
        facts: dict[str, str] = {}
        for value in values:
            for key, facts_of in (("model", _model_facts), ("hardware", _hardware_facts)):
                name = canonical([key, value.get(key)])
                if value.get(key) is not None and name not in facts:
                    facts[name] = digest(facts_of(value[key]))
        return digest([self.to_json(), facts, __version__, _program()])


def _edges(axes: Mapping[str, tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Every value of every axis at least once."""
    longest = max((len(values) for values in axes.values()), default=0)
    for index in range(longest):
        yield tuple(values[min(index, len(values) - 1)] for values in axes.values())


def _model_facts(given: Any) -> dict[str, Any]:
    return model_facts(load_model(given))


def _hardware_facts(given: Any) -> dict[str, Any]:
    return hardware_facts(load_hardware(given))


def _program() -> str:
    """A digest of the package's source: what another checkout computes may differ."""
    folder = Path(__file__).resolve().parent.parent.parent
    files = sorted(path for path in folder.rglob("*.py") if "data" not in path.relative_to(folder).parts)
    return digest([[path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")] for path in files])


def load_grid(path: str | Path) -> Grid:
    """Read a grid file, and check every axis that can be checked by itself.

    Raises
    ------
    AimcostError
        Unreadable, an unknown key, an axis without values, a model or profile that is not there, or
        a first point that cannot be priced.
    """
    where = str(path)
    file = validate(GridFile, read_mapping(Path(path)), where=where)
    try:
        canonical([file.base, file.axes, file.schedules])
    except (TypeError, ValueError):
        what = "a number that is not finite, or a mapping whose keys are not all text"
        raise FileFormatError(f"{where}: holds {what}") from None
    base = _base(file.base, where)
    given = file.axes if isinstance(file.axes, list) else [file.axes]
    if not given:
        raise InvalidValueError("axes", "a mapping, or a non-empty list of mappings", given, where=where)
    axes = tuple({key: _values(key, value, where) for key, value in one.items()} for one in given)
    chunk = file.chunk or (RUN_CHUNK if file.schedules is None else SCHEDULE_CHUNK)
    grid = Grid(base=base, axes=axes, schedules=file.schedules, chunk=chunk)
    if file.schedules is not None and any(key.partition(".")[0] == "method" for key in grid.keys):
        raise InvalidValueError("axes", "without method when schedules are given", "method", where=where)
    try:
        if grid.contexts > MAX_POINTS:
            raise InvalidValueError("axes", f"at most {MAX_POINTS:.0e} points", grid.contexts)
        if file.schedules is not None and grid.contexts > MAX_CONTEXTS:
            raise InvalidValueError("axes", f"at most {MAX_CONTEXTS:,} points with schedules", grid.contexts)
        _check_chunk(grid)
        if grid.points > MAX_POINTS:  # by the first context, before the others are resolved
            raise InvalidValueError("axes", f"at most {MAX_POINTS:.0e} points", grid.points)
        _ = grid.digest
        if file.schedules is not None:
            counts = {grid.schedules_in(context).count for context in range(grid.contexts)}
            if len(counts) > 1:
                raise InvalidValueError(
                    "schedules", "the same in every context: levels need equal depths", sorted(counts)
                )
    except AimcostError as error:
        if where not in str(error):
            error.prefix(where)
        raise
    return grid


def _check_chunk(grid: Grid) -> None:
    """Raise InvalidValueError where a chunk of this size would not fit into memory."""
    most = MAX_RUN_CHUNK
    if grid.schedules is not None:
        most = max(1, MAX_COUNTS // grid.run(0).model.decoder.layers)
    if grid.chunk > most:
        raise InvalidValueError("chunk", f"at most {most:,} points here", grid.chunk)


def _base(given: str | Mapping[str, Any], where: str) -> dict[str, Any]:
    """The base as a mapping: a worker on another machine has no run file."""
    if isinstance(given, Mapping):
        return dict(given)
    path = discover.at_home(given)
    if not path.is_absolute() and discover.is_file(Path(where).parent / path):
        path = Path(where).parent / path
    if discover.is_file(path):
        return read_mapping(path)
    if "/" in given or path.suffix in (".yaml", ".yml", ".json"):
        raise FileFormatError(f"{where}: base: no such file: {given[:200]}")
    return read_mapping(discover.find("run", given, where=where))


def _values(key: str, value: Any, where: str) -> tuple[Any, ...]:
    """An axis: a list, one value, or ``{from, to, step}``."""
    head = key.partition(".")[0]
    if head not in RunFile.names():
        close = nearest(head, RunFile.names())
        raise UnknownNameError("axis", key, close or RunFile.names(), where=where)
    if isinstance(value, Mapping) and "from" in value:
        return _steps(validate(_Range, value, where=f"{where}: axes.{key}"), f"{where}: axes.{key}")
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InvalidValueError(f"axes.{key}", "a non-empty list", values, where=where)
    before = set[str]()
    for item in values:
        text = canonical(item)
        if text in before:
            raise InvalidValueError(f"axes.{key}", "a list of distinct values", item, where=where)
        before.add(text)
    return tuple(values)


def _steps(span: _Range, where: str) -> tuple[int | float, ...]:
    if span.step <= 0 or span.to < span.start:
        raise InvalidValueError("step", "positive, with 'to' at least 'from'", span.step, where=where)
    count = int((span.to - span.start) / span.step + 1e-9) + 1
    if count > _MAX_STEPS:
        raise InvalidValueError("step", f"a range of at most {_MAX_STEPS} values", span.step, where=where)
    whole = all(isinstance(value, int) for value in (span.start, span.to, span.step))
    steps = itertools.islice(itertools.count(), count)
    # twelve digits: 0.1 + 0.2 is meant to be 0.3
    return tuple(span.start + i * span.step if whole else float(f"{span.start + i * span.step:.12g}") for i in steps)
