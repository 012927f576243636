"""The reduction's kernels on a device: against their references in higher precision, and timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...kernels._dispatch import path_name
from ...kernels.importance import importance_scores
from ...kernels.importance import path_for as importance_path
from ...kernels.importance.reference import importance_dense
from ...kernels.merge import merge_tokens
from ...kernels.merge import path_for as merge_path
from ...kernels.merge.reference import merge
from ...kernels.select import gather_tokens, path_for, select_tokens
from ...kernels.select.reference import gather_rows, select
from ...kernels.tolerances import ROWS_MOVED, importance_error, merge_error, undecided
from ..profile.bench import DTYPES, Bench, Prepared, Task
from ..records import Sample
from .torch_rig import ATTENTION_BACKENDS, Tick, attending

__all__ = ["check_kernels", "time_attention", "time_kernels"]

Cuts = tuple[tuple[int, int], ...]
Merges = tuple[tuple[int, int, int, int], ...]
# Queries and keys are scaled so that sharpened attention is neither uniform nor one-hot.
GAIN = 1.6


def check_kernels(
    *, cuts: Cuts, heads: tuple[int, int, int], merges: Merges, device: str, dtype: str, tick: Tick
) -> Iterator[dict[str, Any]]:
    """One mapping a comparison: check, dtype, size, value, bar, ok, path.

    Scores against the definition in fp64 and merging in fp64, on the very inputs, with the bars of
    `aimcost.kernels.tolerances`; selecting and gathering must give the reference's bits.
    """
    generator = torch.Generator(device=device).manual_seed(0)
    rows, kept = cuts[0]
    for form in dict.fromkeys((dtype, "fp32")):
        for tokens in (rows, rows + 1, max(2, rows // 5)):
            tick()
            yield _check_scores(tokens, heads, form, generator)
    for form in dict.fromkeys((dtype, "fp32")):
        for shape in merges:
            tick()
            yield _check_merge(shape, form, generator)
    tick()
    yield _check_select(rows, kept, generator)
    yield _check_gather(rows, kept, merges[0][3], heads[2], dtype, generator)


def _random(generator: torch.Generator, *shape: int, dtype: str) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device).to(DTYPES[dtype])


def _check_scores(tokens: int, heads: tuple[int, int, int], dtype: str, generator: torch.Generator) -> dict[str, Any]:
    count, kv, width = heads
    q = _random(generator, 1, count, tokens, width, dtype=dtype) * GAIN**0.5
    k = _random(generator, 1, kv, tokens, width, dtype=dtype) * GAIN**0.5
    ours = importance_scores(q, k)
    path = importance_path(q, k)
    exact = importance_dense(q.double(), k.double(), scale=width**-0.5)
    bound = importance_error(q, k, scale=width**-0.5, products=1 if path == "torch" else 2)
    error, bar = (float(x.abs().max() / exact.max()) for x in (ours - exact, bound))
    return _result("importance", dtype, f"{tokens} tokens, {count}/{kv} heads of {width}", error, bar, path)


def _check_merge(shape: tuple[int, int, int, int], dtype: str, generator: torch.Generator) -> dict[str, Any]:
    groups, tokens, kept, width = shape
    x = _random(generator, groups, tokens, width, dtype=dtype)
    ours, exact = merge_tokens(x, tokens - kept).double(), merge(x.double(), tokens - kept)
    # not the other way round: a NaN is within no bound
    near = (ours - exact).abs() <= merge_error(x, exact, tokens - kept)
    rows = (~near).any(-1)
    size = f"{groups} x {tokens} -> {kept} of {width}"
    bar = ROWS_MOVED * float(undecided(x).sum()) / rows.numel()
    return _result("merge", dtype, size, float(rows.double().mean()), bar, merge_path(x))


def _check_select(rows: int, kept: int, generator: torch.Generator) -> dict[str, Any]:
    scores = torch.rand(1, rows, generator=generator, device=generator.device)
    scores[:, ::7] = 0.0  # ties
    protected = torch.arange(rows, device=scores.device)[None] >= rows - rows // 20
    wrong = select_tokens(scores, kept, protected=protected) != select(scores, kept, protected, None)
    return _result("select", "fp32", f"{rows} -> {kept}", float(wrong.double().mean()), 0.0, path_for(scores))


def _check_gather(
    rows: int, kept: int, width: int, head_dim: int, dtype: str, generator: torch.Generator
) -> dict[str, Any]:
    hidden = _random(generator, 1, rows, width, dtype=dtype)
    angles = _random(generator, 1, rows, head_dim, dtype=dtype)
    index = torch.randperm(rows, generator=generator, device=generator.device)[:kept].sort().values[None]
    ours, (turned,), _ = gather_tokens(hidden, index, aux=[(angles, 1)])
    wrong = (ours != gather_rows(hidden, index, 1)).double().mean() + (
        turned != gather_rows(angles, index, 1)
    ).double().mean()
    return _result("gather", dtype, f"{rows} -> {kept} of {width}", float(wrong), 0.0, path_for(hidden))


def _result(check: str, dtype: str, size: str, value: float, bar: float, path: str) -> dict[str, Any]:
    # a NaN compares false with everything: it must not pass, nor break the JSON
    value = value if value == value else 1e30
    return {"check": check, "dtype": dtype, "size": size, "value": value, "bar": bar, "ok": value <= bar, "path": path}


def time_kernels(
    bench: Bench, *, cuts: Cuts, heads: tuple[int, int, int], merges: Merges, dtype: str, tick: Tick
) -> Iterator[Sample]:
    """Samples of score, select, gather and merge at every drop event, each alone, replayed as graphs."""
    for task in _tasks(bench, cuts, heads, merges, dtype):
        tick()
        yield bench.time([task])[0]


def _tasks(bench: Bench, cuts: Cuts, heads: tuple[int, int, int], merges: Merges, dtype: str) -> Iterator[Task]:
    count, kv, head_dim = heads
    width = merges[0][3]
    label = {"path": path_name(bench.device)}
    for groups, tokens, kept, wide in merges:
        dims = {"groups": groups, "tokens": tokens, "kept": kept, "width": wide}
        yield _task(
            "merge", "bipartite_cosine", dims, dtype, partial(_merge, bench, groups, tokens, kept, wide, dtype), label
        )
    for tokens, kept in cuts:
        dims = {"batch": 1, "heads": count, "kv_heads": kv, "head_dim": head_dim, "tokens": tokens}
        yield _task("score", "pagerank", dims, dtype, partial(_score, bench, tokens, heads, dtype), label)
        dims = {"rows": 1, "candidates": tokens, "kept": kept}
        yield _task("select", "select_tokens", dims, "fp32", partial(_select, bench, tokens, kept), label)
        dims = {"rows": kept, "width": width}
        make = partial(_gather, bench, tokens, kept, width, head_dim, dtype)
        yield _task("gather", "gather_tokens", dims, dtype, make, label)


def _task(
    op: str, name: str, dims: Mapping[str, float], dtype: str, make: Callable[[], Prepared], labels: Mapping[str, str]
) -> Task:
    sizes = {key: float(value) for key, value in dims.items()}
    return Task(op=op, name=name, dims=sizes, dtype=dtype, make=make, labels=labels)


def _merge(bench: Bench, groups: int, tokens: int, kept: int, width: int, dtype: str) -> Prepared:
    sets = [bench.randn(groups, tokens, width, dtype=dtype) for _ in range(bench.sets)]
    return Prepared(lambda turn: merge_tokens(sets[turn % len(sets)], tokens - kept), sets)


def _score(bench: Bench, tokens: int, heads: tuple[int, int, int], dtype: str) -> Prepared:
    count, kv, width = heads
    sets = [
        (bench.randn(1, count, tokens, width, dtype=dtype), bench.randn(1, kv, tokens, width, dtype=dtype))
        for _ in range(bench.sets)
    ]
    return Prepared(lambda turn: importance_scores(*sets[turn % len(sets)]))


def _select(bench: Bench, tokens: int, kept: int) -> Prepared:
    sets = [torch.rand(1, tokens, device=bench.device) for _ in range(bench.sets)]
    protected = torch.arange(tokens, device=bench.device)[None] >= tokens - kept // 10
    return Prepared(lambda turn: select_tokens(sets[turn % len(sets)], kept, protected=protected), sets)


def _gather(bench: Bench, tokens: int, kept: int, width: int, head_dim: int, dtype: str) -> Prepared:
    """Hidden states with what a session gathers along: live positions, protection, cosines and sines."""
    sets = [bench.randn(1, tokens, width, dtype=dtype) for _ in range(bench.sets)]
    alive = torch.arange(tokens, device=bench.device)[None]
    angles = [bench.randn(1, tokens, head_dim, dtype=dtype) for _ in range(2)]
    index = torch.randperm(tokens, device=bench.device)[:kept].sort().values[None]
    aux = [(alive, 1), (alive > tokens // 2, 1), *((angle, 1) for angle in angles)]
    return Prepared(lambda turn: gather_tokens(sets[turn % len(sets)], index, aux=aux), sets)


def time_attention(
    bench: Bench, *, tokens: int, heads: tuple[int, int, int], dtype: str, tick: Tick
) -> Iterator[tuple[str, Sample | None, str]]:
    """Causal attention without a mask, backend by backend: name, sample, and why there is none."""
    count, kv, width = heads
    for name in ATTENTION_BACKENDS:
        tick()
        dims = {"batch": 1, "heads": count, "kv_heads": kv, "head_dim": width, "q_len": tokens, "kv_len": tokens}
        task = _task("attention", name, dims, dtype, partial(_attend, bench, tokens, heads, dtype),
                     {"kernel": name, "mask": "causal"})  # fmt: skip
        try:
            with attending(name):
                yield name, bench.time([task])[0], ""
        except RuntimeError as error:  # this backend does not take these shapes here
            yield name, None, " ".join(str(error).split())[:200]


def _attend(bench: Bench, tokens: int, heads: tuple[int, int, int], dtype: str) -> Prepared:
    count, kv, width = heads
    sets = [
        tuple(bench.randn(1, number, tokens, width, dtype=dtype) for number in (count, kv, kv))
        for _ in range(bench.sets)
    ]
    attention: Any = torch.nn.functional.scaled_dot_product_attention
    return Prepared(lambda turn: attention(*sets[turn % len(sets)], is_causal=True, enable_gqa=count != kv))
