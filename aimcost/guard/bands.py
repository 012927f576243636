"""Noise bands of measured latencies: a test's normal ratio to the reference kernel, and how it varies.

Per test, a band holds its updates: the CPU model, and one ratio for each process that was timed. It contains no
seconds. What varies is told apart: processes of one run, runs on one CPU model, and CPU models.

A run's figure is the mean logarithm of its fastest processes (`FASTEST`): a busy neighbour only adds time. Under a
slowdown of nothing it exceeds the band's centre by more than `Limit.ratio` in one run of 1 / `ALARM`, if figures vary
from run to run as those of the updates did; both variances are pooled with what is assumed before any is known, so that
three updates suffice.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..errors import AimcostError, FileFormatError
from ..inputs.files import read_json, write_atomically
from ..inputs.schema import validate
from ..inputs.strict_json import to_json
from ..types.strict_model import StrictModel

__all__ = ["Band", "Limit", "Update", "figure_of", "load_bands", "merged", "paired_limit", "save_bands"]

SCHEMA_VERSION = 2
# Updates that a band holds, and processes of one.
KEEP, PROCESSES = 12, 64
# Share of a run's processes that count.
FASTEST = 0.7
# One-sided false-alarm rates that limits are set for: of a band's, and of a base commit's, whose twenty processes alone
# say how processes vary; and the power that a visible slowdown is stated at.
ALARM, PAIRED_ALARM, POWER = 0.004, 0.001, 0.9
# Assumed before anything is measured: relative standard deviation between processes and between runs, each worth
# `PRIOR` observations; and how far an unknown CPU model may lie from the known ones.
PROCESS_NOISE, RUN_NOISE, PRIOR = 0.01, 0.01, 4
UNKNOWN_CPU = 0.12

_Size = Annotated[int, Field(ge=1, le=10_000_000)]
_Ratio = Annotated[float, Field(ge=1e-6, le=1e6)]


class _Shape(StrictModel):
    tokens: _Size
    layers: _Size
    hidden: _Size
    intermediate: _Size
    heads: _Size
    kv_heads: _Size
    head_dim: _Size


class _UpdateFile(StrictModel):
    cpu: Annotated[str, Field(max_length=200)]
    ratios: Annotated[list[_Ratio], Field(min_length=1, max_length=PROCESSES)]


class _BandFile(StrictModel):
    yardstick: _Shape  # the file's key for the reference kernel
    updates: Annotated[list[_UpdateFile], Field(min_length=1, max_length=KEEP)]


class _File(StrictModel):
    schema_version: int
    bands: dict[str, _BandFile]


class _OldBand(StrictModel):
    yardstick: _Shape
    ratios: Annotated[list[_Ratio], Field(min_length=1, max_length=40)]


class _OldFile(StrictModel):
    """Version 1: the ratios of all updates in one list, of processes and CPUs that it does not name."""

    schema_version: int
    bands: dict[str, _OldBand]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One run of ``--aimcost-update``: the CPU model (empty: not known) and the ratio of each process."""

    cpu: str
    ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What passes, and what can be told from noise.

    Attributes
    ----------
    center
        The normal ratio.
    ratio
        The highest figure that passes.
    visible
        The slowdown that exceeds it nine times in ten, as a share.
    known_cpu
        Whether an update was measured on this CPU model; without one, `UNKNOWN_CPU` is allowed.
    """

    center: float
    ratio: float
    visible: float
    known_cpu: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What is normal for one test.

    Attributes
    ----------
    reference
        Shape of the reference kernel, fixed when the band was created.
    updates
        Oldest first.
    """

    reference: Mapping[str, int]
    updates: tuple[Update, ...]

    def limit(self, slowdown: float, *, cpu: str = "", processes: int = 10) -> Limit:
        """Of a run of so many processes on a CPU model: `slowdown` above normal, or what noise forbids to call one."""
        same = [update for update in self.updates if not cpu or update.cpu in ("", cpu)]
        used = same or list(self.updates)
        figures = [math.log(figure_of(update.ratios)) for update in used]
        center = statistics.fmean(figures)
        within = _process_variance([update.ratios for update in self.updates])
        # of one run's figure: its processes, and what all of them share
        own = statistics.fmean(within * _share(len(update.ratios)) for update in used)
        squares = sum((figure - center) ** 2 for figure in figures)
        freedom = PRIOR + len(used) - 1
        between = max((PRIOR * (RUN_NOISE**2 + own) + squares) / freedom, own)
        run = between + max(0.0, within * _share(processes) - own)
        least = math.log1p(slowdown if same else max(slowdown, UNKNOWN_CPU))
        error = math.sqrt(run + between / len(used))
        return _limit(center, max(least, _student(1 - ALARM, freedom) * error), error, known_cpu=bool(same))


def paired_limit(head: Sequence[float], base: Sequence[float], slowdown: float) -> Limit:
    """Of the figure of `head`, from ratios of processes of the base commit that alternated with its own.

    The machine and the hour are the same, so that no band is needed; processes alone vary.
    """
    within = _process_variance([head, base])
    error = math.sqrt(within * (_share(len(head)) + _share(len(base))))
    quantile = _student(1 - PAIRED_ALARM, PRIOR + _counted(len(head)) + _counted(len(base)) - 2)
    return _limit(math.log(figure_of(base)), max(math.log1p(slowdown), quantile * error), error)


