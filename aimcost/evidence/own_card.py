"""A card predicted by its own profile: a grid that holds none of the shapes, and two timings a stack."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidValueError
from ..measure.records import Record
from ..measure.validate import Comparison, Point, Speedup, compare_record
from .calibrate_stack import CalibratedStack, calibrate_stack
from .timings import Timing

__all__ = ["OwnCard", "first_and_last", "judge_own_card"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCard:
    """What a card's profile and a calibrated stack predict of everything else that was timed.

    Attributes
    ----------
    fitted
        The timings that the stack was calibrated on; no point or speed-up is of one of them.
    comparisons
        A record each, of the stack's runs alone.
    """

    calibrated: CalibratedStack
    fitted: tuple[Timing, ...]
    comparisons: tuple[Comparison, ...]

    def points(self, part: str, variant: str | None = None) -> list[Point]:
        """Those of one part that were not fitted, dense and reduced or one of them."""
        fitted = {timing.id for timing in self.fitted}
        points = [point for comparison in self.comparisons for point in comparison.of(part)]
        return [p for p in points if p.run not in fitted and variant in (None, p.variant)]

    def prefills(self, variant: str | None = None) -> list[Point]:
        """One for each distinct prediction: the median of a prompt that was timed beside several schedules."""
        distinct: dict[str, list[Point]] = {}
        for point in self.points("prefill", variant):
            distinct.setdefault(f"{point.variant} {point.predicted_s:.6g}", []).append(point)
        medians = (statistics.median(point.measured_s for point in same) for same in distinct.values())
        return [
            replace(same[0], measured_s=measured) for same, measured in zip(distinct.values(), medians, strict=True)
        ]

    @property
    def speedups(self) -> list[Speedup]:
        """Dense over reduced, medians both, of every run that was timed both ways."""
        dense = {point.run: point for point in self.points("prefill", "dense")}
        return [
            Speedup(
                run=point.run,
                dtype=point.dtype,
                measured=dense[point.run].measured_s / point.measured_s,
                predicted=dense[point.run].predicted_s / point.predicted_s,
            )
            for point in self.points("prefill", "reduced")
            if point.run in dense
        ]

    @property
    def nodes_timed(self) -> tuple[int, int]:
        """Distinct shapes of products, and lengths of attention, that are nodes of the profile's grids."""
        found = [comparison.held_out for comparison in self.comparisons]
        return len({s for f in found for s in f.seen_products}), len({s for f in found for s in f.seen_lengths})


def first_and_last(record: Record, stack: str, profile: Mapping[str, Any]) -> tuple[Timing, Timing]:
    """The shortest and the longest unreduced prefill of a record under one stack, as timings of a card.

    Raises
    ------
    InvalidValueError
        The record holds fewer than two of different lengths.
    """
    dense = [
        s for s in record.select("prefill") if s.labels["variant"] == "dense" and s.labels["run"].endswith(f"@{stack}")
    ]
    dense.sort(key=lambda sample: sample.dims["tokens"])
    if len({sample.dims["tokens"] for sample in dense}) < 2:
        raise InvalidValueError("record", f"one with unreduced prefills of two lengths under {stack}", len(dense))
    first, last = (
        Timing(
            id=sample.labels["run"],
            group="own card",
            source=f"{record.environment.device_name}, {record.date}",
            quantity="prefill",
            value_s=sample.median_s,
            stages=("prefill",),
            run={**record.settings["runs"][sample.labels["run"]], "hardware": dict(profile), "stack": stack},
            stack=stack,
        )
        for sample in (dense[0], dense[-1])
    )
    return first, last


def judge_own_card(
    profile: Mapping[str, Any], records: Iterable[Record], stack: str, *, fitted: Sequence[Timing]
) -> OwnCard:
    """Calibrate `stack` to the `fitted` timings and predict the records' runs under it with `profile`.

    Parameters
    ----------
    profile
        As a hardware profile's file holds it.
    records
        Of validations; their runs are labelled ``name@stack``.
    """
    calibrated = calibrate_stack(fitted, stack)
    comparisons = []
    for record in records:
        runs = {
            label: {**document, "stack": calibrated.file}
            for label, document in record.settings["runs"].items()
            if label.endswith(f"@{stack}")
        }
        timed = [s for s in record.samples if s.labels.get("run") in runs]
        if any(sample.op == "prefill" for sample in timed):
            settings = {**record.settings, "runs": runs, "profile": dict(profile)}
            comparisons.append(compare_record(replace(record, settings=settings, samples=tuple(timed))))
    return OwnCard(calibrated=calibrated, fitted=tuple(fitted), comparisons=tuple(comparisons))
