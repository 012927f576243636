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
    "MoeSpec",
    "Parallel",
    "Precision",
    "ProjectorSpec",
    "ReductionEvent",
    "ResolutionSpec",
    "Schedule",
    "TowerLoad",
    "VisionSpec",
    "Workload",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """A mixture of experts in place of every layer's MLP.

    Attributes
    ----------
    experts, active
        Experts stored in a layer, and how many of them each token passes through.
    intermediate
        Width of one expert.
    shared_intermediate
        Width of the expert that every token passes through as well, behind a gate of its own
        (Qwen2-MoE); zero without one.
    """

    experts: int
    active: int
    intermediate: int
    shared_intermediate: int = 0


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
    moe
        Experts instead of one MLP; `intermediate` is then the width that one token passes
        through, all of its experts together.
    cross_layers
        Layers that attend to the tower's tokens instead of the sequence (Llama-3.2-Vision). They
        run only where a request has images; visual tokens then enter no other layer.
    extra_embeddings
        Rows of the embedding table beyond `vocab` that lm_head does not have.
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
    moe: MoeSpec | None = None
    cross_layers: tuple[int, ...] = ()
    extra_embeddings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSpec:
    """Shape of a ViT tower, and the patches that it sees per image or frame.

    Attributes
    ----------
    layers, stored_layers
        Layers that run, and layers of the checkpoint: a tower whose features are taken before its
        last layer runs fewer than it holds. Global layers are not among them.
    image_size
        Side of the square that every input is resized to; zero for a tower that takes any grid.
    class_token, pre_norm, post_norm
        One more token an input; a norm before the first layer (CLIP); one after the last (run
        only where the features are taken there).
    norm
        ``layer`` (LayerNorm) or ``rms``, in the layers.
    gated_mlp, fused_qkv, qk_norm, layer_scale
        SwiGLU; q, k, v in one product; RMSNorm over all of q and k; a learned factor on each
        branch before its residual (InternViT).
    patch_bias, qkv_bias, out_bias, mlp_bias
        Which linear layers carry a bias.
    position_rows, rope
        Rows of the learned position table (None: one a token; zero: no table); rotation of q, k.
    temporal_patch
        Frames that one patch spans; an image is repeated to fill it.
    window, full_layers
        Side in patches of the windows that attention stays inside of, and the layers that attend
        to all of an input nevertheless (Qwen2.5-VL); zero: all layers do.
    window_unit
        Side in patches of the blocks that a window is made of.
    tiles, pad_to, global_layers, tile_embeddings
        Llama-3.2-Vision: `tiles` inputs are attended together, each padded to a multiple of
        `pad_to` tokens; gated layers after the others; rows of the tables of tile positions.
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
    pre_norm: bool = False
    post_norm: bool = True
    norm: Literal["layer", "rms"] = "layer"
    gated_mlp: bool = False
    fused_qkv: bool = False
    qk_norm: bool = False
    layer_scale: bool = False
    patch_bias: bool = True
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    position_rows: int | None = None
    rope: bool = False
    temporal_patch: int = 1
    window: int = 0
    window_unit: int = 1
    full_layers: tuple[int, ...] = ()
    tiles: int = 1
    pad_to: int = 1
    global_layers: int = 0
    tile_embeddings: int = 0

    @property
    def patches(self) -> int:
        """Patches per image of the fixed size, without a class token."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Tokens per image of the fixed size that the tower's layers compute on."""
        return self.patches + (1 if self.class_token else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectorSpec:
    """The path from tower to language model: a list of linear layers, and token pooling.

    Attributes
    ----------
    linears
        (in, out) of each linear layer, in order, each with a bias.
    tokens_per_image, tokens_per_frame
        Visual tokens that reach the language model for one image, and for one video frame, of the
        tower's fixed size; zero where they follow from the size of the image.
    newline_token
        One learned token is appended to a video (LLaVA-OneVision), and to each row of an image
        that is cut into tiles.
    row_newline
        A newline token ends each row of a video frame instead (LLaVA-Video).
    merge
        Side of the square of patches that become one row of the first linear layer (Qwen2-VL's
        merger, InternVL's pixel shuffle).
    norm, norm_merged
        A norm before the first linear layer (``layer``, ``rms`` or none), over single patches or
        over merged ones.
    deepstack
        Further mergers of the same size, on features of earlier tower layers, added to the first
        decoder layers' visual tokens (Qwen3-VL); their norm is over merged patches.
    keeps_class_token
        The tower's class token goes through as well.
    """

    linears: tuple[tuple[int, int], ...]
    tokens_per_image: int
    tokens_per_frame: int
    newline_token: bool = False
    row_newline: bool = False
    merge: int = 1
    norm: Literal["", "layer", "rms"] = ""
    norm_merged: bool = False
    deepstack: int = 0
    keeps_class_token: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionSpec:
    """How an image's size decides what the tower sees.

    Attributes
    ----------
    kind
        ``dynamic``: resized to whole blocks of merged patches inside limits of pixels (Qwen-VL).
        ``anyres``: the whole image, and tiles of the grid that fits best (LLaVA-NeXT,
        LLaVA-OneVision). ``tiles``: tiles by aspect ratio, and the whole image as a thumbnail
        (InternVL).
    default_size
        (width, height) where a run gives none; None: the tower's fixed size, without tiles.
    pixels, video_pixels
        Least and most pixels of a resized image, and of a resized frame.
    video_volume
        The limits for video are of all its frames together (Qwen3-VL).
    grids
        anyres: allowed (height, width) in pixels, in order of preference.
    max_tiles
        tiles: most tiles; anyres: tiles' worth of tokens above which features are interpolated
        down (zero: never).
    """

    kind: Literal["dynamic", "anyres", "tiles"]
    default_size: tuple[int, int] | None = None
    pixels: tuple[int, int] = (0, 0)
    video_pixels: tuple[int, int] = (0, 0)
    video_volume: bool = False
    grids: tuple[tuple[int, int], ...] = ()
    max_tiles: int = 0


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
    """

    sequences: int
    rows: int
    columns: int
    pooled_in: int = 0
    pooled_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model: its decoder and, when multimodal, the tower and projector in front of it."""

    name: str
    family: str
    decoder: DecoderSpec
    vision: VisionSpec | None = None
    projector: ProjectorSpec | None = None
    resolution: ResolutionSpec | None = None
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
    tower
        What the tower computes on; None: every image or frame at its fixed size.
    cross_tokens
        Tower tokens that cross-attention layers attend to, outside the sequence.
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
