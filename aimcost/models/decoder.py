"""The language model as ops: embedding, decoder layers, cross-attention layers, head.

The ops functions yield (Op, Cost) of one rank, in execution order. Prefill and decode call the same ones with other
numbers, such as `q_len` new tokens and the `kv_len` that they attend to; `cross_kv_ops` is the prefill's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..ops import attention, gemm, pointwise
from ..ops.attention import ALL_KEYS, AttentionShape
from ..ops.cost import Array
from ..ops.op import ONE, Fusion, Op, OpCost, Ranks, Split, packed_parameters, stored_parameters
from ..ops.reduction import INDEX_BYTES, gather, select
from ..types import DecoderSpec, MoeSpec
from ..types.formats import Part, Widths
from . import traced

__all__ = [
    "before_ops",
    "cross_kv_ops",
    "cross_layer_ops",
    "embed_op",
    "head_ops",
    "layer_kinds",
    "layer_ops",
    "layer_parameters",
    "layer_weights",
    "packed",
    "packed_experts",
    "parameters",
    "windows",
]

_INPUT = ("x",)


def windows(decoder: DecoderSpec) -> Array:
    """Keys that a query of each layer sees at the most: one for all layers, or an array."""
    if not decoder.window:
        return ALL_KEYS
    if decoder.window_layers is None:
        return float(decoder.window)
    every = np.full(decoder.layers, ALL_KEYS)
    every[list(decoder.window_layers)] = decoder.window
    return every


def layer_kinds(decoder: DecoderSpec) -> tuple[NDArray[np.int64], ...]:
    """Indices of the layers that attend to the sequence, an array for each kind: layers of one kind run the same ops.

    A position in the tuple is the `kind` of `layer_ops`. Only a traced decoder has more than one; cross-attention
    layers (`cross_layer_ops`) are in none.
    """
    index = np.arange(decoder.layers)
    if decoder.traced is not None:
        kinds = np.array([decoder.traced.kind_of(layer) for layer in range(decoder.layers)])
        return tuple(index[kinds == kind] for kind in range(len(decoder.traced.kinds)))
    return (index[~np.isin(index, decoder.cross_layers)],) if decoder.cross_layers else (index,)


def layer_ops(
    decoder: DecoderSpec,
    widths: Widths,
    *,
    batch: float,
    q_len: Array,
    kv_len: Array,
    kernel: str,
    onchip_bytes: float,
    window: Array = ALL_KEYS,
    ranks: Ranks = ONE,
    kind: int = 0,
) -> Iterator[OpCost]:
    """Ops of one decoder layer in execution order, those of one rank.

    Parameters
    ----------
    widths
        Bytes an element of weights, activations and KV cache.
    batch
        Requests at once; token counts are those of one.
    q_len, kv_len
        New tokens, and all tokens they attend to, themselves included. Arrays give many layers
        or decode steps at once.
    kernel
        Of attention: ``flash`` or ``eager``.
    onchip_bytes
        The machine's on-chip size, which the traffic of fused attention depends on.
    window
        Keys that a query of the layer sees at the most; of the cache, no more are read.
    kind
        Which of `layer_kinds`.
    """
    if decoder.traced is not None:
        yield from traced.layer_ops(
            traced.one_rank(decoder.traced, decoder.vocab, ranks).kinds[kind],
            widths,
            batch=batch,
            q_len=q_len,
            kv_len=kv_len,
            kernel=kernel,
            onchip_bytes=onchip_bytes,
            ranks=ranks,
        )
        return
    spec, cost = decoder, ranks.one_rank
    rows = batch * q_len
    q_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    bias = spec.qkv_bias
    yield cost(Op("attn_norm", "norms", "replicated", reads=_INPUT), pointwise.rms_norm, rows, spec.hidden, widths)
    yield cost(_projection("q_proj", "column"), gemm.linear, rows, spec.hidden, q_width, widths, bias=bias)
    yield cost(_projection("k_proj", "kv_column"), gemm.linear, rows, spec.hidden, kv_width, widths, bias=bias)
    yield cost(
        _projection("v_proj", "kv_column"), gemm.linear, rows, spec.hidden, kv_width, widths, bias=bias, to_kv=True
    )
    rotated = ("q_proj", "k_proj")
    if spec.qk_norm:
        yield _head_norm(spec, widths, rows, "q_norm", ranks)
        yield _head_norm(spec, widths, rows, "k_norm", ranks)
        rotated = ("q_norm", "k_norm")
    yield cost(
        Op("rope", "attention", "heads", reads=rotated),
        pointwise.rope,
        batch=batch,
        q_len=q_len,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        widths=widths,
    )
    shape = AttentionShape(
        batch=batch,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        q_len=q_len,
        # the first of the queries sees window − 1 keys before itself
        kv_len=kv_len if window is ALL_KEYS else np.minimum(kv_len, window - 1.0 + q_len),
        causal=True,
        window=window,
    )
    yield from attention.core(kernel, shape, widths=widths, onchip_bytes=onchip_bytes, reads=("rope",), ranks=ranks)
    yield _out_proj(spec, widths, rows, kernel, ranks)
    yield cost(_residual("attn_add", "x", "out_proj"), pointwise.add, rows * spec.hidden, widths)
    yield from _mlp_block(spec, widths, rows, ranks)


def cross_kv_ops(
    decoder: DecoderSpec, widths: Widths, *, batch: float, kv_len: float, ranks: Ranks = ONE
) -> Iterator[OpCost]:
    """Keys and values of a cross-attention layer: the tower's tokens, projected once a request."""
    rows, kv_width, cost = batch * kv_len, decoder.kv_heads * decoder.head_dim, ranks.one_rank
    k_proj, v_proj = _projection("k_proj", "kv_column", "tower"), _projection("v_proj", "kv_column", "tower")
    yield cost(k_proj, gemm.linear, rows, decoder.hidden, kv_width, widths, bias=decoder.qkv_bias)
    yield cost(v_proj, gemm.linear, rows, decoder.hidden, kv_width, widths, bias=decoder.qkv_bias, to_kv=True)
    yield _head_norm(decoder, widths, rows, "k_norm", ranks)


