"""Temperature-softmax PageRank in Triton, without an N×N matrix.

One pass for the maximum and the sum of every row's softmax, one transposed pass a step (each program
owns a block of keys and recomputes the logits of the queries that see it), one for the head mean.
Matrix products run in the input's precision, all else in fp32 and in base 2. An exponent is the scaled
difference of two products, never the difference of scaled ones or of a logsumexp: its rounding does not
grow with the logit. Between the passes mass is stored over its row's sum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .. import _dispatch

__all__ = ["TileConfig", "constants", "importance", "padded_width", "step_config", "tile_config"]

MEAN_BLOCK = 128


class TileConfig(NamedTuple):
    """Rows that a program owns, rows that it loops over, warps, pipeline stages.

    For `row_kernel` `block_own` is a multiple of `block_loop`: it masks the diagonal only in whole blocks.
    """

    block_own: int
    block_loop: int
    warps: int
    stages: int


def padded_width(head_dim: int) -> int:
    """The power of two, at least 16, that a head is padded to inside the kernels."""
    return max(16, triton.next_power_of_2(head_dim))


def tile_config(dtype: torch.dtype, head_dim: int) -> TileConfig:
    """The shipped tile of `row_kernel`. It fits the 99 KiB of an sm_86 or sm_89, hence every GPU from sm_80 on.

    Of tiles without spills and idle tensor cores, the fastest on an H200 at the lengths of AIM's cuts in bf16 and
    width 128, by compilation alone elsewhere; a plain function, since an autotuner would run trial kernels inside a
    user's first prefill, and cannot run without a driver.
    """
    width = padded_width(head_dim)
    if dtype == torch.float32:
        return TileConfig(32, 32, 4, 2) if width <= 64 else TileConfig(16, 16, 4, 2)
    return TileConfig(64, 64, 4, 3) if width <= 128 else TileConfig(64, 64, 4, 2)


def step_config(dtype: torch.dtype, head_dim: int) -> TileConfig:
    """The shipped tile of `step_kernel`: keys a program owns, queries it loops over; in fp32 that of `row_kernel`."""
    if dtype == torch.float32:
        return tile_config(dtype, head_dim)
    return TileConfig(64, 64, 4 if padded_width(head_dim) <= 128 else 8, 2)


@triton.jit
def _tile(base, rows, d, stride_n, tokens, D: tl.constexpr, UPCAST: tl.constexpr):
    tile = tl.load(
        base + rows.to(tl.int64)[:, None] * stride_n + d[None, :],
        mask=(rows < tokens)[:, None] & (d < D)[None, :],
        other=0.0,
    )
    if UPCAST:
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def _row_tile(
    q, k, d, rows, start, top, total, live, stride_kn, tokens, scale2,
    OWN: tl.constexpr, LOOP: tl.constexpr, D: tl.constexpr,
    DIAGONAL: tl.constexpr, HAS_LIVE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Fold one block of keys into the running maximum and sum of each row."""
    columns = start + tl.arange(0, LOOP)
    product = tl.dot(q, tl.trans(_tile(k, columns, d, stride_kn, tokens, D, UPCAST)), input_precision="ieee")
    if DIAGONAL:
        product = tl.where(columns[None, :] <= rows[:, None], product, -float("inf"))
    if HAS_LIVE:
        alive = tl.load(live + columns, mask=columns < tokens, other=0) != 0
        product = tl.where(alive[None, :], product, -float("inf"))
    higher = tl.maximum(top, tl.max(product, axis=1))
    # For a row without a live key so far: its exponents stay -inf instead of turning NaN.
    pivot = tl.maximum(higher, -3.0e38)
    share = tl.exp2((product - pivot[:, None]) * scale2)
    total = total * tl.exp2((top - pivot) * scale2) + tl.sum(share, axis=1)
    return higher, total


