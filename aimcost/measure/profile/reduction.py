"""Choosing tokens: our importance, merging, selection and gathering, as the runtime calls them."""

from __future__ import annotations

from functools import partial

import torch

from ...kernels.importance import importance_scores
from ...kernels.importance import path_for as importance_path
from ...kernels.merge import merge_tokens
from ...kernels.merge import path_for as merge_path
from ...kernels.select import gather_tokens, select_tokens
from ...methods.fastv.apply import last_row
from .bench import Bench, Prepared, Task, Tasks
from .plan import Plan

__all__ = ["reduction_tasks"]

FRAME_TOKENS = 196
KEPT_SHARE = 0.6


def reduction_tasks(bench: Bench, plan: Plan) -> Tasks:
    """Scores, selection, gathering and merging over the plan's token counts."""
    for dtype in plan.dtypes:
        if bench.cuda and dtype == "fp32":
            continue
        heads, kv_heads, head_dim, _ = plan.heads[0]
        width = plan.widths[0]
        for tokens in plan.reduction_tokens:
            yield from _score_tasks(bench, tokens, heads, kv_heads, head_dim, dtype)
            yield from _cut_tasks(bench, tokens, width, head_dim, dtype)
        for frames in (1, 4):
            dims = {
                "groups": float(frames),
                "tokens": float(FRAME_TOKENS),
                "kept": float(FRAME_TOKENS // 2),
                "width": float(width),
            }
            make = partial(_merge, bench, frames, width, dtype)
            path = merge_path(bench.randn(1, 2, 2, dtype=dtype))
            yield Task(
                op="merge",
                name="bipartite_cosine",
                dims=dims,
                dtype=dtype,
                make=make,
                rows=tokens,
                labels={"path": path},
            )


def _score_tasks(bench: Bench, tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: str) -> Tasks:
    dims = {
        "batch": 1.0,
        "heads": float(heads),
        "kv_heads": float(kv_heads),
        "head_dim": float(head_dim),
        "tokens": float(tokens),
    }
    tiny = bench.randn(1, 1, 2, head_dim, dtype=dtype)
    for name in ("pagerank", "last_row"):
        path = importance_path(tiny, tiny) if name == "pagerank" else "torch"
        make = partial(_score, bench, name, tokens, heads, kv_heads, head_dim, dtype)
        yield Task(op="score", name=name, dims=dims, dtype=dtype, make=make, rows=tokens, labels={"path": path})


def _score(bench: Bench, name: str, tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: str) -> Prepared:
    pairs = [
        (
            bench.randn(1, tokens, heads, head_dim, dtype=dtype).transpose(1, 2),
            bench.randn(1, kv_heads, tokens, head_dim, dtype=dtype),
        )
        for _ in range(bench.sets)
    ]
    if name == "pagerank":
        return Prepared(lambda turn: importance_scores(*pairs[turn % len(pairs)]))
    scale = head_dim**-0.5

    def row(turn: int) -> torch.Tensor:
        query, key = pairs[turn % len(pairs)]
        return last_row(query=query, key=key, scale=scale, live=None)

    return Prepared(row)


def _cut_tasks(bench: Bench, tokens: int, width: int, head_dim: int, dtype: str) -> Tasks:
    kept = int(tokens * KEPT_SHARE)
    dims = {"rows": 1.0, "candidates": float(tokens), "kept": float(kept)}
    if dtype != "fp32" or not bench.cuda:
        make = partial(_select, bench, tokens, kept)
        yield Task(op="select", name="select_tokens", dims=dims, dtype=dtype, make=make, rows=tokens)
    dims = {"rows": float(kept), "width": float(width)}
    make = partial(_gather, bench, tokens, kept, width, head_dim, dtype)
    yield Task(op="gather", name="gather_tokens", dims=dims, dtype=dtype, make=make, rows=tokens)


def _select(bench: Bench, tokens: int, kept: int) -> Prepared:
    """Scores are fp32 whatever the model's format; a tenth of the tokens is protected text."""
    scores = [torch.rand(1, tokens, device=bench.device) for _ in range(bench.sets)]
    protected = torch.arange(tokens, device=bench.device)[None] >= tokens - tokens // 10
    return Prepared(lambda turn: select_tokens(scores[turn % len(scores)], kept, protected=protected), scores)


def _gather(bench: Bench, tokens: int, kept: int, width: int, head_dim: int, dtype: str) -> Prepared:
    """Hidden states with what goes along: cos and sin, which tokens are live, which are protected."""
    hidden = [bench.randn(1, tokens, width, dtype=dtype) for _ in range(bench.sets)]
    angles = [bench.randn(1, tokens, head_dim, dtype=dtype) for _ in range(2)]
    alive = torch.arange(tokens, device=bench.device)[None]
    order = torch.randperm(tokens, device=bench.device)[:kept].sort().values[None]
    aux = [(alive, 1), (alive > tokens // 2, 1), *((angle, 1) for angle in angles)]
    return Prepared(lambda turn: gather_tokens(hidden[turn % len(hidden)], order, aux=aux), hidden)


def _merge(bench: Bench, frames: int, width: int, dtype: str) -> Prepared:
    sets = [bench.randn(frames, FRAME_TOKENS, width, dtype=dtype) for _ in range(bench.sets)]
    return Prepared(lambda turn: merge_tokens(sets[turn % len(sets)], FRAME_TOKENS // 2), sets)
