"""Bytes on the card: weights, KV cache of each layer's own live tokens, and the peak.

The request is followed through its stages. At each, the cache holds the layers done so far and the
activations are those alive together (`aimcost.models.liveness`); the peak is the largest such sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..inputs.run import Run
from ..methods.implementation import eager_layers, tower_kernel
from ..methods.registry import find_scorer
from ..models import decoder as decoder_ops
from ..models import liveness, visual_tokens, vit
from ..models import projector as projector_ops
from ..models.parallel import rank_decoder, rank_vision, stage_layers
from ..ops.quantised import kv_scale_bytes, scale_bytes
from ..ops.reduction import SCORE_BYTES
from ..types import ModelSpec, Parallel, Precision, Schedule, Workload
from ..types.formats import Widths

__all__ = ["Memory", "StageMemory", "memory_of"]


@dataclass(frozen=True, slots=True)
class StageMemory:
    """What is alive at the fullest moment of a stage, beside the weights."""

    stage: str
    kv_bytes: float
    activation_bytes: float

    @property
    def bytes(self) -> float:
        """Cache and activations together."""
        return self.kv_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a request keeps on one device: the fullest one, where there are several.

    Attributes
    ----------
    kv_bytes, kv_by_layer
        The whole cache after the last token, and its layers on this device.
    stages
        Stage by stage; decoder layers are told apart.
    usable_bytes
        What the card can allocate; None without hardware.
    batch
        Requests computed together, which everything but the weights grows with.
    largest_elsewhere
        The most requests that fit the other pipeline stages; None where there are none.
    """

    weights_bytes: float
    kv_by_layer: tuple[float, ...]
    stages: tuple[StageMemory, ...]
    usable_bytes: float | None
    batch: int
    largest_elsewhere: int | None = None

    @property
    def kv_bytes(self) -> float:
        """The whole KV cache on this device after the last token."""
        return sum(self.kv_by_layer)

    @property
    def peak_stage(self) -> StageMemory:
        """Where the peak is."""
        return max(self.stages, key=lambda stage: stage.bytes)

    @property
    def activation_bytes(self) -> float:
        """The largest set of activations alive together, in whatever stage."""
        return max(stage.activation_bytes for stage in self.stages)

    @property
    def peak_bytes(self) -> float:
        """Weights, and the fullest moment of the cache and activations together."""
        return self.weights_bytes + self.peak_stage.bytes

    @property
    def fits(self) -> bool | None:
        """Whether the peak fits the card, if there is one."""
        return None if self.usable_bytes is None else self.peak_bytes <= self.usable_bytes

    @property
    def shortfall_bytes(self) -> float:
        """What is missing where it does not fit, else 0."""
        return 0.0 if self.usable_bytes is None else max(0.0, self.peak_bytes - self.usable_bytes)

    @property
    def largest_batch(self) -> int | None:
        """The most requests at once that fit: everything but the weights is proportional to them."""
        if self.usable_bytes is None:
            return None
        free = self.usable_bytes - self.weights_bytes
        here = max(0, math.floor(free * self.batch / self.peak_stage.bytes)) if free > 0 else 0
        return here if self.largest_elsewhere is None else min(here, self.largest_elsewhere)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "weights_bytes": self.weights_bytes,
            "kv_bytes": self.kv_bytes,
            "activation_bytes": self.activation_bytes,
            "peak_bytes": self.peak_bytes,
            "peak_stage": self.peak_stage.stage,
            "kv_by_layer": list(self.kv_by_layer),
            "usable_bytes": self.usable_bytes,
            "fits": self.fits,
            "shortfall_bytes": self.shortfall_bytes,
            "largest_batch": self.largest_batch,
        }


def memory_of(run: Run) -> Memory:
    """Memory of a request. Fragmentation and library workspaces are not counted."""
    model, workload, hardware, parallel = run.model, run.workload, run.hardware, run.parallel
    case = _Case(
        model=model,
        workload=workload,
        schedule=run.computed,
        precision=run.precision,
        attention=run.attention,
        tower_attention=run.tower_attention,
        implementation=run.implementation,
        parallel=parallel,
    )
    devices = []
    for layers in stage_layers(model.decoder.layers, parallel.pp):
        devices.append(
            Memory(
                weights_bytes=case.weights(layers),
                kv_by_layer=tuple(float(kv) for kv in case.kv(workload.new_tokens)[layers.start : layers.stop]),
                stages=tuple(case.stages(layers)),
                usable_bytes=hardware.usable_memory_bytes if hardware else None,
                batch=workload.batch,
            )
        )
    fullest = max(devices, key=lambda device: device.peak_bytes)
    limits = [device.largest_batch for device in devices if device.largest_batch is not None]
    return replace(fullest, largest_elsewhere=min(limits)) if len(limits) > 1 else fullest


