"""A validation record joined to estimates of the runs it holds.

Everything comes from the record (run documents, hardware profile, samples), so the comparison needs
neither torch nor the machine, and gives the same digits wherever it is made.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import AimcostError, FileFormatError
from ...inputs.run import Run, load_run
from ...pricing.priced import EXTRAPOLATED_SHARE
from ...pricing.pricing import estimate_run
from ...pricing.result import Estimate
from ..records import Record, Sample
from .heldout import held_out_of
from .points import PARTS, Comparison, MemoryPoint, Point, Speedup

__all__ = ["compare_record", "stages_timed"]


def compare_record(record: Record, *, where: str = "record") -> Comparison:
    """Predict what a validation record timed, with the profile that it holds.

    Raises
    ------
    FileFormatError
        The record is of another kind, was cut short before anything could be compared, or holds runs or
        a profile that cannot be.
    """
    documents, profile = _contents(record, where)
    try:
        return _compare(record, documents, profile, where)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # settings are free-form: what a hand has put there shows only in use
        what = f"{type(error).__name__}: {error}"
        raise FileFormatError(f"{where}: its settings or samples are damaged ({what})") from None


def _compare(record: Record, documents: Mapping[str, Any], profile: Mapping[str, Any], where: str) -> Comparison:
    samples = _joined(record.samples)
    points: list[Point] = []
    speedups: list[Speedup] = []
    memory: list[MemoryPoint] = []
    estimates: list[Estimate] = []
    for label, document in documents.items():
        mine = [sample for sample in samples if sample.labels.get("run") == label]
        if not mine:
            continue
        try:
            priced = _estimates(document, profile, mine)
        except AimcostError as error:
            raise FileFormatError(f"{where}: run {label!r}: {error}") from None
        estimates += priced.values()
        for sample in mine:
            point = _point(label, sample, priced[sample.labels.get("variant", "dense")])
            if point is not None:
                points.append(point)
        speedups += _speedup(label, mine, priced)
        memory += _memory(label, mine, priced)
    if not any(point.part == "prefill" for point in points):
        raise FileFormatError(f"{where}: holds no timed prefill: it was cut short before the first run ended")
    points.sort(key=lambda point: PARTS.index(point.part))
    return Comparison(
        record=record,
        points=tuple(points),
        speedups=tuple(speedups),
        memory=tuple(memory),
        held_out=held_out_of(profile, estimates),
        notes=_notes(record, documents, samples, estimates),
    )


def _contents(record: Record, where: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if record.kind != "validation":
        raise FileFormatError(f"{where}: 'kind' must be validation to compare (got {record.kind!r})")
    documents, profile = record.settings.get("runs"), record.settings.get("profile")
    if not isinstance(documents, Mapping) or not all(isinstance(value, Mapping) for value in documents.values()):
        raise FileFormatError(f"{where}: 'settings.runs' must hold the run documents by label")
    if not isinstance(profile, Mapping):
        raise FileFormatError(f"{where}: 'settings.profile' must hold the profile: was the run cut short before it?")
    return documents, profile


def _joined(samples: Iterable[Sample]) -> list[Sample]:
    """Samples of the same thing from several rounds as one, in order."""
    found: dict[tuple[Any, ...], Sample] = {}
    for sample in samples:
        if "run" not in sample.labels:
            continue
        labels = {key: value for key, value in sample.labels.items() if key != "round"}
        dims = tuple((key, value) for key, value in sample.dims.items() if not key.endswith("_bytes"))
        key = (sample.op, sample.name, dims, sample.dtype, tuple(sorted(labels.items())))
        before = found.get(key)
        taken = (*before.samples_s, *sample.samples_s) if before is not None else sample.samples_s
        found[key] = replace(sample, labels=labels, samples_s=taken)
    return list(found.values())


def _estimates(document: Mapping[str, Any], profile: Mapping[str, Any], samples: list[Sample]) -> dict[str, Estimate]:
    overrides: dict[str, Any] = {"hardware": dict(profile)}
    steps = [sample.dims["steps"] for sample in samples if sample.op == "decode"]
    if steps:
        # as many steps as were timed: each attends to one token more
        overrides["workload"] = {"new_tokens": int(steps[0]) + 1}
    run: Run = load_run(document, overrides)
    priced = estimate_run(run)
    return {"dense": priced.dense, **({"reduced": priced} if run.schedule.events else {})}


def _point(label: str, sample: Sample, estimate: Estimate) -> Point | None:
    """None where the estimate has nothing of the kind (a selection that an explicit schedule leaves free)."""
    layer = int(sample.dims["layer"]) if "layer" in sample.dims else None
    mask = _rows(estimate, sample, layer)
    share = 1.0 / sample.dims["steps"] if sample.op == "decode" else 1.0
    seconds = np.where(mask, estimate.seconds, 0.0) * share
    predicted = float(seconds.sum())
    measured = sample.median_s
    if not predicted or not measured:
        return None
    low, high = (predicted, None) if estimate.band is None else estimate.band.around(mask * share)
    outside = estimate.extrapolated
    return Point(
        run=label,
        variant=sample.labels.get("variant", "dense"),
        part=sample.op,
        name=sample.name,
        layer=layer,
        tokens=int(sample.dims["tokens"]) if "tokens" in sample.dims else None,
        dtype=sample.dtype,
        measured_s=measured,
        repeats=len(sample.samples_s),
        spread=sample.spread,
        predicted_s=predicted,
        low_s=low,
        high_s=high,
        extrapolated=outside is not None and float(seconds[outside].sum()) > EXTRAPOLATED_SHARE * predicted,
    )


def stages_timed(op: str, run: Run) -> tuple[str, ...]:
    """Stages that one sample of `op` covers, and what a stack adds beside them; none of what is part of a stage.

    A captured prefill replays what happens to its tokens before layer 0 as well, which an eager one is timed without.
    """
    if op == "prefill":
        return ("merge", "prefill") if run.stack.captured("prefill") else ("prefill",)
    return {
        "features": ("vision", "projector"),
        "ttft": ("vision", "projector", "merge", "prefill"),
        **{stage: (stage,) for stage in ("vision", "projector", "merge", "decode")},
    }.get(op, ())


def _rows(estimate: Estimate, sample: Sample, layer: int | None) -> NDArray[np.bool_]:
    """Rows of the estimate that a sample timed."""
    if stages := stages_timed(sample.op, estimate.run):
        return estimate.shares(stages) > 0
    inside = estimate.rows(["prefill"]) & (estimate.table.layer >= 0)
    if sample.op == "layer":
        return np.asarray(inside & (estimate.table.layer == layer))
    if sample.op == "selection":
        return np.asarray(inside & (estimate.table.layer == layer) & _grouped(estimate, "selection"))
    if sample.op == "group":
        return inside & _grouped(estimate, sample.name)
    return np.zeros(len(estimate.table), dtype=bool)


def _grouped(estimate: Estimate, group: str) -> NDArray[np.bool_]:
    """Rows of the ops that declare `group`. A timed "rest" includes the overhead of calling modules."""
    mask = np.zeros(len(estimate.table), dtype=bool)
    for segment in estimate.table.segments:
        if segment.group == group:
            mask[segment.start : segment.stop] = True
    return mask


def _speedup(label: str, samples: list[Sample], priced: Mapping[str, Estimate]) -> list[Speedup]:
    prefills = {s.labels.get("variant"): s for s in samples if s.op == "prefill"}
    if not {"dense", "reduced"} <= prefills.keys():
        return []
    dense, reduced = prefills["dense"], prefills["reduced"]
    pairs = zip(dense.samples_s, reduced.samples_s, strict=False)
    predicted = {
        name: estimate.interval(stages_timed("prefill", estimate.run)).value for name, estimate in priced.items()
    }
    return [
        Speedup(
            run=label,
            dtype=dense.dtype,
            measured=statistics.median(a / b for a, b in pairs),
            predicted=predicted["dense"] / predicted["reduced"],
        )
    ]


def _memory(label: str, samples: list[Sample], priced: Mapping[str, Estimate]) -> list[MemoryPoint]:
    return [
        MemoryPoint(
            run=label,
            variant=sample.labels["variant"],
            measured_bytes=sample.dims["peak_bytes"],
            predicted_bytes=priced[sample.labels["variant"]].memory.peak_bytes,
        )
        for sample in samples
        if sample.op == "prefill" and sample.dims.get("peak_bytes")
    ]


def _notes(
    record: Record, documents: Mapping[str, Any], samples: list[Sample], estimates: Iterable[Estimate]
) -> tuple[str, ...]:
    notes = list(record.notes)
    missing = [label for label in documents if not any(s.labels.get("run") == label for s in samples)]
    if missing:
        notes.append(f"not measured: {', '.join(missing)}")
    if not record.complete:
        notes.append("the record was cut short: runs it did not reach are missing")
    efficiencies = [note for estimate in estimates for note in estimate.notes if "efficiencies" in note]
    return tuple(dict.fromkeys((*notes, *efficiencies)))
