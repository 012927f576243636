"""Choosing tokens: our importance, merging, selection and gathering, as the runtime calls them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch

from ...kernels.importance import importance_scores
from ...kernels.importance import path_for as importance_path
from ...kernels.merge import merge_tokens
from ...kernels.merge import path_for as merge_path
from ...kernels.select import gather_tokens, select_tokens
from ...methods.fastv.apply import last_row
from .bench import Bench, Prepared, Task, Tasks
from .plan import Plan

__all__ = ["Heads", "gather_task", "merge_task", "reduction_tasks", "score_task", "select_task"]

# of names that state theirs
PATHS: Mapping[str, Literal["torch", "triton", "wavefront"]] = {
    "last_row": "torch",
    "pagerank_steps": "triton",
    "pagerank_wavefront": "wavefront",
}
FRAME_TOKENS = 196
KEPT_SHARE = 0.6
# query heads, kv heads, head_dim
Heads = tuple[int, int, int]


def reduction_tasks(bench: Bench, plan: Plan) -> Tasks:
    """Scores, selection, gathering and merging over the plan's token counts."""
    for dtype in plan.dtypes:
        if bench.cuda and dtype == "fp32":
            continue
        heads, width = plan.heads[0][:3], plan.widths[0]
        for tokens in plan.reduction_tokens:
            left = int(tokens * KEPT_SHARE)
            for name in ("pagerank", "last_row"):
                yield score_task(bench, name, tokens, heads, dtype)
            yield select_task(bench, tokens, left, dtype)
            yield gather_task(bench, tokens, left, width, heads[2], dtype)
        for frames in (1, 4):
            yield merge_task(bench, frames, FRAME_TOKENS, FRAME_TOKENS // 2, width, dtype, rows=tokens)


def score_task(bench: Bench, name: str, tokens: int, heads: Heads, dtype: str) -> Task:
    """AIM's importance (``pagerank`` by the path that the runtime takes, or one of PATHS) or FastV's last row."""
    count, kv_heads, head_dim = heads
    dims = {
        "batch": 1.0,
        "heads": float(count),
        "kv_heads": float(kv_heads),
        "head_dim": float(head_dim),
        "tokens": float(tokens),
    }
    tiny = bench.randn(1, 1, 2, head_dim, dtype=dtype)
    path = PATHS.get(name) or importance_path(tiny, tiny)
    make = partial(_score, bench, name, tokens, heads, dtype)
    return Task(op="score", name=name, dims=dims, dtype=dtype, make=make, rows=tokens, labels={"path": path})


def select_task(bench: Bench, tokens: int, left: int, dtype: str) -> Task:
    """The `left` highest of `tokens` scores; scores are fp32 in every format."""
    dims = {"rows": 1.0, "candidates": float(tokens), "kept": float(left)}
    make = partial(_select, bench, tokens, left)
    return Task(op="select", name="select_tokens", dims=dims, dtype=dtype, make=make, rows=tokens)


def gather_task(bench: Bench, tokens: int, left: int, width: int, head_dim: int, dtype: str) -> Task:
    """Rows of the `left` survivors, with what is gathered along."""
    dims = {"rows": float(left), "width": float(width)}
    make = partial(_gather, bench, tokens, left, width, head_dim, dtype)
    return Task(op="gather", name="gather_tokens", dims=dims, dtype=dtype, make=make, rows=tokens)


def merge_task(bench: Bench, groups: int, tokens: int, left: int, width: int, dtype: str, *, rows: int = 0) -> Task:
    """One merging step: `tokens` to `left` in each of `groups`."""
    dims = {"groups": float(groups), "tokens": float(tokens), "kept": float(left), "width": float(width)}
    make = partial(_merge, bench, groups, tokens, left, width, dtype)
    path = merge_path(bench.randn(1, 2, 2, dtype=dtype))
    name = "bipartite_cosine"
    return Task(op="merge", name=name, dims=dims, dtype=dtype, make=make, rows=rows, labels={"path": path})


def _score(bench: Bench, name: str, tokens: int, heads: Heads, dtype: str) -> Prepared:
    count, kv_heads, head_dim = heads
    pairs = [
        (
            bench.randn(1, tokens, count, head_dim, dtype=dtype).transpose(1, 2),
            bench.randn(1, kv_heads, tokens, head_dim, dtype=dtype),
        )
        for _ in range(bench.sets)
    ]
    if name != "last_row":
        return Prepared(lambda turn: importance_scores(*pairs[turn % len(pairs)], path=PATHS.get(name, "auto")))
    scale = head_dim**-0.5

    def row(turn: int) -> torch.Tensor:
        query, key = pairs[turn % len(pairs)]
        return last_row(query=query, key=key, scale=scale, live=None)

    return Prepared(row)


def _select(bench: Bench, tokens: int, left: int) -> Prepared:
    """Scores are fp32 whatever the model's format; a tenth of the tokens is protected text."""
    scores = [torch.rand(1, tokens, device=bench.device) for _ in range(bench.sets)]
    protected = torch.arange(tokens, device=bench.device)[None] >= tokens - tokens // 10
    return Prepared(lambda turn: select_tokens(scores[turn % len(scores)], left, protected=protected), scores)


def _gather(bench: Bench, tokens: int, left: int, width: int, head_dim: int, dtype: str) -> Prepared:
    """Hidden states with what goes along: cos and sin, which tokens are live, which are protected."""
    hidden = [bench.randn(1, tokens, width, dtype=dtype) for _ in range(bench.sets)]
    angles = [bench.randn(1, tokens, head_dim, dtype=dtype) for _ in range(2)]
    alive = torch.arange(tokens, device=bench.device)[None]
    order = torch.randperm(tokens, device=bench.device)[:left].sort().values[None]
    aux = [(alive, 1), (alive > tokens // 2, 1), *((angle, 1) for angle in angles)]
    return Prepared(lambda turn: gather_tokens(hidden[turn % len(hidden)], order, aux=aux), hidden)


def _merge(bench: Bench, groups: int, tokens: int, left: int, width: int, dtype: str) -> Prepared:
    sets = [bench.randn(groups, tokens, width, dtype=dtype) for _ in range(bench.sets)]
    return Prepared(lambda turn: merge_tokens(sets[turn % len(sets)], tokens - left), sets)
