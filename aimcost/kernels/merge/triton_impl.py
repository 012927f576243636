"""Bipartite token merging in Triton: norms, match, rank, merge rows; four launches, no F·A·B matrix.

The similarity is the reference's signed squared cosine, so that ties fall the same way. Every loop
has a fixed order: the same inputs give the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .. import _dispatch

__all__ = ["MatchConfig", "match_config", "merge"]

RANK_BLOCK = 128
ROW_BLOCK = 1024
SCAN_BLOCK = 128


class MatchConfig(NamedTuple):
    """Tile of the similarity kernel: A rows, B rows, width."""

    block_a: int
    block_b: int
    block_d: int
    warps: int
    stages: int


def match_config(dtype: torch.dtype) -> MatchConfig:
    """The shipped tile: 32 frames of 196 tokens make 128 programs, each with all 98 rows of B at once."""
    if dtype == torch.float32:
        return MatchConfig(32, 32, 32, 8, 2)
    return MatchConfig(32, 128, 64, 4, 4)


@triton.jit
def _half_exponent(square):
    """2^-⌊e/2⌋ for square = m·2^e, by bits: exact, and the same power of two as the reference's."""
    # frexp counts its mantissa from 1/2, so its exponent is one above the IEEE field's.
    exponent = (square.to(tl.int32, bitcast=True) >> 23) - 126
    return ((127 - (exponent >> 1)) << 23).to(tl.float32, bitcast=True)


