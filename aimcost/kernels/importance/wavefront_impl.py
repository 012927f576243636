"""Every step of the PageRank in one pass: logits are formed twice, not once more for each step.

Mass only flows to earlier tokens (`reference._stream`), so that blocks of keys are finished from the last to
the first. A program owns one block of one head. From each later block it takes the masses of all steps as
soon as they are published, resolves its own diagonal step by step, and publishes. With m the mass after t
steps, w = m / (sum of the row's softmax) and E the exponentials of a tile, keys by queries:

    given[t] = Σ over later blocks E · w[t]                  one E for all t
    m[0] = 1;  w[t] = m[t] / total;  m[t + 1] = given[t] + E(own) · w[t]

Masses start at 1, and the mean over heads divides by the number of live tokens. Two launches in place of eight.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from .. import _dispatch
from .triton_impl import TileConfig, _options, _tile, constants, padded_width, row_kernel, tile_config

__all__ = ["importance", "wavefront_config"]

SCAN = 1024
"""Flags of live tokens that are counted at once."""
POLLS = 1 << 20
"""Looks at another program's flag, about a second: the longest kernel takes some hundredths of one."""


def wavefront_config(dtype: torch.dtype, head_dim: int, hopper: bool = False) -> TileConfig:
    """The shipped tile: a block of keys and one of queries are the same, what one program publishes for the others.

    On Hopper the fastest of seven on an H100 in bf16 and width 128, unless a padded width would spill; elsewhere by
    compilation alone: no spills, and shared memory within the 99 KiB of an sm_86.
    """
    width = padded_width(head_dim)
    if dtype == torch.float32:
        return tile_config(dtype, head_dim)
    if width > 128:
        return TileConfig(32, 32, 4, 1)
    return TileConfig(128, 128, 8, 1) if hopper and width == head_dim else TileConfig(64, 64, 4, 1)