@triton.jit
def row_kernel(
    q_ptr, k_ptr, live_ptr, top_ptr, total_ptr, weight_ptr, counter_ptr, tokens, counters, scale2,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_lb,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    OWN: tl.constexpr, LOOP: tl.constexpr, HAS_LIVE: tl.constexpr, UPCAST: tl.constexpr, WAVEFRONT: tl.constexpr,
):  # fmt: skip
    """Each row's largest product q·k and the sum of its softmax; its mass is divided by the sum in place.

    The largest of a dead row is +inf: it gives nothing. Before `wavefront_kernel` (WAVEFRONT), which holds the
    masses itself, its counters are cleared instead.
    """
    tl.static_assert(OWN % LOOP == 0)
    # The last rows see the most keys: started first, they do not trail behind.
    blocks = tl.cdiv(tokens, OWN)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    block = blocks - 1 - tl.program_id(0) % blocks
    batch = pair // HEADS
    head = pair % HEADS
    rows = block * OWN + tl.arange(0, OWN)
    d = tl.arange(0, WIDTH)
    k = k_ptr + batch * stride_kb + (head // GROUP) * stride_kh
    live = live_ptr + batch * stride_lb
    q = _tile(q_ptr + batch * stride_qb + head * stride_qh, rows, d, stride_qn, tokens, D, UPCAST)
    top = tl.full((OWN,), -float("inf"), tl.float32)
    total = tl.zeros((OWN,), tl.float32)
    for start in range(0, block * OWN, LOOP):
        top, total = _row_tile(q, k, d, rows, start, top, total, live, stride_kn, tokens, scale2,
                               OWN, LOOP, D, False, HAS_LIVE, UPCAST)  # fmt: skip
    for start in range(block * OWN, tl.minimum(block * OWN + OWN, tokens), LOOP):
        top, total = _row_tile(q, k, d, rows, start, top, total, live, stride_kn, tokens, scale2,
                               OWN, LOOP, D, True, HAS_LIVE, UPCAST)  # fmt: skip
    if HAS_LIVE:
        alive = tl.load(live + rows, mask=rows < tokens, other=0) != 0
        top = tl.where(alive, top, float("inf"))
        total = tl.where(alive, total, 1.0)
    at = pair * tokens + rows
    tl.store(top_ptr + at, top, mask=rows < tokens)
    tl.store(total_ptr + at, total, mask=rows < tokens)
    if WAVEFRONT:
        for counter in range(tl.program_id(0), counters, tl.num_programs(0)):
            tl.store(counter_ptr + counter, 0)
    else:
        mass = tl.load(weight_ptr + at, mask=rows < tokens, other=0.0)
        tl.store(weight_ptr + at, mass / total, mask=rows < tokens)


@triton.jit
def _step_tile(
    q, k, d, columns, start, weight, top, given, stride_qn, tokens, scale2,
    LOOP: tl.constexpr, D: tl.constexpr, DIAGONAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Add what a block of queries gives to this program's keys, query by query: the caller sums over them once.

    Queries lie along the first axis, where a thread holds few of them and so few of their maxima and weights.
    """
    rows = start + tl.arange(0, LOOP)
    inside = rows < tokens
    queries = _tile(q, rows, d, stride_qn, tokens, D, UPCAST)
    if queries.dtype == tl.float32:
        # without a matrix unit the operand that stays must come first, or it is spilled
        product = tl.trans(tl.dot(k, tl.trans(queries), input_precision="ieee"))
    else:
        product = tl.dot(queries, tl.trans(k), input_precision="ieee")
    row_top = tl.load(top + rows, mask=inside, other=float("inf"))
    row_weight = tl.load(weight + rows, mask=inside, other=0.0)
    share = tl.exp2((product - row_top[:, None]) * scale2)
    if DIAGONAL:
        share = tl.where(columns[None, :] <= rows[:, None], share, 0.0)
    return given + share * row_weight[:, None]


@triton.jit
def step_kernel(
    q_ptr, k_ptr, live_ptr, top_ptr, total_ptr, weight_ptr, out_ptr, tokens, scale2,
    stride_qb, stride_qh, stride_qn, stride_kb, stride_kh, stride_kn, stride_lb,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    OWN: tl.constexpr, LOOP: tl.constexpr, HAS_LIVE: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One d ← d·M. Block 0 of keys is visible to every query, so it starts first."""
    blocks = tl.cdiv(tokens, OWN)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    batch = pair // HEADS
    head = pair % HEADS
    flat = pair * tokens
    first = tl.program_id(0) % blocks * OWN
    columns = first + tl.arange(0, OWN)
    d = tl.arange(0, WIDTH)
    q = q_ptr + batch * stride_qb + head * stride_qh
    k = _tile(k_ptr + batch * stride_kb + (head // GROUP) * stride_kh, columns, d, stride_kn, tokens, D, UPCAST)
    shares = tl.zeros((LOOP, OWN), tl.float32)
    # From here on every query sees every key of the block.
    below = first + tl.cdiv(OWN, LOOP) * LOOP
    for start in range(first, tl.minimum(below, tokens), LOOP):
        shares = _step_tile(q, k, d, columns, start, weight_ptr + flat, top_ptr + flat, shares, stride_qn,
                            tokens, scale2, LOOP, D, True, UPCAST)  # fmt: skip
    for start in range(below, tokens, LOOP):
        shares = _step_tile(q, k, d, columns, start, weight_ptr + flat, top_ptr + flat, shares, stride_qn,
                            tokens, scale2, LOOP, D, False, UPCAST)  # fmt: skip
    given = tl.sum(shares, axis=0)
    if HAS_LIVE:
        alive = tl.load(live_ptr + batch * stride_lb + columns, mask=columns < tokens, other=0) != 0
        given = tl.where(alive, given, 0.0)
    total = tl.load(total_ptr + flat + columns, mask=columns < tokens, other=1.0)
    tl.store(out_ptr + flat + columns, given / total, mask=columns < tokens)


@triton.jit
def head_rms_kernel(weight_ptr, total_ptr, out_ptr, tokens, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    """Root mean square over heads. Grid (blocks of tokens · batch)."""
    blocks = tl.cdiv(tokens, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    square = tl.zeros((BLOCK,), tl.float32)
    for head in range(HEADS):
        at = (batch * HEADS + head) * tokens + column
        weight = tl.load(weight_ptr + at, mask=column < tokens, other=0.0)
        mass = weight * tl.load(total_ptr + at, mask=column < tokens, other=0.0)
        square += mass * mass
    tl.store(out_ptr + batch * tokens + column, tl.sqrt_rn(square / HEADS), mask=column < tokens)


def importance(
    q: torch.Tensor, k: torch.Tensor, *, scale: float, tau: float, steps: int, live: torch.Tensor | None
) -> torch.Tensor:
    """Scores (B, N) in fp32; see `aimcost.kernels.importance.importance_scores`."""
    batch, heads, tokens, head_dim = q.shape
    q, k = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k))
    top, total, weight, spare = torch.empty(4, batch * heads, tokens, dtype=torch.float32, device=q.device)
    out = torch.empty(batch, tokens, dtype=torch.float32, device=q.device)
    if live is None:
        weight.fill_(1.0 / tokens)
        mask, stride_mask = top, 0  # never read
    else:
        start = live.to(torch.float32) / live.sum(dim=1, keepdim=True)
        weight.view(batch, heads, tokens).copy_(start[:, None, :])
        mask, stride_mask = live.contiguous().view(torch.uint8), tokens
    rows, steps_tile = tile_config(q.dtype, head_dim), step_config(q.dtype, head_dim)
    strides = (*q.stride()[:3], *k.stride()[:3], stride_mask)
    scale2 = scale / tau * math.log2(math.e)
    shared = constants(q, k, live)
    # One dimension: the others of a grid end at 65,535.
    with torch.cuda.device_of(q):
        row_kernel[(triton.cdiv(tokens, rows.block_own) * batch * heads,)](
            q,
            k,
            mask,
            top,
            total,
            weight,
            mask,
            tokens,
            0,
            scale2,
            *strides,
            **shared,
            **_options(rows),
            WAVEFRONT=False,
        )
        for _ in range(steps):
            step_kernel[(triton.cdiv(tokens, steps_tile.block_own) * batch * heads,)](
                q, k, mask, top, total, weight, spare, tokens, scale2, *strides, **shared, **_options(steps_tile)
            )
            weight, spare = spare, weight
        head_rms_kernel[(triton.cdiv(tokens, MEAN_BLOCK) * batch,)](
            weight, total, out, tokens, HEADS=heads, BLOCK=MEAN_BLOCK, num_warps=4
        )
    return out


def constants(q: torch.Tensor, k: torch.Tensor, live: torch.Tensor | None) -> dict[str, int]:
    """What every kernel of q and k is compiled for."""
    heads, head_dim = q.shape[1], q.shape[3]
    return {
        "HEADS": heads, "GROUP": heads // k.shape[1], "D": head_dim, "WIDTH": padded_width(head_dim),
        "HAS_LIVE": live is not None, "UPCAST": _dispatch.interpreting() and q.dtype == torch.bfloat16,
    }  # fmt: skip


def _options(tile: TileConfig) -> dict[str, int]:
    return {"OWN": tile.block_own, "LOOP": tile.block_loop, "num_warps": tile.warps, "num_stages": tile.stages}
