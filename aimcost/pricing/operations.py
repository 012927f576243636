"""Model, workload and schedule → operations: the one place where a request becomes an `OpTable`.

It knows no machine but for the on-chip size that fused attention's traffic depends on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inputs.run import Run
from ..methods.implementation import eager_layers, tower_kernel, tower_tokens
from ..methods.registry import reduction_ops
from ..models import decoder as decoder_ops
from ..models import projector as projector_ops
from ..models import visual_tokens, vit
from ..models.parallel import rank_decoder
from ..ops import pointwise
from ..ops.reduction import Cut, ScoreContext
from ..types import ModelSpec, ReductionEvent, Schedule, TowerLoad, VisionSpec, Workload
from ..types.formats import Widths
from .derived import with_conversions, with_exchanges
from .table import OpTable, TableBuilder

__all__ = ["build"]

Layers = NDArray[np.int64]


def build(run: Run) -> OpTable:
    """All operations of the request: tower, projector, merging, prefill, decode.

    With tensor-parallel ranks the rows are one rank's; with pipeline stages
    they are those of all stages, one request's way.
    """
    workload, schedule, precision, parallel = run.workload, run.computed, run.precision, run.parallel
    attention, implementation = run.attention, run.implementation
    model = replace(run.model, decoder=rank_decoder(run.model.decoder, parallel.tp))
    request = _Request(
        model=model,
        workload=workload,
        schedule=schedule,
        widths=Widths.of(precision),
        implementation=implementation,
        onchip_bytes=run.hardware.onchip_bytes if run.hardware else 0.0,
        builder=TableBuilder(),
    )
    load = visual_tokens.tower_load(model, workload)
    if load is not None and model.vision is not None:
        inputs = float(workload.batch * load.sequences)
        if parallel.tower == "data":
            inputs = float(np.ceil(inputs / parallel.tp))
        request.vision(model.vision, load, inputs, tower_kernel(schedule, implementation, run.tower_attention))
    request.merging()
    eager = eager_layers(schedule, implementation, attention)
    request.prefill(eager)
    steps = decode_steps(workload)
    if steps:
        # a model loaded for eager attention everywhere decodes with it too
        request.decode(steps, "eager" if eager.all() else attention)
    builder = request.builder
    builder.parts = with_conversions(builder.parts, precision, float(model.decoder.head_dim))
    builder.parts = with_exchanges(builder.parts, parallel, model.decoder.layers)
    return builder.finish(steps)


def decode_steps(workload: Workload) -> int:
    """Decode steps of a request: the prefill yields the first token."""
    return max(0, workload.new_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One request on its way through the model; each step adds its rows to `builder`."""

    model: ModelSpec
    workload: Workload
    schedule: Schedule
    widths: Widths
    implementation: str
    onchip_bytes: float
    builder: TableBuilder

    @property
    def batch(self) -> float:
        return float(self.workload.batch)

    @property
    def context(self) -> ScoreContext:
        return ScoreContext(
            model=self.model,
            batch=self.workload.batch,
            widths=self.widths,
            text_tokens=self.schedule.text_tokens,
            implementation=self.implementation,
        )

    def vision(self, vision: VisionSpec, load: TowerLoad, inputs: float, kernel: str) -> None:
        """The tower on `inputs` images, tiles or frames, what merges inside it, and the projector."""
        add, widths, model = self.builder.add, self.widths, self.model
        seen: dict[str, Any] = {"inputs": inputs, "load": load}
        for name, cost in vit.patch_ops(vision, widths, **seen):
            add("vision", name, cost, None)
        left: float | None = None
        counts: dict[str, Any] = {}
        if self.schedule.tower_events:
            attend, after = tower_tokens(self.schedule, vision)
            counts, left = {"tokens": attend, "mlp_tokens": after}, float(after[-1])
        running: dict[str, Any] = {**seen, **counts, "kernel": kernel, "onchip_bytes": self.onchip_bytes}
        for layers, windowed, gated in vit.layer_groups(vision):
            for name, cost in vit.layer_ops(vision, widths, windowed=windowed, gated=gated, **running):
                add("vision", name, cost, layers)
        self._events("vision", self.schedule.tower_events, groups=inputs / self.batch)
        for name, cost in vit.post_ops(vision, widths, tokens=left, **seen):
            add("vision", name, cost, None)
        patches = None if left is None else left - vision.class_token
        deepstack = float(model.projector.deepstack) if model.projector else 0.0
        for name, cost in projector_ops.deepstack_ops(model, widths, **seen):
            add("projector", name, cost, None, deepstack)
        for name, cost in projector_ops.ops(model, widths, patches=patches, **seen):
            add("projector", name, cost, None)

    def merging(self) -> None:
        """Reduction between the projector and the language model."""
        for event in self.schedule.pre_llm_events:
            if event.priced and event.tower_layer is None:
                cut = Cut(tokens_in=event.tokens_in, tokens_out=event.tokens_out, groups=event.groups)
                for name, cost in reduction_ops(event.scorer, cut, self.context):
                    self.builder.add("merge", name, cost, None)

    def prefill(self, eager: NDArray[np.bool_]) -> None:
        """The prompt through the language model; `eager` tells the layers that score attention eagerly."""
        decoder, add = self.model.decoder, self.builder.add
        text = self.batch * self.schedule.text_tokens
        if text:
            add("prefill", *decoder_ops.embed_op(decoder, self.widths, text), None)
        tokens = np.array(self.schedule.tokens, dtype=float)
        layers, cross = self._layers()
        if len(cross):
            tokens, eager = tokens[layers], eager[layers]
            self._crossing("prefill", cross, float(tokens[0]), "eager" if eager.all() else "flash")
        for kernel, runs in (("flash", ~eager), ("eager", eager)):
            if runs.any():
                for name, cost in decoder_ops.layer_ops(
                    decoder,
                    self.widths,
                    batch=self.batch,
                    q_len=tokens[runs],
                    kv_len=tokens[runs],
                    kernel=kernel,
                    onchip_bytes=self.onchip_bytes,
                ):
                    add("prefill", name, cost, layers[runs])
        projector = self.model.projector
        if projector is not None and projector.deepstack and self.workload.tower:
            visual = self.batch * self.schedule.visual_tokens * decoder.hidden
            add("prefill", "deepstack_add", pointwise.add(visual, self.widths), None, float(projector.deepstack))
        self._events("prefill", self.schedule.layer_events)
        for name, cost in decoder_ops.head_ops(decoder, self.widths, batch=self.batch):
            add("prefill", name, cost, None)

    def decode(self, steps: int, kernel: str) -> None:
        """Step g attends to each layer's n + g + 1 tokens, g = 0 … steps − 1.

        Only attention depends on g: it gets a row a layer and step, everything else a row a layer
        that runs `steps` times.
        """
        decoder, add, times = self.model.decoder, self.builder.add, float(steps)
        layers, cross = self._layers()
        tokens = np.array(self.schedule.tokens, dtype=float)
        if len(cross):
            tokens = tokens[layers]
            self._crossing("decode", cross, 1.0, kernel, times)
        kv_len = (tokens[:, None] + np.arange(1.0, steps + 1.0)[None, :]).ravel()
        layer_of_row = np.repeat(layers, steps)
        add("decode", *decoder_ops.embed_op(decoder, self.widths, self.batch), None, times)
        for name, cost in decoder_ops.layer_ops(
            decoder,
            self.widths,
            batch=self.batch,
            q_len=1.0,
            kv_len=kv_len,
            kernel=kernel,
            onchip_bytes=self.onchip_bytes,
        ):
            if np.ndim(cost.flops) or np.ndim(cost.bytes):
                add("decode", name, cost, layer_of_row)
            else:
                add("decode", name, cost, layers, times)
        for name, cost in decoder_ops.head_ops(decoder, self.widths, batch=self.batch):
            add("decode", name, cost, None, times)

    def _layers(self) -> tuple[Layers, Layers]:
        """Indices of the layers that attend to the sequence, and of those that attend across it."""
        decoder = self.model.decoder
        index = np.arange(decoder.layers)
        if not decoder.cross_layers:
            return index, index[:0]
        cross = np.isin(index, decoder.cross_layers)
        return index[~cross], index[cross]

    def _crossing(self, stage: str, cross: Layers, q_len: float, kernel: str, count: float = 1.0) -> None:
        """Cross-attention layers on `q_len` text tokens a request; keys and values in the prefill alone."""
        if not self.workload.cross_tokens:
            return
        decoder, add = self.model.decoder, self.builder.add
        seen: dict[str, Any] = {"batch": self.batch, "kv_len": float(self.workload.cross_tokens)}
        if stage == "prefill":
            for name, cost in decoder_ops.cross_kv_ops(decoder, self.widths, **seen):
                add(stage, name, cost, cross)
        for name, cost in decoder_ops.cross_layer_ops(
            decoder, self.widths, q_len=q_len, kernel=kernel, onchip_bytes=self.onchip_bytes, **seen
        ):
            add(stage, name, cost, cross, count)

    def _events(self, stage: str, events: tuple[ReductionEvent, ...], *, groups: float = 1.0) -> None:
        """Reduction inside the tower or the language model, charged to the layer that it follows: all
        events of a scorer at once."""
        priced = [event for event in events if event.priced]
        for scorer in dict.fromkeys(event.scorer for event in priced):
            some = [event for event in priced if event.scorer == scorer]
            layers = np.array([event.charged_layer for event in some])
            cut = Cut(
                tokens_in=np.array([float(event.tokens_in) for event in some]),
                tokens_out=np.array([float(event.tokens_out) for event in some]),
                groups=groups,
            )
            for name, cost in reduction_ops(scorer, cut, self.context):
                self.builder.add(stage, name, cost, layers)
