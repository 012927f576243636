"""A decoder layer as operations. Prefill and decode are one function: a stage is numbers."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops import Cost, attention, gemm, pointwise
from ..ops.cost import Array
from ..ops.reduction import gather, select
from ..types import DecoderSpec, MoeSpec
from ..types.formats import Widths

__all__ = ["cross_kv_ops", "cross_layer_ops", "embed_op", "head_ops", "layer_ops", "parameters"]


def layer_ops(
    decoder: DecoderSpec,
    widths: Widths,
    *,
    batch: float,
    q_len: Array,
    kv_len: Array,
    kernel: str,
    onchip_bytes: float,
) -> Iterator[tuple[str, Cost]]:
    """Operations of one decoder layer in execution order.

    Parameters
    ----------
    q_len, kv_len
        New tokens, and all tokens they attend to, themselves included. Arrays give many layers
        or decode steps at once.
    kernel
        ``flash`` or ``eager``.
    """
    spec = decoder
    rows = batch * q_len
    q_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    yield "attn_norm", pointwise.rms_norm(rows, spec.hidden, widths)
    yield "q_proj", gemm.linear(rows, spec.hidden, q_width, widths, bias=spec.qkv_bias)
    yield "k_proj", gemm.linear(rows, spec.hidden, kv_width, widths, bias=spec.qkv_bias)
    yield "v_proj", gemm.linear(rows, spec.hidden, kv_width, widths, bias=spec.qkv_bias, to_kv=True)
    if spec.qk_norm:
        yield "q_norm", pointwise.rms_norm(rows * spec.heads, spec.head_dim, widths)
        yield "k_norm", pointwise.rms_norm(rows * spec.kv_heads, spec.head_dim, widths)
    heads = {"heads": spec.heads, "kv_heads": spec.kv_heads, "head_dim": spec.head_dim}
    yield "rope", pointwise.rope(batch=batch, q_len=q_len, widths=widths, **heads)
    yield from attention.core(
        kernel,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        batch=batch,
        q_len=q_len,
        kv_len=kv_len,
        causal=True,
        widths=widths,
        onchip_bytes=onchip_bytes,
    )
    yield "out_proj", gemm.linear(rows, q_width, spec.hidden, widths, bias=spec.out_bias)
    yield "attn_add", pointwise.add(rows * spec.hidden, widths)
    yield "mlp_norm", pointwise.rms_norm(rows, spec.hidden, widths)
    yield from _mlp_ops(spec, widths, rows)
    yield "mlp_add", pointwise.add(rows * spec.hidden, widths)


def cross_kv_ops(decoder: DecoderSpec, widths: Widths, *, batch: float, kv_len: float) -> Iterator[tuple[str, Cost]]:
    """Keys and values of a cross-attention layer: the tower's tokens, projected once a request."""
    rows, kv_width = batch * kv_len, decoder.kv_heads * decoder.head_dim
    yield "k_proj", gemm.linear(rows, decoder.hidden, kv_width, widths, bias=decoder.qkv_bias)
    yield "v_proj", gemm.linear(rows, decoder.hidden, kv_width, widths, bias=decoder.qkv_bias, to_kv=True)
    yield "k_norm", pointwise.rms_norm(rows * decoder.kv_heads, decoder.head_dim, widths)


def cross_layer_ops(
    decoder: DecoderSpec,
    widths: Widths,
    *,
    batch: float,
    q_len: Array,
    kv_len: float,
    kernel: str,
    onchip_bytes: float,
) -> Iterator[tuple[str, Cost]]:
    """A gated cross-attention layer on `q_len` text tokens a request (Llama-3.2-Vision)."""
    spec, rows = decoder, batch * q_len
    q_width = spec.heads * spec.head_dim
    yield "attn_norm", pointwise.rms_norm(rows, spec.hidden, widths)
    yield "q_proj", gemm.linear(rows, spec.hidden, q_width, widths, bias=spec.qkv_bias)
    yield "q_norm", pointwise.rms_norm(rows * spec.heads, spec.head_dim, widths)
    yield from attention.core(
        kernel,
        batch=batch,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        q_len=q_len,
        kv_len=kv_len,
        causal=False,
        widths=widths,
        onchip_bytes=onchip_bytes,
    )
    yield "out_proj", gemm.linear(rows, q_width, spec.hidden, widths, bias=spec.out_bias)
    yield "attn_gate", pointwise.scale(rows * spec.hidden, widths)
    yield "attn_add", pointwise.add(rows * spec.hidden, widths)
    yield "mlp_norm", pointwise.rms_norm(rows, spec.hidden, widths)
    yield from _mlp_ops(spec, widths, rows)
    yield "mlp_gate", pointwise.scale(rows * spec.hidden, widths)
    yield "mlp_add", pointwise.add(rows * spec.hidden, widths)


