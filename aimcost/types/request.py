"""What is asked of a model, and which tokens are left on the way."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import field
from itertools import groupby
from typing import Any, Literal, TypeVar

from ..frozen import dataclass

__all__ = ["Parallel", "Precision", "ReductionEvent", "Schedule", "Serving", "TowerLoad", "Workload", "runs_of"]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerLoad:
    """What the tower computes on for one request.

    Attributes
    ----------
    sequences
        Inputs that it attends inside of: images, tiles, frames or pairs of frames.
    rows, columns
        Patches of one input.
    pooled_in, pooled_out
        Projected tokens before and after pooling, all of a request; zero without any.
    pooled_grids
        The grids that they form: frames, or images whose tiles are put together first.
    projected
        Rows of the projector's linear layers, all of a request, where they are not the merged patches of the inputs;
        zero where they are.
    beside
        Inputs of other grids that are computed together with these (their own `beside` is empty,
        their pooling is counted here).
    """

    sequences: int
    rows: int
    columns: int
    pooled_in: int = 0
    pooled_out: int = 0
    pooled_grids: int = 0
    projected: int = 0
    beside: tuple[TowerLoad, ...] = ()

    @property
    def grids(self) -> tuple[TowerLoad, ...]:
        """The inputs by grid."""
        return (self, *self.beside)

    @property
    def inputs(self) -> int:
        """Inputs of all grids."""
        return self.sequences + sum(load.sequences for load in self.beside)

    @property
    def patches(self) -> float:
        """Patches of one input; the mean, where they are of several grids."""
        if not self.beside:
            return self.rows * self.columns
        return sum(load.sequences * load.rows * load.columns for load in self.grids) / self.inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is asked of the model, per request, resolved against a model.

    Attributes
    ----------
    batch
        Requests computed together.
    frames, images
        What the tower sees; both zero for text, or where `visual_tokens` was given directly.
    groups, tokens_per_group
        Visual tokens before any method, as independent groups (frames or images). Where they are
        of several sizes, one group of all of them.
    sizes
        (groups, tokens of each) of groups of several sizes, in order; empty where all are alike.
    newline_tokens
        Visual tokens outside any group (LLaVA-OneVision's image_newline).
    text_before, text_after
        Text tokens before and after the visual ones.
    new_tokens
        Tokens to generate; the prefill yields the first.
    tower
        What the tower computes on; None: every image or frame at its fixed size.
    cross_tokens
        Tower tokens that cross-attention layers attend to, outside the sequence.
    template_tokens
        Text that the processor writes between the visual tokens (times of frames, markers).
    cached_tokens
        Tokens at the start of the prompt whose keys and values an earlier request left in the cache: queries are
        the rest, keys are all.
    cached_images, cached_frames, cached_input_tokens
        Those of `images` and `frames` that lie in this prefix as a whole, which the tower does not run on, and
        their visual tokens.
    encoded
        What the tower computes on in place of `tower`, where such inputs are left out.
    """

    batch: int = 1
    frames: int = 0
    images: int = 0
    groups: int = 0
    tokens_per_group: int = 0
    newline_tokens: int = 0
    text_before: int = 0
    text_after: int = 0
    new_tokens: int = 0
    tower: TowerLoad | None = None
    cross_tokens: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    template_tokens: int = 0
    cached_tokens: int = 0
    cached_images: int = 0
    cached_frames: int = 0
    cached_input_tokens: int = 0
    encoded: TowerLoad | None = None

    @property
    def group_sizes(self) -> tuple[tuple[int, int], ...]:
        """(groups, tokens of each), by size."""
        return self.sizes or ((self.groups, self.tokens_per_group),)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens before any method, the newline token included."""
        return self.groups * self.tokens_per_group + self.newline_tokens

    @property
    def text_tokens(self) -> int:
        """Text tokens before, between and after the visual ones."""
        return self.text_before + self.template_tokens + self.text_after

    @property
    def prompt_tokens(self) -> int:
        """Visual and text tokens before any method."""
        return self.visual_tokens + self.text_tokens

    @property
    def caches_visuals(self) -> bool:
        """Whether the cached prefix reaches into the visual tokens."""
        return self.visual_tokens > 0 and self.cached_tokens > self.text_before

    @property
    def has_cached_inputs(self) -> bool:
        """Whether the cached prefix holds images or a video as a whole, and `encoded` is the tower's work."""
        return self.cached_images > 0 or self.cached_frames > 0

    @property
    def cached_text(self) -> int:
        """Text tokens of the cached prefix; those between the visual ones are spread evenly over them."""
        between = self.visual_tokens + self.template_tokens
        inside = min(between, max(0, self.cached_tokens - self.text_before))
        template = self.template_tokens * inside // between if between else 0
        return (
            min(self.cached_tokens, self.text_before)
            + template
            + max(0, self.cached_tokens - self.text_before - between)
        )

    @property
    def cached_visual(self) -> int:
        """Visual tokens of the cached prefix."""
        return self.cached_tokens - self.cached_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Number formats by tensor class, as names: bf16, fp16, fp32, fp8, int8, int4, fp4.

    Attributes
    ----------
    weights
        The language model's linear layers, without embedding and lm_head.
    embedding, lm_head, tower, projector
        The other parts' tables and linear layers. None: as `weights` where that has 16 bits or more,
        else 16 bit.
    experts
        The experts of the language model's layers. None: as `weights`.
    wide
        (layer, op, elements) of the language model's linear layers that a checkpoint leaves in 16 bit, whatever the
        format of the others.
    scale_bytes
        Scales and zero points of `weights`, bytes an element. None: the usual ones of the format.
    inputs
        The format that inputs of products are converted to, as W8A8 checkpoints do. None: they stay as `activations`,
        whose bytes their traffic is in either case.
    """

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"
    embedding: str | None = None
    lm_head: str | None = None
    tower: str | None = None
    projector: str | None = None
    scale_bytes: float | None = None
    inputs: str | None = None
    experts: str | None = None
    wide: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """Devices by kind of parallelism, and what tensor-parallel ranks do with the vision tower.

    Attributes
    ----------
    tp, pp, dp
        Tensor-parallel ranks, pipeline stages, replicas.
    tower
        ``replicated``: every rank runs all of it. ``sharded``: its weights are split as the
        decoder's. ``data``: each rank runs it on its share of the images.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    tower: Literal["replicated", "sharded", "data"] = "replicated"

    @property
    def devices(self) -> int:
        """All devices."""
        return self.tp * self.pp * self.dp


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How an engine that batches requests continuously divides a card's memory.

    Attributes
    ----------
    memory_fraction
        Share of the card's memory that weights, activations and caches may take.
    prefill_chunk
        Prompt tokens of all requests that one step computes on.
    max_model_len
        Tokens that every request is counted with; None: its own.
    """

    memory_fraction: float = 0.9
    prefill_chunk: int = 8192
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionEvent:
    """One place where tokens go away: what is scored, and how many survive.

    Attributes
    ----------
    action
        ``merge`` (tokens are averaged into others) or ``prune`` (tokens are removed).
    scorer
        What ranks the tokens: the name of a scorer (`aimcost.methods.registry`), which prices the
        selection and, under the same name, runs it.
    after_layer
        None: before the language model, on visual tokens alone. Otherwise the decoder layer
        whose output is cut: layer ``after_layer + 1`` is the first to compute on less.
    tower_layer
        The layer of the vision tower that merges between its attention and its MLP (ToMe); its
        counts are those of one image inside the tower, a class token included.
    groups
        Groups scored independently (AIM merges inside each frame).
    tokens_in, tokens_out
        Counts before and after. Before the language model: visual tokens of one group;
        inside it: all live tokens of the request.
    untouched
        Before the language model: visual tokens of groups of other sizes, which this event leaves
        as they are.
    counts
        What the scorer needs beside them, by name: VisionZip's ``contextual`` tokens of a group, EVS's
        ``frames``.
    selects
        False where nothing is chosen or moved: an explicit schedule that names no way of selecting, whose
        selection is free, and tokens that an earlier request selected.
    """

    action: Literal["merge", "prune"]
    scorer: str
    after_layer: int | None
    groups: int = 1
    tokens_in: int
    tokens_out: int
    selects: bool = True
    tower_layer: int | None = None
    counts: tuple[tuple[str, int], ...] = ()
    untouched: int = 0

    @property
    def priced(self) -> bool:
        """Deprecated: `selects`."""
        warnings.warn("ReductionEvent.priced will be removed in 0.3; use selects", DeprecationWarning, stacklevel=2)
        return self.selects

    @property
    def charged_layer(self) -> int | None:
        """The tower or decoder layer that its work is charged to; None between tower and language model.

        A cut before layer 0 (the paper's convention with l1 = 0) is charged to layer 0.
        """
        if self.tower_layer is not None:
            return self.tower_layer
        return None if self.after_layer is None else max(0, self.after_layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Token counts layer by layer, and the events that make them so: priced and run as one object.

    Attributes
    ----------
    method, params
        The method that planned it and the parameters it used, defaults filled in.
    tokens
        ``tokens[i]``: visual + text tokens that decoder layer i computes on, per request.
    visual_tokens
        Visual tokens that reach layer 0, after any reduction before the language model.
    newline_tokens
        How many of `visual_tokens` belong to no group (they follow the groups).
    text_before, text_after, template_tokens
        Text tokens around the visual ones, and between them; reduction never touches them.
    events
        In the order in which they happen.
    """

    method: str
    tokens: tuple[int, ...]
    visual_tokens: int
    newline_tokens: int = 0
    text_before: int = 0
    text_after: int = 0
    events: tuple[ReductionEvent, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    template_tokens: int = 0

    @property
    def text_tokens(self) -> int:
        """Text tokens before, between and after the visual ones."""
        return self.text_before + self.template_tokens + self.text_after

    @property
    def prompt_visual_tokens(self) -> int:
        """Visual tokens of the prompt: those that leave the tower, before anything ahead of layer 0 reduces them."""
        first = next((event for event in self.pre_llm_events if event.tower_layer is None), None)
        if first is None:
            return self.visual_tokens
        return first.groups * first.tokens_in + first.untouched + self.newline_tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, before anything ahead of layer 0 reduces its visual ones."""
        return self.tokens[0] - self.visual_tokens + self.prompt_visual_tokens

    @property
    def pre_llm_events(self) -> tuple[ReductionEvent, ...]:
        """Events before the language model."""
        return tuple(event for event in self.events if event.after_layer is None)

    @property
    def tower_events(self) -> tuple[ReductionEvent, ...]:
        """Events inside the vision tower, in layer order: the first of `pre_llm_events`."""
        return tuple(event for event in self.events if event.tower_layer is not None)

    @property
    def layer_events(self) -> tuple[ReductionEvent, ...]:
        """Events inside the language model, in layer order."""
        return tuple(event for event in self.events if event.after_layer is not None)


def runs_of(values: Iterable[Value]) -> list[tuple[Value, int]]:
    """Equal neighbours as (value, how many): the form of token counts that run files, baselines and reports share."""
    return [(value, sum(1 for _ in same)) for value, same in groupby(values)]