@triton.jit
def norm_kernel(x_ptr, norm_ptr, tokens, width, stride_f, stride_n, BLOCK_D: tl.constexpr):
    """Squared norm of each token. Grid (frames · tokens).

    A pass of its own: a matching that also squares what it multiplies keeps no loads in flight, and takes
    eight times as long on an H200.
    """
    frame = (tl.program_id(0) // tokens).to(tl.int64)
    row = x_ptr + frame * stride_f + (tl.program_id(0) % tokens).to(tl.int64) * stride_n
    square = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(row + d, mask=d < width, other=0.0).to(tl.float32)
        square += x * x
    tl.store(norm_ptr + tl.program_id(0), tl.sum(square, axis=0))


@triton.jit
def match_kernel(
    x_ptr, norm_ptr, best_ptr, into_ptr, tokens_a, tokens_b, width, stride_f, stride_n,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Best odd token of each even one: its similarity and its ordinal. Grid (frames, blocks of A)."""
    frame = tl.program_id(0).to(tl.int64)
    row_a = tl.program_id(1) * BLOCK_A + tl.arange(0, BLOCK_A)
    base = x_ptr + frame * stride_f
    norms = norm_ptr + frame * (tokens_a + tokens_b)
    ptr_a = base + (2 * row_a).to(tl.int64)[:, None] * stride_n
    live_a = (row_a < tokens_a)[:, None]
    norm_a = tl.load(norms + 2 * row_a, mask=row_a < tokens_a, other=0.0)
    unit_a = _half_exponent(norm_a)
    best = tl.full((BLOCK_A,), -4.0, tl.float32)
    into = tl.zeros((BLOCK_A,), tl.int32)
    for start_b in range(0, tokens_b, BLOCK_B):
        row_b = start_b + tl.arange(0, BLOCK_B)
        ptr_b = base + (2 * row_b + 1).to(tl.int64)[:, None] * stride_n
        live_b = row_b < tokens_b
        dot = tl.zeros((BLOCK_A, BLOCK_B), tl.float32)
        for start_d in range(0, width, BLOCK_D):
            d = (start_d + tl.arange(0, BLOCK_D))[None, :]
            a = tl.load(ptr_a + d, mask=live_a & (d < width), other=0.0)
            b = tl.load(ptr_b + d, mask=live_b[:, None] & (d < width), other=0.0)
            if UPCAST:
                a, b = a.to(tl.float32), b.to(tl.float32)
            dot = tl.dot(a, tl.trans(b), dot, input_precision="ieee")
        norm_b = tl.load(norms + 2 * row_b + 1, mask=live_b, other=0.0)
        unit_b = _half_exponent(norm_b)
        dot = dot * unit_a[:, None] * unit_b[None, :]
        scale = (norm_a * unit_a * unit_a)[:, None] * (norm_b * unit_b * unit_b)[None, :]
        # A masked divisor: 0/0 would be a NaN, which the maximum below must never see.
        order = tl.where(scale > 0, tl.div_rn(dot * tl.abs(dot), tl.where(scale > 0, scale, 1.0)), 0.0)
        order = tl.where(live_b[None, :], tl.where(order == order, order, -2.0), -4.0)
        top, where = tl.max(order, axis=1, return_indices=True, return_indices_tie_break_left=True)
        better = top > best  # strictly: among equals the earlier block, hence the lowest position
        best = tl.where(better, top, best)
        into = tl.where(better, where + start_b, into)
    tl.store(best_ptr + frame * tokens_a + row_a, best, mask=row_a < tokens_a)
    tl.store(into_ptr + frame * tokens_a + row_a, into, mask=row_a < tokens_a)


@triton.jit
def rank_kernel(best_ptr, into_ptr, order_ptr, ranked_into_ptr, tokens_a, BLOCK: tl.constexpr):
    """A's ordinals and targets by rank: rank = how many come before, by similarity, then position."""
    frame = tl.program_id(0).to(tl.int64) * tokens_a
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mine = tl.load(best_ptr + frame + row, mask=row < tokens_a, other=0.0)
    rank = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, tokens_a, BLOCK):
        other = start + tl.arange(0, BLOCK)
        theirs = tl.load(best_ptr + frame + other, mask=other < tokens_a, other=-8.0)
        before = (theirs[None, :] > mine[:, None]) | (
            (theirs[None, :] == mine[:, None]) & (other[None, :] < row[:, None])
        )
        rank += tl.sum(before.to(tl.int32), axis=1)
    into = tl.load(into_ptr + frame + row, mask=row < tokens_a, other=0)
    tl.store(order_ptr + frame + rank, row, mask=row < tokens_a)
    tl.store(ranked_into_ptr + frame + rank, into, mask=row < tokens_a)


@triton.jit
def rows_kernel(
    x_ptr, order_ptr, ranked_into_ptr, out_ptr, tokens_a, tokens_b, r, width, stride_f, stride_n,
    BLOCK_D: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """One output row: an unmerged A copied, or a B averaged with its arrivals, in rank order.

    Grid (frames · output rows, blocks of the width).
    """
    left = tokens_a - r + tokens_b
    frame = (tl.program_id(0) // left).to(tl.int64)
    row = tl.program_id(0) % left
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    base = x_ptr + frame * stride_f + d
    list_at = frame * tokens_a
    inside = d < width
    stay = tokens_a - r
    if row < stay:
        a = tl.load(order_ptr + list_at + r + row).to(tl.int64)
        merged = tl.load(base + 2 * a * stride_n, mask=inside)
    else:
        b = row - stay
        total = tl.load(base + (2 * b + 1).to(tl.int64) * stride_n, mask=inside, other=0.0).to(tl.float32)
        count = 1.0
        for start in range(0, r, SCAN):
            slot = start + tl.arange(0, SCAN)
            into = tl.load(ranked_into_ptr + list_at + slot, mask=slot < r, other=-1)
            hits = (into == b).to(tl.int32)
            found = tl.sum(hits, axis=0)
            nth = tl.cumsum(hits, axis=0) * hits
            for arrival in range(1, found + 1):
                at = start + tl.sum(tl.where(nth == arrival, tl.arange(0, SCAN), 0), axis=0)
                a = tl.load(order_ptr + list_at + at).to(tl.int64)
                total += tl.load(base + 2 * a * stride_n, mask=inside, other=0.0).to(tl.float32)
            count += found.to(tl.float32)
        merged = tl.div_rn(total, tl.zeros_like(total) + count).to(out_ptr.dtype.element_ty)
    # The address is worked out here: held through the loop, it made one ptxas spill.
    out = out_ptr + (frame * (tokens_a - r + tokens_b) + row) * width + d
    tl.store(out, merged, mask=inside)


def merge(x: torch.Tensor, r: int) -> torch.Tensor:
    """Merge `r` ≥ 1 tokens a frame; see `aimcost.kernels.merge.merge_tokens`."""
    frames, tokens, width = x.shape
    if x.stride(2) != 1:
        x = x.contiguous()
    tokens_b = tokens // 2
    tokens_a = tokens - tokens_b
    r = min(r, tokens_b)
    config = match_config(x.dtype)
    norm = torch.empty(frames, tokens, dtype=torch.float32, device=x.device)
    best = torch.empty(frames, tokens_a, dtype=torch.float32, device=x.device)
    into, order, ranked_into = torch.empty(3, frames, tokens_a, dtype=torch.int32, device=x.device)
    out = torch.empty(frames, tokens - r, width, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        norm_kernel[(frames * tokens,)](
            x, norm, tokens, width, x.stride(0), x.stride(1), BLOCK_D=ROW_BLOCK, num_warps=4
        )
        match_kernel[(frames, triton.cdiv(tokens_a, config.block_a))](
            x, norm, best, into, tokens_a, tokens_b, width, x.stride(0), x.stride(1),
            BLOCK_A=config.block_a, BLOCK_B=config.block_b, BLOCK_D=config.block_d,
            UPCAST=_dispatch.interpreting() and x.dtype == torch.bfloat16,
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
        rank_kernel[(frames, triton.cdiv(tokens_a, RANK_BLOCK))](
            best, into, order, ranked_into, tokens_a, BLOCK=RANK_BLOCK, num_warps=8
        )
        rows_kernel[(frames * (tokens - r), triton.cdiv(width, ROW_BLOCK))](
            x, order, ranked_into, out, tokens_a, tokens_b, r, width, x.stride(0), x.stride(1),
            BLOCK_D=ROW_BLOCK, SCAN=SCAN_BLOCK, num_warps=4,
        )  # fmt: skip
    return out
