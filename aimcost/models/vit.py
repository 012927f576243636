"""A ViT tower as ops: CLIP, SigLIP, InternViT, Qwen-VL's, Llama-3.2-Vision's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..ops import Cost, attention, gemm, pointwise
from ..ops.attention import AttentionShape
from ..ops.cost import Array
from ..ops.op import ONE, Op, OpCost, Ranks, divided, stored_parameters
from ..types import TowerLoad, VisionSpec
from ..types.formats import Widths
from . import traced

__all__ = ["LayerGroup", "layer_groups", "layer_ops", "parameters", "patch_ops", "post_ops", "sequence_tokens"]

# Indices of layers that are the same, whether they attend in windows, whether they are gated.
LayerGroup = tuple[NDArray[np.int64], bool, bool]


def sequence_tokens(vision: VisionSpec, load: TowerLoad) -> float:
    """Tokens of one input that the layers compute on; the mean, where inputs are of several grids."""
    if load.beside:
        return sum(grid.sequences * _grid_tokens(vision, grid) for grid in load.grids) / load.inputs
    return _grid_tokens(vision, load)


def _grid_tokens(vision: VisionSpec, load: TowerLoad) -> int:
    each = load.rows * load.columns + (1 if vision.class_token else 0)
    return vision.tiles * math.ceil(each / vision.pad_to) * vision.pad_to


def layer_groups(vision: VisionSpec) -> tuple[LayerGroup, ...]:
    """All layers that run, by kind: full attention, windows, global ones."""
    index = np.arange(vision.layers)
    full = np.isin(index, vision.full_layers) if vision.window else np.ones(vision.layers, dtype=bool)
    last = np.arange(vision.layers, vision.layers + vision.global_layers)
    groups = ((index[full], False, False), (index[~full], True, False), (last, False, True))
    return tuple(group for group in groups if len(group[0]))


def patch_ops(
    vision: VisionSpec, widths: Widths, *, inputs: float, load: TowerLoad, ranks: Ranks = ONE
) -> Iterator[OpCost]:
    """Patch embedding (a convolution whose stride is its kernel: one product) and positions."""
    cost, hidden = ranks.one_rank, vision.hidden
    images = inputs * vision.tiles
    patches = float(load.patches)
    each = patches + (1 if vision.class_token else 0)
    pixels = vision.channels * vision.temporal_patch * vision.patch_size**2
    embed = Op(
        "patch_embed", "embedding", "replicated", place="before", weight=float(hidden if vision.class_token else 0)
    )
    # a convolution, which no quantisation of linear layers packs
    bias = vision.patch_bias
    yield cost(embed, gemm.linear, images * patches, pixels, hidden, widths, bias=bias, packed=False)
    if vision.position_rows != 0:
        add = Op("pos_add", "embedding", "replicated", place="before", weight=_position_parameters(vision))
        yield cost(add, pointwise.add, images * each * hidden, widths)
    if vision.pre_norm:
        norm = Op("pre_norm", "norms", "replicated", place="before")
        yield cost(norm, pointwise.layer_norm, images * each, hidden, widths)


def _position_parameters(vision: VisionSpec) -> float:
    """Learned positions; of tiles also those by aspect ratio, after which a gate stands."""
    rows = vision.tokens if vision.position_rows is None else vision.position_rows
    total = rows * vision.hidden
    if vision.global_layers:
        # positions of whole tiles, of their tokens, and after the layers, with a gate each
        total += vision.tile_embeddings * vision.tiles * (vision.tokens + 2) * vision.hidden + 3
    return float(total)


def layer_ops(
    vision: VisionSpec,
    widths: Widths,
    *,
    inputs: float,
    load: TowerLoad,
    kernel: str,
    onchip_bytes: float,
    windowed: bool = False,
    gated: bool = False,
    tokens: Array | None = None,
    mlp_tokens: Array | None = None,
    ranks: Ranks = ONE,
) -> Iterator[OpCost]:
    """Ops of one tower layer, those of one rank: attention inside each input or its windows, MLP.

    Parameters
    ----------
    inputs
        Inputs of all requests together.
    tokens, mlp_tokens
        Tokens of an input that attention and the MLP compute on, where a method merges inside the
        tower (arrays: one entry a layer); all of the input's by default.
    """
    n: Array = float(sequence_tokens(vision, load)) if tokens is None else tokens
    rows, width, cost = inputs * n, vision.hidden, ranks.one_rank
    mlp_rows = rows if mlp_tokens is None else inputs * mlp_tokens
    norm = pointwise.layer_norm if vision.norm == "layer" else pointwise.rms_norm
    yield cost(Op("attn_norm", "norms", "replicated", reads=("x",)), norm, rows, width, widths)
    yield from _projections(vision, widths, rows, ranks)
    q, k, v = ("qkv_proj",) * 3 if vision.fused_qkv else ("q_proj", "k_proj", "v_proj")
    if vision.qk_norm:
        for name, source in (("q_norm", q), ("k_norm", k)):
            op = Op(name, "attention", "replicated", reads=(source,))
            yield cost(op, pointwise.rms_norm, rows, width, widths)
        q, k = "q_norm", "k_norm"
    if vision.rope:
        heads, head_dim = float(vision.heads), vision.hidden / vision.heads
        op = Op("rope", "attention", "heads", reads=(q, k))
        yield cost(op, _rope, rows=rows, heads=heads, head_dim=head_dim, widths=widths)
        q, k = "rope", "rope"
    shapes: list[tuple[float, Array]] = [(1.0, n)]
    if windowed or load.beside:
        shapes = [
            (count * grid.sequences / load.inputs, length)
            for grid in load.grids
            for count, length in (_windows(vision, grid) if windowed else [(1.0, float(_grid_tokens(vision, grid)))])
        ]
    yield from _attention(vision, widths, inputs, shapes, kernel, onchip_bytes, (q, k, v), ranks)
    out = Op("out_proj", "projections", "row", exchange="attn", reads=(attention.output_of(kernel), "attn_norm"))
    yield cost(out, gemm.linear, rows, width, width, widths, bias=vision.out_bias)
    branch = "out_proj"
    if vision.layer_scale or gated:
        yield cost(_scale(vision, "attn_scale", branch, gated), pointwise.scale, rows * width, widths)
        branch = "attn_scale"
    yield cost(_residual("attn_add", "x", branch), pointwise.add, rows * width, widths)
    yield cost(Op("mlp_norm", "norms", "replicated", reads=("attn_add",)), norm, mlp_rows, width, widths)
    yield from _mlp_ops(vision, widths, mlp_rows, ranks)
    branch = "down_proj"
    if vision.layer_scale or gated:
        yield cost(_scale(vision, "mlp_scale", branch, gated), pointwise.scale, mlp_rows * width, widths)
        branch = "mlp_scale"
    yield cost(_residual("mlp_add", "attn_add", branch), pointwise.add, mlp_rows * width, widths)


def _projections(vision: VisionSpec, widths: Widths, rows: Array, ranks: Ranks) -> Iterator[OpCost]:
    width, bias = vision.hidden, vision.qkv_bias
    products = (("qkv_proj", 3 * width),) if vision.fused_qkv else tuple((f"{x}_proj", width) for x in "qkv")
    for name, features in products:
        op = Op(name, "projections", "column", reads=("attn_norm",))
        yield ranks.one_rank(op, gemm.linear, rows, width, features, widths, bias=bias)


def _residual(name: str, stream: str, branch: str) -> Op:
    return Op(name, "rest", "replicated", reads=(stream, branch))


def _scale(vision: VisionSpec, name: str, branch: str, gated: bool) -> Op:
    """A learned vector (InternViT) or gate (Llama-3.2-Vision) on a branch; partial sums may be scaled."""
    weight = (vision.hidden if vision.layer_scale else 0) + (1 if gated else 0)
    return Op(name, "rest", "linear", reads=(branch,), weight=float(weight))


def _mlp_ops(vision: VisionSpec, widths: Widths, rows: Array, ranks: Ranks) -> Iterator[OpCost]:
    width, inner, bias, cost = vision.hidden, vision.intermediate, vision.mlp_bias, ranks.one_rank
    products = ("gate_proj", "up_proj") if vision.gated_mlp else ("up_proj",)
    for name in products:
        op = Op(name, "mlp", "column", reads=("mlp_norm",))
        yield cost(op, gemm.linear, rows, width, inner, widths, bias=bias)
    activation = pointwise.gated_silu if vision.gated_mlp else pointwise.gelu
    yield cost(Op("mlp_act", "mlp", "column", reads=products), activation, rows * inner, widths)
    down = Op("down_proj", "mlp", "row", exchange="mlp", reads=("mlp_act", "mlp_norm"))
    yield cost(down, gemm.linear, rows, inner, width, widths, bias=bias)


@divided(heads=("heads",))
def _rope(*, rows: Array, heads: float, head_dim: float, widths: Widths) -> Cost:
    cost = pointwise.rope(batch=1.0, q_len=rows, heads=heads, kv_heads=heads, head_dim=head_dim, widths=widths)
    # a tower has no cache: rotated keys are an activation like queries
    return replace(cost, write_activations=2.0 * cost.write_activations, write_kv=0.0)


def _windows(vision: VisionSpec, load: TowerLoad) -> list[tuple[float, Array]]:
    """(windows, tokens of each) of one input."""
    unit = vision.window_unit
    whole = attention.windows(load.rows // unit, load.columns // unit, vision.window // unit)
    return [(count, size * unit**2) for count, size in whole]


def _attention(
    vision: VisionSpec,
    widths: Widths,
    inputs: float,
    shapes: list[tuple[float, Array]],
    kernel: str,
    onchip_bytes: float,
    reads: tuple[str, ...],
    ranks: Ranks,
) -> Iterator[OpCost]:
    heads, head_dim = float(vision.heads), vision.hidden / vision.heads
    several = [
        AttentionShape(
            batch=inputs * count,
            heads=heads,
            kv_heads=heads,
            head_dim=head_dim,
            q_len=length,
            kv_len=length,
            causal=False,
        )
        for count, length in shapes
    ]
    yield from attention.core_of_several(
        kernel, several, widths=widths, onchip_bytes=onchip_bytes, reads=reads, ranks=ranks
    )


def post_ops(
    vision: VisionSpec,
    widths: Widths,
    *,
    inputs: float,
    load: TowerLoad,
    tokens: float | None = None,
    ranks: Ranks = ONE,
) -> Iterator[OpCost]:
    """The norm after the last layer, where the features are taken there (SigLIP)."""
    if vision.post_norm and vision.layers == vision.stored_layers:
        rows = inputs * (sequence_tokens(vision, load) if tokens is None else tokens)
        norm = Op("post_norm", "norms", "replicated", place="after")
        yield ranks.one_rank(norm, pointwise.layer_norm, rows, vision.hidden, widths)


def _pooling_head(vision: VisionSpec) -> float:
    """Parameters of SigLIP's attention pooling: a probe, attention, a norm and an MLP."""
    width, inner = vision.hidden, vision.intermediate
    return float(width + 4 * (width * width + width) + 2 * width + 2 * width * inner + inner + width)


@lru_cache(maxsize=256)
def parameters(
    vision: VisionSpec, *, ranks: Ranks = ONE, count: Callable[[Iterable[OpCost]], float] = stored_parameters
) -> float:
    """Stored parameters, those of layers that never run included; of a traced tower, its projector's too.

    Or what `count` counts of them.
    """
    if vision.traced is not None:
        return vision.traced.parameters if count is stored_parameters else traced.tower_packed(vision.traced)[0]
    widths, load = Widths(weights=1.0, activations=1.0, kv=1.0), TowerLoad(sequences=1, rows=1, columns=1)

    def layer(gated: bool) -> float:
        ops = layer_ops(
            vision, widths, inputs=1.0, load=load, kernel="flash", onchip_bytes=0.0, gated=gated, ranks=ranks
        )
        return count(ops)

    stored = replace(vision, layers=vision.stored_layers)
    total = count(patch_ops(vision, widths, inputs=1.0, load=load, ranks=ranks))
    total += vision.stored_layers * layer(gated=False)
    if vision.global_layers:
        total += vision.global_layers * layer(gated=True)
    if vision.idle_head and count is stored_parameters:
        total += _pooling_head(vision)
    return total + count(post_ops(stored, widths, inputs=1.0, load=load, ranks=ranks))