def figure_of(ratios: Sequence[float]) -> float:
    """A run's figure: geometric mean of its fastest processes."""
    return math.exp(statistics.fmean(_fastest(ratios)))


def _limit(center: float, above: float, error: float, *, known_cpu: bool = True) -> Limit:
    visible = math.expm1(above + statistics.NormalDist().inv_cdf(POWER) * error)
    return Limit(center=math.exp(center), ratio=math.exp(center + above), visible=visible, known_cpu=known_cpu)


def _counted(processes: int) -> int:
    return max(1, round(FASTEST * processes))


def _fastest(ratios: Sequence[float]) -> list[float]:
    return sorted(map(math.log, ratios))[: _counted(len(ratios))]


def _process_variance(runs: Sequence[Sequence[float]]) -> float:
    """Winsorized variance between the processes of a run, pooled over runs and with what is assumed.

    That of a trimmed mean follows from it by `_share` (Tukey and McLaughlin 1963).
    """
    squares, freedom = PRIOR * PROCESS_NOISE**2, float(PRIOR)
    for ratios in runs:
        fastest = _fastest(ratios)
        values = [*fastest, *[fastest[-1]] * (len(ratios) - len(fastest))]
        mean = statistics.fmean(values)
        scale = max(1, len(fastest) - 1)
        squares += sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) * scale
        freedom += len(fastest) - 1
    return squares / freedom


def _share(processes: int) -> float:
    """Variance of a figure over the winsorized variance of its processes."""
    return processes / _counted(processes) ** 2


def _student(p: float, freedom: float) -> float:
    """Quantile of Student's t from the normal's (Abramowitz and Stegun 26.7.5); within 1 % from 4 degrees on."""
    z = statistics.NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def load_bands(path: str | Path) -> dict[str, Band]:
    """The bands of a file by test; none where there is no file. Files of version 1 are one update each.

    Raises
    ------
    FileFormatError
        Damaged: truncated, not JSON, unknown or missing keys, ratios that cannot be.
    """
    path = Path(path)
    if not path.exists():
        return {}
    data = read_json(path)
    version = data.get("schema_version")
    if version not in (1, SCHEMA_VERSION):
        raise FileFormatError(f"{path}: 'schema_version' must be 1 or {SCHEMA_VERSION} in a file of noise bands")
    try:
        if version == 1:
            old = validate(_OldFile, data, where=str(path))
            return {
                name: _band(band.yardstick, [Update(cpu="", ratios=tuple(band.ratios))])
                for name, band in old.bands.items()
            }
        file = validate(_File, data, where=str(path))
    except AimcostError as error:
        raise FileFormatError(str(error)) from None
    return {
        name: _band(band.yardstick, [Update(cpu=each.cpu, ratios=tuple(each.ratios)) for each in band.updates])
        for name, band in file.bands.items()
    }


def _band(shape: _Shape, updates: Sequence[Update]) -> Band:
    return Band(reference=shape.model_dump(), updates=tuple(updates))


def save_bands(path: str | Path, bands: Mapping[str, Band]) -> None:
    """Replace the file at once; sorted, so that it diffs well."""
    lines = [f"  {to_json(name)}: {to_json(_data(bands[name]), indent=None, sort_keys=True)}" for name in sorted(bands)]
    body = ",\n".join(lines)
    write_atomically(path, f'{{\n "bands": {{\n{body}\n }},\n "schema_version": {SCHEMA_VERSION}\n}}\n')


def _data(band: Band) -> dict[str, Any]:
    updates = [{"cpu": update.cpu, "ratios": list(update.ratios)} for update in band.updates]
    return {"updates": updates, "yardstick": dict(band.reference)}


def merged(band: Band | None, shape: Mapping[str, int], update: Update, slowdown: float) -> Band:
    """A band with one more update.

    An update that differs from the others widens the band. Two in a row that agree with each other and lie on one side
    of all that the others explain are a new normal and take their place.
    """
    update = Update(cpu=update.cpu, ratios=tuple(float(f"{ratio:.6g}") for ratio in update.ratios[-PROCESSES:]))
    if band is None:
        return Band(reference=dict(shape), updates=(update,))
    earlier, latest = band.updates[:-1], (band.updates[-1], update)
    if earlier and _moved(Band(reference=band.reference, updates=earlier), latest, slowdown):
        return Band(reference=band.reference, updates=latest)
    return Band(reference=band.reference, updates=(*band.updates, update)[-KEEP:])


def _moved(band: Band, latest: tuple[Update, Update], slowdown: float) -> bool:
    """Whether both updates left the band on one side, and neither the other's."""
    sides = []
    for update in latest:
        limit = band.limit(slowdown, cpu=update.cpu, processes=len(update.ratios))
        distance = math.log(figure_of(update.ratios) / limit.center)
        width = math.log(limit.ratio / limit.center)
        sides.append(0 if abs(distance) <= width else math.copysign(1, distance))
    first, second = latest
    alone = Band(reference=band.reference, updates=(first,)).limit(slowdown, processes=len(second.ratios))
    apart = abs(math.log(figure_of(second.ratios) / alone.center))
    return sides[0] == sides[1] != 0 and apart <= math.log(alone.ratio / alone.center)
