"""The reduction's kernels on a device, at the sizes of one run: checked against their references, and timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...errors import one_line
from ...inputs.run import Run
from ...kernels.importance import Path, importance_scores
from ...kernels.importance import path_for as importance_path
from ...kernels.importance.reference import importance_dense
from ...kernels.merge import merge_tokens
from ...kernels.merge import path_for as merge_path
from ...kernels.merge.reference import merge
from ...kernels.select import gather_tokens, path_for, select_tokens
from ...kernels.select.reference import gather_rows, select
from ...kernels.tolerances import ROWS_MOVED, importance_error, merge_error, undecided
from ...types import ReductionEvent
from ..profile.attention import sdpa_task
from ..profile.bench import DTYPES, Bench
from ..profile.reduction import Heads, gather_task, merge_task, score_task, select_task
from ..records import Sample

__all__ = ["check_kernels", "time_attention", "time_kernels"]

Tick = Callable[[], None]
# Queries and keys are scaled so that sharpened attention is neither uniform nor one-hot.
GAIN = 1.6
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def check_kernels(run: Run, *, device: str, tick: Tick) -> Iterator[dict[str, Any]]:
    """One mapping a comparison: check, dtype, size, value, bar, ok, path.

    Scores against the definition in fp64 and merging in fp64, on the very inputs, with the bars of
    `aimcost.kernels.tolerances`; selecting and gathering must give the reference's bits.
    """
    generator = torch.Generator(device=device).manual_seed(0)
    dtype, heads, hidden = run.precision.activations, _heads(run), run.model.decoder.hidden
    cut = run.schedule.layer_events[0]
    tokens = cut.tokens_in
    formats, counts = tuple(dict.fromkeys((dtype, "fp32"))), (tokens, tokens + 1, max(2, tokens // 5))
    for form in formats:
        for count in counts:
            tick()
            yield _check_scores(count, heads, form, generator)
        for event in run.schedule.pre_llm_events:
            tick()
            yield _check_merge(event, hidden, form, generator)
    tick()
    yield _check_select(tokens, cut.tokens_out, generator)
    yield _check_gather(tokens, cut.tokens_out, hidden, heads[2], dtype, generator)
    for form, count in itertools.product(formats, counts) if generator.device.type == "cuda" else ():
        tick()
        yield _check_scores(count, heads, form, generator, other=True)


def _heads(run: Run) -> Heads:
    decoder = run.model.decoder
    return decoder.heads, decoder.kv_heads, decoder.head_dim


def _random(generator: torch.Generator, *shape: int, dtype: str) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device).to(DTYPES[dtype])


def _check_scores(
    tokens: int, heads: Heads, dtype: str, generator: torch.Generator, *, other: bool = False
) -> dict[str, Any]:
    count, kv, width = heads
    q = _random(generator, 1, count, tokens, width, dtype=dtype) * GAIN**0.5
    k = _random(generator, 1, kv, tokens, width, dtype=dtype) * GAIN**0.5
    path: Path = _not_taken(q, k) if other else importance_path(q, k)
    ours = importance_scores(q, k, path=path)
    exact = importance_dense(q.double(), k.double(), scale=width**-0.5)
    bound = importance_error(q, k, scale=width**-0.5, products=1 if path == "torch" else 2)
    error, bar = (float(x.abs().max() / exact.max()) for x in (ours - exact, bound))
    return _result("importance", dtype, f"{tokens} tokens, {count}/{kv} heads of {width}", error, bar, path)


def _not_taken(q: torch.Tensor, k: torch.Tensor) -> Path:
    """Of the two kernels for AIM's importance on a GPU, the one that the runtime does not take for these."""
    return "triton" if importance_path(q, k) == "wavefront" else "wavefront"


def _check_merge(event: ReductionEvent, width: int, dtype: str, generator: torch.Generator) -> dict[str, Any]:
    groups, tokens, merged = event.groups, event.tokens_in, event.tokens_in - event.tokens_out
    x = _random(generator, groups, tokens, width, dtype=dtype)
    ours, exact = merge_tokens(x, merged).double(), merge(x.double(), merged)
    # not the other way round: a NaN is within no bound
    near = (ours - exact).abs() <= merge_error(x, exact, merged)
    rows = (~near).any(-1)
    size = f"{groups} x {tokens} -> {event.tokens_out} of {width}"
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
    pairs = ((ours, hidden), (turned, angles))
    wrong = sum(float((found != gather_rows(given, index, 1)).double().mean()) for found, given in pairs)
    return _result("gather", dtype, f"{rows} -> {kept} of {width}", wrong, 0.0, path_for(hidden))


def _result(check: str, dtype: str, size: str, value: float, bar: float, path: str) -> dict[str, Any]:
    # a NaN compares false with everything: it must not pass, nor break the JSON
    value = value if value == value else 1e30
    return {"check": check, "dtype": dtype, "size": size, "value": value, "bar": bar, "ok": value <= bar, "path": path}


def time_kernels(run: Run, bench: Bench, *, tick: Tick) -> Iterator[Sample]:
    """Samples of every merging step and of score, select and gather of every drop event, each alone.

    On a GPU then of the other kernel for AIM's importance, which `importance_scores` does not choose there.
    """
    dtype, heads, hidden = run.precision.activations, _heads(run), run.model.decoder.hidden
    for event in run.schedule.pre_llm_events:
        tick()
        yield bench.time([merge_task(bench, event.groups, event.tokens_in, event.tokens_out, hidden, dtype)])[0]
    for event in run.schedule.layer_events:
        tokens, left = event.tokens_in, event.tokens_out
        for task in (
            score_task(bench, "pagerank", tokens, heads, dtype),
            select_task(bench, tokens, left, "fp32"),
            gather_task(bench, tokens, left, hidden, heads[2], dtype),
        ):
            tick()
            yield bench.time([task])[0]
    if bench.cuda:
        probe = bench.randn(1, 1, 2, heads[2], dtype=dtype)
        other = "pagerank_steps" if _not_taken(probe, probe) == "triton" else "pagerank_wavefront"
        for event in run.schedule.layer_events:
            tick()
            yield bench.time([score_task(bench, other, event.tokens_in, heads, dtype)])[0]


def time_attention(run: Run, bench: Bench, *, tick: Tick) -> Iterator[tuple[str, Sample | None]]:
    """Causal attention by backend, at the prompt's length before and after merging: a sample, or why there is none."""
    for tokens in (run.schedule.tokens[0], run.schedule.prompt_tokens):
        for name, backend in BACKENDS.items():
            tick()
            shape = (_heads(run), (tokens, tokens), True)
            task = sdpa_task(bench, run.precision.activations, *shape, {"kernel": name}, name=name)
            try:
                with sdpa_kernel(backend):
                    yield name, bench.time([task])[0]
            except RuntimeError as error:  # this backend does not take these shapes here
                yield f"attention {name}, {tokens} tokens: {one_line(error)}", None