def _moe_ops(spec: DecoderSpec, moe: MoeSpec, widths: Widths, rows: Array) -> Iterator[tuple[str, Cost]]:
    """Router, dispatch to experts, their gated MLPs as grouped products, weighted sum."""
    experts = {"experts": float(moe.experts), "active": float(moe.active)}
    yield "router", gemm.linear(rows, spec.hidden, moe.experts, widths)
    yield "route", select(rows, moe.experts, moe.active)
    yield "dispatch", gather(rows * moe.active, spec.hidden, widths)
    yield "gate_proj", gemm.grouped_linear(rows, spec.hidden, moe.intermediate, widths, **experts)
    yield "up_proj", gemm.grouped_linear(rows, spec.hidden, moe.intermediate, widths, **experts)
    yield "mlp_act", pointwise.gated_silu(rows * moe.active * moe.intermediate, widths)
    yield "down_proj", gemm.grouped_linear(rows, moe.intermediate, spec.hidden, widths, **experts)
    yield "combine", pointwise.weighted_sum(rows, moe.active, spec.hidden, widths)
    if moe.shared_intermediate:
        shared = moe.shared_intermediate
        yield "shared_gate_proj", gemm.linear(rows, spec.hidden, shared, widths)
        yield "shared_up_proj", gemm.linear(rows, spec.hidden, shared, widths)
        yield "shared_act", pointwise.gated_silu(rows * shared, widths)
        yield "shared_down_proj", gemm.linear(rows, shared, spec.hidden, widths)
        yield "shared_gate", gemm.linear(rows, spec.hidden, 1, widths)
        yield "shared_add", pointwise.add(rows * spec.hidden, widths)


def _mlp_ops(spec: DecoderSpec, widths: Widths, rows: Array) -> Iterator[tuple[str, Cost]]:
    if spec.moe is not None:
        yield from _moe_ops(spec, spec.moe, widths, rows)
        return
    if spec.gated_mlp:
        yield "gate_proj", gemm.linear(rows, spec.hidden, spec.intermediate, widths, bias=spec.mlp_bias)
    yield "up_proj", gemm.linear(rows, spec.hidden, spec.intermediate, widths, bias=spec.mlp_bias)
    activation = pointwise.gated_silu if spec.gated_mlp else pointwise.gelu
    yield "mlp_act", activation(rows * spec.intermediate, widths)
    yield "down_proj", gemm.linear(rows, spec.intermediate, spec.hidden, widths, bias=spec.mlp_bias)


def embed_op(decoder: DecoderSpec, widths: Widths, rows: float) -> tuple[str, Cost]:
    """Look-up of `rows` token embeddings."""
    return "embed", pointwise.embed(rows, decoder.hidden, widths)


def head_ops(decoder: DecoderSpec, widths: Widths, *, batch: float) -> Iterator[tuple[str, Cost]]:
    """Final norm and lm_head, on the last token of each request only."""
    yield "final_norm", pointwise.rms_norm(batch, decoder.hidden, widths)
    yield "lm_head", gemm.linear(batch, decoder.hidden, decoder.vocab, widths)


def parameters(decoder: DecoderSpec) -> float:
    """Stored parameters, tied embeddings once."""
    spec = decoder
    q_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    attention_weights = spec.hidden * (q_width + 2 * kv_width) + q_width * spec.hidden
    mlp_weights = _mlp_weights(spec)
    biases = (q_width + 2 * kv_width if spec.qkv_bias else 0) + (spec.hidden if spec.out_bias else 0)
    if spec.mlp_bias:
        biases += (2 if spec.gated_mlp else 1) * spec.intermediate + spec.hidden
    norms = 2 * spec.hidden + (2 * spec.head_dim if spec.qk_norm else 0)
    layer = attention_weights + mlp_weights + biases + norms
    embeddings = ((1 if spec.tied_embeddings else 2) * spec.vocab + spec.extra_embeddings) * spec.hidden
    # a cross-attention layer adds norms on q and k, and two gates
    crossing = len(spec.cross_layers) * (2 * spec.head_dim + 2)
    return float(spec.layers * layer + crossing + embeddings + spec.hidden)


def _mlp_weights(spec: DecoderSpec) -> int:
    """Weights of a layer's MLP, or of its router and all its experts."""
    matrices = 3 if spec.gated_mlp else 2
    if spec.moe is None:
        return matrices * spec.hidden * spec.intermediate
    moe = spec.moe
    shared = (matrices * moe.shared_intermediate + 1) * spec.hidden if moe.shared_intermediate else 0
    return spec.hidden * moe.experts * (1 + matrices * moe.intermediate) + shared