def cross_layer_ops(
    decoder: DecoderSpec,
    widths: Widths,
    *,
    batch: float,
    q_len: Array,
    kv_len: float,
    kernel: str,
    onchip_bytes: float,
    ranks: Ranks = ONE,
) -> Iterator[OpCost]:
    """A gated cross-attention layer on `q_len` text tokens a request (Llama-3.2-Vision)."""
    spec, rows, cost = decoder, batch * q_len, ranks.one_rank
    yield cost(Op("attn_norm", "norms", "replicated", reads=_INPUT), pointwise.rms_norm, rows, spec.hidden, widths)
    # q reads the text, keys and values the tower's tokens: no one product
    yield cost(
        replace(_projection("q_proj", "column"), fusion=""),
        gemm.linear,
        rows,
        spec.hidden,
        spec.heads * spec.head_dim,
        widths,
        bias=spec.qkv_bias,
    )
    yield _head_norm(spec, widths, rows, "q_norm", ranks)
    shape = AttentionShape(
        batch=batch,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        q_len=q_len,
        kv_len=kv_len,
        causal=False,
    )
    yield from attention.core(kernel, shape, widths=widths, onchip_bytes=onchip_bytes, reads=("q_norm",), ranks=ranks)
    yield _out_proj(spec, widths, rows, kernel, ranks)
    yield cost(_gate("attn_gate", "out_proj"), pointwise.scale, rows * spec.hidden, widths)
    yield cost(_residual("attn_add", "x", "attn_gate"), pointwise.add, rows * spec.hidden, widths)
    yield from _mlp_block(spec, widths, rows, ranks, gated=True)


def _projection(name: str, split: Split, source: str = "attn_norm") -> Op:
    return Op(name, "projections", split, reads=(source,), fusion="qkv")


def _head_norm(spec: DecoderSpec, widths: Widths, rows: Array, name: str, ranks: Ranks) -> OpCost:
    """RMSNorm of each head of q or k."""
    if name == "q_norm":
        op = Op(name, "attention", "heads", reads=("q_proj",))
        return ranks.one_rank(op, pointwise.rms_norm, rows * spec.heads, spec.head_dim, widths)
    op = Op(name, "attention", "kv_heads", reads=("k_proj",))
    return ranks.one_rank(op, pointwise.rms_norm, rows * spec.kv_heads, spec.head_dim, widths)


def _out_proj(spec: DecoderSpec, widths: Widths, rows: Array, kernel: str, ranks: Ranks) -> OpCost:
    op = Op(
        "out_proj",
        "projections",
        "row",
        exchange="attn",
        # the modules hold the normed input until their last product
        reads=(attention.output_of(kernel), "attn_norm"),
    )
    return ranks.one_rank(op, gemm.linear, rows, spec.heads * spec.head_dim, spec.hidden, widths, bias=spec.out_bias)


