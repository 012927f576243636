"""Scaled dot-product attention as a transformers layer calls it, and the eager form."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from ..records import HELD_OUT
from .bench import Bench, Prepared, Task, Tasks, rotating
from .plan import Plan

__all__ = ["eager_tasks", "sdpa_task", "sdpa_tasks"]


def sdpa_tasks(bench: Bench, plan: Plan) -> Tasks:
    """SDPA over the plan's lengths and heads, and one decode query over each length."""
    for dtype in plan.dtypes:
        if bench.cuda and dtype == "fp32":
            continue
        for heads, kv_heads, head_dim, causal in plan.heads:
            for tokens in (*plan.tokens, *plan.probe_tokens):
                labels = {"role": HELD_OUT} if tokens in plan.probe_tokens else {}
                queries = (tokens, 1) if causal and tokens > 1 else (tokens,)
                for q_len in queries:
                    yield sdpa_task(bench, dtype, (heads, kv_heads, head_dim), (q_len, tokens), causal, labels)


def sdpa_task(
    bench: Bench,
    dtype: str,
    shape: tuple[int, int, int],
    lengths: tuple[int, int],
    causal: bool,
    labels: dict[str, str],
    *,
    name: str = "sdpa",
) -> Task:
    """Attention of a (heads, kv heads, head_dim) over (queries, keys), by the backend PyTorch chooses."""
    (heads, kv_heads, head_dim), (q_len, kv_len) = shape, lengths
    dims = {
        "batch": 1.0,
        "heads": float(heads),
        "kv_heads": float(kv_heads),
        "head_dim": float(head_dim),
        "q_len": float(q_len),
        "kv_len": float(kv_len),
        "causal": float(causal),
    }
    return Task(
        op="attention",
        name=name,
        dims=dims,
        dtype=dtype,
        make=partial(_sdpa, bench, dims, dtype),
        rows=q_len,
        labels={"kernel": "flash", **labels},
    )


def _sdpa(bench: Bench, dims: dict[str, float], dtype: str) -> Prepared:
    """The layer's own call: queries strided by token, keys from the cache, output made contiguous."""
    heads, kv_heads, width = int(dims["heads"]), int(dims["kv_heads"]), int(dims["head_dim"])
    q_len, kv_len = int(dims["q_len"]), int(dims["kv_len"])
    query = bench.randn(1, q_len, heads, width, dtype=dtype).transpose(1, 2)
    pairs = [bench.randn(2, 1, kv_heads, kv_len, width, dtype=dtype) for _ in range(bench.sets)]
    causal = bool(dims["causal"]) and q_len > 1
    grouped = heads != kv_heads

    def attend(pair: torch.Tensor) -> torch.Tensor:
        out = F.scaled_dot_product_attention(query, pair[0], pair[1], is_causal=causal, enable_gqa=grouped)
        return out.transpose(1, 2).contiguous()

    # a cache is written when its prompt is, queries always just before
    return Prepared(rotating(pairs, attend), [query, *pairs] if q_len == kv_len else [query])


def eager_tasks(bench: Bench, plan: Plan) -> Tasks:
    """q·kᵀ, softmax and p·v as separate kernels over the whole square."""
    for dtype in plan.dtypes:
        heads, _, head_dim, _ = plan.heads[0]
        for tokens in plan.tokens[2::3]:
            make = partial(_products, bench, heads, tokens, head_dim, tokens, dtype)
            dims = {"groups": float(heads), "m": float(tokens), "n": float(tokens), "k": float(head_dim)}
            yield Task(op="bmm", name="qk", dims=dims, dtype=dtype, make=make, rows=tokens)
            make = partial(_products, bench, heads, tokens, tokens, head_dim, dtype)
            dims = {"groups": float(heads), "m": float(tokens), "n": float(head_dim), "k": float(tokens)}
            yield Task(op="bmm", name="sv", dims=dims, dtype=dtype, make=make, rows=tokens)
            make = partial(_softmax, bench, heads * tokens, tokens, dtype)
            dims = {"rows": float(heads * tokens), "width": float(tokens)}
            yield Task(op="softmax", name="softmax", dims=dims, dtype=dtype, make=make, rows=tokens)


def _products(bench: Bench, groups: int, m: int, k: int, n: int, dtype: str) -> Prepared:
    left = bench.randn(groups, m, k, dtype=dtype)
    rights = [bench.randn(groups, k, n, dtype=dtype) for _ in range(bench.sets)]
    return Prepared(rotating(rights, lambda right: left @ right), [left])


def _softmax(bench: Bench, rows: int, width: int, dtype: str) -> Prepared:
    """In fp32 whatever the format, as eager attention does."""
    inputs = [bench.randn(rows, width, dtype=dtype) for _ in range(bench.sets)]
    step = rotating(inputs, lambda x: torch.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype))
    return Prepared(step, inputs)
