"""Model, workload and schedule → ops: the one place where a request becomes an `OpTable`.

The machine enters through one number: the on-chip size that fused attention's traffic depends on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass
from ..inputs.run import Run
from ..methods.implementation import cached_by_layer, decode_kernel, eager_layers, tower_kernel, tower_tokens
from ..methods.registry import reduction_ops
from ..models import decoder as decoder_ops
from ..models import projector as projector_ops
from ..models import traced, visual_tokens, vit
from ..models.parallel import decoder_ranks, exchanged, rank_heads, stage_layers, tower_inputs, tower_ranks
from ..ops import pointwise
from ..ops.op import ONE, Op, OpCost, Ranks
from ..ops.reduction import Cut, ScoreContext
from ..types import ModelSpec, Parallel, Precision, ReductionEvent, Schedule, TowerLoad, VisionSpec, Workload
from ..types.formats import Part, Widths
from ..types.traced import TracedTower
from .caches import forget, held
from .derived import converts_kv, reduction, stage_send, with_conversions, with_gathered_images, with_wide_layers
from .table import ROWS_A_LAYER, OpTable, TableBuilder, check_rows

__all__ = ["TableKey", "build", "forget"]

Layers = NDArray[np.int64]

# Stages behind a traced tower's layers, and the part whose number formats each has.
_TRACED_PARTS: tuple[tuple[str, Part], ...] = (("vision", "tower"), ("projector", "projector"))


def build(run: Run) -> OpTable:
    """All ops of the request: tower, projector, merging, prefill, decode. Not to be modified.

    With tensor-parallel ranks the rows are one rank's; with pipeline stages they are those of all stages,
    as one request passes through them. Runs that differ in stack, estimator or machine (but for its on-chip
    size) share one table.

    Raises
    ------
    InvalidValueError
        More layers and decode steps than fit into memory.
    """
    key = TableKey.of(run)
    check_rows(run, decode_steps(run.workload), key.rows_a_step)
    return _built(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableKey:
    """What the rows of a request follow from, compared by content: the key of its `OpTable`.

    Attributes
    ----------
    counts
        What of `schedule` they follow from.
    """

    model: ModelSpec
    workload: Workload
    schedule: Schedule = field(compare=False)
    counts: tuple[Any, ...]
    precision: Precision
    parallel: Parallel
    attention: str
    tower_attention: str
    tower_layers: int
    routes_experts: bool
    implementation: str
    onchip_bytes: float

    @classmethod
    def of(cls, run: Run) -> TableKey:
        schedule = run.computed
        return cls(
            model=run.model,
            workload=run.workload,
            schedule=schedule,
            counts=(
                *(schedule.tokens, schedule.events, schedule.visual_tokens),
                *(schedule.newline_tokens, schedule.text_before, schedule.text_after),
            ),
            precision=run.precision,
            parallel=run.parallel,
            attention=run.attention,
            tower_attention=run.tower_attention,
            tower_layers=run.tower_layers,
            routes_experts=run.routes_experts,
            implementation=run.implementation,
            onchip_bytes=run.hardware.onchip_bytes if run.hardware else 0.0,
        )

    @property
    def rows(self) -> int:
        """About as many as the table will have: 20 operations a layer, and attention by decode step."""
        return self.model.decoder.layers * (ROWS_A_LAYER + self.rows_a_step * decode_steps(self.workload))

    @property
    def rows_a_step(self) -> int:
        """Rows of a layer that differ from one decode step to the next.

        Attention is one kernel, or three of which two read the cache; a read of a narrower cache has a conversion.
        """
        eager = decode_kernel(self.schedule, self.implementation, self.attention) == "eager"
        kernels, reads = (3, 2) if eager else (1, 1)
        return kernels + reads * converts_kv(self.precision)


@held(32, rows=attrgetter("rows"))
def _built(key: TableKey) -> OpTable:
    model, workload, schedule, parallel = key.model, key.workload, key.schedule, key.parallel
    if model.vision is not None and key.tower_layers not in (0, model.vision.layers):
        model = replace(model, vision=replace(model.vision, layers=key.tower_layers))
    if key.routes_experts and model.decoder.traced is not None:
        model = replace(model, decoder=replace(model.decoder, traced=traced.routed(model.decoder.traced)))
    attention, implementation = key.attention, key.implementation
    request = _Request(
        model=model,
        workload=workload,
        schedule=schedule,
        precision=key.precision,
        implementation=implementation,
        onchip_bytes=key.onchip_bytes,
        ranks=decoder_ranks(model.decoder, parallel),
        stage_starts=np.array([stage.start for stage in stage_layers(model.decoder.layers, parallel.pp)][1:], int),
        builder=TableBuilder(key.precision.weights),
    )
    load = visual_tokens.tower_load(model, workload)
    if load is not None and model.vision is not None:
        inputs = float(tower_inputs(load, workload.batch, parallel))
        kernel = tower_kernel(schedule, implementation, key.tower_attention)
        request.vision(model.vision, load, inputs, kernel, tower_ranks(parallel))
    request.merging()
    request.prefill(eager_layers(schedule, implementation, attention))
    steps = decode_steps(workload)
    if steps:
        request.decode(steps, decode_kernel(schedule, implementation, attention))
    builder = request.builder
    builder.entries = with_wide_layers(builder.entries, key.precision)
    builder.entries = with_conversions(builder.entries, key.precision, float(model.decoder.head_dim))
    builder.entries = with_gathered_images(builder.entries, parallel)
    return builder.finish(steps)


def decode_steps(workload: Workload) -> int:
    """Decode steps of a request: the prefill yields the first token."""
    return max(0, workload.new_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One request on its way through the model; each step adds its rows to `builder`.

    Attributes
    ----------
    precision
        Number formats, by part of the model.
    ranks
        Tensor-parallel ranks of the language model.
    stage_starts
        First layer of every pipeline stage but the first.
    """

    model: ModelSpec
    workload: Workload
    schedule: Schedule
    precision: Precision
    implementation: str
    onchip_bytes: float
    ranks: Ranks
    stage_starts: Layers
    builder: TableBuilder

    @property
    def batch(self) -> float:
        return float(self.workload.batch)

    @property
    def widths(self) -> Widths:
        """Of the decoder's layers."""
        return self._widths("decoder")

    def _widths(self, part: Part) -> Widths:
        return Widths.of(self.precision, part)

    @property
    def context(self) -> ScoreContext:
        decoder = rank_heads(self.model.decoder, self.ranks)
        return ScoreContext(
            model=self.model if decoder is self.model.decoder else replace(self.model, decoder=decoder),
            batch=self.workload.batch,
            widths=self.widths,
            text_tokens=self.schedule.text_tokens - self.workload.cached_text,
            implementation=self.implementation,
        )

    def _add(
        self, stage: str, ops: Iterable[OpCost], layers: Layers | None, *, count: float = 1.0, ranks: Ranks = ONE
    ) -> None:
        """A run of ops on `layers` (None: outside them), each `count` times, and the collectives between `ranks`."""
        for op, cost in exchanged(ops, ranks):
            self.builder.add(stage, op, cost, layers, count)

    def vision(self, vision: VisionSpec, load: TowerLoad, inputs: float, kernel: str, ranks: Ranks) -> None:
        """The tower on `inputs` images, tiles or frames, what merges inside it, and the projector."""
        widths, model = self._widths("tower"), self.model
        if vision.traced is not None:
            self._traced_tower(vision.traced, load, inputs, kernel)
            return
        self._add("vision", vit.patch_ops(vision, widths, inputs=inputs, load=load, ranks=ranks), None, ranks=ranks)
        left: float | None = None
        attend: NDArray[np.float64] | None = None
        after: NDArray[np.float64] | None = None
        if self.schedule.tower_events:
            attend, after = tower_tokens(self.schedule, vision)
            left = float(after[-1])
        for layers, windowed, gated in vit.layer_groups(vision):
            ops = vit.layer_ops(
                vision,
                widths,
                inputs=inputs,
                load=load,
                kernel=kernel,
                onchip_bytes=self.onchip_bytes,
                windowed=windowed,
                gated=gated,
                tokens=attend,
                mlp_tokens=after,
                ranks=ranks,
            )
            self._add("vision", ops, layers, ranks=ranks)
        self._events("vision", self.schedule.tower_events, groups=inputs / self.batch)
        post = vit.post_ops(vision, widths, inputs=inputs, load=load, tokens=left, ranks=ranks)
        self._add("vision", post, None, ranks=ranks)
        patches = None if left is None else left - vision.class_token
        deepstack = float(model.projector.deepstack) if model.projector else 0.0
        widths = self._widths("projector")
        if deepstack:
            mergers = projector_ops.deepstack_ops(model, widths, inputs=inputs, load=load)
            self._add("projector", mergers, None, count=deepstack)
        self._add("projector", projector_ops.ops(model, widths, inputs=inputs, load=load, patches=patches), None)

    def _traced_tower(self, tower: TracedTower, load: TowerLoad, inputs: float, kernel: str) -> None:
        """A traced tower and its projector: a pass for each grid of patches."""
        widths = self._widths("tower")
        for grid in load.grids:
            images, patches = inputs * grid.sequences / load.inputs, float(grid.rows * grid.columns)
            counts = {"images": images, "patches": patches}
            before = traced.tower_outer_ops(tower.before, widths, **counts, kernel=kernel, place="before")
            self._add("vision", before, None)
            order = np.array(tower.order)
            for number, kind in enumerate(tower.kinds):
                ops = traced.tower_layer_ops(
                    kind,
                    widths,
                    images=images,
                    rows=grid.rows,
                    columns=grid.columns,
                    kernel=kernel,
                    onchip_bytes=self.onchip_bytes,
                )
                self._add("vision", ops, np.flatnonzero(order == number))
            for stage, part in _TRACED_PARTS:
                some = tuple(op for op in tower.after if (op.group == "projector") == (part == "projector"))
                after = traced.tower_outer_ops(some, self._widths(part), **counts, kernel=kernel, place="after")
                self._add(stage, after, None)

    def merging(self) -> None:
        """Reduction between the projector and the language model."""
        for event in self.schedule.pre_llm_events:
            if event.selects and event.tower_layer is None:
                cut = Cut(
                    tokens_in=event.tokens_in,
                    tokens_out=event.tokens_out,
                    groups=event.groups,
                    counts=dict(event.counts),
                )
                self._add("merge", reduction(reduction_ops(event.scorer, cut, self.context), ONE), None)

    def prefill(self, eager: NDArray[np.bool_]) -> None:
        """The prompt through the language model; `eager` tells the layers that score attention eagerly."""
        decoder, ranks = self.model.decoder, self.ranks
        tokens, cached = np.array(self.schedule.tokens, dtype=float), cached_by_layer(self.workload, self.schedule)
        # queries are the tokens that no earlier request left in the cache
        queries, text = tokens - cached, float(self.schedule.text_tokens - self.workload.cached_text)
        window = decoder_ops.windows(decoder)
        table = self._widths("embedding")
        before = decoder_ops.before_ops(
            decoder, table, batch=self.batch, tokens=float(queries[0]), text=text, ranks=ranks
        )
        self._add("prefill", before, None, ranks=ranks)
        cross = np.array(decoder.cross_layers, dtype=np.int64)
        if len(cross):
            own = decoder_ops.layer_kinds(decoder)[0]
            self._crossing("prefill", cross, float(queries[own[0]]), "eager" if eager[own].all() else "flash")
        for kind, layers in enumerate(decoder_ops.layer_kinds(decoder)):
            for kernel, runs in (("flash", layers[~eager[layers]]), ("eager", layers[eager[layers]])):
                if len(runs):
                    ops = decoder_ops.layer_ops(
                        decoder,
                        self.widths,
                        batch=self.batch,
                        q_len=queries[runs],
                        kv_len=tokens[runs],
                        kernel=kernel,
                        onchip_bytes=self.onchip_bytes,
                        window=window[runs] if isinstance(window, np.ndarray) else window,
                        ranks=ranks,
                        kind=kind,
                    )
                    self._layer_rows("prefill", ops, runs)
        projector = self.model.projector
        if projector is not None and projector.deepstack and self.workload.tower:
            here = self.schedule.visual_tokens - float(cached[0] - self.workload.cached_text)
            visual = self.batch * here * decoder.hidden
            op = Op("deepstack_add", "rest", "replicated")
            added = float(min(projector.deepstack, decoder.layers))
            self._add("prefill", [(op, pointwise.add(visual, self.widths))], None, count=added)
        self._events("prefill", self.schedule.layer_events, ranks=ranks)
        lm_head = self._widths("lm_head")
        head = decoder_ops.head_ops(decoder, lm_head, batch=self.batch, tokens=float(queries[-1]), ranks=ranks)
        self._add("prefill", head, None, ranks=ranks)

    def decode(self, steps: int, kernel: str) -> None:
        """Step g attends to each layer's n + g + 1 tokens, g = 0 … steps − 1.

        Only attention depends on g: it gets a row a layer and step, everything else a row a layer
        that runs `steps` times.
        """
        decoder, times, ranks = self.model.decoder, float(steps), self.ranks
        tokens = np.array(self.schedule.tokens, dtype=float)
        if decoder.cross_layers:
            self._crossing("decode", np.array(decoder.cross_layers, dtype=np.int64), 1.0, kernel, times)
        window = decoder_ops.windows(decoder)
        table = self._widths("embedding")
        before = decoder_ops.before_ops(decoder, table, batch=self.batch, tokens=1.0, text=1.0, ranks=ranks)
        self._add("decode", before, None, count=times, ranks=ranks)
        for kind, layers in enumerate(decoder_ops.layer_kinds(decoder)):
            kv_len = (tokens[layers][:, None] + np.arange(1.0, steps + 1.0)[None, :]).ravel()
            ops = decoder_ops.layer_ops(
                decoder,
                self.widths,
                batch=self.batch,
                q_len=1.0,
                kv_len=kv_len,
                kernel=kernel,
                onchip_bytes=self.onchip_bytes,
                window=np.repeat(window[layers], steps) if isinstance(window, np.ndarray) else window,
                ranks=ranks,
                kind=kind,
            )
            self._layer_rows("decode", ops, layers, times, layer_of_row=np.repeat(layers, steps))
        head = decoder_ops.head_ops(decoder, self._widths("lm_head"), batch=self.batch, ranks=ranks)
        self._add("decode", head, None, count=times, ranks=ranks)

    def _layer_rows(
        self, stage: str, ops: Iterable[OpCost], layers: Layers, count: float = 1.0, layer_of_row: Layers | None = None
    ) -> None:
        """Decoder layers, and what enters those that begin a pipeline stage.

        Parameters
        ----------
        layer_of_row
            Layer indices of an op whose cost is another one each time it runs.
        """
        for position, (op, cost) in enumerate(exchanged(ops, self.ranks)):
            if not position and len(self.stage_starts):
                send = stage_send(stage, cost, layers, count, self.stage_starts)
                if send is not None:
                    self.builder.entries.append(send)
            if layer_of_row is not None and (np.ndim(cost.flops) or np.ndim(cost.bytes)):
                self.builder.add(stage, op, cost, layer_of_row)
            else:
                self.builder.add(stage, op, cost, layers, count)

    def _crossing(self, stage: str, cross: Layers, q_len: float, kernel: str, count: float = 1.0) -> None:
        """Cross-attention layers on `q_len` text tokens a request; keys and values in the prefill alone."""
        if not self.workload.cross_tokens:
            return
        decoder, ranks, kv_len = self.model.decoder, self.ranks, float(self.workload.cross_tokens)
        if stage == "prefill":
            keys = decoder_ops.cross_kv_ops(decoder, self.widths, batch=self.batch, kv_len=kv_len, ranks=ranks)
            self._add(stage, keys, cross, ranks=ranks)
        ops = decoder_ops.cross_layer_ops(
            decoder,
            self.widths,
            batch=self.batch,
            q_len=q_len,
            kv_len=kv_len,
            kernel=kernel,
            onchip_bytes=self.onchip_bytes,
            ranks=ranks,
        )
        self._layer_rows(stage, ops, cross, count)

    def _events(
        self, stage: str, events: tuple[ReductionEvent, ...], *, groups: float = 1.0, ranks: Ranks = ONE
    ) -> None:
        """Reduction inside the tower or the language model, charged to the layer that it follows: all
        events of a scorer at once."""
        selecting = [event for event in events if event.selects]
        for scorer, counts in dict.fromkeys((event.scorer, event.counts) for event in selecting):
            some = [event for event in selecting if (event.scorer, event.counts) == (scorer, counts)]
            layers = np.array([event.charged_layer for event in some])
            # with visual tokens in the cache nothing is selected: inside the language model it holds text alone
            cached = 0.0 if stage == "vision" else float(self.workload.cached_tokens)
            cut = Cut(
                tokens_in=np.array([float(event.tokens_in) for event in some]) - cached,
                tokens_out=np.array([float(event.tokens_out) for event in some]) - cached,
                groups=groups,
                counts=dict(counts),
                cached=cached,
            )
            self._add(stage, reduction(reduction_ops(scorer, cut, self.context), ranks), layers)
