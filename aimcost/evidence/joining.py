"""Published timings joined to predictions: every row priced as its run says, over the stages that it covers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import AimcostError, InvalidValueError
from ..inputs.run import Run, load_run
from ..inputs.stack import load_stack
from ..inputs.strict_json import canonical
from ..machine.inheritance import calibration_status
from ..pricing.gain import gain
from ..pricing.pricing import estimate_run
from ..pricing.result import Estimate
from ..types import Stack
from .timings import Timing

# (rows done, rows, source)
Progress = Callable[[int, int, str], None]

__all__ = ["Joined", "Progress", "Speedup", "join", "speedups", "unpaired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A published time and its prediction, in seconds, with the 80 % band.

    `card` tells whether its efficiencies are measured or inherited.
    """

    timing: Timing
    estimate: Estimate
    predicted: float
    low: float
    high: float
    card: str

    @property
    def published(self) -> float:
        """Seconds, published."""
        return self.timing.value_s

    @property
    def error(self) -> float:
        """predicted / published − 1."""
        return self.predicted / self.published - 1.0

    @property
    def inside(self) -> bool:
        """Whether the band holds the published time."""
        return self.low <= self.published <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """A published speed-up (the unreduced run's time over the reduced one's) and its prediction.

    Attributes
    ----------
    published, predicted, low, high
        Ratios; the band is the ratio's own.
    saved_published_s, saved_s, saved_low_s, saved_high_s
        Seconds saved.
    """

    timing: Timing
    published: float
    predicted: float
    low: float
    high: float
    saved_published_s: float
    saved_s: float
    saved_low_s: float
    saved_high_s: float

    @property
    def error(self) -> float:
        """predicted / published − 1."""
        return self.predicted / self.published - 1.0

    @property
    def inside(self) -> bool:
        """Whether the ratio's band holds the published speed-up."""
        return self.low <= self.published <= self.high

    @property
    def saved_inside(self) -> bool:
        """Whether the band of the seconds saved holds the published ones."""
        return self.saved_low_s <= self.saved_published_s <= self.saved_high_s


def join(
    timings: Sequence[Timing],
    stacks: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> list[Joined]:
    """Each timing with its prediction; runs that several rows share are priced once.

    Parameters
    ----------
    stacks
        By the id of a timing, the file of its run's stack with other figures.

    Raises
    ------
    AimcostError
        A run that cannot be priced; the message names the row.
    """
    priced: dict[tuple[int, str], Estimate] = {}
    loaded: dict[tuple[int, str], Stack] = {}
    rows = []
    for number, timing in enumerate(timings):
        if progress is not None:
            progress(number, len(timings), timing.group)
        file = stacks.get(timing.id) if stacks is not None else None
        key = (id(file), canonical(timing.run))
        if key not in priced:
            try:
                priced[key] = estimate_run(_run(timing, file, loaded))
            except AimcostError as error:
                error.prefix(f"timing {timing.id!r}")
                raise
        rows.append(_joined(timing, priced[key]))
    return rows


def _run(timing: Timing, file: Mapping[str, Any] | None, loaded: dict[tuple[int, str], Stack]) -> Run:
    """The timing's run, with the figures of a stack file where one is given."""
    run = load_run(timing.run)
    if file is None:
        return run
    architecture = run.hardware.architecture if run.hardware is not None else ""
    key = (id(file), architecture)
    if key not in loaded:
        loaded[key] = load_stack(file, architecture)
    return replace(run, stack=loaded[key])


def _joined(timing: Timing, estimate: Estimate) -> Joined:
    value, low, high = estimate.interval(timing.stages)
    if not value:
        raise InvalidValueError("stages", "some that its run has", timing.stages, where=f"timing {timing.id!r}")
    hardware = estimate.run.hardware
    status = calibration_status(hardware) if hardware is not None else "datasheet"
    return Joined(
        timing=timing,
        estimate=estimate,
        predicted=value,
        low=low,
        high=high if high is not None else float("inf"),
        card=status.split()[0],
    )


def speedups(rows: Sequence[Joined]) -> list[Speedup]:
    """Every reduced run beside its unreduced one; rows whose partner is not among `rows` are left out."""
    by_id = {row.timing.id: row for row in rows}
    found = []
    for row in rows:
        dense = by_id.get(row.timing.pair or "")
        if dense is None:
            continue
        gained = gain(dense.estimate, row.estimate, row.timing.stages)
        if gained is None:
            continue
        ratio, saved = gained.speedup, gained.saved
        found.append(
            Speedup(
                timing=row.timing,
                published=dense.published / row.published,
                predicted=ratio.value,
                low=ratio.low,
                high=ratio.high if ratio.high is not None else float("inf"),
                saved_published_s=dense.published - row.published,
                saved_s=saved.value,
                saved_low_s=saved.low,
                saved_high_s=saved.high if saved.high is not None else float("inf"),
            )
        )
    return found


def unpaired(rows: Sequence[Joined]) -> list[str]:
    """Ids of rows that name an unreduced run which is not among `rows`."""
    known = {row.timing.id for row in rows}
    return [row.timing.id for row in rows if row.timing.pair is not None and row.timing.pair not in known]
