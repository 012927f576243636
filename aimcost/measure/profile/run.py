"""`profile`: every micro-benchmark of a device, as one record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ...extras import require_device
from ...inputs.strict_json import plain
from ...runtime.timing import single_thread
from ..records import Record, RecordWriter, Sample, now
from . import attention, environment, gemm, launch, pointwise, reduction
from .bench import Bench, Task
from .plan import Plan, plan_for

__all__ = ["Progress", "profile"]

Progress = Callable[[int, int, str], None]
Save = Callable[[tuple[Sample, ...], tuple[str, ...]], None]
SEED = 0
SAVE_EVERY_S = 1.0
NOISY_SPREAD = 0.25


def profile(
    device: str = "cpu",
    quick: bool = False,
    *,
    progress: Progress | None = None,
    path: str | Path | None = None,
    plan: Plan | None = None,
    settings: Mapping[str, Any] | None = None,
    save: Save | None = None,
) -> Record:
    """Measure what calibrated estimates need: ceilings, GEMM grid, attention, elementwise, reduction.

    On a CPU one thread is measured, by its CPU time, which other load hardly stretches; start the
    process through `quiet_process`, or page faults are included (the record says so). On CUDA, device
    events. Nothing is changed on the machine.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda``.
    quick
        A smaller grid: some 20 s on a CPU.
    progress
        Called with (done, total, what comes next) before each measurement and once at the end.
    path
        Where to keep the record while it grows; a killed run leaves there what it had finished.
    plan
        Sizes in place of the device's own.
    settings
        Further settings for the record.
    save
        Given samples and notes so far, at most once a second: in place of `path`, for a record of the caller's.

    Raises
    ------
    InvalidValueError
        No such device.
    """
    require_device(device)
    plan = plan_for(device, quick=quick) if plan is None else plan
    bench = Bench(device, repeats=plan.repeats, budget_s=plan.budget_s)
    with _measuring(bench):
        before = environment.describe(device)
        record = Record(
            kind="profile",
            environment=before,
            seed=SEED,
            started=now(),
            settings={"quick": quick, "plan": plain(asdict(plan)), **(settings or {})},
            notes=before.notes,
        )
        began = time.perf_counter()
        writer = RecordWriter(path, record) if path is not None else None
        if writer is not None:
            save = partial(_grow, writer)
        samples, notes = _measure(bench, plan, progress, before.notes, save)
        moved = environment.changes(before, environment.describe(device))
    closing = {
        **record.settings,
        "seconds": round(time.perf_counter() - began, 1),
        "state_after": dict(moved),
    }
    record = replace(
        record, settings=closing, samples=samples, notes=tuple(dict.fromkeys((*record.notes, *notes))), finished=now()
    )
    if writer is not None:
        writer.record = record
        writer.save()
    return record


def _grow(writer: RecordWriter, samples: tuple[Sample, ...], notes: tuple[str, ...]) -> None:
    writer.record = replace(writer.record, samples=samples, notes=notes)
    writer.save()


def _measure(
    bench: Bench, plan: Plan, progress: Progress | None, before: tuple[str, ...], save: Save | None
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    groups = _groups(bench, plan)
    total = plan.passes * sum(len(group) for _, group in groups)
    samples: dict[int, Sample] = {}
    notes = list(before)
    done, began = 0, time.perf_counter()
    saved = began
    for number in range(plan.passes):
        for indices, group in groups:
            if number and time.perf_counter() - began > plan.limit_s:
                notes.append(f"pass {number + 1} of {plan.passes} ended early, after {plan.limit_s:g} s")
                break
            if progress is not None:
                progress(done, total, _title(group))
            try:
                _merge(samples, indices, bench.time(group))
            except torch.OutOfMemoryError:
                bench.free()
                notes.append(f"{_title(group)} {dict(group[0].dims)}: not measured, out of memory")
            done += len(group)
            if save is not None and time.perf_counter() - saved >= SAVE_EVERY_S:
                save(_ordered(samples), tuple(notes))
                saved = time.perf_counter()
    if progress is not None:
        progress(total, total, "done")
    noisy = sum(sample.spread > NOISY_SPREAD for sample in samples.values())
    if noisy > len(samples) / 4:
        notes.append(f"{noisy} of {len(samples)} measurements spread over {NOISY_SPREAD:.0%}: a busy machine")
    return _ordered(samples), tuple(dict.fromkeys(notes))


def _merge(samples: dict[int, Sample], indices: list[int], new: list[Sample]) -> None:
    """Add a pass's samples to those of the passes before it."""
    for index, sample in zip(indices, new, strict=True):
        if index in samples:
            sample = replace(sample, samples_s=(*samples[index].samples_s, *sample.samples_s))
        samples[index] = sample


def _ordered(samples: dict[int, Sample]) -> tuple[Sample, ...]:
    return tuple(samples[index] for index in sorted(samples))


def _groups(bench: Bench, plan: Plan) -> list[tuple[list[int], list[Task]]]:
    """On a GPU task by task; on a CPU the operations of about as many tokens together, by format."""
    groups: dict[object, tuple[list[int], list[Task]]] = {}
    for index, task in enumerate(_tasks(bench, plan)):
        alone = bench.cuda or task.host or task.op == "ceiling"
        rows = min(plan.rows, key=lambda count: abs(math.log(count / max(1, task.rows))))
        indices, group = groups.setdefault(index if alone else (task.dtype, rows), ([], []))
        indices.append(index)
        group.append(task)
    return list(groups.values())


def _title(group: list[Task]) -> str:
    first = group[0]
    if len(group) == 1:
        return f"{first.op} {first.name} {first.dtype}"
    return f"{len(group)} operations on about {first.rows} tokens, {first.dtype}"


def _tasks(bench: Bench, plan: Plan) -> Iterator[Task]:
    """All tasks in order, nothing allocated yet."""
    return chain(
        launch.launch_tasks(bench, plan),
        pointwise.bandwidth_tasks(bench, plan),
        gemm.ceiling_tasks(bench, plan),
        gemm.grid_tasks(bench, plan),
        attention.sdpa_tasks(bench, plan),
        attention.eager_tasks(bench, plan),
        pointwise.elementwise_tasks(bench, plan),
        reduction.reduction_tasks(bench, plan),
    )


@contextmanager
def _measuring(bench: Bench) -> Iterator[None]:
    """One CPU thread and a fixed seed, undone on leaving."""
    state = torch.get_rng_state()
    torch.manual_seed(SEED)
    try:
        with single_thread(bench.device):
            yield
    finally:
        torch.set_rng_state(state)