@dataclass(frozen=True, slots=True)
class _Case:
    model: ModelSpec
    workload: Workload
    schedule: Schedule
    precision: Precision
    attention: str
    tower_attention: str
    implementation: str
    parallel: Parallel

    def weights(self, layers: range) -> float:
        """Bytes of the weights of one rank of one pipeline stage, scales of 4-bit formats included.

        The tower and projector lie with the first stage; tied embeddings lie with the first and last.
        """
        model, depth = self.model, self.model.decoder.layers
        rank = rank_decoder(model.decoder, self.parallel.tp)
        empty = decoder_ops.parameters(replace(rank, layers=0))
        layer = decoder_ops.parameters(replace(rank, layers=1)) - empty
        first, last = layers.start == 0, layers.stop == depth
        table = float(rank.vocab * rank.hidden)
        total = layer * len(layers)
        if first and last:
            total += empty
        else:
            total += table if first else 0.0
            total += table + rank.hidden if last else 0.0
        if first:
            total += projector_ops.parameters(model)
            if model.vision is not None:
                shared = self.parallel.tp if self.parallel.tower == "sharded" else 1
                total += vit.parameters(model.vision) / shared
        stored = self.precision.weights
        return total * Widths.of(self.precision).weights + float(scale_bytes(stored, total))

    def kv(self, new_tokens: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Bytes of the cache by layer: its live tokens, and every generated token but the last."""
        rank = rank_decoder(self.model.decoder, self.parallel.tp)
        tokens = np.array(self.schedule.tokens, dtype=float) + max(0, new_tokens - 1)
        # cross-attention layers keep the tower's tokens, and none of the sequence
        tokens[list(rank.cross_layers)] = self.workload.cross_tokens
        elements = 2.0 * self.workload.batch * tokens * rank.kv_heads * rank.head_dim
        scales = kv_scale_bytes(elements, rank.head_dim) if Widths.of(self.precision).kv <= 1 else 0.0
        return np.asarray(elements * Widths.of(self.precision).kv + scales)

    def stages(self, layers: range) -> Iterator[StageMemory]:
        """The request's way through one device."""
        workload, width = self.workload, Widths.of(self.precision).activations
        rank, prompt, after = (
            rank_decoder(self.model.decoder, self.parallel.tp),
            self.kv(0),
            self.kv(workload.new_tokens),
        )
        if layers.start == 0:
            yield from self._before_decoder(width)
        held = np.cumsum(prompt[layers.start : layers.stop])
        alive = np.broadcast_to(self._layers(width), len(self.schedule.tokens))
        for index, layer in enumerate(layers):
            yield StageMemory(f"prefill layer {layer}", float(held[index]), float(alive[layer]))
        if layers.stop == self.model.decoder.layers:
            logits = liveness.head(
                rows=workload.batch, hidden=rank.hidden, vocab=rank.vocab * self.parallel.tp, width=width
            )
            yield StageMemory("lm_head", float(held[-1]), float(liveness.peak_live(*logits)))
        if workload.new_tokens > 1:
            scores = 0.0
            if self.attention == "eager":
                scores = float(workload.batch * rank.heads * (self.schedule.tokens[0] + workload.new_tokens))
            step = liveness.decoder_layer(
                rank, rows=float(workload.batch), scores=scores, score_matrix=0.0, width=width
            )
            cache = float(after[layers.start : layers.stop].sum())
            yield StageMemory("decode", cache, float(liveness.peak_live(*step)))

    def _layers(self, width: float) -> Any:
        """Peak of each decoder layer's activations."""
        rank = rank_decoder(self.model.decoder, self.parallel.tp)
        tokens = np.array(self.schedule.tokens, dtype=float)
        square = self.workload.batch * rank.heads * tokens * tokens
        eager = eager_layers(self.schedule, self.implementation, self.attention)
        ranked = np.zeros(len(tokens))
        if self.implementation != "fused":
            for event in self.schedule.layer_events:
                if find_scorer(event.scorer).square_scores:
                    ranked[event.charged_layer] = SCORE_BYTES
        inputs, steps = liveness.decoder_layer(
            rank,
            rows=self.workload.batch * tokens,
            scores=square * eager,
            score_matrix=square * ranked,
            width=width,
        )
        return liveness.peak_live(inputs, steps, held=("x2",))

    def _before_decoder(self, width: float) -> Iterator[StageMemory]:
        workload, vision, linears = self.workload, self.model.vision, self.model.projector
        load = visual_tokens.tower_load(self.model, workload)
        if vision is None or linears is None or load is None:
            return
        inputs = workload.batch * load.sequences
        if self.parallel.tower == "data":
            inputs = math.ceil(inputs / self.parallel.tp)
        tokens = vit.sequence_tokens(vision, load)
        rows = float(inputs * tokens)
        heads = vision.heads / (self.parallel.tp if self.parallel.tower == "sharded" else 1)
        eager = tower_kernel(self.schedule, self.implementation, self.tower_attention) == "eager"
        tower = liveness.tower_layer(
            rank_vision(vision, self.parallel),
            rows=rows,
            scores=rows * tokens * heads if eager else 0.0,
            width=width,
        )
        yield StageMemory("vision", 0.0, float(liveness.peak_live(*tower)))
        out = float(workload.batch * workload.visual_tokens * self.model.decoder.hidden)
        merged = float(inputs * vision.tiles * load.rows * load.columns) / linears.merge**2
        if linears.resampler is not None:
            path = liveness.resampler(linears.resampler, rows=merged, out=out, width=width)
        else:
            path = liveness.projector(linears.linears, rows=merged, out=out, width=width)
        yield StageMemory("projector", 0.0, float(liveness.peak_live(*path)))
