"""Qwen-VL's resampler: learned queries attend once to an image's patches, whatever its size.

Source: ``visual.py`` of Qwen/Qwen-VL-Chat: patches are brought to the output width, normed, and become
keys and values of one multi-head attention; a norm and a square projection follow.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ops import Cost, attention, gemm, pointwise
from ..types import ResamplerSpec
from ..types.formats import Widths

__all__ = ["ops", "parameters"]


def ops(spec: ResamplerSpec, widths: Widths, *, inputs: float, patches: float) -> Iterator[tuple[str, Cost]]:
    """Operations on `inputs` images of `patches` patches each."""
    width, queries, keys = spec.width, inputs * spec.queries, inputs * patches
    yield "resampler_kv_in", gemm.linear(keys, spec.tower_width, width, widths)
    yield "resampler_kv_norm", pointwise.layer_norm(keys, width, widths)
    # queries and their norm are the same for every image
    yield "resampler_q_norm", pointwise.layer_norm(float(spec.queries), width, widths)
    yield "resampler_pos_add", pointwise.add((queries + keys) * width, widths)
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        yield f"resampler_{name}_proj", gemm.linear(rows, width, width, widths, bias=True)
    yield from (
        (f"resampler_{name}", cost)
        for name, cost in attention.core(
            "flash",
            batch=inputs,
            heads=float(spec.heads),
            kv_heads=float(spec.heads),
            head_dim=float(width // spec.heads),
            q_len=float(spec.queries),
            kv_len=patches,
            causal=False,
            widths=widths,
            onchip_bytes=0.0,
            kv_cached=False,
        )
    )
    yield "resampler_o_proj", gemm.linear(queries, width, width, widths, bias=True)
    yield "resampler_post_norm", pointwise.layer_norm(queries, width, widths)
    yield "resampler_proj", gemm.linear(queries, width, width, widths)


def parameters(spec: ResamplerSpec) -> float:
    """Stored parameters: four square projections with biases, one without, three norms, the queries."""
    width = spec.width
    squares = 5 * width * width + 4 * width
    return float(spec.tower_width * width + squares + 6 * width + spec.queries * width)
