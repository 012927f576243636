"""OpTable: every operation of a request, one row an operation, a layer and (decode) a step.

`build` is the one place where model, workload and schedule become operations. It knows no
machine but for the on-chip size that fused attention's traffic depends on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .derived import Part, with_conversions, with_exchanges
from .implementation import eager_layers, tower_kernel, tower_tokens
from .models import decoder as decoder_ops
from .models import projector as projector_ops
from .models import visual_tokens, vit
from .ops import Cost, Widths, pointwise
from .ops.tokens import Cut, ScoreContext, reduction_ops
from .parallel import rank_decoder
from .types import DecoderSpec, ModelSpec, Parallel, Precision, ReductionEvent, Schedule, TowerLoad, Workload

__all__ = ["COST_COLUMNS", "OpTable", "Segment", "TableBuilder", "build", "decode_steps"]

COST_COLUMNS = (
    "flops",
    "flops_full_square",
    "read_weights",
    "read_activations",
    "read_kv",
    "write_activations",
    "write_kv",
)
NO_LAYER = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of rows that are one operation of one stage over layers and steps."""

    stage: str
    name: str
    kind: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class OpTable:
    """Columns over rows. `count` is how often a row runs; the other columns are for one time.

    Attributes
    ----------
    segments
        What each run of rows is, in execution order within a layer.
    layer
        Layer index of each row, `NO_LAYER` outside layers.
    costs
        One float64 row for each of `COST_COLUMNS`: FLOPs, and bytes by tensor class.
    dims
        Per segment, the dimensions that time models look at, aligned with its rows.
    """

    segments: tuple[Segment, ...]
    layer: NDArray[np.int64]
    count: NDArray[np.float64]
    costs: NDArray[np.float64]
    dims: tuple[dict[str, NDArray[np.float64]], ...]
    steps: int = 0

    @property
    def flops(self) -> NDArray[np.float64]:
        """FLOPs of each row, once."""
        flops: NDArray[np.float64] = self.costs[0]
        return flops

    @property
    def bytes(self) -> NDArray[np.float64]:
        """DRAM traffic of each row, once."""
        total: NDArray[np.float64] = np.add.reduce(self.costs[2:], axis=0)
        return total

    def __len__(self) -> int:
        return len(self.layer)


