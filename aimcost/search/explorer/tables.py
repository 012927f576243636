"""Priced rows of one machine under one stack: of a decoder layer and of a cut by token count, and of everything else.

An operation's device and host seconds follow from the token count alone, so one estimate of a model with a layer for
every count prices them all (`aimcost.search.layers`). What a row then adds to the time to first token follows from
its place in the host's queue, which the page runs itself, row by row (`aimcost.pricing.host_queue`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ScheduleError
from ...inputs.run import Run
from ...machine.coefficients import Coefficients
from ...machine.peaks import require_hardware
from ...methods.implementation import cached_by_layer, tower_kernel
from ...methods.registry import find_scorer
from ...models.parallel import stage_layers
from ...pricing.derived import SEND
from ...pricing.estimator import estimator_of
from ...pricing.memory import layer_peaks, memory_by_device
from ...pricing.overhead import Overhead, overheads, reads_attention_maps
from ...pricing.preprocess import preprocessing
from ...pricing.pricing import estimate_run
from ...pricing.result import Estimate
from ...pricing.table import NO_LAYER, Segment
from ...types import DecoderSpec, ReductionEvent, Schedule, Workload
from ...types.formats import Part, part_format
from ...types.traced import TracedLayer, TracedOp
from ..layers import Pair, with_layers
from .settings import Schedules, Settings, exposes

__all__ = ["Context", "Op", "OpCurves", "Row", "Tables", "Term", "context_of", "tables_of"]

Floats = NDArray[np.float64]
# Cuts at which separable tables are compared with the estimator, and how near they must come.
_CHECKED_CUTS, _EXACT = 48, 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """What an operation is; `term` names the band that its rows share."""

    stage: str
    name: str
    kind: str
    group: str
    term: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCurves:
    """One operation by token count n: entry n of every array (entry 0 is 0).

    Attributes
    ----------
    device, flops, bytes
        Device seconds and costs of one run of the row.
    host, after
        Host seconds of issuing it, and the share of the device's time that is left then; by count where its launches
        follow from that.
    code
        Bound and range: twice the index into ``BOUNDS``, and 1 where a dimension is extrapolated.
    each_step
        Of decode: whether every step has a row.
    waits
        Whether the host then waits for the device.
    sends
        Whether it enters a pipeline stage: only the first layer of a later one has it.
    needed
        Where some counts alone need it: 1 at these. A run has the row where one of its layers does.
    counts
        Of a row outside the layers, what n is: the ``text`` that is looked up, or the ``tokens`` of the nearest layer.
    key
        Of a cut from a to b: (p, q), where entry p·a + q·b is meant.
    shape
        Dimensions as (value at 0, increase with n).
    """

    op: Op
    device: Floats
    flops: Floats
    bytes: Floats
    code: NDArray[np.int64]
    host: float | Floats
    after: float | Floats
    waits: bool
    each_step: bool = False
    sends: bool = False
    needed: NDArray[np.int64] | None = None
    counts: str = ""
    key: tuple[int, int] = (1, 0)
    shape: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row outside the layers, as it stands; `shape` is its dimensions in words."""

    op: Op
    device: float
    host: float
    flops: float
    bytes: float
    code: int
    after: float
    waits: bool
    shape: str