def _residual(name: str, stream: str, branch: str) -> Op:
    return Op(name, "rest", "replicated", reads=(stream, branch), fusion="add_norm")


def _gate(name: str, branch: str) -> Op:
    """A learned scalar on a branch, which is linear: partial sums may be scaled."""
    return Op(name, "rest", "linear", reads=(branch,), weight=1.0)


def _mlp_block(
    spec: DecoderSpec, widths: Widths, rows: Array, ranks: Ranks, *, gated: bool = False
) -> Iterator[OpCost]:
    """The second half of a layer: norm, MLP or experts, the gate of a cross-attention layer, residual."""
    cost = ranks.one_rank
    norm = Op("mlp_norm", "norms", "replicated", reads=("attn_add",))
    yield cost(norm, pointwise.rms_norm, rows, spec.hidden, widths)
    if spec.moe is None:
        branch = "down_proj"
        yield from _mlp_ops(spec, widths, rows, ranks)
    else:
        branch = "shared_add" if spec.moe.shared_intermediate else "combine"
        yield from _moe_ops(spec, spec.moe, widths, rows, ranks)
    if gated:
        yield cost(_gate("mlp_gate", branch), pointwise.scale, rows * spec.hidden, widths)
        branch = "mlp_gate"
    yield cost(_residual("mlp_add", "attn_add", branch), pointwise.add, rows * spec.hidden, widths)


def _mlp_ops(spec: DecoderSpec, widths: Widths, rows: Array, ranks: Ranks) -> Iterator[OpCost]:
    cost, hidden, inner, bias = ranks.one_rank, spec.hidden, spec.intermediate, spec.mlp_bias
    products = ("gate_proj", "up_proj") if spec.gated_mlp else ("up_proj",)
    for name in products:
        product = _mlp(name, "mlp_norm", fusion="gate_up")
        yield cost(product, gemm.linear, rows, hidden, inner, widths, bias=bias)
    activation = pointwise.gated_silu if spec.gated_mlp else pointwise.gelu
    yield cost(_mlp("mlp_act", *products), activation, rows * inner, widths)
    yield cost(_down("down_proj", "mlp_act", "mlp_norm"), gemm.linear, rows, inner, hidden, widths, bias=bias)


def _mlp(name: str, *reads: str, fusion: Fusion = "") -> Op:
    """A product split by column, or what runs on its columns."""
    return Op(name, "mlp", "column", reads=reads, fusion=fusion)


def _down(name: str, *reads: str) -> Op:
    """The last product of a branch."""
    return Op(name, "mlp", "row", exchange="mlp", reads=reads)


def _moe_ops(spec: DecoderSpec, moe: MoeSpec, widths: Widths, rows: Array, ranks: Ranks) -> Iterator[OpCost]:
    """Router, dispatch to experts, their gated MLPs as grouped products, weighted sum.

    Live tensors are those of transformers' ``grouped_mm_experts_forward`` (5.24): a copy of every token for each of its
    experts goes in and is held to the end, and what comes out is held while it is weighted, and that while it is put
    back in order: four such copies at once. vLLM's fused kernel makes the last two only.
    """
    cost, hidden, inner = ranks.one_rank, spec.hidden, moe.intermediate
    experts, active = float(moe.experts), float(moe.active)
    pairs, width = rows * active, widths.activations
    # experts in order and the permutation (int64), the histogram's input and its bins (int32), weights in both orders
    order = pairs * (2.0 * INDEX_BYTES + 4.0 + 2.0 * width) + 2.0 * 4.0 * experts
    router, route = (
        Op(name, "mlp", "replicated", reads=reads)
        for name, reads in (("router", ("mlp_norm",)), ("route", ("router",)))
    )
    dispatch = Op("dispatch", "mlp", "replicated", reads=("mlp_norm", "route"), extra={"expert_order": order})
    if moe.shared_intermediate:
        # Qwen2-MoE runs it first, and holds its output
        shared = moe.shared_intermediate
        yield cost(_mlp("shared_gate_proj", "mlp_norm"), gemm.linear, rows, hidden, shared, widths)
        yield cost(_mlp("shared_up_proj", "mlp_norm"), gemm.linear, rows, hidden, shared, widths)
        act = _mlp("shared_act", "shared_gate_proj", "shared_up_proj")
        yield cost(act, pointwise.gated_silu, rows * shared, widths)
        yield cost(_down("shared_down_proj", "shared_act"), gemm.linear, rows, shared, hidden, widths)
    yield cost(router, gemm.linear, rows, hidden, moe.experts, widths, packed=False)
    yield cost(route, select, rows, moe.experts, moe.active)
    yield cost(dispatch, gather, rows * moe.active, hidden, widths)
    for op in (_mlp(name, "dispatch", fusion="gate_up") for name in ("gate_proj", "up_proj")):
        yield cost(op, gemm.grouped_linear, rows, hidden, inner, widths, experts=experts, active=active)
    # the gate's activation is a tensor of its own beside gate and up, which are one
    activation = replace(
        _mlp("mlp_act", "gate_proj", "up_proj"), extra={"gate_act": ranks.share(pairs * inner * width)}
    )
    yield cost(activation, pointwise.gated_silu, rows * moe.active * inner, widths)
    yield cost(
        _down("down_proj", "mlp_act"), gemm.grouped_linear, rows, inner, hidden, widths, experts=experts, active=active
    )
    # the two copies of what comes out are there before the sum, which takes the place of one
    copies = pairs * INDEX_BYTES + (2.0 * pairs - rows) * hidden * width
    combine = Op(
        "combine",
        "mlp",
        "linear",
        reads=("down_proj", "route", "router", "mlp_norm", "dispatch", "expert_order"),
        extra={"reordered": copies},
    )
    yield cost(combine, pointwise.weighted_sum, rows, moe.active, hidden, widths)
    if moe.shared_intermediate:
        gate = Op("shared_gate", "mlp", "replicated", reads=("mlp_norm",))
        yield cost(gate, gemm.linear, rows, hidden, 1, widths, packed=False)
        add = Op("shared_add", "mlp", "linear", reads=("combine", "shared_down_proj", "shared_gate"))
        yield cost(add, pointwise.add, rows * hidden, widths)


