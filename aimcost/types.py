"""The frozen core types that every other module speaks in.

Units are FLOPs (one multiply-add is 2), bytes and seconds throughout. Token counts are per
request; a batch multiplies them where an operation is priced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "DecoderSpec",
    "HardwareSpec",
    "ModelSpec",
    "Parallel",
    "Precision",
    "ProjectorSpec",
    "ReductionEvent",
    "Schedule",
    "VisionSpec",
    "Workload",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """Shape of a decoder-only language model.

    Attributes
    ----------
    hidden, intermediate, layers, heads, kv_heads, head_dim, vocab
        The usual sizes. `head_dim` need not be ``hidden // heads`` (Qwen3, Mistral-Nemo).
    gated_mlp
        Three MLP matrices (SwiGLU) when true, two otherwise.
    qkv_bias, out_bias, mlp_bias
        Which linear layers carry a bias.
    qk_norm
        RMSNorm over head_dim on q and k before RoPE (Qwen3).
    tied_embeddings
        lm_head shares the embedding's weights: they are stored once.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    gated_mlp: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSpec:
    """Shape of a ViT tower, and the patches that it sees per image or frame.

    `layers` counts the layers that run: a tower whose features are taken before its last layer
    runs fewer than its checkpoint holds (`stored_layers`).
    """

    hidden: int
    intermediate: int
    layers: int
    stored_layers: int
    heads: int
    image_size: int
    patch_size: int
    channels: int = 3
    class_token: bool = False
    gated_mlp: bool = False

    @property
    def patches(self) -> int:
        """Patches per image, without a class token."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Tokens per image that the tower's layers compute on."""
        return self.patches + (1 if self.class_token else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorSpec:
    """The path from tower to language model: a list of linear layers, and token pooling.

    Attributes
    ----------
    linears
        (in, out) of each linear layer, in order, each with a bias.
    tokens_per_image, tokens_per_frame
        Visual tokens that reach the language model for one image, and for one video frame.
    newline_token
        One learned token is appended to a video (LLaVA-OneVision).
    """

    linears: tuple[tuple[int, int], ...]
    tokens_per_image: int
    tokens_per_frame: int
    newline_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model: its decoder and, when multimodal, the tower and projector in front of it."""

    name: str
    family: str
    decoder: DecoderSpec
    vision: VisionSpec | None = None
    projector: ProjectorSpec | None = None
    source: str = ""
    notes: tuple[str, ...] = ()


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
        Visual tokens before any method, as independent groups (frames or images).
    newline_tokens
        Visual tokens outside any group (LLaVA-OneVision's image_newline).
    text_before, text_after
        Text tokens before and after the visual ones.
    new_tokens
        Tokens to generate; the prefill yields the first.
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

    @property
    def visual_tokens(self) -> int:
        """Visual tokens before any method, the newline token included."""
        return self.groups * self.tokens_per_group + self.newline_tokens

    @property
    def text_tokens(self) -> int:
        """Text tokens, before and after the visual ones."""
        return self.text_before + self.text_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Number formats by tensor class, as names: bf16, fp16, fp32, fp8, int8, int4."""

    weights: str = "bf16"
    activations: str = "bf16"
    kv: str = "bf16"


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
class ReductionEvent:
    """One place where tokens go away: what is scored, and how many survive.

    Attributes
    ----------
    action
        ``merge`` (tokens are averaged into others) or ``prune`` (tokens are removed).
    scorer
        What ranks the tokens, a key of `aimcost.ops.tokens.SCORERS`; the runtime has a policy
        of the same name.
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
    priced
        False where an estimate takes the selection as free (an explicit schedule that names no
        way of selecting).
    """

    action: Literal["merge", "prune"]
    scorer: str
    after_layer: int | None
    groups: int = 1
    tokens_in: int
    tokens_out: int
    priced: bool = True
    tower_layer: int | None = None


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
    text_before, text_after
        Text tokens around the visual ones; reduction never touches them.
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

    @property
    def text_tokens(self) -> int:
        """Text tokens, before and after the visual ones."""
        return self.text_before + self.text_after

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareSpec:
    """One exact SKU: datasheet figures in base units, and measured coefficients if there are any.

    Attributes
    ----------
    memory_bytes_per_s
        Peak DRAM bandwidth.
    dense_flops_per_s
        Peak FLOP/s (integer operations for int8, int4) by number format, without sparsity.
    memory_bytes, usable_memory_bytes
        Nominal size, and what a process can really allocate (0 and None: not known).
    onchip_bytes, l2_bytes, sm_count
        Register file of all SMs, last-level cache, multiprocessors (CPU: cores).
    interconnect_bytes_per_s
        To the peers of one node, both directions added, as datasheets print it.
    calibration
        The raw ``calibration`` mapping of the profile, or None.
    folder
        Where the profile lies; its tables are beside it.
    sources
        Where each number comes from, by key.
    """

    name: str
    vendor: str = ""
    architecture: str = ""
    memory_bytes_per_s: float
    dense_flops_per_s: Mapping[str, float]
    memory_bytes: float = 0.0
    usable_memory_bytes: float | None = None
    usable_memory_source: str = ""
    onchip_bytes: float = 0.0
    l2_bytes: float = 0.0
    sm_count: int = 0
    interconnect_bytes_per_s: float = 0.0
    interconnect: str = ""
    tdp_w: float = 0.0
    price_per_hour: float | None = None
    calibration: Mapping[str, Any] | None = None
    folder: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hidden: bool = False