class TableBuilder:
    """Collects segments; arrays are laid out once, at the end."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def add(self, stage: str, name: str, cost: Cost, layers: NDArray[np.int64] | None, count: float = 1.0) -> None:
        """One operation; a layer index an entry, or None outside layers."""
        index = np.array([NO_LAYER]) if layers is None else layers
        self.parts.append((stage, name, cost, index, count, len(index)))

    def finish(self, steps: int) -> OpTable:
        total = sum(part[-1] for part in self.parts)
        layer = np.empty(total, dtype=np.int64)
        count = np.empty(total)
        costs = np.zeros((len(COST_COLUMNS), total))
        segments, dims = [], []
        start = 0
        for stage, name, cost, index, times, length in self.parts:
            stop = start + length
            rows = slice(start, stop)
            layer[rows], count[rows] = index, times
            costs[0, rows] = cost.flops
            costs[1, rows] = cost.flops if cost.flops_full_square is None else cost.flops_full_square
            costs[2, rows] = cost.read_weights
            costs[3, rows] = cost.read_activations
            costs[4, rows] = cost.read_kv
            costs[5, rows] = cost.write_activations
            costs[6, rows] = cost.write_kv
            segments.append(Segment(stage, name, cost.kind, start, stop))
            dims.append({key: np.broadcast_to(np.asarray(value, float), length) for key, value in cost.dims.items()})
            start = stop
        return OpTable(tuple(segments), layer, count, costs, tuple(dims), steps)


def build(
    model: ModelSpec,
    workload: Workload,
    schedule: Schedule,
    precision: Precision,
    *,
    attention: str = "flash",
    implementation: str = "fused",
    parallel: Parallel | None = None,
    onchip_bytes: float = 0.0,
) -> OpTable:
    """All operations of the request: tower, projector, merging, prefill, decode.

    `schedule` is the computed one (`aimcost.implementation.computed_schedule`): its counts are what
    the layers compute on. With tensor-parallel ranks the rows are one rank's; with pipeline stages
    they are those of all stages, one request's way.
    """
    widths = Widths.of(precision)
    builder = TableBuilder()
    parallel = parallel or Parallel()
    model = replace(model, decoder=rank_decoder(model.decoder, parallel.tp))
    context = ScoreContext(
        model=model,
        batch=workload.batch,
        widths=widths,
        text_tokens=schedule.text_tokens,
        implementation=implementation,
    )
    kernel = tower_kernel(schedule, implementation, attention)
    load = visual_tokens.tower_load(model, workload)
    if load is not None:
        inputs = float(workload.batch * load.sequences)
        if parallel.tower == "data":
            inputs = float(np.ceil(inputs / parallel.tp))
        _vision(builder, model, load, schedule, widths, kernel, onchip_bytes, context, inputs)
    for event in schedule.pre_llm_events:
        if event.priced and event.tower_layer is None:
            cut = Cut(tokens_in=event.tokens_in, tokens_out=event.tokens_out, groups=event.groups)
            for name, cost in reduction_ops(event.scorer, cut, context):
                builder.add("merge", name, cost, None)
    eager = eager_layers(schedule, implementation, attention)
    _prefill(builder, model, workload, schedule, widths, eager, onchip_bytes, context)
    steps = decode_steps(workload)
    if steps:
        # a model loaded for eager attention everywhere decodes with it too
        kernel = "eager" if eager.all() else attention
        _decode(builder, model, workload, schedule, widths, kernel, onchip_bytes, steps)
    builder.parts = with_conversions(builder.parts, precision, float(model.decoder.head_dim))
    builder.parts = with_exchanges(builder.parts, parallel, model.decoder.layers)
    return builder.finish(steps)


def decode_steps(workload: Workload) -> int:
    """Decode steps of a request: the prefill yields the first token."""
    return max(0, workload.new_tokens - 1)


def _vision(
    builder: TableBuilder,
    model: ModelSpec,
    load: TowerLoad,
    schedule: Schedule,
    widths: Widths,
    kernel: str,
    onchip_bytes: float,
    context: ScoreContext,
    inputs: float,
) -> None:
    """The tower on `inputs` images, tiles or frames, what merges inside it, and the projector."""
    vision = model.vision
    if vision is None:
        return
    seen: dict[str, Any] = {"inputs": inputs, "load": load}
    for name, cost in vit.patch_ops(vision, widths, **seen):
        builder.add("vision", name, cost, None)
    left: float | None = None
    counts: dict[str, Any] = {}
    if schedule.tower_events:
        attend, after = tower_tokens(schedule, vision)
        counts, left = {"tokens": attend, "mlp_tokens": after}, float(after[-1])
    running: dict[str, Any] = {**seen, **counts, "kernel": kernel, "onchip_bytes": onchip_bytes}
    for layers, windowed, gated in vit.layer_groups(vision):
        for name, cost in vit.layer_ops(vision, widths, windowed=windowed, gated=gated, **running):
            builder.add("vision", name, cost, layers)
    _events(builder, "vision", schedule.tower_events, context, groups=inputs / context.batch)
    for name, cost in vit.post_ops(vision, widths, tokens=left, **seen):
        builder.add("vision", name, cost, None)
    patches = None if left is None else left - vision.class_token
    for name, cost in projector_ops.deepstack_ops(model, widths, **seen):
        builder.add("projector", name, cost, None, float(model.projector.deepstack if model.projector else 0))
    for name, cost in projector_ops.ops(model, widths, patches=patches, **seen):
        builder.add("projector", name, cost, None)


def _layers(model: ModelSpec) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the layers that attend to the sequence, and of those that attend across it."""
    index = np.arange(model.decoder.layers)
    if not model.decoder.cross_layers:
        return index, index[:0]
    cross = np.isin(index, model.decoder.cross_layers)
    return index[~cross], index[cross]


def _crossing(
    builder: TableBuilder,
    stage: str,
    decoder: DecoderSpec,
    workload: Workload,
    widths: Widths,
    kernel: str,
    onchip_bytes: float,
    cross: NDArray[np.int64],
    q_len: float,
    count: float = 1.0,
) -> None:
    """Cross-attention layers on `q_len` text tokens a request; keys and values in the prefill alone."""
    if not workload.cross_tokens:
        return
    seen: dict[str, Any] = {"batch": float(workload.batch), "kv_len": float(workload.cross_tokens)}
    if stage == "prefill":
        for name, cost in decoder_ops.cross_kv_ops(decoder, widths, **seen):
            builder.add(stage, name, cost, cross)
    for name, cost in decoder_ops.cross_layer_ops(
        decoder, widths, q_len=q_len, kernel=kernel, onchip_bytes=onchip_bytes, **seen
    ):
        builder.add(stage, name, cost, cross, count)