def embed_op(decoder: DecoderSpec, widths: Widths, rows: float, ranks: Ranks = ONE) -> OpCost:
    """Look-up of `rows` token embeddings."""
    op = Op("embed", "embedding", "row", place="before", exchange="embed")
    vocab = decoder.vocab + decoder.extra_embeddings
    return ranks.one_rank(op, pointwise.embed, rows, decoder.hidden, widths, vocab=vocab)


def before_ops(
    decoder: DecoderSpec, widths: Widths, *, batch: float, tokens: float, text: float, ranks: Ranks = ONE
) -> Iterator[OpCost]:
    """What precedes the first layer: `text` of the `tokens` tokens of a request are looked up."""
    if decoder.traced is not None:
        before = traced.one_rank(decoder.traced, decoder.vocab, ranks).before
        yield from traced.outer_ops(
            before, widths, batch=batch, tokens=tokens, looked_up=text, place="before", ranks=ranks
        )
    elif text:
        yield embed_op(decoder, widths, batch * text, ranks)


def head_ops(
    decoder: DecoderSpec, widths: Widths, *, batch: float, tokens: float = 1.0, ranks: Ranks = ONE
) -> Iterator[OpCost]:
    """Final norm and lm_head, on the last token of each request only.

    A traced decoder may normalise all of the `tokens` tokens that leave its last layer.
    """
    if decoder.traced is not None:
        after = traced.one_rank(decoder.traced, decoder.vocab, ranks).after
        yield from traced.outer_ops(
            after, widths, batch=batch, tokens=tokens, looked_up=tokens, place="after", ranks=ranks
        )
        return
    norm = Op("final_norm", "norms", "replicated", place="after", reads=_INPUT)
    yield ranks.one_rank(norm, pointwise.rms_norm, batch, decoder.hidden, widths)
    head = Op("lm_head", "head", "vocabulary", place="after", exchange="logits", reads=("final_norm",))
    yield ranks.one_rank(head, gemm.linear, batch, decoder.hidden, decoder.vocab, widths)


_ANY = Widths(weights=1.0, activations=1.0, kv=1.0, experts_format="experts")  # parameters are counted in elements


@lru_cache(maxsize=256)
def layer_parameters(
    decoder: DecoderSpec,
    *,
    cross: bool = False,
    ranks: Ranks = ONE,
    count: Callable[[Iterable[OpCost]], float] = stored_parameters,
) -> float:
    """Stored parameters of one layer, of a cross-attention one where asked; or what `count` counts of them."""
    if not cross:
        ops = layer_ops(decoder, _ANY, batch=1.0, q_len=1.0, kv_len=1.0, kernel="flash", onchip_bytes=0.0, ranks=ranks)
        return count(ops)
    crossed = cross_layer_ops(
        decoder, _ANY, batch=1.0, q_len=1.0, kv_len=1.0, kernel="flash", onchip_bytes=0.0, ranks=ranks
    )
    keys = cross_kv_ops(decoder, _ANY, batch=1.0, kv_len=1.0, ranks=ranks)
    return count(keys) + count(crossed)


