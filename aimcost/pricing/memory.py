"""Bytes on the card: weights, KV cache of each layer's own live tokens, and the peak.

The request is followed through its stages. At each, the cache holds the layers done so far and the
activations are those alive together (`aimcost.models.liveness`); the peak is the largest such sum. What modules
keep of the tower's outputs after the embeddings are made of them is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..frozen import dataclass
from ..inputs.run import Run
from ..methods.implementation import cached_by_layer, decode_kernel, eager_layers, tower_kernel
from ..methods.registry import find_scorer
from ..models import decoder as decoder_ops
from ..models import projector as projector_ops
from ..models import traced, visual_tokens, vit
from ..models.liveness import Step, layer_peak
from ..models.parallel import decoder_ranks, stage_layers, tower_inputs, tower_ranks
from ..ops.attention import EXPOSED
from ..ops.cost import Array
from ..ops.op import Ranks, packed_parameters
from ..ops.quantised import kv_scale_bytes, scale_bytes
from ..ops.reduction import SCORE_BYTES
from ..types import HardwareSpec, ModelSpec, Parallel, Precision, Schedule, Serving, Workload
from ..types.formats import Part, Widths, bytes_per_element, part_format

__all__ = ["Memory", "StageMemory", "layer_peaks", "memory_by_device", "memory_of"]


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
    cached_bytes
        What an earlier request left of it.
    embedded_bytes
        Embeddings of the prompt, which are held beside the activations of all layers but the first.
    stages
        Stage by stage; decoder layers are told apart.
    usable_bytes
        What the card can allocate; None without hardware.
    batch
        Requests computed together, which everything but the weights grows with.
    largest_elsewhere
        The most requests that fit the other pipeline stages; None where there are none.
    concurrent_requests
        Requests whose caches fit beside the weights under ``serving.memory_fraction`` of the card's memory, and what
        of it is usable, with one request's tower or ``serving.prefill_chunk`` prompt tokens in flight; None without
        the card's memory.
    """

    weights_bytes: float
    kv_by_layer: tuple[float, ...]
    stages: tuple[StageMemory, ...]
    usable_bytes: float | None
    batch: int
    largest_elsewhere: int | None = None
    concurrent_requests: int | None = None
    cached_bytes: float = 0.0
    embedded_bytes: float = 0.0

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
            "concurrent_requests": self.concurrent_requests,
        }


def memory_of(run: Run) -> Memory:
    """Memory of a request. Fragmentation and library workspaces are not counted."""
    devices = memory_by_device(run)
    fullest = max(devices, key=lambda device: device.peak_bytes)
    limits = [device.largest_batch for device in devices if device.largest_batch is not None]
    served = [device.concurrent_requests for device in devices if device.concurrent_requests is not None]
    fullest = replace(fullest, concurrent_requests=min(served, default=None))
    return replace(fullest, largest_elsewhere=min(limits)) if len(limits) > 1 else fullest


def memory_by_device(run: Run) -> tuple[Memory, ...]:
    """Memory of a request on a device of every pipeline stage, in order."""
    hardware, case = run.hardware, _case_of(run)
    return tuple(
        Memory(
            weights_bytes=case.weights(layers),
            kv_by_layer=tuple(float(kv) for kv in case.kv(run.workload.new_tokens)[layers.start : layers.stop]),
            stages=tuple(case.stages(layers)),
            cached_bytes=float(case.cached(layers).sum()),
            embedded_bytes=case.embedded(layers),
            usable_bytes=hardware.usable_memory_bytes if hardware else None,
            batch=run.workload.batch,
            concurrent_requests=_concurrent(case, layers, hardware, run.serving) if hardware else None,
        )
        for layers in stage_layers(run.model.decoder.layers, run.parallel.pp)
    )


def layer_peaks(run: Run, q_len: Array, kv_len: Array, kernel: str, *, ranked: bool = False) -> tuple[Array, ...]:
    """Peak bytes of the activations of a decoder layer of every kind.

    Parameters
    ----------
    q_len, kv_len
        New tokens of a request, and all tokens that they attend to.
    kernel
        Of attention: ``flash`` or ``eager``.
    ranked
        Whether a scorer takes a matrix of the layer's attention scores.
    """
    case = _case_of(run)
    return tuple(case.layer_peak(q_len, kv_len, kernel, ranked, kind) for kind in range(len(case.kinds())))


