"""What a model is made of."""

from __future__ import annotations

from typing import Literal

from ..frozen import dataclass
from .traced import TracedDecoder, TracedTower

__all__ = [
    "DecoderSpec",
    "ModelSpec",
    "MoeSpec",
    "ProjectorSpec",
    "QuantisationSpec",
    "ResamplerSpec",
    "ResolutionSpec",
    "SamplingSpec",
    "VisionSpec",
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
        Width of the expert that every token passes through as well, behind a separate gate
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
    window, window_layers
        Keys that a query sees at the most, itself included, in layers of sliding-window attention,
        and which layers those are (None: all); zero where every layer attends to the whole sequence.
    context_limit
        Positions that the model was made for (``max_position_embeddings``); None where neither its configuration
        nor the class's default says.
    context_assumed
        It is the class's default.
    traced
        What its layers do, where a trace says it; the sizes above then serve scorers and reports alone.
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
    window: int = 0
    window_layers: tuple[int, ...] | None = None
    context_limit: int | None = None
    context_assumed: bool = False
    traced: TracedDecoder | None = None

    @property
    def alike(self) -> bool:
        """Whether a layer's cost depends on its tokens alone, and not on which layer it is."""
        return not self.variety

    @property
    def variety(self) -> str:
        """What tells layers apart; empty where they are alike."""
        if self.cross_layers:
            return "cross-attention layers"
        if self.window and self.window_layers is not None:
            return "sliding windows in some layers"
        return f"{len(self.traced.kinds)} kinds of layer" if self.traced and len(self.traced.kinds) > 1 else ""


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
    idle_head
        A head that pools by attention, stored and never run (DeepSeek-VL2).
    traced
        What its layers and the projector do, where a trace says it; the sizes above then serve methods and
        reports alone.
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
    idle_head: bool = False
    traced: TracedTower | None = None

    @property
    def patches(self) -> int:
        """Patches per image of the fixed size, without a class token."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Tokens per image of the fixed size that the tower's layers compute on."""
        return self.patches + (1 if self.class_token else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplerSpec:
    """Learned queries that attend to the patches of an image (Qwen-VL).

    Attributes
    ----------
    queries, heads
        Visual tokens of an image; attention heads.
    tower_width, width
        Of a patch as it leaves the tower, and of the language model.
    """

    queries: int
    heads: int
    tower_width: int
    width: int


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
        There is one: a learned token after each row of an image that is cut into tiles.
    separators
        Width of the two learned rows that end a line and part the tiles from the whole image: that of merged patches,
        ahead of the linear layers (Phi-3.5-V), or of the language model, behind them (DeepSeek-VL2); zero without.
    video_newline
        Where it comes in a video: after the ``video`` (LLaVA-OneVision), after each ``frame`` or each ``row`` of one
        (LLaVA-Video), or nowhere.
    bilinear
        Pooling interpolates (LLaVA-OneVision), and does not average.
    pools_first
        Pooling comes before the first linear layer (LLaVA-NeXT-Video).
    merge
        Side of the square of patches that become one row of the first linear layer (Qwen2-VL's
        merger, InternVL's pixel shuffle).
    norm, norm_merged
        A norm before the first linear layer (``layer``, ``rms`` or none), over single patches or
        over merged ones.
    deepstack
        Further mergers of the same size, on features of earlier tower layers, added to the first
        decoder layers' visual tokens (Qwen3-VL); their norm is over merged patches.
    idle_deepstack
        Those of layers that a tower made shallow does not have: stored, never run.
    keeps_class_token
        The tower's class token goes through as well.
    resampler
        In place of linear layers.
    """

    linears: tuple[tuple[int, int], ...]
    tokens_per_image: int
    tokens_per_frame: int
    newline_token: bool = False
    separators: int = 0
    video_newline: Literal["", "video", "frame", "row"] = ""
    bilinear: bool = False
    pools_first: bool = False
    merge: int = 1
    norm: Literal["", "layer", "rms"] = ""
    norm_merged: bool = False
    deepstack: int = 0
    idle_deepstack: int = 0
    keeps_class_token: bool = False
    resampler: ResamplerSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionSpec:
    """How an image's size decides what the tower sees.

    Attributes
    ----------
    kind
        ``dynamic``: resized to whole blocks of merged patches inside limits of pixels (Qwen-VL).
        ``anyres``: the whole image, and tiles of the grid that fits best (LLaVA-NeXT,
        LLaVA-OneVision). ``tiles``: tiles by aspect ratio, and the whole image as a thumbnail
        (InternVL). ``fixed``: one input of the tower, whatever its size (Gemma 3, PaliGemma, Aria).
        ``edge``: the longest edge is at most `edge`, both sides round up to merged patches, and a
        marker follows each row (Pixtral). ``rows``: the longest edge becomes `edge`, and each side as
        many tiles as cover it (Idefics3). ``canvas``: the grid of tiles that shrinks the image
        least (Llama 4). ``covering``: the fewest tiles that cover nine tenths of it (Ovis2).
        ``patches``: scaled down to at most `max_tiles` patches and `edge` of them a side, then padded (Kimi K2.5).
        ``split``: resized to whole blocks, or where it is over twice the most pixels, tiles by aspect ratio and the
        resized image beside them (LFM2-VL). ``blocks``: scaled down to at most `max_tiles` patches, then padded to
        merged ones, or cropped where it `crops` (Kimi-VL). ``hd``: as many tiles wide as `max_tiles` allow at the
        image's shape, and the whole image, always `max_tiles` + 1 inputs (Phi-3.5-V). ``candidates``: the whole image,
        and tiles of the grid that fits best (DeepSeek-VL2). ``masked``: the whole image, and tiles of which padding is
        dropped (Phi-4-multimodal). ``unknown``: not known here.
    pixels, video_pixels
        Least and most pixels of a resized image, and of a resized frame.
    video_volume
        The limits for video are of all its frames together (Qwen3-VL).
    video_budget
        Pixels that all patches in time share evenly, below which a frame's own limit falls; zero:
        unlimited.
    frame_pixels
        With `video_volume`: least and most pixels of one frame; zero: those of the volume.
    grids
        anyres, candidates: allowed (height, width) in pixels, in order of preference.
    min_tiles, max_tiles
        tiles: fewest and most tiles. anyres: `max_tiles` is the tiles' worth of tokens above which
        features are interpolated down (zero: never).
    without_thumbnail
        tiles: the whole image does not come beside its tiles.
    markup
        Text that the processor writes around visual tokens. ``times``: the time of each patch of a
        video, between two markers (Qwen3-VL). ``seconds``, ``tenths``: two markers and the time of each
        patch of a video, in whole seconds (GLM-4.1V) or tenths (GLM-4.6V). ``numbers``: two markers around
        an image or frame, and the number of a frame (InternVL). ``clock``: the length of a video, and the
        time of each frame (SmolVLM).
    digits
        The most digits of a number that are one token of the family's tokenizer.
    edge
        Pixels of the longest edge, of ``edge`` and ``rows``; patches of it, of ``patches``.
    markers, tile_markers
        Tokens of text around an image, and beside each of its inputs to the tower.
    grows
        dynamic: an image less than a block wide or high is first scaled up to it (GLM-4V).
    crops
        blocks: what fills no merged patch is cut off, and not padded.
    """

    kind: Literal[
        "dynamic",
        "anyres",
        "tiles",
        "fixed",
        "edge",
        "rows",
        "canvas",
        "covering",
        "patches",
        "split",
        "blocks",
        "hd",
        "candidates",
        "masked",
        "unknown",
    ]
    pixels: tuple[int, int] = (0, 0)
    video_pixels: tuple[int, int] = (0, 0)
    video_volume: bool = False
    video_budget: int = 0
    frame_pixels: tuple[int, int] = (0, 0)
    grids: tuple[tuple[int, int], ...] = ()
    min_tiles: int = 0
    max_tiles: int = 0
    without_thumbnail: bool = False
    markup: Literal["", "times", "seconds", "tenths", "numbers", "clock"] = ""
    digits: int = 1
    edge: int = 0
    markers: int = 0
    tile_markers: int = 0
    grows: bool = False
    crops: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """How many frames of a video the processor takes.

    Attributes
    ----------
    fps, frames
        Frames a second, or frames of a whole video, where a run says neither; zero: none.
    min_frames, max_frames
        Limits on the number that follows from seconds and rate; zero: none.
    multiple
        That number is rounded down to a multiple of this; zero counts as one.
    fills
        It is rounded up instead: the last frame is repeated (GLM-4.1V).
    nearest
        Seconds times rate are rounded to the nearest whole number, halves to even, and not down (SmolVLM).
    max_seconds
        Of a longer video as many frames are taken as of one of this length; zero: no limit.
    rates
        (seconds, frames a second) of videos up to that long, the last one of all longer ones, where the
        processor chooses the rate (GLM-4.6V).
    """

    fps: float = 0.0
    frames: int = 0
    min_frames: int = 0
    max_frames: int = 0
    multiple: int = 0
    fills: bool = False
    nearest: bool = False
    max_seconds: float = 0.0
    rates: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisationSpec:
    """How a checkpoint's weights are stored, as its ``quantization_config`` says.

    Attributes
    ----------
    method
        ``awq``, ``gptq``, ``auto-round``, ``fp8``, ``bitsandbytes``, ``mxfp4``, ``compressed-tensors``, ``modelopt``.
    weights
        Format of the language model's linear layers.
    lm_head, tower, projector
        Formats of the other parts that it quantises; None: left as they are.
    experts
        Format of the decoder's experts, where its other linear layers are `weights`; None: as these.
    scale_bytes
        Scales and zero points, bytes an element of `weights`.
    inputs, kv
        Formats that the inputs of products with quantised weights are converted to, and of the cache, where it says
        them.
    left, only
        Patterns of the decoder's modules that stay as they are, and of those alone that are quantised; empty: all.
    wide
        (layer, op, elements) of the decoder's linear layers that stay in 16 bit by these patterns.
    """

    method: str
    weights: str
    lm_head: str | None = None
    tower: str | None = None
    projector: str | None = None
    experts: str | None = None
    scale_bytes: float = 0.0
    inputs: str | None = None
    kv: str | None = None
    left: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    wide: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model: its decoder and, when multimodal, the tower and projector in front of it.

    `quantised` is None where the weights are stored as they are computed with; `stored_wide`: in float32, as the
    configuration says.
    """

    name: str
    family: str
    decoder: DecoderSpec
    vision: VisionSpec | None = None
    projector: ProjectorSpec | None = None
    resolution: ResolutionSpec | None = None
    sampling: SamplingSpec | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    quantised: QuantisationSpec | None = None
    stored_wide: bool = False