# Modules of a layer's linear layers by op, as transformers names them; of experts, the first.
_MODULES: Mapping[str, tuple[str, ...]] = {
    "q_proj": ("self_attn.q_proj",),
    "k_proj": ("self_attn.k_proj",),
    "v_proj": ("self_attn.v_proj",),
    "out_proj": ("self_attn.o_proj",),
    "gate_proj": ("mlp.gate_proj", "mlp.experts.0.gate_proj", "block_sparse_moe.experts.0.w1"),
    "up_proj": ("mlp.up_proj", "mlp.experts.0.up_proj", "block_sparse_moe.experts.0.w3"),
    "down_proj": ("mlp.down_proj", "mlp.experts.0.down_proj", "block_sparse_moe.experts.0.w2"),
    "shared_gate_proj": ("mlp.shared_expert.gate_proj",),
    "shared_up_proj": ("mlp.shared_expert.up_proj",),
    "shared_down_proj": ("mlp.shared_expert.down_proj",),
}


def layer_weights(decoder: DecoderSpec) -> Mapping[str, tuple[tuple[str, ...], float]]:
    """By op of a layer of the first kind: the names that its module may have, and the parameters that quantisation
    packs."""
    ops = layer_ops(decoder, _ANY, batch=1.0, q_len=1.0, kv_len=1.0, kernel="flash", onchip_bytes=0.0)
    return {op.name: (_MODULES[op.name], float(cost.packed)) for op, cost in ops if cost.packed}


def parameters(decoder: DecoderSpec, layers: range | None = None, *, ranks: Ranks = ONE) -> float:
    """Stored parameters of all layers, the embedding and the head; a tied table counts once.

    Parameters
    ----------
    layers
        Of these layers alone, those of one pipeline stage: the embedding lies with the first layer,
        norm and head with the last.
    """
    here = range(decoder.layers) if layers is None else layers
    first, last = here.start == 0, here.stop == decoder.layers
    if decoder.traced is not None:
        return traced.parameters(traced.one_rank(decoder.traced, decoder.vocab, ranks), here, first=first, last=last)
    crossing = sum(layer in here for layer in decoder.cross_layers)
    total = (len(here) - crossing) * layer_parameters(decoder, ranks=ranks)
    if crossing:
        total += crossing * layer_parameters(decoder, cross=True, ranks=ranks)
    if first:
        total += stored_parameters([embed_op(decoder, _ANY, 1.0, ranks)])
    if last:
        norm, head = head_ops(decoder, _ANY, batch=1.0, ranks=ranks)
        total += stored_parameters([norm] if first and decoder.tied_embeddings else [norm, head])
    return total


def packed(decoder: DecoderSpec, layers: range, *, ranks: Ranks = ONE) -> Mapping[Part, float]:
    """Those of `parameters` that quantisation packs, by part. A tied table is the embedding's; its lm_head is zero
    where both lie together."""
    first, last = layers.start == 0, layers.stop == decoder.layers
    if decoder.traced is not None:
        inside, outside = traced.packed(traced.one_rank(decoder.traced, decoder.vocab, ranks), layers)
    else:
        crossing = sum(layer in layers for layer in decoder.cross_layers)
        inside = (len(layers) - crossing) * layer_parameters(decoder, ranks=ranks, count=packed_parameters)
        if crossing:
            inside += crossing * layer_parameters(decoder, cross=True, ranks=ranks, count=packed_parameters)
        head = packed_parameters(head_ops(decoder, _ANY, batch=1.0, ranks=ranks))
        tied = first and decoder.tied_embeddings
        outside = (packed_parameters([embed_op(decoder, _ANY, 1.0, ranks)]), 0.0 if tied else head)
    table, head = outside
    return {"decoder": inside, "embedding": table if first else 0.0, "lm_head": head if last else 0.0}


def packed_experts(decoder: DecoderSpec, layers: range, *, ranks: Ranks = ONE) -> float:
    """Those of `packed` that are experts'."""
    if decoder.traced is not None:
        return traced.packed_experts(traced.one_rank(decoder.traced, decoder.vocab, ranks), layers)

    def count(ops: Iterable[OpCost]) -> float:
        return packed_parameters(each for each in ops if each[1].weights_format == _ANY.experts_format)

    return len(layers) * layer_parameters(decoder, ranks=ranks, count=count)
