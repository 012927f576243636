"""Which tensors are alive together: the peak of activations, not the sum of all outputs.

A stage is a list of steps, each reading and writing named tensors. A tensor is alive from the step
that writes it to the last one that reads it, or for as long as a variable of the usual modules holds
it: a layer's caller holds its input, an MLP its normed input, eager attention returns its weights.
Sizes are bytes, numbers or arrays (one entry a layer). Library workspaces and allocator fragmentation
are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ops.cost import Array
from ..types import DecoderSpec, ResamplerSpec, VisionSpec

__all__ = ["Step", "decoder_layer", "head", "peak_live", "projector", "resampler", "tower_layer"]


_SOFTMAX_BYTES = 4.0


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: the tensors it reads, and the sizes of those it writes."""

    name: str
    reads: tuple[str, ...]
    writes: Mapping[str, Array]


def peak_live(inputs: Mapping[str, Array], steps: Sequence[Step], held: tuple[str, ...] = ()) -> Array:
    """The largest sum of tensors alive during one step; `held` live on to the end."""
    last = dict.fromkeys(inputs, -1)
    for index, step in enumerate(steps):
        for name in (*step.reads, *step.writes):
            last[name] = index
    last.update({name: len(steps) for name in held})
    alive: dict[str, Array] = dict(inputs)
    peak: Array = sum(inputs.values(), 0.0)
    for index, step in enumerate(steps):
        alive = {name: size for name, size in alive.items() if last[name] >= index}
        alive.update(step.writes)
        peak = np.maximum(peak, sum(alive.values(), 0.0))
    return peak


def decoder_layer(
    spec: DecoderSpec, *, rows: Array, scores: Array, score_matrix: Array, width: float
) -> tuple[dict[str, Array], list[Step]]:
    """A decoder layer on `rows` tokens; keys and values go to the cache, which is counted there.

    Parameters
    ----------
    scores
        Elements of the q x kv matrix over all heads where attention runs eager, zero where fused.
    score_matrix
        Bytes of the fp32 matrix that a scorer makes of it after the layer.
    width
        Bytes an element.
    """
    stream = rows * spec.hidden * width
    queries, keys = (rows * heads * spec.head_dim * width for heads in (spec.heads, spec.kv_heads))
    square = scores * width
    # eager products want as many keys and values as queries
    repeated: Any = queries * (np.asarray(scores) > 0) if spec.kv_heads < spec.heads else 0.0
    shown: Any = np.asarray(score_matrix) > 0  # logits that a scorer reads outlive the softmax
    steps = [
        Step("attn_norm", ("x",), {"normed": stream}),
        Step("q_proj", ("normed",), {"q": queries}),
        Step("k_proj", ("normed",), {"k": keys}),
        Step("v_proj", ("normed",), {}),
        Step("rope", ("q", "k"), {"rotated": queries}),
        Step("repeat_kv", (), {"keys": repeated, "values": repeated}),
        Step("qk_matmul", ("rotated", "keys"), {"logits": square * ~shown, "shown": square * shown}),
        *_softmax(("logits", "shown"), scores, width),
        Step("attention", ("rotated", "keys", "values", "weights"), {"mixed": queries}),
        Step("out_proj", ("mixed", "normed"), {"attended": stream}),
        Step("attn_add", ("x", "attended"), {"x1": stream}),
        *_mlp(rows * spec.intermediate * width, stream, gated=spec.gated_mlp),
        Step("score", ("shown", "x", "weights"), {"matrix": score_matrix}),
    ]
    return {"x": stream}, steps


def tower_layer(vision: VisionSpec, *, rows: Array, scores: Array, width: float) -> tuple[dict[str, Array], list[Step]]:
    """A tower layer on `rows` patches: queries, keys and values are all activations."""
    stream, inner = rows * vision.hidden * width, rows * vision.intermediate * width
    steps = [
        Step("attn_norm", ("x",), {"normed": stream}),
        *(Step(f"{name}_proj", ("normed",), {name: stream}) for name in "qkv"),
        Step("qk_matmul", ("q", "k"), {"logits": scores * width}),
        *_softmax(("logits",), scores, width),
        Step("attention", ("q", "k", "v", "weights"), {"mixed": stream}),
        Step("out_proj", ("mixed", "normed"), {"attended": stream}),
        Step("attn_add", ("x", "attended"), {"x1": stream}),
        *_mlp(inner, stream, gated=vision.gated_mlp),
        Step("return", ("x", "weights"), {}),
    ]
    return {"x": stream}, steps


def _softmax(reads: tuple[str, ...], scores: Array, width: float) -> Iterator[Step]:
    """In fp32 whatever the model's format: cast up, and back; the logits are held until then."""
    if width == _SOFTMAX_BYTES:
        yield Step("softmax", reads, {"weights": scores * width})
        return
    yield Step("cast_up", reads, {"wide": scores * _SOFTMAX_BYTES})
    yield Step("softmax", (*reads, "wide"), {"probabilities": scores * _SOFTMAX_BYTES})
    yield Step("cast_back", (*reads, "probabilities"), {"weights": scores * width})


def _mlp(inner: Array, stream: Array, *, gated: bool) -> Iterator[Step]:
    yield Step("mlp_norm", ("x1",), {"normed2": stream})
    if gated:
        yield Step("gate_proj", ("normed2",), {"gate": inner})
    yield Step("up_proj", ("normed2",), {"up": inner})
    yield Step("mlp_act", ("gate", "up") if gated else ("up",), {"product": inner})
    yield Step("down_proj", ("product", "normed2"), {"down": stream})
    yield Step("mlp_add", ("x1", "down"), {"x2": stream})


def projector(
    linears: Sequence[tuple[int, int]], *, rows: float, out: float, width: float
) -> tuple[dict[str, Array], list[Step]]:
    """Linear layers with an activation between, on `rows` patches; `out` elements are left."""
    steps, before = [], "x"
    for index, (_, features) in enumerate(linears):
        if index:
            steps.append(Step("proj_act", (before,), {f"act{index}": rows * linears[index][0] * width}))
            before = f"act{index}"
        steps.append(Step("proj", (before,), {f"y{index}": rows * features * width}))
        before = f"y{index}"
    steps.append(Step("pool", (before,), {"embeds": out * width}))
    return {"x": rows * (linears[0][0] if linears else 0.0) * width}, steps


def resampler(spec: ResamplerSpec, *, rows: float, out: float, width: float) -> tuple[dict[str, Array], list[Step]]:
    """Queries that attend to `rows` patches; `out` elements are left."""
    wide = rows * spec.width * width
    steps = [
        Step("kv_in", ("x",), {"kv": wide}),
        Step("kv_norm", ("kv",), {"normed": wide}),
        Step("k_proj", ("normed",), {"k": wide}),
        Step("v_proj", ("normed",), {"v": wide}),
        Step("attention", ("k", "v"), {"heads": out * width}),
        Step("o_proj", ("heads",), {"embeds": out * width}),
    ]
    return {"x": rows * spec.tower_width * width}, steps


def head(*, rows: float, hidden: float, vocab: float, width: float) -> tuple[dict[str, Array], list[Step]]:
    """Final norm and lm_head on the last token of each request."""
    steps = [
        Step("final_norm", ("x",), {"normed": rows * hidden * width}),
        Step("lm_head", ("normed",), {"logits": rows * vocab * width}),
    ]
    return {"x": rows * hidden * width}, steps
