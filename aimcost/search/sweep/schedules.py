"""Sets of schedules as arrays of token counts: any non-increasing choice of levels, or a method's own.

Shapes: n points, L decoder layers, K levels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ...errors import AimcostError, InvalidValueError, ScheduleError
from ...inputs.run import Run, plan_schedule
from ...inputs.schema import validate
from ...inputs.strict_json import canonical, parse
from ...types import Schedule
from ...types.strict_model import StrictModel
from ..compositions import compositions

__all__ = ["Levels", "Planned", "Points", "Schedules", "schedules_of"]

MAX_SCHEDULES = 10**9
MAX_PLANNED = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Some of a context's schedules.

    Attributes
    ----------
    counts
        Tokens by layer, (n, L); a row of ones for a schedule that cannot be.
    columns
        Values of `Schedules.names`.
    errors
        Why a schedule cannot be; None where all can.
    """

    counts: NDArray[np.integer[Any]]
    columns: dict[str, NDArray[np.int64] | list[Any]]
    errors: list[str | None] | None = None


class Schedules(Protocol):
    """What a context's schedules are asked."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that tell them apart."""

    def points(self, start: int, stop: int) -> Points:
        """The schedules from `start` up to `stop`."""

    def token_counts(self) -> frozenset[int]:
        """Every token count that a layer may have."""

    def heads(self) -> tuple[NDArray[np.int64] | None, tuple[Schedule, ...]]:
        """What happens before the language model: one schedule of each kind, and which kind each is
        of (None: as `head_of` the first layer's count tells)."""

    def example(self) -> Schedule:
        """A schedule with every way of selecting that is priced."""


