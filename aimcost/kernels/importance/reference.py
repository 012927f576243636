"""Temperature-softmax PageRank in plain PyTorch: the specification of `aimcost.kernels.importance`.

Source: AIM (arXiv 2412.03248) section 3.2 as its released ``modeling_qwen2.py`` executes it.
Shape suffixes: B batch, H query heads, V kv heads, G = H / V, N tokens, D head width, R rows, T steps.
"""

from __future__ import annotations

import torch

__all__ = ["importance_dense", "importance_streamed", "sharpened", "uniform"]

TILE_ELEMENTS = 1 << 23
"""Elements of one softmax tile of the streamed form: 32 MiB in fp32, held twice. Smaller tiles are no
faster on one thread, and on several each is one more barrier for the threads to wait at."""


def uniform(q: torch.Tensor, live_BN: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """The uniform distribution over each request's live tokens, shape (B, N)."""
    batch, tokens = q.shape[0], q.shape[2]
    if live_BN is None:
        return torch.full((batch, tokens), 1.0 / tokens, dtype=dtype, device=q.device)
    return live_BN.to(dtype) / live_BN.sum(dim=1, keepdim=True)


def sharpened(
    q_BHND: torch.Tensor, k_BVND: torch.Tensor, *, scale: float, tau: float, live_BN: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits S / τ, -inf where a query does not see a key, and M = softmax(S / τ); both (B, H, N, N)."""
    dtype = torch.promote_types(q_BHND.dtype, torch.float32)
    group = q_BHND.shape[1] // k_BVND.shape[1]
    k_BHND = k_BVND.repeat_interleave(group, dim=1)
    logits = q_BHND.to(dtype) @ k_BHND.to(dtype).transpose(2, 3) * (scale / tau)
    tokens = logits.shape[-1]
    visible = torch.ones(tokens, tokens, dtype=torch.bool, device=logits.device).tril()
    if live_BN is not None:
        visible = visible & live_BN[:, None, :, None] & live_BN[:, None, None, :]
    logits = logits.masked_fill(~visible, -torch.inf)
    # A dead row sees nothing: its softmax is 0/0, and it is to pass on nothing.
    return logits, torch.softmax(logits, dim=-1).masked_fill(~visible, 0)


def importance_dense(
    q_BHND: torch.Tensor,
    k_BVND: torch.Tensor,
    *,
    scale: float,
    tau: float = 0.1,
    steps: int = 5,
    live_BN: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition, read off: M = softmax(S / τ), five times d ← d·M, root mean square over heads.

    Holds N×N numbers for every head, and is meant for tests and for reading. Arithmetic is fp32, or
    fp64 for fp64 inputs.
    """
    _, matrix = sharpened(q_BHND, k_BVND, scale=scale, tau=tau, live_BN=live_BN)
    d = uniform(q_BHND, live_BN, matrix.dtype)[:, None, None, :]
    for _ in range(steps):
        d = d @ matrix
    return d.expand(-1, q_BHND.shape[1], -1, -1).square().mean(dim=1).sqrt().squeeze(1).float()


def _tile(heads: int, group: int, tokens: int, rows: int) -> tuple[int, int]:
    """How many kv heads, and how many query heads of each, to take at once."""
    fits = max(1, TILE_ELEMENTS // (rows * tokens))
    if fits >= group:
        return min(heads, fits // group), group
    return 1, fits


def _stream(
    q: torch.Tensor, k: torch.Tensor, start: torch.Tensor, dead: torch.Tensor | None, steps: int, rows: int
) -> torch.Tensor:
    """The distribution after `steps`, for (P, G, N, D) queries and (P, N, D) keys; shape (P, G, N).

    Mass only flows to earlier tokens. Taken from the last block of rows to the first, a block's mass
    at every step is complete once the later blocks have given theirs, so that its rows of M serve
    all steps at once and are then forgotten: one pass, and no N×N matrix.
    """
    pairs, group, tokens, width = q.shape
    mass = q.new_zeros(pairs, group, steps + 1, tokens)
    mass[:, :, 0] = start[:, None]
    future = torch.ones(rows, rows, dtype=torch.bool, device=q.device).triu_(1)
    lowest = torch.finfo(q.dtype).min
    for low in range((tokens - 1) // rows * rows, -1, -rows):
        high = min(tokens, low + rows)
        size = high - low
        logits = q[:, :, low:high].reshape(pairs, group * size, width) @ k[:, :high].transpose(1, 2)
        logits = logits.view(pairs, group, size, high)
        logits[..., low:].masked_fill_(future[:size, :size], lowest)
        if dead is not None:
            logits.masked_fill_(dead[:, None, None, :high], lowest)
        matrix = torch.softmax(logits, dim=-1).view(pairs * group, size, high)
        here = mass[..., low:high].reshape(pairs * group, steps + 1, size)
        for step in range(steps):
            here[:, step + 1] += torch.bmm(here[:, step : step + 1], matrix[..., low:])[:, 0]
        mass[..., low:high] = here.view(pairs, group, steps + 1, size)
        if low:
            given = torch.bmm(here[:, :steps], matrix[..., :low])
            mass[:, :, 1:, :low] += given.view(pairs, group, steps, low)
    return mass[:, :, steps]


def importance_streamed(
    q_BHND: torch.Tensor,
    k_BVND: torch.Tensor,
    *,
    scale: float,
    tau: float = 0.1,
    steps: int = 5,
    live_BN: torch.Tensor | None = None,
    rows: int = 64,
) -> torch.Tensor:
    """The same scores as `importance_dense` in one pass over M, a tile at a time; shape (B, N), fp32.

    Keeps 6·N numbers a head beside a tile of about `TILE_ELEMENTS`, touches only the causal half,
    and repeats no key head.
    """
    dtype = torch.promote_types(q_BHND.dtype, torch.float32)
    batch, heads, tokens, width = q_BHND.shape
    kv_heads = k_BVND.shape[1]
    group = heads // kv_heads
    q = (q_BHND.to(dtype) * (scale / tau)).reshape(batch * kv_heads, group, tokens, width)
    k = k_BVND.to(dtype).reshape(batch * kv_heads, tokens, width)
    start = uniform(q_BHND, live_BN, dtype).repeat_interleave(kv_heads, dim=0)
    dead = None if live_BN is None else ~live_BN.repeat_interleave(kv_heads, dim=0)
    rows = min(rows, tokens)
    take_p, take_g = _tile(batch * kv_heads, group, tokens, rows)
    square = q.new_zeros(batch * kv_heads, tokens)
    for p in range(0, batch * kv_heads, take_p):
        pick = slice(p, p + take_p)
        for g in range(0, group, take_g):
            masked = None if dead is None else dead[pick]
            d = _stream(q[pick, g : g + take_g], k[pick], start[pick], masked, steps, rows)
            square[pick] += d.square().sum(dim=1)
    return (square.view(batch, kv_heads, tokens).sum(dim=1) / heads).sqrt().float()