def _case_of(run: Run) -> _Case:
    return _Case(
        model=run.model,
        workload=run.workload,
        schedule=run.computed,
        precision=run.precision,
        attention=run.attention,
        tower_attention=run.tower_attention,
        implementation=run.implementation,
        parallel=run.parallel,
    )


def _concurrent(case: _Case, layers: range, hardware: HardwareSpec, serving: Serving) -> int | None:
    """Requests that an engine holds at once on a device, prompts computed in chunks."""
    usable = hardware.usable_memory_bytes
    total = hardware.memory_bytes or usable
    if not total:
        return None
    managed = min(serving.memory_fraction * total, usable or math.inf)
    one = replace(case, workload=replace(case.workload, batch=1))
    request = float(one.kv(one.workload.new_tokens, serving.max_model_len)[layers.start : layers.stop].sum())
    free = managed - case.weights(layers) - one.in_flight(layers, serving.prefill_chunk)
    return max(0, math.floor(free / request)) if request else None


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

    @property
    def ranks(self) -> Ranks:
        """Tensor-parallel ranks of the language model."""
        return decoder_ranks(self.model.decoder, self.parallel)

    @property
    def widths(self) -> Widths:
        return Widths.of(self.precision)

    def weights(self, layers: range) -> float:
        """Bytes of the weights of one rank of one pipeline stage, scales of 4-bit formats included.

        The tower and projector lie with the first stage; tied embeddings lie with the first and last.
        """
        decoder, vision, precision = self.model.decoder, self.model.vision, self.precision
        total = decoder_ops.parameters(decoder, layers, ranks=self.ranks)
        packed: dict[Part, float] = dict(decoder_ops.packed(decoder, layers, ranks=self.ranks))
        if layers.start == 0:
            total += projector_ops.parameters(self.model)
            packed["projector"] = projector_ops.packed(self.model)
            if vision is not None and vision.traced is not None:
                packed["projector"] = traced.tower_packed(vision.traced)[1]
            if vision is not None:
                ranks = tower_ranks(self.parallel)
                total += vit.parameters(vision, ranks=ranks)
                packed["tower"] = vit.parameters(vision, ranks=ranks, count=packed_parameters)
        if precision.wide:
            left = sum(elements for layer, _, elements in precision.wide if layer in layers)
            packed["decoder"] *= 1.0 - left / decoder_ops.packed(decoder, layers)["decoder"]
        size = (total - sum(packed.values())) * self.widths.unpacked
        by_format = [(part_format(precision, part), elements) for part, elements in packed.items()]
        if precision.experts is not None:
            experts = decoder_ops.packed_experts(decoder, layers, ranks=self.ranks)
            by_format += [(precision.weights, -experts), (precision.experts, experts)]
        for stored, elements in by_format:
            each = precision.scale_bytes if stored == precision.weights else None
            size += elements * bytes_per_element(stored) + float(scale_bytes(stored, elements, each))
        return size

    def kv(self, new_tokens: int, total: int | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Bytes of the cache by layer: live tokens and every generated one but the last; or of `total` tokens."""
        tokens = np.array(self.schedule.tokens, dtype=float) + max(0, new_tokens - 1)
        if total is not None:
            tokens[:] = total
        return self._kv(tokens)

    def _kv(self, tokens: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Bytes of the cache after so many tokens of each layer.

        A layer with a sliding window keeps what the next token will see beside itself.
        """
        decoder, width = self.model.decoder, self.widths.kv
        if decoder.traced is not None:
            held = np.empty(decoder.layers)
            rank = traced.one_rank(decoder.traced, decoder.vocab, self.ranks)
            for kind, layers in zip(rank.kinds, decoder_ops.layer_kinds(decoder), strict=True):
                held[layers] = traced.cache_elements(kind, batch=float(self.workload.batch), tokens=tokens[layers])
            return np.asarray(held * width)
        tokens = np.minimum(tokens, decoder_ops.windows(decoder) - 1.0)
        # cross-attention layers keep the tower's tokens, and none of the sequence
        tokens[list(decoder.cross_layers)] = self.workload.cross_tokens
        elements = 2.0 * self.workload.batch * tokens * self.ranks.kv_share(decoder.kv_heads) * decoder.head_dim
        return np.asarray(elements * width + kv_scale_bytes(self.precision.kv, elements, decoder.head_dim))

    def cached(self, layers: range) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Bytes by layer that an earlier request left in the cache: they are there from the start."""
        return self._kv(cached_by_layer(self.workload, self.schedule))[layers.start : layers.stop]

    def stages(self, layers: range) -> Iterator[StageMemory]:
        """The request's way through one device."""
        workload, decoder = self.workload, self.model.decoder
        prompt, after = self.kv(0), self.kv(workload.new_tokens)
        cached = self.cached(layers)
        if layers.start == 0:
            yield from self._before_decoder(float(cached.sum()))
        held = cached.sum() + np.cumsum(prompt[layers.start : layers.stop] - cached)
        alive = self._layers()
        features = self._deepstack_features()
        crossed = float(self._stream(float(workload.cross_tokens)))
        last_cross = max(decoder.cross_layers, default=-1)
        # the model's own forward holds what it embedded, which the first layer is given
        embedded = self.embedded(layers)
        for index, layer in enumerate(layers):
            # the features of a layer are there until the last of these layers has added its own, and what
            # cross-attention layers read until the last of them has projected its keys and values
            beside = features if layer < self._deepstack_layers else 0.0
            beside += crossed if layer <= last_cross else 0.0
            beside += embedded if layer else 0.0
            yield StageMemory(f"prefill layer {layer}", float(held[index]), float(alive[layer]) + beside)
        if layers.stop == decoder.layers:
            # every rank gathers all logits
            head = decoder_ops.head_ops(decoder, self.widths, batch=float(workload.batch))
            logits = layer_peak(self._stream(1.0), head, held=())
            yield StageMemory("lm_head", float(held[-1]), float(logits))
        if workload.new_tokens > 1:
            cache = float(after[layers.start : layers.stop].sum())
            kernel = decode_kernel(self.schedule, self.implementation, self.attention)
            total = float(self.schedule.tokens[0] + workload.new_tokens)
            kinds = range(len(self.kinds()))
            step = max(float(self._layer_peak(1.0, total, kernel, kind=kind)) for kind in kinds)
            yield StageMemory("decode", cache, step)

    def embedded(self, layers: range) -> float:
        """Bytes of the embeddings that go into the first layer, held until the last; none on later pipeline stages."""
        if layers.start:
            return 0.0
        queries = self.schedule.tokens[0] - float(cached_by_layer(self.workload, self.schedule)[0])
        return float(self._stream(queries))

    @property
    def _deepstack_layers(self) -> int:
        """Decoder layers that features of earlier tower layers are added after."""
        projector = self.model.projector
        return projector.deepstack if projector is not None and self.workload.tower is not None else 0

    def _deepstack_features(self) -> float:
        """Bytes of those features, all visual tokens of a request for each of the layers."""
        return self._deepstack_layers * float(
            self._stream(float(self.schedule.prompt_visual_tokens - self.workload.cached_visual))
        )

    def in_flight(self, layers: range, chunk: int) -> float:
        """Activations of one step of an engine: `chunk` prompt tokens, or the tower of one request."""
        kernel = "eager" if self.attention == "eager" else "flash"
        kinds = range(len(self.kinds()))
        peak = max(float(self._layer_peak(float(chunk), float(chunk), kernel, kind=kind)) for kind in kinds)
        before = self._before_decoder(0.0) if layers.start == 0 else ()
        return max([peak, *(stage.activation_bytes for stage in before)])

    def _stream(self, tokens: Array) -> Array:
        """Bytes of the residual stream of `tokens` tokens a request."""
        return self.workload.batch * tokens * self.model.decoder.hidden * self.widths.activations

    def _layer_peak(self, q_len: Array, kv_len: Array, kernel: str, *after: Step, kind: int = 0) -> Array:
        decoder = self.model.decoder
        if decoder.traced is not None and kernel == "flash":
            rank = traced.one_rank(decoder.traced, decoder.vocab, self.ranks)
            alive = traced.peak_elements(rank.kinds[kind], batch=float(self.workload.batch), q_len=q_len, kv_len=kv_len)
            return alive * self.widths.activations
        ops = decoder_ops.layer_ops(
            self.model.decoder,
            self.widths,
            batch=float(self.workload.batch),
            q_len=q_len,
            kv_len=kv_len,
            kernel=kernel,
            onchip_bytes=0.0,
            ranks=self.ranks,
            kind=kind,
        )
        return layer_peak(self._stream(q_len), ops, *after)

    def _layers(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Peak of each decoder layer's activations."""
        tokens = np.array(self.schedule.tokens, dtype=float)
        queries = tokens - cached_by_layer(self.workload, self.schedule)
        eager = eager_layers(self.schedule, self.implementation, self.attention)
        ranked = np.zeros(len(tokens), dtype=bool)
        if self.implementation != "fused":
            for event in self.schedule.layer_events:
                if find_scorer(event.scorer).square_scores:
                    ranked[event.charged_layer] = True
        peak = np.empty(len(tokens))
        for kind, layers in enumerate(self.kinds()):
            for kernel, wanted in (("flash", ~eager), ("eager", eager & ~ranked), ("eager", eager & ranked)):
                here = layers[wanted[layers]]
                if not len(here):
                    continue
                peak[here] = self.layer_peak(queries[here], tokens[here], kernel, bool(ranked[here].any()), kind)
        return peak

    def layer_peak(self, q_len: Array, kv_len: Array, kernel: str, ranked: bool, kind: int) -> Array:
        """Peak bytes of the activations of a layer of one kind."""
        after = []
        if ranked:
            # a scorer makes an fp32 matrix of the logits, which outlive the softmax until then
            heads = self.ranks.share(self.model.decoder.heads)
            matrix = self.workload.batch * heads * q_len * kv_len * SCORE_BYTES
            after.append(Step("ranking", EXPOSED, {"matrix": matrix}))
        return self._layer_peak(q_len, kv_len, kernel, *after, kind=kind)

    def kinds(self) -> tuple[np.ndarray[Any, np.dtype[np.int64]], ...]:
        """Layers by what they do; cross-attention ones are taken for the others."""
        decoder = self.model.decoder
        return (np.arange(decoder.layers),) if decoder.traced is None else decoder_ops.layer_kinds(decoder)

    def _before_decoder(self, cached: float) -> Iterator[StageMemory]:
        """Tower and projector, beside the cache that an earlier request left."""
        workload, vision, projector = self.workload, self.model.vision, self.model.projector
        load = visual_tokens.tower_load(self.model, workload)
        if vision is None or projector is None or load is None:
            return
        widths = self.widths
        inputs = float(tower_inputs(load, workload.batch, self.parallel))
        if vision.traced is not None:
            alive = max(
                traced.tower_peak_elements(
                    vision.traced, images=inputs * grid.sequences / load.inputs, patches=float(grid.rows * grid.columns)
                )
                for grid in load.grids
            )
            yield StageMemory("vision", cached, alive * widths.activations)
            return
        tower = vit.layer_ops(
            vision,
            widths,
            inputs=inputs,
            load=load,
            kernel=tower_kernel(self.schedule, self.implementation, self.tower_attention),
            onchip_bytes=0.0,
            ranks=tower_ranks(self.parallel),
        )
        stream = inputs * vit.sequence_tokens(vision, load) * vision.hidden * widths.activations
        yield StageMemory("vision", cached, float(layer_peak(stream, tower)))
        features = inputs * vision.tiles * load.patches / projector.merge**2
        features *= projector_ops.input_width(projector) * widths.activations
        encoded = workload.visual_tokens - workload.cached_input_tokens
        embeddings = workload.batch * encoded * self.model.decoder.hidden * widths.activations
        ops = projector_ops.ops(self.model, widths, inputs=inputs, load=load)
        # the embeddings of all images are copied together
        joined = Step("joined", (), {"embeddings": embeddings})
        peak = float(layer_peak(features, ops, joined, held=()))
        yield StageMemory("projector", cached, peak + self._deepstack_features())