# Rows in execution order; a group that repeats is stored once, with how often it runs.
Rows = tuple[tuple[int, tuple[Row, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Rows of one batch size.

    Attributes
    ----------
    layers
        By kind of layer and attention kernel (``flash``, ``eager``): prefill of one layer.
    decode
        By kind and kernel: the first decode step of one layer whose cache held n tokens.
    cut
        A cut inside the language model; empty without one.
    before
        By load and reduction: tower, projector, merging, and what else precedes the layers but the embedding.
    embed, head
        By text tokens of the prompt: rows of the prompt ahead of the layers. Those after the last layer.
    first, last
        In place of `embed` and `head`, where these follow from the tokens of the first and the last layer: a traced
        model's.
    step_before, step_after
        Of a decode step, around the layers.
    kv
        By kind: cache bytes of one layer by tokens held.
    peaks, step_peaks
        By kind and kernel: activation bytes of one layer by the tokens it attends to, in the prefill (``ranked`` where
        a scorer takes its scores) and in a decode step.
    ahead_bytes
        By load and reduction: activation bytes of tower and projector.
    embedded_bytes
        Of one token that is embedded.
    features_bytes
        By load: features that are added behind the first layers.
    head_bytes
        Activation bytes behind the last layer.
    added
        By load, what the stack adds; ``maps`` among them applies where attention maps are read.
    """

    batch: int
    layers: tuple[Mapping[str, tuple[OpCurves, ...]], ...]
    decode: tuple[Mapping[str, tuple[OpCurves, ...]], ...]
    cut: tuple[OpCurves, ...]
    before: tuple[tuple[Rows, ...], ...]
    embed: Mapping[int, Rows]
    head: Rows
    first: tuple[OpCurves, ...]
    last: tuple[OpCurves, ...]
    step_before: Rows
    step_after: Rows
    kv: tuple[Floats, ...]
    peaks: tuple[Mapping[str, Floats], ...]
    step_peaks: tuple[Mapping[str, Floats], ...]
    ahead_bytes: tuple[tuple[float, ...], ...]
    embedded_bytes: float
    features_bytes: tuple[float, ...]
    head_bytes: float
    added: tuple[tuple[Overhead, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Band of one kind of operation: (low, high) inside and outside the measured range."""

    name: str
    inside: tuple[float, float]
    beyond: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One machine under one stack and estimator, whatever the batch.

    Attributes
    ----------
    kinds
        The kind of every layer, as the tables count them.
    exposes
        Where a cut makes layers run eager attention (`aimcost.search.explorer.settings.exposes`).
    maps
        Whether attention maps are read: without a cut, and with one.
    decode_extra
        Decode steps are ``max(0, new tokens − decode_extra)``.
    ranks_square
        Whether a cut takes a matrix of the scores of the layer before it.
    stages
        First layer of every pipeline stage.
    feature_layers
        Layers behind which features of the tower are added.
    weights_bytes
        On a device of every stage.
    """

    run: Run
    schedules: Schedules
    kinds: tuple[int, ...]
    exposes: str
    maps: tuple[bool, bool]
    decode_extra: int
    included: tuple[str, ...]
    has_band: bool
    terms: tuple[Term, ...]
    prompt_scale: tuple[float, float]
    decode_scale: tuple[float, float]
    width: float
    ranks_square: bool
    stages: tuple[int, ...]
    feature_layers: int
    weights_bytes: tuple[float, ...]
    tables: tuple[Tables, ...]


def context_of(settings: Settings, run: Run, schedules: Schedules, most_tokens: int) -> Context:
    """Price a machine under a stack for every setting.

    Parameters
    ----------
    run
        The run on that machine, under that stack and estimator.
    most_tokens
        The largest token count to tabulate, generated tokens included.
    """
    found = exposes(schedules.example, run.implementation)
    plain = replace(run, schedule=schedules.reductions[0][0])
    cutting = plain if schedules.example is None else replace(run, schedule=schedules.example)
    probe = estimate_run(_shallow(replace(plain, workload=_load(settings, schedules, 0, 1, new=2))))
    tables = tuple(tables_of(settings, run, schedules, batch, most_tokens, found) for batch in settings.batches)
    band = probe.band
    projector = run.model.projector
    square = bool(schedules.scorer) and find_scorer(schedules.scorer).square_scores
    return Context(
        run=run,
        schedules=schedules,
        kinds=kinds_of(run.model.decoder)[1],
        exposes=found,
        maps=(reads_attention_maps(plain), reads_attention_maps(cutting)),
        decode_extra=2 - probe.table.steps,
        included=probe.included,
        has_band=band is not None,
        terms=_terms(run, tables) if band is not None else (),
        prompt_scale=band.prompt_scale if band is not None else (1.0, 1.0),
        decode_scale=band.decode_scale if band is not None else (1.0, 1.0),
        width=band.width if band is not None else 1.0,
        ranks_square=square and run.implementation != "fused",
        stages=tuple(each.start for each in stage_layers(run.model.decoder.layers, run.parallel.pp)),
        feature_layers=projector.deepstack if projector is not None and run.workload.tower is not None else 0,
        weights_bytes=tuple(device.weights_bytes for device in memory_by_device(plain)),
        tables=tables,
    )


def _load(settings: Settings, schedules: Schedules, at: int, batch: int, *, new: int = 0) -> Workload:
    return replace(settings.loads[at].workloads[schedules.convention], batch=batch, new_tokens=new)


@lru_cache(maxsize=4)
def kinds_of(decoder: DecoderSpec) -> tuple[tuple[DecoderSpec, ...], tuple[int, ...]]:
    """Decoders whose layers are all of one kind, and the kind of every layer of `decoder`."""
    traced = decoder.traced
    if traced is not None:
        alike = tuple(replace(traced, kinds=(kind,), order=(0,) * decoder.layers) for kind in traced.kinds)
        order = tuple(traced.kind_of(layer) for layer in range(decoder.layers))
        return tuple(replace(decoder, traced=each) for each in alike), order
    if not decoder.window or decoder.window_layers is None:
        return (decoder,), (0,) * decoder.layers
    kinds = replace(decoder, window_layers=None), replace(decoder, window=0, window_layers=None)
    return kinds, tuple(int(layer not in decoder.window_layers) for layer in range(decoder.layers))


def _first_kind(run: Run) -> int:
    """The kind of the first layer, as memory counts kinds: by what is alive, which no window changes."""
    return 0 if run.model.decoder.traced is None else kinds_of(run.model.decoder)[1][0]


def _of_one_kind(run: Run) -> Run:
    """The run on a model whose layers are all of its first kind: for what lies outside them."""
    first, *others = kinds_of(run.model.decoder)[0]
    return replace(run, model=replace(run.model, decoder=first)) if others else run


def _shallow(run: Run, layers: int = 1) -> Run:
    tokens = run.schedule.tokens[0]
    return with_layers(_of_one_kind(run), [(tokens, tokens)] * layers, "none")


def tables_of(settings: Settings, run: Run, schedules: Schedules, batch: int, most_tokens: int, exposed: str) -> Tables:
    """Every table of one batch size."""
    whole = replace(run, schedule=replace(schedules.reductions[0][0], events=()))
    no_tower = _without_tower(_load(settings, schedules, 0, batch))
    every_kind = [
        replace(whole, workload=no_tower, include=None, model=replace(run.model, decoder=decoder))
        for decoder in kinds_of(run.model.decoder)[0]
    ]
    bare = every_kind[0]
    kernels = sorted({run.attention} | ({"eager"} if exposed else set()))
    layers, decode = list[dict[str, tuple[OpCurves, ...]]](), list[dict[str, tuple[OpCurves, ...]]]()
    step_before: Rows = ()
    step_after: Rows = ()
    decoded = 2 - estimate_run(_shallow(_with_new(bare, 2))).table.steps  # new tokens beyond the steps
    counts = range(most_tokens, _least(no_tower) - 1, -1)
    for alike in every_kind:
        layers.append({})
        decode.append({})
        for kernel in kernels:
            one, two = (replace(_with_new(alike, steps + decoded), attention=kernel) for steps in (1, 2))
            # a trace may launch as many kernels as there are tokens
            traced = alike.model.decoder.traced is not None
            every = estimate_run(_of_counts(one if traced else replace(one, host_time=False), counts))
            issued = every if traced else estimate_run(_of_counts(one, (counts[0], counts[-1])))
            stepped = estimate_run(_of_counts(two, counts[-1:]))
            layers[-1][kernel] = tuple(_by_count(every, issued, stepped, "prefill"))
            decode[-1][kernel] = tuple(_by_count(every, issued, stepped, "decode"))
            if kernel == run.attention and alike is bare:
                step_before, step_after = (
                    _rows(issued, _outside(issued, "decode", after=after)) for after in (False, True)
                )
    flat = estimate_run(_shallow(bare))
    memory = _memory_tables(settings, run, schedules, every_kind, kernels, batch, most_tokens)
    outer = bare.model.decoder.traced is not None
    return Tables(
        batch=batch,
        layers=tuple(layers),
        decode=tuple(decode),
        cut=_cut_rows(bare, schedules, most_tokens),
        before=tuple(
            _before(replace(run, workload=_load(settings, schedules, at, batch)), found)
            for at, found in enumerate(schedules.reductions)
        ),
        embed={} if outer else {text: _embed(bare, text) for text in settings.text_lengths},
        head=() if outer else _rows(flat, _outside(flat, "prefill", after=True)),
        first=_outer_rows(bare, most_tokens, after=False) if outer else (),
        last=_outer_rows(bare, most_tokens, after=True) if outer else (),
        step_before=step_before,
        step_after=step_after,
        added=tuple(_added(run, _load(settings, schedules, at, batch)) for at in range(len(settings.loads))),
        **memory,
    )


def _without_tower(workload: Workload) -> Workload:
    return replace(workload, frames=0, images=0, tower=None, encoded=None, cached_images=0, cached_frames=0)


def _least(workload: Workload) -> int:
    """The fewest tokens that a layer may attend to: one more than are cached; all that are not, where they vary."""
    uncached = workload.prompt_tokens - workload.cached_tokens
    return uncached if workload.caches_visuals else workload.cached_tokens + 1


def _of_counts(run: Run, counts: Sequence[int]) -> Run:
    """The run on a layer of every count; on a pipeline, each behind the first layer enters a stage."""
    if run.parallel.pp > 1:
        counts = (counts[0], *counts)
        run = replace(run, parallel=replace(run.parallel, pp=len(counts)))
    return with_layers(run, [(n, n) for n in counts], "")


def _memory_tables(
    settings: Settings,
    run: Run,
    schedules: Schedules,
    every_kind: Sequence[Run],
    kernels: Sequence[str],
    batch: int,
    most: int,
) -> dict[str, Any]:
    """What the peak of a setting's memory is a sum of: the fields of `Tables` whose values are bytes in memory."""
    bare = every_kind[0]
    workload = bare.workload
    least = _least(workload)
    attended = np.arange(least, most + 1, dtype=float)
    queries = np.full_like(attended, least) if workload.caches_visuals else attended - workload.cached_tokens
    absent = np.zeros(least)

    def by_count(kind: Run, kernel: str, queries: Floats | float, *, ranked: bool = False) -> Floats:
        (peak,) = layer_peaks(kind, queries, attended, kernel, ranked=ranked)
        return np.concatenate((absent, np.broadcast_to(peak, attended.shape)))

    peaks = [{kernel: by_count(kind, kernel, queries) for kernel in kernels} for kind in every_kind]
    if "eager" in kernels:
        for kind, found in zip(every_kind, peaks, strict=True):
            found["ranked"] = by_count(kind, "eager", queries, ranked=True)
    # memory is looked at without pipeline stages: a device of each holds what its layers do
    one_device = replace(run, parallel=replace(run.parallel, pp=1))
    ahead, features = list[tuple[float, ...]](), list[float]()
    for at, reductions in enumerate(schedules.reductions):
        loaded = replace(one_device, workload=_load(settings, schedules, at, batch))
        known: dict[str, float] = {}
        for schedule in reductions:
            kernel = tower_kernel(schedule, run.implementation, run.tower_attention)
            if kernel not in known:
                (device,) = memory_by_device(replace(loaded, schedule=schedule))
                known[kernel] = max((s.activation_bytes for s in device.stages if s.stage in _AHEAD), default=0.0)
        ahead.append(tuple(known[tower_kernel(s, run.implementation, run.tower_attention)] for s in reductions))
        features.append(_features_bytes(replace(loaded, schedule=reductions[0])))
    (device,) = memory_by_device(replace(one_device, workload=workload, schedule=bare.schedule))
    embedded = bare.schedule.tokens[0] - cached_by_layer(workload, bare.schedule)[0]
    return {
        "kv": tuple(_kv(alike, most) for alike in every_kind),
        "peaks": tuple(peaks),
        "step_peaks": tuple({kernel: by_count(kind, kernel, 1.0) for kernel in kernels} for kind in every_kind),
        "ahead_bytes": tuple(ahead),
        "embedded_bytes": device.embedded_bytes / float(embedded),
        "features_bytes": tuple(features),
        "head_bytes": next(s.activation_bytes for s in device.stages if s.stage == "lm_head"),
    }


# Stages of memory ahead of the language model.
_AHEAD = ("vision", "projector")


def _features_bytes(run: Run) -> float:
    """Features that lie beside the first layer of a run without reduction."""
    (device,) = memory_by_device(run)
    first = next(stage for stage in device.stages if stage.stage == "prefill layer 0")
    tokens = float(run.schedule.tokens[0])
    queries = tokens - float(cached_by_layer(run.workload, run.schedule)[0])
    return first.activation_bytes - float(layer_peaks(run, queries, tokens, run.attention)[_first_kind(run)])


def _with_new(run: Run, new_tokens: int) -> Run:
    return replace(run, workload=replace(run.workload, new_tokens=new_tokens))


def _kv(run: Run, most: int) -> Floats:
    """Cache bytes of a layer by the tokens that it holds."""
    empty = replace(run.workload, cached_tokens=0, new_tokens=0)
    one_device = replace(run, workload=empty, parallel=replace(run.parallel, pp=1))
    # a layer that keeps a state has it before the first token
    (every,) = memory_by_device(with_layers(one_device, [(n, n) for n in range(most, -1, -1)], ""))
    return np.array(every.kv_by_layer[::-1])


def _added(run: Run, workload: Workload) -> tuple[Overhead, ...]:
    """What the stack adds to a request and to one step, reading attention maps among it where the stack prices that."""
    if not estimator_of(run.estimator).uses_stack:
        return ()
    loaded = replace(run, workload=workload, attention="eager")  # as if every layer exposed its attention map
    return (*overheads(loaded, 1), *preprocessing(loaded)[0])


def _embed(run: Run, text: int) -> Rows:
    after = text - run.schedule.text_before - run.schedule.template_tokens
    schedule, load = replace(run.schedule, text_after=after), replace(run.workload, text_after=after)
    priced = estimate_run(_shallow(replace(run, schedule=schedule, workload=load)))
    return _rows(priced, _outside(priced, "prefill", after=False))


def _before(run: Run, reductions: Sequence[Schedule]) -> tuple[Rows, ...]:
    """Tower, projector, merging, and what the language model does with features ahead of its layers, by reduction.

    The tower is priced once, unless a method reaches into it, and all that merges behind it together.
    """
    whole, found = replace(run, schedule=reductions[0]), list[Rows]()
    tower = _ahead(whole)
    deepstack = run.model.projector is not None and run.model.projector.deepstack
    kernel = tower_kernel(reductions[0], run.implementation, run.tower_attention)
    behind = [
        schedule
        for schedule in reductions
        if schedule.events
        and not schedule.tower_events
        and not deepstack
        and tower_kernel(schedule, run.implementation, run.tower_attention) == kernel
    ]
    merges = dict(zip(map(id, behind), _merging(run, behind), strict=True))
    for schedule in reductions:
        if not schedule.events:
            found.append(tower)
        elif id(schedule) in merges:
            found.append((*tower, *merges[id(schedule)]))
        else:
            found.append(_ahead(replace(run, schedule=schedule)))
    return tuple(found)


def _merging(run: Run, reductions: Sequence[Schedule]) -> list[Rows]:
    """Rows of what each schedule does between the tower and the language model."""
    alone = replace(run, workload=_without_tower(run.workload))
    events = [event for schedule in reductions for event in schedule.events]
    if not events:
        return []
    if len({event.scorer for event in events}) > 1 or not all(event.selects for event in events):
        return [_ahead(replace(alone, schedule=schedule)) for schedule in reductions]
    # as many rows an event, one event after the other
    priced = estimate_run(_shallow(replace(alone, schedule=replace(reductions[0], events=tuple(events)))))
    rows, rest = _rows_ahead(priced), list[Rows]()
    each, at = len(rows) // len(events), 0
    read = _reader(priced)
    for schedule in reductions:
        count = each * len(schedule.events)
        rest.append(read(rows[at : at + count]))
        at += count
    return rest


def _ahead(run: Run) -> Rows:
    projector = run.model.projector
    # features of deep tower layers are added in as many layers of the language model as it has
    features = min(projector.deepstack, run.model.decoder.layers) if projector is not None else 0
    priced = estimate_run(_shallow(run, max(1, features)))
    return _rows(priced, _rows_ahead(priced))


def _rows_ahead(priced: Estimate) -> list[int]:
    """Rows ahead of the language model's layers, but the embedding."""
    names = _names(priced)
    return [
        row
        for row in priced.table.order.tolist()
        if names[row].stage in ("vision", "projector", "merge")
        or (names[row].stage == "prefill" and priced.table.layer[row] == NO_LAYER and names[row].place == "layer")
    ]


def _names(priced: Estimate) -> list[Segment]:
    table = priced.table
    return [segment for segment in table.segments for _ in range(segment.stop - segment.start)]


def _outside(priced: Estimate, stage: str, *, after: bool) -> list[int]:
    """Rows of a stage outside the layers, in execution order: those after the last one, or those before the first."""
    names, layer = _names(priced), priced.table.layer
    wanted = ("after",) if after else ("before",)
    return [
        row
        for row in priced.table.order.tolist()
        if names[row].stage == stage and layer[row] == NO_LAYER and names[row].place in wanted
    ]


def _op(segment: Segment) -> Op:
    detail = segment.stage if segment.kind == "attention" else segment.weights
    term = f"{segment.kind} {detail}" if detail else segment.kind
    return Op(stage=segment.stage, name=segment.name, kind=segment.kind, group=segment.group, term=term)


def _columns(priced: Estimate) -> dict[str, Floats]:
    """Of one run of every row."""
    table = priced.table
    device = priced.seconds if priced.device_seconds is None else priced.device_seconds
    host = np.zeros(len(table)) if priced.host_seconds is None else priced.host_seconds
    left = device if priced.priced.after_issue_seconds is None else priced.priced.after_issue_seconds
    return {
        "device": device / table.count,
        "host": host / table.count,
        "after": np.divide(left, device, out=np.ones(len(table)), where=device > 0),
        "flops": table.flops,
        "bytes": table.bytes,
    }


def _codes(priced: Estimate) -> NDArray[np.int64]:
    """Bound of each row, whether it is extrapolated; one that waits for the host here may not wait in another place."""
    bound = priced.bound if priced.priced.device_bound is None else priced.priced.device_bound
    outside = np.zeros(len(priced.table), dtype=bool) if priced.extrapolated is None else priced.extrapolated
    codes: NDArray[np.int64] = 2 * bound + outside
    return codes


def _rows(priced: Estimate, rows: Sequence[int]) -> Rows:
    """The rows as they stand; equal neighbouring groups, as the layers of a tower are, once."""
    return _reader(priced)(rows) if len(rows) else ()


def _reader(priced: Estimate) -> Callable[[Sequence[int]], Rows]:
    # all runs of a row together: features of deep layers are added several times
    columns = {k: v if k == "after" else v * priced.table.count for k, v in _columns(priced).items()}
    codes, names, shapes, waits = _codes(priced), _names(priced), _shapes(priced), priced.priced.waits

    def read(rows: Sequence[int]) -> Rows:
        made = [
            Row(
                op=_op(names[row]),
                device=float(columns["device"][row]),
                host=float(columns["host"][row]),
                flops=float(columns["flops"][row]),
                bytes=float(columns["bytes"][row]),
                code=int(codes[row]),
                after=float(columns["after"][row]),
                waits=bool(waits is not None and waits[row]),
                shape=shapes(row),
            )
            for row in rows
        ]
        groups: list[list[Any]] = []
        place = [(names[row].stage, int(priced.table.layer[row])) for row in rows]
        for row, where, last in zip(made, place, [None, *place], strict=False):
            if where == last:
                groups[-1].append(row)
            else:
                groups.append([row])
        folded: list[tuple[int, tuple[Row, ...]]] = []
        for group in map(tuple, groups):
            if folded and folded[-1][1] == group:
                folded[-1] = (folded[-1][0] + 1, group)
            else:
                folded.append((1, group))
        return tuple(folded)

    return read


def _shapes(priced: Estimate) -> Callable[[int], str]:
    """The dimensions of a row in words."""
    table = priced.table
    where = np.repeat(np.arange(len(table.segments)), table.lengths).tolist()
    columns = cache(table.columns)

    def shape(row: int) -> str:
        start = table.segments[where[row]].start
        return ", ".join(f"{name} {float(values[row - start]):g}" for name, values in columns(where[row]).items())

    return shape


def _by_count(device: Estimate, issued: Estimate, stepped: Estimate, stage: str) -> Iterable[OpCurves]:
    """Rows of a layer by count: layer i of `device` computes on most − i tokens.

    Parameters
    ----------
    issued
        The longest and the shortest of those layers, issued by a host.
    stepped
        Two decode steps, which tell the operations that have a row for every step.
    """
    table, columns, codes = device.table, _columns(device), _codes(device)
    count_of, most = np.array(device.run.schedule.tokens), device.run.schedule.tokens[0]
    each_step = {s.name: bool(stepped.table.count[s.start] == 1.0) for s in stepped.table.segments if s.stage == stage}
    for index, (segment, sample) in enumerate(zip(table.segments, issued.table.segments, strict=True)):
        if segment.stage != stage or segment.place != "layer" or table.layer[segment.start] == NO_LAYER:
            continue
        rows = slice(segment.start, segment.stop)
        yield _curves(
            segment,
            sample,
            at=count_of[table.layer[rows]],
            most=most,
            columns=columns,
            codes=codes,
            issued=issued,
            by_count=issued is device,
            each_step=stage == "decode" and each_step[segment.name],
            shape=table.columns(index),
        )


def _curves(
    segment: Segment,
    sample: Segment,
    *,
    at: NDArray[np.int64],
    most: int,
    columns: Mapping[str, Floats],
    codes: NDArray[np.int64],
    issued: Estimate,
    by_count: bool,
    each_step: bool,
    shape: Mapping[str, Floats],
) -> OpCurves:
    """The rows of a segment, of which row i computes on `at[i]` tokens; `sample` is the segment where a host issues it.

    Raises
    ------
    ScheduleError
        What the host does follows from the tokens, and `issued` does not say it of every count.
    """
    rows, here = slice(segment.start, segment.stop), slice(sample.start, sample.stop)
    host, waits = _columns(issued), issued.priced.waits

    def issuing(values: Floats) -> float | Floats:
        if np.ptp(values) <= _EXACT * abs(values[0]):
            return float(values[0])
        if not by_count:
            raise ScheduleError(f"the explorer cannot tabulate {segment.name}: its launches depend on the tokens")
        return _at(at, values, most)

    waiting = waits is not None and waits[here]
    if np.any(waiting) and not np.all(waiting):
        raise ScheduleError(f"the explorer cannot tabulate {segment.name}: the host waits for some counts of it alone")
    # an op that runs no time for some counts moves nothing there
    idle = (columns["bytes"][rows] == 0.0) & (columns["flops"][rows] == 0.0)
    partly = bool(idle.any() and not idle.all())
    return OpCurves(
        op=_op(segment),
        device=_at(at, columns["device"][rows], most),
        flops=_at(at, columns["flops"][rows], most),
        bytes=_at(at, columns["bytes"][rows], most),
        code=_at(at, codes[rows], most),
        host=issuing(host["host"][here]),
        after=issuing(host["after"][here]),
        waits=bool(np.any(waiting)),
        each_step=each_step,
        sends=segment.name == SEND,
        needed=_at(at, (~idle).astype(np.int64), most) if partly else None,
        shape=_affine(shape, at),
    )


# Counts at which rows outside the layers of a trace are compared with the estimator.
_CHECKED_COUNTS = 6


def _outer_rows(run: Run, most: int, *, after: bool) -> tuple[OpCurves, ...]:
    """Rows of a traced prompt ahead of its layers, or behind them, by count: those of a model whose layers they are.

    Raises
    ------
    ScheduleError
        An operation that costs another time there.
    """
    decoder = run.model.decoder
    assert decoder.traced is not None
    ops = decoder.traced.after if after else decoder.traced.before
    part: Part = "lm_head" if after else "embedding"
    alone = replace(
        run,
        workload=replace(run.workload, cached_tokens=0, new_tokens=0),
        precision=replace(run.precision, weights=part_format(run.precision, part), experts=None),
        model=replace(run.model, decoder=_as_layers(decoder, ops)),
        attention="flash",
        parallel=replace(run.parallel, pp=1),
    )
    every = estimate_run(with_layers(alone, [(n, n) for n in range(most, 0, -1)], ""))
    random, checked = np.random.default_rng(0), list[tuple[dict[str, int], Estimate, list[int]]]()
    for tokens in random.integers(1, most + 1, size=_CHECKED_COUNTS).tolist():
        text = int(random.integers(1, tokens + 1))
        schedule = replace(run.schedule, tokens=(tokens,), text_before=0, template_tokens=0, text_after=text)
        real = estimate_run(_shallow(replace(run, workload=alone.workload, schedule=schedule)))
        checked.append(({"tokens": tokens, "text": text}, real, _outside(real, "prefill", after=after)))
    found = []
    for number, rows in enumerate(_by_count(every, every, every, "prefill")):
        fitting = [
            counts
            for counts in ("tokens", "text")
            if all(_is_row(rows, at[counts], real, here[number]) for at, real, here in checked)
        ]
        if not fitting:
            raise ScheduleError(f"the explorer cannot tabulate {rows.op.name} by its tokens")
        found.append(replace(rows, counts=fitting[0]))
    if any(len(here) != len(found) for _, _, here in checked):
        raise ScheduleError("the explorer cannot tabulate what runs around the layers")
    return tuple(found)


def _is_row(rows: OpCurves, at: int, priced: Estimate, row: int) -> bool:
    """Whether entry `at` of a tabulated row is a row of an estimate."""
    amounts = _columns(priced)
    tabulated = [getattr(rows, name) for name in amounts]
    entries = [float(each if isinstance(each, float) else each[at]) for each in tabulated]
    return np.allclose(entries, [values[row] for values in amounts.values()], rtol=_EXACT, atol=0.0)


@lru_cache(maxsize=4)
def _as_layers(decoder: DecoderSpec, ops: tuple[TracedOp, ...]) -> DecoderSpec:
    """A traced decoder of which every layer is these operations."""
    assert decoder.traced is not None
    layer = TracedLayer(parameters=0.0, ops=ops, alive=(), decode=ops)
    return replace(decoder, traced=replace(decoder.traced, kinds=(layer,), order=(0,), before=(), after=()))


def _at(where: NDArray[np.int64], values: NDArray[Any], most: int) -> NDArray[Any]:
    """An array whose entries `where` have these values, the others zero."""
    array = np.zeros(most + 1, dtype=values.dtype)
    array[where] = values
    return array


def _affine(dims: Mapping[str, Floats], at: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Dimensions that grow in proportion to the count, as (value at 0, increase)."""
    found = {}
    for name, values in dims.items():
        first, last = int(at.argmin()), int(at.argmax())
        span = float(at[last] - at[first]) or 1.0
        slope = float(values[last] - values[first]) / span
        base = float(values[first]) - slope * float(at[first])
        if np.allclose(values, base + slope * at, rtol=1e-12, atol=1e-6):
            found[name] = (base, slope)
    return found


def _cut_rows(run: Run, schedules: Schedules, most: int) -> tuple[OpCurves, ...]:
    """Rows of a cut from a tokens to b. Each depends on a, on b, or on one sum p·a + q·b, which is checked.

    Raises
    ------
    ScheduleError
        An operation that does not.
    """
    if not schedules.scorer:
        return ()

    def cutting(cuts: Sequence[Pair]) -> Run:
        return with_layers(run, cuts, schedules.scorer)

    def priced(cuts: Sequence[Pair]) -> Estimate:
        return estimate_run(cutting(cuts))

    def selection(every: Estimate) -> list[Segment]:
        return [s for s in every.table.segments if s.stage == "prefill" and s.group == "selection"]

    random, least = np.random.default_rng(0), _least(run.workload)
    some = np.sort(random.integers(least, most + 1, size=(_CHECKED_CUTS, 2)), axis=1)[:, ::-1]
    checked: list[Pair] = [(int(a), int(b)) for a, b in some if a > b]
    corner = priced([(least + a, least + b) for a, b in ((100, 40), (101, 40), (100, 41), (101, 41))])
    if not selection(corner):
        return ()
    truth, amounts = priced(checked), _columns(corner)
    found: list[OpCurves] = []
    host, waits = _columns(truth), truth.priced.waits
    keys = [
        _key_of(
            [
                [float(amounts[name][segment.start + i] - amounts[name][segment.start]) for i in (1, 2, 3)]
                for name in ("bytes", "flops", "device", "host")
            ]
        )
        for segment in selection(corner)
    ]
    cuts = _cuts_at(tuple(keys), least, most)
    # after one layer, all of them: the device's time of a cut follows from no layer
    one = _shallow(replace(run, host_time=False))
    every = estimate_run(replace(one, schedule=replace(one.schedule, events=_events_at(cuts, schedules.scorer))))
    columns, codes = _columns(every), _codes(every)
    every_pair, checked_pairs = np.array(cuts), np.array(checked)
    for number, (segment, key) in enumerate(zip(selection(corner), keys, strict=True)):
        here, real = selection(every)[number], selection(truth)[number]
        rows, tested = slice(here.start, here.stop), slice(real.start, real.stop)
        at: NDArray[np.int64] = every_pair @ np.array(key)
        wanted = checked_pairs @ np.array(key)
        largest = most * (key[0] + max(0, key[1]))
        arrays = {name: _at(at, columns[name][rows], largest) for name in ("device", "flops", "bytes")}
        exact = all(
            np.allclose(values[wanted], host[name][tested], rtol=_EXACT, atol=0) for name, values in arrays.items()
        )
        if not exact or any(np.ptp(host[name][tested]) > _EXACT * host[name][real.start] for name in ("host", "after")):
            raise ScheduleError(f"the explorer cannot tabulate {segment.name} of {schedules.scorer} by token counts")
        counts = every_pair[:, 0 if key[0] else 1]
        found.append(
            OpCurves(
                op=_op(here),
                device=arrays["device"],
                flops=arrays["flops"],
                bytes=arrays["bytes"],
                code=_at(at, codes[rows], largest),
                host=float(host["host"][real.start]),
                after=float(host["after"][real.start]),
                waits=bool(waits is not None and waits[tested].any()),
                key=key,
                shape={} if all(key) else _affine(every.table.columns(every.table.segments.index(here)), counts),
            )
        )
    return tuple(found)


def _key_of(steps: Sequence[Sequence[float]]) -> tuple[int, int]:
    """(p, q) of an operation that moves by `steps` where a, where b, and where both grow by one."""
    by_a, by_b = (any(step[end] != 0.0 for step in steps) for end in (0, 1))
    if not by_b:
        return 1, 0
    if not by_a:
        return 0, 1
    if not any(step[2] for step in steps):
        return 1, -1  # by what is dropped
    first, second, _ = steps[0]  # of its bytes
    for p in range(1, 9):
        q = second * p / first
        if first > 0 and q > 0 and abs(q - round(q)) < 1e-9:
            return p, round(q)
    raise ScheduleError("the explorer cannot tabulate a selection whose traffic is no simple sum of token counts")


@lru_cache(maxsize=2)
def _cuts_at(keys: tuple[tuple[int, int], ...], least: int, most: int) -> tuple[Pair, ...]:
    """Cuts among which every value of every key occurs, if any cut has it."""
    found = dict.fromkeys((a, least) for a in range(least + 1, most + 1))
    found.update(dict.fromkeys((most, b) for b in range(least, most)))
    for p, q in keys:
        seen = {p * a + q * b for a, b in found}
        for b in range(least + 1, most) if p and q > 0 else ():
            # larger than what any smaller b reaches
            for a in range(most, max(b, most - q), -1):
                if p * a + q * b not in seen:
                    seen.add(p * a + q * b)
                    found[a, b] = None
    return tuple(found)


@lru_cache(maxsize=2)
def _events_at(cuts: tuple[Pair, ...], scorer: str) -> tuple[ReductionEvent, ...]:
    return tuple(
        ReductionEvent(action="prune", scorer=scorer, after_layer=0, tokens_in=before, tokens_out=after)
        for before, after in cuts
    )


def _terms(run: Run, tables: Sequence[Tables]) -> tuple[Term, ...]:
    """Band factors of every kind of operation that the rows name."""
    coefficients = Coefficients(require_hardware(run.hardware), run.precision)
    found: dict[str, Term] = {}
    probe = estimate_run(run)
    dense = estimate_run(replace(run, schedule=replace(run.schedule, events=())))
    steps = (estimate_run(_with_new(each.run, 2)) for each in (probe, dense))
    for priced in (probe, dense, *steps, _eager(run)):
        for kind, stage, width in priced.table.classes:
            name = f"{kind} {stage}" if stage else kind
            if name not in found and kind != "overhead":
                factors = coefficients.band_factors(kind, stage, width)
                found[name] = Term(name=name, inside=factors.inside, beyond=factors.beyond)
    used = {rows.op.term for table in tables for rows in (*_all(table.layers), *_all(table.decode), *table.cut)}
    missing = used - found.keys()
    if missing:
        raise ScheduleError("the explorer has no band of " + ", ".join(sorted(missing)))
    return tuple(found.values())


def _eager(run: Run) -> Estimate:
    return estimate_run(replace(_with_new(run, 2), attention="eager"))


def _all(by_kind: Sequence[Mapping[str, tuple[OpCurves, ...]]]) -> list[OpCurves]:
    return [rows for by_kernel in by_kind for each in by_kernel.values() for rows in each]
