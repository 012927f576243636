"""Selecting and gathering tokens in Triton: rank, compact, gather; all orders fixed, no atomics.

Ranks are counted, not sorted: N² comparisons of numbers that lie in the first-level cache, in one
launch and with ties decided by position, where a stable segmented sort takes several launches. At
AIM's sizes (6372 tokens and less) that is 40 M comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

__all__ = ["gather_mask", "gather_rows", "select"]

RANK_BLOCK = 16
RANK_SCAN = 256
COMPACT_BLOCK = 1024
ROW_BLOCK = 1024
MASK_BLOCK = 1024
SLOTS = 6
"""Tensors that one launch gathers: of a cut the hidden state, which tokens are left and protected, their positions,
and cos and sin of these."""

LOWEST = torch.finfo(torch.float32).min


@triton.jit
def _key(score_ptr, protected_ptr, live_ptr, column, tokens, HAS_PROTECTED, HAS_LIVE, LOWEST: tl.constexpr):
    """Scores with NaN and infinity made finite, the dead below all of them, the protected above."""
    inside = column < tokens
    score = tl.load(score_ptr + column, mask=inside, other=0.0).to(tl.float32)
    score = tl.where(score == score, tl.minimum(tl.maximum(score, LOWEST), -LOWEST), LOWEST)
    if HAS_LIVE:
        score = tl.where(tl.load(live_ptr + column, mask=inside, other=0) != 0, score, -float("inf"))
    if HAS_PROTECTED:
        score = tl.where(tl.load(protected_ptr + column, mask=inside, other=0) != 0, float("inf"), score)
    return score


@triton.jit
def keep_kernel(
    score_ptr, protected_ptr, live_ptr, flag_ptr, tokens, keep, stride_sb,
    HAS_PROTECTED: tl.constexpr, HAS_LIVE: tl.constexpr, LOWEST: tl.constexpr,
    BLOCK: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """Flag each token whose rank is below `keep`. Grid (blocks of tokens · batch)."""
    blocks = tl.cdiv(tokens, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    score = score_ptr + batch * stride_sb
    protected = protected_ptr + batch * tokens
    live = live_ptr + batch * tokens
    row = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    mine = _key(score, protected, live, row, tokens, HAS_PROTECTED, HAS_LIVE, LOWEST)
    rank = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, tokens, SCAN):
        other = start + tl.arange(0, SCAN)
        theirs = _key(score, protected, live, other, tokens, HAS_PROTECTED, HAS_LIVE, LOWEST)
        before = (theirs[None, :] > mine[:, None]) | (
            (theirs[None, :] == mine[:, None]) & (other[None, :] < row[:, None])
        )
        rank += tl.sum((before & (other < tokens)[None, :]).to(tl.int32), axis=1)
    tl.store(flag_ptr + batch * tokens + row, (rank < keep).to(tl.uint8), mask=row < tokens)


@triton.jit
def compact_kernel(flag_ptr, kept_ptr, tokens, keep, BLOCK: tl.constexpr):
    """Positions of the flags, ascending. Grid (blocks of tokens · batch); each counts what precedes it."""
    blocks = tl.cdiv(tokens, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    flag = flag_ptr + batch * tokens
    first = tl.program_id(0) % blocks * BLOCK
    lane = tl.arange(0, BLOCK)
    earlier = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, first, BLOCK):
        earlier += tl.load(flag + start + lane).to(tl.int32)
    mine = tl.load(flag + first + lane, mask=first + lane < tokens, other=0).to(tl.int32)
    slot = tl.sum(earlier, axis=0) + tl.cumsum(mine, axis=0) - mine
    tl.store(kept_ptr + batch * keep + slot, (first + lane).to(tl.int64), mask=(mine != 0) & (slot < keep))


@triton.jit
def _copy(
    src, dst, batch, slot, at, requests, keep, stride_l, stride_b, stride_n,
    LEAD: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    for lead in tl.static_range(LEAD):
        row = src + tl.full((), lead, tl.int64) * stride_l + batch * stride_b + at * stride_n
        to = dst + ((lead * requests + batch) * keep + slot) * WIDTH
        for start in range(0, WIDTH, BLOCK):
            d = start + tl.arange(0, BLOCK)
            tl.store(to + d, tl.load(row + d, mask=d < WIDTH), mask=d < WIDTH)


@triton.jit
def gather_kernel(
    kept_ptr, keep, requests,
    src0, dst0, stride_l0, stride_b0, stride_n0, src1, dst1, stride_l1, stride_b1, stride_n1,
    src2, dst2, stride_l2, stride_b2, stride_n2, src3, dst3, stride_l3, stride_b3, stride_n3,
    src4, dst4, stride_l4, stride_b4, stride_n4, src5, dst5, stride_l5, stride_b5, stride_n5,
    LEAD0: tl.constexpr, WIDTH0: tl.constexpr, BLOCK0: tl.constexpr,
    LEAD1: tl.constexpr, WIDTH1: tl.constexpr, BLOCK1: tl.constexpr,
    LEAD2: tl.constexpr, WIDTH2: tl.constexpr, BLOCK2: tl.constexpr,
    LEAD3: tl.constexpr, WIDTH3: tl.constexpr, BLOCK3: tl.constexpr,
    LEAD4: tl.constexpr, WIDTH4: tl.constexpr, BLOCK4: tl.constexpr,
    LEAD5: tl.constexpr, WIDTH5: tl.constexpr, BLOCK5: tl.constexpr,
):  # fmt: skip
    """One kept token of up to six (LEAD, B, N, WIDTH) tensors; LEAD 0 is an unused slot. Grid (kept · batch)."""
    slot = tl.program_id(0) % keep
    batch = (tl.program_id(0) // keep).to(tl.int64)
    at = tl.load(kept_ptr + batch * keep + slot)
    _copy(src0, dst0, batch, slot, at, requests, keep, stride_l0, stride_b0, stride_n0, LEAD0, WIDTH0, BLOCK0)
    _copy(src1, dst1, batch, slot, at, requests, keep, stride_l1, stride_b1, stride_n1, LEAD1, WIDTH1, BLOCK1)
    _copy(src2, dst2, batch, slot, at, requests, keep, stride_l2, stride_b2, stride_n2, LEAD2, WIDTH2, BLOCK2)
    _copy(src3, dst3, batch, slot, at, requests, keep, stride_l3, stride_b3, stride_n3, LEAD3, WIDTH3, BLOCK3)
    _copy(src4, dst4, batch, slot, at, requests, keep, stride_l4, stride_b4, stride_n4, LEAD4, WIDTH4, BLOCK4)
    _copy(src5, dst5, batch, slot, at, requests, keep, stride_l5, stride_b5, stride_n5, LEAD5, WIDTH5, BLOCK5)


@triton.jit
def mask_kernel(
    mask_ptr, kept_ptr, out_ptr, keep, stride_b, stride_h, stride_q, stride_k,
    HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of the smaller mask. Grid (kept queries · batch · heads, blocks of kept keys)."""
    pair = (tl.program_id(0) // keep).to(tl.int64)
    slot = tl.program_id(0) % keep
    batch = pair // HEADS
    head = pair % HEADS
    kept = kept_ptr + batch * keep
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    query = tl.load(kept + slot)
    key = tl.load(kept + column, mask=column < keep, other=0)
    row = mask_ptr + batch * stride_b + head * stride_h + query * stride_q
    value = tl.load(row + key * stride_k, mask=column < keep)
    out = out_ptr + (pair * keep + slot) * keep
    tl.store(out + column, value, mask=column < keep)


def _bytes(flags: torch.Tensor | None, stand_in: torch.Tensor) -> torch.Tensor:
    return stand_in if flags is None else flags.contiguous().view(torch.uint8)


def select(score: torch.Tensor, keep: int, protected: torch.Tensor | None, live: torch.Tensor | None) -> torch.Tensor:
    """Positions of the `keep` first tokens of each row; see the reference's `select`."""
    batch, tokens = score.shape
    score = score if score.stride(1) == 1 else score.contiguous()
    flag = torch.empty(batch, tokens, dtype=torch.uint8, device=score.device)
    kept = torch.empty(batch, keep, dtype=torch.int64, device=score.device)
    with torch.cuda.device_of(score):
        keep_kernel[(triton.cdiv(tokens, RANK_BLOCK) * batch,)](
            score, _bytes(protected, flag), _bytes(live, flag), flag, tokens, keep, score.stride(0),
            HAS_PROTECTED=protected is not None, HAS_LIVE=live is not None, LOWEST=LOWEST,
            BLOCK=RANK_BLOCK, SCAN=RANK_SCAN, num_warps=4,
        )  # fmt: skip
        compact_kernel[(triton.cdiv(tokens, COMPACT_BLOCK) * batch,)](
            flag, kept, tokens, keep, BLOCK=COMPACT_BLOCK, num_warps=4
        )
    return kept


def _as_rows(x: torch.Tensor, token_dim: int, batch: int) -> torch.Tensor:
    """View `x` as (LEAD, B, N, WIDTH), its last stride 1; a batch of 1 is expanded, not copied."""
    rows = x.flatten(token_dim + 1) if token_dim + 1 < x.dim() else x.unsqueeze(-1)
    rows = rows.flatten(0, token_dim - 2) if token_dim >= 2 else rows.unsqueeze(0)
    if rows.shape[3] > 1 and rows.stride(3) != 1:
        rows = rows.contiguous()
    return rows.expand(-1, batch, -1, -1)


def gather_rows(pairs: Sequence[tuple[torch.Tensor, int]], kept: torch.Tensor) -> list[torch.Tensor]:
    """Rows `kept` of each (tensor, token dimension), six tensors a launch."""
    batch, keep = kept.shape
    out = []
    for start in range(0, len(pairs), SLOTS):
        chunk = pairs[start : start + SLOTS]
        arguments, sizes = [], {}
        for i in range(SLOTS):
            if i >= len(chunk):
                arguments += [kept, kept, 0, 0, 0]
                sizes |= {f"LEAD{i}": 0, f"WIDTH{i}": 1, f"BLOCK{i}": 1}
                continue
            x, token_dim = chunk[i]
            rows = _as_rows(x, token_dim, batch)
            lead, width = rows.shape[0], rows.shape[3]
            shape = (*x.shape[: token_dim - 1], batch, keep, *x.shape[token_dim + 1 :])
            out.append(torch.empty(shape, dtype=x.dtype, device=x.device))
            arguments += [*(_raw(t) for t in (rows, out[-1])), *rows.stride()[:3]]
            block = min(ROW_BLOCK, triton.next_power_of_2(width))
            sizes |= {f"LEAD{i}": lead, f"WIDTH{i}": width, f"BLOCK{i}": block}
        with torch.cuda.device_of(kept):
            gather_kernel[(keep * batch,)](kept, keep, batch, *arguments, **sizes, num_warps=4)
    return out


def _raw(x: torch.Tensor) -> torch.Tensor:
    """Copying moves bits: booleans go as bytes."""
    return x.view(torch.uint8) if x.dtype == torch.bool else x


def gather_mask(mask: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Rows and columns `kept` of a (B or 1, H or 1, N, N) mask."""
    batch, keep = kept.shape
    heads = mask.shape[1]
    out = torch.empty(batch, heads, keep, keep, dtype=mask.dtype, device=mask.device)
    wide = mask.expand(batch, -1, -1, -1)
    with torch.cuda.device_of(kept):
        mask_kernel[(keep * batch * heads, triton.cdiv(keep, MASK_BLOCK))](
            _raw(wide), kept, _raw(out), keep, *wide.stride(), HEADS=heads, BLOCK=MASK_BLOCK, num_warps=4
        )
    return out
