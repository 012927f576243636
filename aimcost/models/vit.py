"""A ViT tower (CLIP, SigLIP) as operations."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops import Cost, Widths, attention, gemm, pointwise
from ..ops.cost import Array
from ..types import VisionSpec

__all__ = ["layer_ops", "parameters", "patch_ops", "post_ops"]


def patch_ops(vision: VisionSpec, widths: Widths, *, images: float) -> Iterator[tuple[str, Cost]]:
    """Patch embedding (a convolution whose stride is its kernel: one product) and positions."""
    rows = images * vision.patches
    pixels = vision.channels * vision.patch_size**2
    yield "patch_embed", gemm.linear(rows, pixels, vision.hidden, widths, bias=not vision.class_token)
    yield "pos_add", pointwise.add(images * vision.tokens * vision.hidden, widths)
    if vision.class_token:
        # CLIP normalises before its first layer
        yield "pre_norm", pointwise.layer_norm(images * vision.tokens, vision.hidden, widths)


def layer_ops(
    vision: VisionSpec,
    widths: Widths,
    *,
    images: float,
    kernel: str,
    onchip_bytes: float,
    tokens: Array | None = None,
    mlp_tokens: Array | None = None,
) -> Iterator[tuple[str, Cost]]:
    """Operations of one tower layer: full attention inside each image, plain MLP, biases.

    Parameters
    ----------
    tokens, mlp_tokens
        Tokens of an image that attention and the MLP compute on, where a method merges inside the
        tower (arrays: one entry a layer); all of the image's by default.
    """
    n, width = float(vision.tokens) if tokens is None else tokens, vision.hidden
    rows = images * n
    mlp_rows = rows if mlp_tokens is None else images * mlp_tokens
    yield "attn_norm", pointwise.layer_norm(rows, width, widths)
    for name in ("q_proj", "k_proj", "v_proj"):
        yield name, gemm.linear(rows, width, width, widths, bias=True)
    shape = {
        "batch": images,
        "heads": float(vision.heads),
        "q_len": n,
        "kv_len": n,
        "causal": False,
        "widths": widths,
    }
    grouped = {**shape, "kv_heads": float(vision.heads), "head_dim": width / vision.heads}
    if kernel == "flash":
        yield (
            "fused_attention",
            attention.fused(**grouped, onchip_bytes=onchip_bytes, kv_cached=False),  # type: ignore[arg-type]
        )
    else:
        qk, sv = attention.eager_products(**grouped)  # type: ignore[arg-type]
        yield "qk_matmul", qk
        yield "softmax", attention.eager_softmax(**shape)  # type: ignore[arg-type]
        yield "sv_matmul", sv
    yield "out_proj", gemm.linear(rows, width, width, widths, bias=True)
    yield "attn_add", pointwise.add(rows * width, widths)
    yield "mlp_norm", pointwise.layer_norm(mlp_rows, width, widths)
    yield "up_proj", gemm.linear(mlp_rows, width, vision.intermediate, widths, bias=True)
    yield "mlp_act", pointwise.gelu(mlp_rows * vision.intermediate, widths)
    yield "down_proj", gemm.linear(mlp_rows, vision.intermediate, width, widths, bias=True)
    yield "mlp_add", pointwise.add(mlp_rows * width, widths)


def post_ops(
    vision: VisionSpec, widths: Widths, *, images: float, tokens: float | None = None
) -> Iterator[tuple[str, Cost]]:
    """The norm after the last layer, where the features are taken there (SigLIP)."""
    if vision.layers == vision.stored_layers:
        yield (
            "post_norm",
            pointwise.layer_norm(images * (vision.tokens if tokens is None else tokens), vision.hidden, widths),
        )


def parameters(vision: VisionSpec) -> float:
    """Stored parameters, those of layers that never run included."""
    spec = vision
    layer = (
        4 * (spec.hidden * spec.hidden + spec.hidden)
        + 2 * spec.hidden * spec.intermediate
        + spec.intermediate
        + spec.hidden
        + 4 * spec.hidden
    )
    patch = spec.channels * spec.patch_size**2 * spec.hidden + (0 if spec.class_token else spec.hidden)
    positions = spec.tokens * spec.hidden
    # a class token comes with its embedding and a norm before the first layer
    extras = (spec.hidden + 2 * spec.hidden) if spec.class_token else 0
    return float(spec.stored_layers * layer + patch + positions + extras + 2 * spec.hidden)
