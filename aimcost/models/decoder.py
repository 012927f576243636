"""A decoder layer as operations. Prefill and decode are one function: a stage is numbers."""

from __future__ import annotations

from collections.abc import Iterator

from ..ops import Cost, Widths, attention, gemm, pointwise
from ..ops.cost import Array
from ..types import DecoderSpec

__all__ = ["embed_op", "head_ops", "layer_ops", "parameters"]


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
    shape = {**heads, "batch": batch, "q_len": q_len, "kv_len": kv_len, "causal": True, "widths": widths}
    if kernel == "flash":
        yield "fused_attention", attention.fused(**shape, onchip_bytes=onchip_bytes)  # type: ignore[arg-type]
    else:
        qk, sv = attention.eager_products(**shape)  # type: ignore[arg-type]
        yield "qk_matmul", qk
        yield (
            "softmax",
            attention.eager_softmax(
                batch=batch, heads=spec.heads, q_len=q_len, kv_len=kv_len, causal=True, widths=widths
            ),
        )
        yield "sv_matmul", sv
    yield "out_proj", gemm.linear(rows, q_width, spec.hidden, widths, bias=spec.out_bias)
    yield "attn_add", pointwise.add(rows * spec.hidden, widths)
    yield "mlp_norm", pointwise.rms_norm(rows, spec.hidden, widths)
    yield from _mlp_ops(spec, widths, rows)
    yield "mlp_add", pointwise.add(rows * spec.hidden, widths)


def _mlp_ops(spec: DecoderSpec, widths: Widths, rows: Array) -> Iterator[tuple[str, Cost]]:
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
    mlp_weights = (3 if spec.gated_mlp else 2) * spec.hidden * spec.intermediate
    biases = (q_width + 2 * kv_width if spec.qkv_bias else 0) + (spec.hidden if spec.out_bias else 0)
    if spec.mlp_bias:
        biases += (2 if spec.gated_mlp else 1) * spec.intermediate + spec.hidden
    norms = 2 * spec.hidden + (2 * spec.head_dim if spec.qk_norm else 0)
    layer = attention_weights + mlp_weights + biases + norms
    embeddings = (1 if spec.tied_embeddings else 2) * spec.vocab * spec.hidden
    return float(spec.layers * layer + embeddings + spec.hidden)