def _prefill(
    builder: TableBuilder,
    model: ModelSpec,
    workload: Workload,
    schedule: Schedule,
    widths: Widths,
    eager: NDArray[np.bool_],
    onchip_bytes: float,
    context: ScoreContext,
) -> None:
    decoder, batch = model.decoder, float(workload.batch)
    text = batch * schedule.text_tokens
    if text:
        builder.add("prefill", *decoder_ops.embed_op(decoder, widths, text), None)
    tokens = np.array(schedule.tokens, dtype=float)
    layers, cross = _layers(model)
    if len(cross):
        tokens, eager, everywhere = tokens[layers], eager[layers], bool(eager.all())
        kernel = "eager" if everywhere else "flash"
        _crossing(builder, "prefill", decoder, workload, widths, kernel, onchip_bytes, cross, float(tokens[0]))
    for kernel, runs in (("flash", ~eager), ("eager", eager)):
        if runs.any():
            some = tokens[runs]
            for name, cost in decoder_ops.layer_ops(
                decoder,
                widths,
                batch=batch,
                q_len=some,
                kv_len=some,
                kernel=kernel,
                onchip_bytes=onchip_bytes,
            ):
                builder.add("prefill", name, cost, layers[runs])
    deepstack = model.projector.deepstack if model.projector is not None and workload.tower else 0
    if deepstack:
        visual = batch * schedule.visual_tokens * decoder.hidden
        builder.add("prefill", "deepstack_add", pointwise.add(visual, widths), None, float(deepstack))
    _events(builder, "prefill", schedule.layer_events, context)
    for name, cost in decoder_ops.head_ops(decoder, widths, batch=batch):
        builder.add("prefill", name, cost, None)


def _events(
    builder: TableBuilder,
    stage: str,
    events: tuple[ReductionEvent, ...],
    context: ScoreContext,
    *,
    groups: float = 1.0,
) -> None:
    """Reduction inside the tower or the language model, charged to the layer that it follows: all
    events of a scorer at once."""
    priced = [event for event in events if event.priced]
    for scorer in dict.fromkeys(event.scorer for event in priced):
        some = [event for event in priced if event.scorer == scorer]
        # a cut before layer 0 (the paper's convention with l1 = 0) is charged to layer 0
        layers = np.array([max(0, e.after_layer or 0) if e.tower_layer is None else e.tower_layer for e in some])
        cut = Cut(
            tokens_in=np.array([float(event.tokens_in) for event in some]),
            tokens_out=np.array([float(event.tokens_out) for event in some]),
            groups=groups,
        )
        for name, cost in reduction_ops(scorer, cut, context):
            builder.add(stage, name, cost, layers)


def _decode(
    builder: TableBuilder,
    model: ModelSpec,
    workload: Workload,
    schedule: Schedule,
    widths: Widths,
    kernel: str,
    onchip_bytes: float,
    steps: int,
) -> None:
    """Step g attends to each layer's n + g + 1 tokens, g = 0 … steps − 1.

    Only attention depends on g: it gets a row a layer and step, everything else a row a layer
    that runs `steps` times.
    """
    decoder, batch = model.decoder, float(workload.batch)
    layers, cross = _layers(model)
    tokens = np.array(schedule.tokens, dtype=float)
    if len(cross):
        tokens = tokens[layers]
        _crossing(builder, "decode", decoder, workload, widths, kernel, onchip_bytes, cross, 1.0, float(steps))
    kv_len = (tokens[:, None] + np.arange(1.0, steps + 1.0)[None, :]).ravel()
    layer_of_row = np.repeat(layers, steps)
    builder.add("decode", *decoder_ops.embed_op(decoder, widths, batch), None, float(steps))
    for name, cost in decoder_ops.layer_ops(
        decoder, widths, batch=batch, q_len=1.0, kv_len=kv_len, kernel=kernel, onchip_bytes=onchip_bytes
    ):
        if np.ndim(cost.flops) or np.ndim(cost.bytes):
            builder.add("decode", name, cost, layer_of_row)
        else:
            builder.add("decode", name, cost, layers, float(steps))
    for name, cost in decoder_ops.head_ops(decoder, widths, batch=batch):
        builder.add("decode", name, cost, None, float(steps))
