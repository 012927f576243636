"""Norms, RoPE, activations, residuals, look-ups: the kernels that a transformers layer really launches.

Each function below is the arithmetic of one row of the operation table, in as many kernels as eager
PyTorch takes for it (an RMSNorm is six). What a layer does besides is counted where it happens: the KV
cache's copies with RoPE, the output's transposition with attention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from .bench import DTYPES, Bench, Prepared, Task, Tasks, rotating
from .plan import Plan

__all__ = ["bandwidth_tasks", "elementwise_tasks"]

Function = Callable[..., torch.Tensor]
ROPE_HEADS = ((6, 2, 64), (6, 2, 128))


def bandwidth_tasks(bench: Bench, plan: Plan) -> Tasks:
    """Copy a block far larger than any cache: the memory ceiling."""
    elements = plan.copy_bytes // 4
    make = partial(_copy, bench, elements)
    yield Task(op="ceiling", name="copy", dims={"elements": float(elements)}, dtype="fp32", make=make)


def _copy(bench: Bench, elements: int) -> Prepared:
    source = torch.ones(elements, device=bench.device)
    target = torch.empty_like(source)
    # a kernel: as a node of a graph, copy_ is a memory copy, which reached two thirds of a kernel's rate on an H200
    return Prepared(lambda turn: torch.neg(source, out=target))


def elementwise_tasks(bench: Bench, plan: Plan) -> Tasks:
    """Every elementwise and row-wise operation of the table, on rows x widths."""
    for dtype in plan.dtypes:
        for rows in plan.elementwise_rows:
            for width in plan.widths:
                yield from _row_tasks(bench, rows, width, dtype)
            for heads, kv_heads, head_dim in ROPE_HEADS:
                yield _rope_task(bench, rows, heads, kv_heads, head_dim, dtype)


def _row_tasks(bench: Bench, rows: int, width: int, dtype: str) -> Tasks:
    by_row = {"rows": float(rows), "width": float(width)}
    # the gated activation is as wide as the MLP, several times the residual stream
    by_element = {"elements": float(rows * width)}
    for name in ("rms_norm", "layer_norm"):
        make = partial(_norm, bench, name, rows, width, dtype)
        yield Task(op="norm", name=name, dims=by_row, dtype=dtype, make=make, rows=rows)
    cases: list[tuple[str, dict[str, float], Function, int, int]] = [
        ("add", by_element, torch.add, width, 2),
        ("gated_silu", {"elements": float(rows * width * 4)}, _gated_silu, 4 * width, 2),
        ("gelu", {"elements": float(rows * width * 4)}, _gelu, 4 * width, 1),
    ]
    for name, dims, function, columns, inputs in cases:
        make = partial(_on_rows, bench, function, rows, columns, inputs, dtype)
        yield Task(op="pointwise", name=name, dims=dims, dtype=dtype, make=make, rows=rows)
    make = partial(_embed, bench, rows, width, dtype)
    yield Task(op="embed", name="embed", dims=by_row, dtype=dtype, make=make, rows=rows)


def _on_rows(bench: Bench, function: Function, rows: int, width: int, inputs: int, dtype: str) -> Prepared:
    sets = [[bench.randn(1, rows, width, dtype=dtype) for _ in range(inputs)] for _ in range(bench.sets)]
    # of two inputs (residual and branch, gate and up) only one comes from the operation just before
    return Prepared(lambda turn: function(*sets[turn % len(sets)]), [inputs_[-1] for inputs_ in sets])


def _norm(bench: Bench, name: str, rows: int, width: int, dtype: str) -> Prepared:
    inputs = [bench.randn(1, rows, width, dtype=dtype) for _ in range(bench.sets)]
    weight, bias = bench.randn(2, width, dtype=dtype)

    if name == "rms_norm":
        return Prepared(rotating(inputs, lambda x: _rms_norm(x, weight)), inputs)
    return Prepared(rotating(inputs, lambda x: F.layer_norm(x, (width,), weight, bias)), inputs)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Llama's and Qwen's: statistics in fp32, one kernel a step."""
    wide = x.to(torch.float32)
    variance = wide.pow(2).mean(-1, keepdim=True)
    wide = wide * torch.rsqrt(variance + 1e-6)
    return weight * wide.to(x.dtype)


def _gated_silu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _embed(bench: Bench, rows: int, width: int, dtype: str) -> Prepared:
    table = bench.randn(32_000, width, dtype=dtype)
    places = [torch.randint(0, 32_000, (1, rows), device=bench.device) for _ in range(8)]
    return Prepared(rotating(places, lambda index: F.embedding(index, table)))


def _rope_task(bench: Bench, rows: int, heads: int, kv_heads: int, head_dim: int, dtype: str) -> Task:
    elements = float(rows * (heads + kv_heads) * head_dim)
    make = partial(_rope, bench, rows, heads, kv_heads, head_dim, dtype)
    labels = {"heads": str(heads), "kv_heads": str(kv_heads), "head_dim": str(head_dim)}
    return Task(op="rope", name="rope", dims={"elements": elements}, dtype=dtype, make=make, rows=rows, labels=labels)


def _rope(bench: Bench, rows: int, heads: int, kv_heads: int, head_dim: int, dtype: str) -> Prepared:
    """Rotate queries and keys as they leave the projections, and append keys and values to the cache."""

    def projected(count: int) -> torch.Tensor:
        return bench.randn(1, rows, count, head_dim, dtype=dtype).transpose(1, 2)

    sets = [(projected(heads), projected(kv_heads), projected(kv_heads)) for _ in range(bench.sets)]
    cos, sin = (bench.randn(1, 1, rows, head_dim, dtype=dtype) for _ in range(2))
    empty = torch.empty(0, device=bench.device, dtype=DTYPES[dtype])

    def step(turn: int) -> object:
        query, key, value = sets[turn % len(sets)]
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        return query, torch.cat([empty, key], dim=-2), torch.cat([empty, value], dim=-2)

    return Prepared(step, [tensor for projections in sets for tensor in projections])


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return (x * cos) + (torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin)