@triton.jit
def _exponentials(
    q, k, d, columns, first, top, stride_qn, tokens, scale2,
    OWN: tl.constexpr, D: tl.constexpr, DIAGONAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Keys by queries, so that a sum over queries stays within a warp."""
    rows = first + tl.arange(0, OWN)
    product = tl.dot(k, tl.trans(_tile(q, rows, d, stride_qn, tokens, D, UPCAST)), input_precision="ieee")
    row_top = tl.load(top + rows, mask=rows < tokens, other=float("inf"))
    share = tl.exp2((product - row_top[None, :]) * scale2)
    if DIAGONAL:
        share = tl.where(columns[:, None] <= rows[None, :], share, 0.0)
    return share


@triton.jit
def wavefront_kernel(
    q_ptr, k_ptr, live_ptr, top_ptr, total_ptr, weight_ptr, mass_ptr, counter_ptr, out_ptr, tokens, scale2,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_lb,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, OWN: tl.constexpr,
    STEPS: tl.constexpr, SCAN: tl.constexpr, POLLS: tl.constexpr, HAS_LIVE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Scores of all tokens. Counters, at 0: the ticket; a pair's finished blocks; the heads done with a block.

    A program's place is its ticket, not its id. Those it waits for, the later blocks of its head, drew theirs
    before: they are running, and end. Should one not (POLLS), scores are NaN. Sums run over blocks and heads in
    a fixed order.
    """
    blocks = tl.cdiv(tokens, OWN)
    pairs = tl.num_programs(0) // blocks
    ticket = tl.atomic_add(counter_ptr, 1, sem="relaxed")
    pair = (ticket % pairs).to(tl.int64)
    place = ticket // pairs  # 0 is the last block
    batch = pair // HEADS
    head = pair % HEADS
    flat = pair * tokens
    first = (blocks - 1 - place) * OWN
    lane = tl.arange(0, OWN)
    columns = first + lane
    inside = columns < tokens
    d = tl.arange(0, WIDTH)
    q = q_ptr + batch * stride_qb + head * stride_qh
    keys = k_ptr + batch * stride_kb + (head // GROUP) * stride_kh
    k = _tile(keys, columns, d, stride_kn, tokens, D, UPCAST)
    weight = weight_ptr + pair * blocks * STEPS * OWN
    done = counter_ptr + 1 + pair
    given = (tl.zeros((OWN,), tl.float32),) * STEPS
    finished = 0
    for later in range(place):
        if k.dtype == tl.float32:  # without a matrix unit a tile that stays is spilled
            k = _tile(keys, columns, d, stride_kn, tokens, D, UPCAST)
        share = _exponentials(q, k, d, columns, (blocks - 1 - later) * OWN, top_ptr + flat, stride_qn,
                              tokens, scale2, OWN, D, False, UPCAST)  # fmt: skip
        polls = 0
        while (finished <= later) & (polls < POLLS):
            finished = tl.atomic_add(done, 0, sem="acquire")
            polls += 1
        sums = ()
        for step in tl.static_range(STEPS):
            theirs = tl.load(weight + (later * STEPS + step) * OWN + lane, cache_modifier=".cg")
            sums = sums + (given[step] + tl.sum(share * theirs[None, :], axis=1),)  # noqa: RUF005 (no Triton)
        given = sums
    share = _exponentials(q, k, d, columns, first, top_ptr + flat, stride_qn,
                          tokens, scale2, OWN, D, True, UPCAST)  # fmt: skip
    total = tl.load(total_ptr + flat + columns, mask=inside, other=1.0)
    mass = tl.full((OWN,), 1.0, tl.float32) * tl.where(finished >= place, 1.0, float("nan"))
    if HAS_LIVE:
        alive = tl.load(live_ptr + batch * stride_lb + columns, mask=inside, other=0) != 0
        mass = tl.where(alive, mass, 0.0)
    for step in tl.static_range(STEPS):
        mine = mass / total
        tl.store(weight + (place * STEPS + step) * OWN + lane, mine)
        mass = given[step] + tl.sum(share * mine[None, :], axis=1)
        if HAS_LIVE:
            mass = tl.where(alive, mass, 0.0)
    tl.store(mass_ptr + flat + columns, mass, mask=inside)
    tl.debug_barrier()  # the stores of all threads come before the flag
    tl.atomic_xchg(done, place + 1, sem="release")
    heads_done = tl.atomic_add(counter_ptr + 1 + pairs + batch * blocks + place, 1, sem="acq_rel")
    if heads_done == HEADS - 1:
        square = tl.zeros((OWN,), tl.float32)
        for other in range(HEADS):
            at = mass_ptr + (batch * HEADS + other) * tokens + columns
            theirs = tl.load(at, mask=inside, other=0.0, cache_modifier=".cg")
            square += theirs * theirs
        count = tokens.to(tl.float32)
        if HAS_LIVE:
            lives = tl.zeros((SCAN,), tl.int32)
            for start in range(0, tokens, SCAN):
                at = start + tl.arange(0, SCAN)
                lives += tl.load(live_ptr + batch * stride_lb + at, mask=at < tokens, other=0).to(tl.int32)
            count = tl.sum(lives, axis=0).to(tl.float32)
        tl.store(out_ptr + batch * tokens + columns, tl.sqrt_rn(square / HEADS) / count, mask=inside)


def importance(
    q: torch.Tensor, k: torch.Tensor, *, scale: float, tau: float, steps: int, live: torch.Tensor | None
) -> torch.Tensor:
    """Scores (B, N) in fp32; see `aimcost.kernels.importance.importance_scores`."""
    batch, heads, tokens, head_dim = q.shape
    q, k = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k))
    rows = tile_config(q.dtype, head_dim)
    own = wavefront_config(q.dtype, head_dim, _dispatch.on_hopper(q.device))
    pairs, blocks = batch * heads, triton.cdiv(tokens, own.block_own)
    top, total, mass = torch.empty(3, pairs, tokens, dtype=torch.float32, device=q.device)
    weight = torch.empty(pairs, blocks, steps, own.block_own, dtype=torch.float32, device=q.device)
    counter = torch.empty(1 + pairs + batch * blocks, dtype=torch.int32, device=q.device)
    out = torch.empty(batch, tokens, dtype=torch.float32, device=q.device)
    mask, stride_mask = (top, 0) if live is None else (live.contiguous().view(torch.uint8), tokens)
    strides = (*q.stride()[:3], *k.stride()[:3], stride_mask)
    scale2 = scale / tau * math.log2(math.e)
    shared = constants(q, k, live)
    with torch.cuda.device_of(q):
        row_kernel[(triton.cdiv(tokens, rows.block_own) * pairs,)](
            q, k, mask, top, total, mass, counter, tokens, counter.numel(), scale2, *strides,
            **shared, **_options(rows), WAVEFRONT=True,
        )  # fmt: skip
        wavefront_kernel[(blocks * pairs,)](
            q, k, mask, top, total, weight, mass, counter, out, tokens, scale2, *strides,
            **shared, OWN=own.block_own, STEPS=steps, SCAN=SCAN, POLLS=POLLS,
            num_warps=own.warps, num_stages=own.stages,
        )  # fmt: skip
    return out
