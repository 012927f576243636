"""Qwen-VL's resampler: learned queries attend once to an image's patches, whatever its size.

Source: ``visual.py`` of Qwen/Qwen-VL-Chat: patches are brought to the output width, normed, and become
keys and values of one multi-head attention; a norm and a square projection follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..ops import attention, gemm, pointwise
from ..ops.attention import AttentionShape
from ..ops.op import Op, OpCost
from ..types import ResamplerSpec
from ..types.formats import Widths

__all__ = ["ops"]


def ops(spec: ResamplerSpec, widths: Widths, *, inputs: float, patches: float) -> Iterator[OpCost]:
    """Ops on `inputs` images of `patches` patches each."""
    width, queries, keys = spec.width, inputs * spec.queries, inputs * patches
    yield _op("kv_in", "x"), gemm.linear(keys, spec.tower_width, width, widths)
    yield _op("kv_norm", "kv_in"), pointwise.layer_norm(keys, width, widths)
    # queries and their norm are the same for every image
    norm = replace(_op("q_norm"), weight=float(spec.queries * width))
    yield norm, pointwise.layer_norm(float(spec.queries), width, widths)
    yield _op("pos_add", "kv_norm", "q_norm"), pointwise.add((queries + keys) * width, widths)
    for name, source, rows in (("q", "pos_add", queries), ("k", "pos_add", keys), ("v", "kv_norm", keys)):
        yield _op(f"{name}_proj", source), gemm.linear(rows, width, width, widths, bias=True)
    shape = AttentionShape(
        batch=inputs,
        heads=float(spec.heads),
        kv_heads=float(spec.heads),
        head_dim=float(width // spec.heads),
        q_len=float(spec.queries),
        kv_len=patches,
        causal=False,
    )
    made = tuple(f"{_PREFIX}{name}_proj" for name in "qkv")
    for op, cost in attention.core("flash", shape, widths=widths, onchip_bytes=0.0, reads=made, kv_cached=False):
        attended = replace(op, name=_PREFIX + op.name, group="projector", split="replicated")
        yield attended, cost
    yield _op("o_proj", "fused_attention"), gemm.linear(queries, width, width, widths, bias=True)
    yield _op("post_norm", "o_proj"), pointwise.layer_norm(queries, width, widths)
    yield _op("proj", "post_norm"), gemm.linear(queries, width, width, widths)


_PREFIX = "resampler_"


def _op(name: str, *reads: str) -> Op:
    """Every rank runs the whole resampler, or its share of the images."""
    sources = tuple(source if source == "x" else _PREFIX + source for source in reads)
    return Op(_PREFIX + name, "projector", "replicated", reads=sources)
