"""What a software stack adds beside the operations: rows of stage ``overhead``, without FLOPs or bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..frozen import dataclass
from ..inputs.run import Run
from ..methods.registry import find_scorer
from ..types import Figure, Workload
from .table import NO_LAYER, OpTable, Segment

__all__ = ["Overhead", "overheads", "reads_attention_maps", "with_overheads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Seconds that a stack spends beside the operations of a stage, or a `stage` that is no operations at all."""

    beside: str
    stage: str = "overhead"
    name: str
    seconds: Figure


def overheads(run: Run, steps: int) -> Iterator[Overhead]:
    """What the run's stack adds to the request, to its attention maps, and to each engine step."""
    stack, load, batch = run.stack, run.workload, run.workload.batch
    request = _request(run)
    # with the tower's output given there is no image path to cost anything
    if request and (stack.request_at != "vision" or _encoded(load)):
        yield Overhead(beside=stack.request_at, name="request", seconds=request)
    if stack.attention_map_s and reads_attention_maps(run):
        yield Overhead(beside="prefill", name="attention_maps", seconds=stack.attention_map_s)
    step = _plus(stack.step_s, stack.per_sequence_s * batch, low=0.9, high=1.12)
    for stage, count in (("prefill", 1), ("decode", steps)):
        if step and count:
            yield Overhead(beside=stage, name="step", seconds=_times(step, float(count)))


def _encoded(load: Workload) -> int:
    """Images and frames that the tower runs on."""
    return load.images - load.cached_images + load.frames - load.cached_frames


def _request(run: Run) -> Figure:
    """A request's fixed part, and its images and frames: they are known as badly as the fixed part."""
    stack, load = run.stack, run.workload
    fixed = stack.request_s
    inputs = load.batch * (
        stack.per_image_s * (load.images - load.cached_images) + stack.per_frame_s * (load.frames - load.cached_frames)
    )
    low, high = (fixed.low / fixed.value, fixed.high / fixed.value) if fixed.value else (1.0, 1.0)
    return _plus(fixed, inputs, low=low, high=high)


def _plus(figure: Figure, more: float, *, low: float, high: float) -> Figure:
    return Figure(value=figure.value + more, low=figure.low + low * more, high=figure.high + high * more)


def _times(figure: Figure, count: float) -> Figure:
    return Figure(value=count * figure.value, low=count * figure.low, high=count * figure.high)


def reads_attention_maps(run: Run) -> bool:
    """Whether attention maps of the language model are exposed: all run eager, or a scorer reads one."""
    if run.attention == "eager":
        return True
    scorers = {event.scorer for event in run.computed.layer_events}
    return run.implementation != "fused" and any(find_scorer(s).exposes in ("layer", "decoder") for s in scorers)


def with_overheads(table: OpTable, added: list[Overhead]) -> OpTable:
    """The table with a row for each overhead behind its own."""
    if not added:
        return table
    count, size = len(added), len(table)
    segments = tuple(
        Segment(each.stage, each.name, "overhead", "overhead", "after", size + i, size + i + 1, each.beside)
        for i, each in enumerate(added)
    )
    return replace(
        table,
        segments=(*table.segments, *segments),
        layer=np.concatenate((table.layer, np.full(count, NO_LAYER))),
        count=np.concatenate((table.count, np.ones(count))),
        costs=np.concatenate([table.costs, np.zeros((len(table.costs), count))], axis=1),
        dims=(*table.dims, *({} for _ in added)),
        launches=np.concatenate((table.launches, np.ones(count))),
        syncs=np.concatenate((table.syncs, np.zeros(count))),
        lengths=np.concatenate((table.lengths, np.ones(count, dtype=table.lengths.dtype))),
    )