class _LevelsFile(StrictModel):
    levels: Annotated[list[Annotated[int, Field(ge=1)] | Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
    select: Literal["uniform", "random", "aim"] | None = None


@dataclass(frozen=True)
class Levels:
    """Every way for L layers to compute on non-increasing counts out of K levels, most tokens first.

    There are C(L + K − 1, K − 1). A level is a token count, or as a fraction the share of the visual
    tokens that stays; text always stays.
    """

    run: Run
    given: tuple[int | float, ...]
    tokens: NDArray[np.int64]
    select: str | None

    @staticmethod
    def of(file: _LevelsFile, run: Run) -> Levels:
        """The levels of a grid file in a context.

        Raises
        ------
        InvalidValueError
            Levels that give the same count, more than the prompt, or too many schedules.
        """
        visual, text = run.workload.visual_tokens, run.workload.text_tokens
        pairs = [(level if isinstance(level, int) else int(visual * level) + text, level) for level in file.levels]
        pairs.sort(key=lambda pair: -pair[0])
        counts = [pair[0] for pair in pairs]
        if len(set(counts)) < len(counts) or counts[-1] < 1 or counts[0] > visual + text:
            allowed = f"a list of distinct token counts from 1 to the prompt's {visual + text}"
            raise InvalidValueError("schedules.levels", allowed, counts)
        layers, k = run.model.decoder.layers, len(counts)
        if math.comb(layers + k - 1, k - 1) > MAX_SCHEDULES:
            raise InvalidValueError("schedules.levels", f"small enough for {MAX_SCHEDULES:.0e} schedules", k)
        tokens = np.array(counts, dtype=np.int64)
        return Levels(run=run, given=tuple(pair[1] for pair in pairs), tokens=tokens, select=file.select)

    @property
    def layers(self) -> int:
        """L."""
        return self.run.model.decoder.layers

    @property
    def count(self) -> int:
        """C(L + K − 1, K − 1)."""
        return len(compositions(self.layers, len(self.tokens)))

    @property
    def names(self) -> tuple[str, ...]:
        """Layers at each level."""
        return tuple(f"layers_at_{level:g}" for level in self.given)

    def shares(self, start: int, stop: int) -> NDArray[np.int64]:
        """How many layers are at each level, (n, K): the `start`-th choice and those that follow."""
        # most layers at the most tokens first: the compositions from the last one on
        return compositions(self.layers, len(self.tokens)).rows(
            np.arange(self.count - 1 - start, self.count - 1 - stop, -1)
        )

    def counts_of(self, shares: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
        """Tokens by layer from layers by level."""
        kind = np.uint16 if self.tokens[0] < 1 << 16 else np.uint32
        tiled = np.tile(self.tokens.astype(kind), len(shares))
        return np.repeat(tiled, shares.ravel()).reshape(len(shares), self.layers)

    def points(self, start: int, stop: int) -> Points:
        """Every choice can be; their columns are the layers at each level."""
        shares = self.shares(start, stop)
        columns: dict[str, NDArray[np.int64] | list[Any]] = {name: shares[:, j] for j, name in enumerate(self.names)}
        return Points(counts=self.counts_of(shares), columns=columns)

    def token_counts(self) -> frozenset[int]:
        """The levels."""
        return frozenset(self.tokens.tolist())

    def heads(self) -> tuple[None, tuple[Schedule, ...]]:
        """One schedule for each count that the first layer may have."""
        return None, tuple(self._explicit([[int(count), self.layers]]) for count in self.tokens)

    def example(self) -> Schedule:
        """A cut after each level."""
        k = min(len(self.tokens), self.layers)
        runs = [[int(count), 1] for count in self.tokens[:k]]
        runs[-1][1] += self.layers - k
        return self._explicit(runs)

    def _explicit(self, runs: list[list[int]]) -> Schedule:
        method = {"name": "explicit", "tokens_per_layer": runs, "select": self.select}
        return plan_schedule(self.run.model, self.run.workload, method)


@dataclass(frozen=True)
class Planned:
    """The schedules of one method for every combination of its parameters."""

    params: tuple[Mapping[str, Any], ...]
    planned: tuple[Schedule | str, ...]
    keys: tuple[str, ...]
    layers: int

    @property
    def count(self) -> int:
        """Combinations, those that cannot be included."""
        return len(self.planned)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""
        return tuple(f"method.{key}" for key in self.keys)

    def points(self, start: int, stop: int) -> Points:
        """Their columns are the parameters."""
        ones = (1,) * self.layers
        rows = [ones if isinstance(s, str) else s.tokens for s in self.planned[start:stop]]
        counts = np.array(rows, dtype=np.int64).reshape(len(rows), self.layers)
        errors = [s if isinstance(s, str) else None for s in self.planned[start:stop]]
        return Points(
            counts=counts.astype(np.uint16 if counts.max(initial=0) < 1 << 16 else np.uint32),
            columns={f"method.{key}": [one.get(key) for one in self.params[start:stop]] for key in self.keys},
            errors=errors if any(errors) else None,
        )

    def token_counts(self) -> frozenset[int]:
        """Those of the schedules that can be, and the one that stands for the others."""
        return frozenset({1}).union(*(s.tokens for s in self.planned if not isinstance(s, str)))

    def heads(self) -> tuple[NDArray[np.int64], tuple[Schedule, ...]]:
        """One schedule for each way of reducing before the language model."""
        kinds: dict[Any, int] = {}
        found: list[Schedule] = []
        which = np.zeros(len(self.planned), dtype=np.int64)
        for index, schedule in enumerate(self.planned):
            if isinstance(schedule, str):
                continue
            if schedule.pre_llm_events not in kinds:
                kinds[schedule.pre_llm_events] = len(found)
                found.append(schedule)
            which[index] = kinds[schedule.pre_llm_events]
        return which, tuple(found)

    def example(self) -> Schedule:
        """One that cuts, if any does."""
        good = [s for s in self.planned if not isinstance(s, str)]
        scorers = {event.scorer for s in good for event in s.layer_events if event.selects}
        if len(scorers) > 1:
            raise ScheduleError("schedules need the same selection, found: " + ", ".join(sorted(scorers)))
        return next((s for s in good if any(event.selects for event in s.layer_events)), good[0])


def schedules_of(given: Mapping[str, Any], run: Run) -> Schedules:
    """The schedules that a grid file's ``schedules:`` means for a run.

    Raises
    ------
    InvalidValueError, UnknownNameError
        Neither levels nor a method, or no combination that can be planned.
    """
    if "levels" in given:
        return Levels.of(validate(_LevelsFile, given, where="schedules"), run)
    if not isinstance(given.get("method"), str):
        raise InvalidValueError(
            "schedules", "a mapping with 'levels', or with 'method' and its parameters", dict(given)
        )
    shape = canonical([repr(run.model), repr(run.workload)])
    return _planned(canonical(given), shape, _Held(run))


class _Held:
    """A run as an argument that a cache does not look at: equal to any other."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=8)
def _planned(given: str, shape: str, held: _Held) -> Planned:
    values = parse(given)
    method, run = values.pop("method"), held.run
    keys = tuple(sorted(values))
    lists = [values[key] if isinstance(values[key], list) else [values[key]] for key in keys]
    for key, items in zip(keys, lists, strict=True):
        if not items:
            raise InvalidValueError(f"schedules.{key}", "a non-empty list", items)
    if math.prod(len(items) for items in lists) > MAX_PLANNED:
        raise InvalidValueError("schedules", f"at most {MAX_PLANNED} combinations of parameters", method)
    params, planned = [], list[Schedule | str]()
    for combination in itertools.product(*lists):
        chosen = dict(zip(keys, combination, strict=True))
        params.append(chosen)
        try:
            planned.append(plan_schedule(run.model, run.workload, {"name": method, **chosen}, where="schedules"))
        except AimcostError as error:
            planned.append(str(error))
    if all(isinstance(one, str) for one in planned):
        raise InvalidValueError("schedules", "a combination that can be planned", planned[0])
    return Planned(params=tuple(params), planned=tuple(planned), keys=keys, layers=run.model.decoder.layers)
