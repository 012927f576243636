"""A ViT tower as operations: CLIP, SigLIP, InternViT, Qwen-VL's, Llama-3.2-Vision's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..ops import Cost, attention, gemm, pointwise
from ..ops.cost import Array
from ..types import TowerLoad, VisionSpec
from ..types.formats import Widths

__all__ = ["LayerGroup", "layer_groups", "layer_ops", "parameters", "patch_ops", "post_ops", "sequence_tokens"]

# Indices of layers that are the same, whether they attend in windows, whether they are gated.
LayerGroup = tuple[NDArray[np.int64], bool, bool]


def sequence_tokens(vision: VisionSpec, load: TowerLoad) -> int:
    """Tokens of one input that the layers compute on."""
    each = load.rows * load.columns + (1 if vision.class_token else 0)
    return vision.tiles * math.ceil(each / vision.pad_to) * vision.pad_to


def layer_groups(vision: VisionSpec) -> tuple[LayerGroup, ...]:
    """All layers that run, by kind: full attention, windows, global ones."""
    index = np.arange(vision.layers)
    full = np.isin(index, vision.full_layers) if vision.window else np.ones(vision.layers, dtype=bool)
    last = np.arange(vision.layers, vision.layers + vision.global_layers)
    groups = ((index[full], False, False), (index[~full], True, False), (last, False, True))
    return tuple(group for group in groups if len(group[0]))


def patch_ops(vision: VisionSpec, widths: Widths, *, inputs: float, load: TowerLoad) -> Iterator[tuple[str, Cost]]:
    """Patch embedding (a convolution whose stride is its kernel: one product) and positions."""
    images = inputs * vision.tiles
    patches = float(load.rows * load.columns)
    each = patches + (1 if vision.class_token else 0)
    pixels = vision.channels * vision.temporal_patch * vision.patch_size**2
    yield "patch_embed", gemm.linear(images * patches, pixels, vision.hidden, widths, bias=vision.patch_bias)
    if vision.position_rows != 0:
        yield "pos_add", pointwise.add(images * each * vision.hidden, widths)
    if vision.pre_norm:
        yield "pre_norm", pointwise.layer_norm(images * each, vision.hidden, widths)


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
) -> Iterator[tuple[str, Cost]]:
    """Operations of one tower layer: attention inside each input or its windows, MLP.

    Parameters
    ----------
    inputs
        Inputs of all requests together.
    tokens, mlp_tokens
        Tokens of an input that attention and the MLP compute on, where a method merges inside the
        tower (arrays: one entry a layer); all of the input's by default.
    """
    n: Array = float(sequence_tokens(vision, load)) if tokens is None else tokens
    rows, width = inputs * n, vision.hidden
    mlp_rows = rows if mlp_tokens is None else inputs * mlp_tokens
    norm = pointwise.layer_norm if vision.norm == "layer" else pointwise.rms_norm
    yield "attn_norm", norm(rows, width, widths)
    if vision.fused_qkv:
        yield "qkv_proj", gemm.linear(rows, width, 3 * width, widths, bias=vision.qkv_bias)
    else:
        for name in ("q_proj", "k_proj", "v_proj"):
            yield name, gemm.linear(rows, width, width, widths, bias=vision.qkv_bias)
    if vision.qk_norm:
        yield "q_norm", pointwise.rms_norm(rows, width, widths)
        yield "k_norm", pointwise.rms_norm(rows, width, widths)
    if vision.rope:
        yield "rope", _rope(vision, widths, rows)
    shapes: list[tuple[float, Array]] = _windows(vision, load) if windowed else [(1.0, n)]
    yield from _attention(vision, widths, inputs, shapes, kernel, onchip_bytes)
    yield "out_proj", gemm.linear(rows, width, width, widths, bias=vision.out_bias)
    if vision.layer_scale or gated:
        yield "attn_scale", pointwise.scale(rows * width, widths)
    yield "attn_add", pointwise.add(rows * width, widths)
    yield "mlp_norm", norm(mlp_rows, width, widths)
    yield from _mlp_ops(vision, widths, mlp_rows)
    if vision.layer_scale or gated:
        yield "mlp_scale", pointwise.scale(mlp_rows * width, widths)
    yield "mlp_add", pointwise.add(mlp_rows * width, widths)


def _mlp_ops(vision: VisionSpec, widths: Widths, rows: Array) -> Iterator[tuple[str, Cost]]:
    width, inner, bias = vision.hidden, vision.intermediate, vision.mlp_bias
    if vision.gated_mlp:
        yield "gate_proj", gemm.linear(rows, width, inner, widths, bias=bias)
    yield "up_proj", gemm.linear(rows, width, inner, widths, bias=bias)
    activation = pointwise.gated_silu if vision.gated_mlp else pointwise.gelu
    yield "mlp_act", activation(rows * inner, widths)
    yield "down_proj", gemm.linear(rows, inner, width, widths, bias=bias)


def _rope(vision: VisionSpec, widths: Widths, rows: Array) -> Cost:
    heads = {"heads": vision.heads, "kv_heads": vision.heads, "head_dim": vision.hidden / vision.heads}
    cost = pointwise.rope(batch=1.0, q_len=rows, widths=widths, **heads)
    # a tower has no cache: rotated keys are an activation like queries
    return replace(cost, write_activations=2.0 * cost.write_activations, write_kv=0.0)


def _windows(vision: VisionSpec, load: TowerLoad) -> list[tuple[float, Array]]:
    """(windows, tokens of each) of one input: whole ones, and those cut off at its edges."""
    side = vision.window // vision.window_unit
    edges = []
    for blocks in (load.rows // vision.window_unit, load.columns // vision.window_unit):
        edges.append([(n, size) for n, size in ((blocks // side, side), (1, blocks % side)) if n * size])
    unit = vision.window_unit**2
    return [(float(m * n), float(height * width * unit)) for m, height in edges[0] for n, width in edges[1]]


def _attention(
    vision: VisionSpec,
    widths: Widths,
    inputs: float,
    shapes: list[tuple[float, Array]],
    kernel: str,
    onchip_bytes: float,
) -> Iterator[tuple[str, Cost]]:
    parts = [
        list(
            attention.core(
                kernel,
                batch=inputs * count,
                heads=float(vision.heads),
                kv_heads=float(vision.heads),
                head_dim=vision.hidden / vision.heads,
                q_len=length,
                kv_len=length,
                causal=False,
                widths=widths,
                onchip_bytes=onchip_bytes,
                kv_cached=False,
            )
        )
        for count, length in shapes
    ]
    for same in zip(*parts, strict=True):
        yield same[0][0], _together([cost for _, cost in same])


def _together(costs: list[Cost]) -> Cost:
    """Windows of several sizes as one operation.

    Its dimensions are those of the most costly size, its batch as large as gives all FLOPs.
    """
    if len(costs) == 1:
        return costs[0]
    main = max(costs, key=lambda cost: float(cost.flops))
    full = [cost.flops if cost.flops_full_square is None else cost.flops_full_square for cost in costs]
    flops = sum(cost.flops for cost in costs)
    dims = dict(main.dims)
    for key in ("batch", "groups", "rows"):
        if key in dims:
            dims[key] = dims[key] * flops / main.flops
    return replace(
        main,
        dims=dims,
        flops=flops,
        flops_full_square=sum(full),
        read_activations=sum(cost.read_activations for cost in costs),
        read_kv=sum(cost.read_kv for cost in costs),
        write_activations=sum(cost.write_activations for cost in costs),
    )


def post_ops(
    vision: VisionSpec, widths: Widths, *, inputs: float, load: TowerLoad, tokens: float | None = None
) -> Iterator[tuple[str, Cost]]:
    """The norm after the last layer, where the features are taken there (SigLIP)."""
    if vision.post_norm and vision.layers == vision.stored_layers:
        rows = inputs * (sequence_tokens(vision, load) if tokens is None else tokens)
        yield "post_norm", pointwise.layer_norm(rows, vision.hidden, widths)


def parameters(vision: VisionSpec) -> float:
    """Stored parameters, those of layers that never run included."""
    spec, hidden = vision, vision.hidden
    vectors = 2 if spec.norm == "layer" else 1  # of a norm: weight, and bias
    matrices = 3 if spec.gated_mlp else 2
    layer = 4 * hidden * hidden + matrices * hidden * spec.intermediate + 2 * vectors * hidden
    layer += (3 * hidden if spec.qkv_bias else 0) + (hidden if spec.out_bias else 0)
    layer += ((matrices - 1) * spec.intermediate + hidden) if spec.mlp_bias else 0
    layer += (2 * hidden if spec.qk_norm else 0) + (2 * hidden if spec.layer_scale else 0)
    pixels = spec.channels * spec.temporal_patch * spec.patch_size**2
    patch = (pixels + (1 if spec.patch_bias else 0)) * hidden
    positions = (spec.tokens if spec.position_rows is None else spec.position_rows) * hidden
    extras = (1 if spec.class_token else 0) + 2 * (int(spec.pre_norm) + int(spec.post_norm))
    total = spec.stored_layers * layer + patch + positions + extras * hidden
    if spec.global_layers:
        # two gates a global layer; positions by aspect ratio of whole tiles, of their tokens, and
        # after the layers, with a gate each
        total += spec.global_layers * (layer + 2)
        total += spec.tile_embeddings * spec.tiles * (spec.tokens + 2) * hidden + 3
    return float(total)
