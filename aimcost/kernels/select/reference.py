"""Selecting and gathering tokens in plain PyTorch: the specification of `aimcost.kernels.select`.

Shape suffixes: B batch, N tokens, K kept, H mask heads.
"""

from __future__ import annotations

import torch

__all__ = ["cut_columns", "gather_mask", "gather_rows", "select"]


def select(
    score_BN: torch.Tensor, keep: int, protected_BN: torch.Tensor | None, live_BN: torch.Tensor | None
) -> torch.Tensor:
    """Positions of the `keep` first tokens of each row, ascending; int64 (B, K).

    First come the protected, then the live by falling score, then the dead; always the earlier
    position among equals. NaN ranks after every number: that keeps indices valid unchecked.
    """
    score_BN = score_BN.to(torch.promote_types(score_BN.dtype, torch.float32))
    limits = torch.finfo(score_BN.dtype)
    key_BN = score_BN.nan_to_num(nan=limits.min, posinf=limits.max, neginf=limits.min)
    if live_BN is not None:
        key_BN = key_BN.masked_fill(~live_BN, -torch.inf)
    if protected_BN is not None:
        key_BN = key_BN.masked_fill(protected_BN, torch.inf)
    # topk leaves open which of equal values it takes; a stable sort does not.
    order_BN = key_BN.sort(dim=-1, descending=True, stable=True).indices
    return order_BN[:, :keep].sort(dim=-1).values


def gather_rows(x: torch.Tensor, kept_BK: torch.Tensor, token_dim: int) -> torch.Tensor:
    """Rows `kept_BK` of `x` along `token_dim`, whose batch is the dimension before it.

    A batch of 1 in `x` serves every request.
    """
    batch = kept_BK.shape[0]
    row_B1 = torch.arange(batch, device=x.device)[:, None]
    if x.shape[token_dim - 1] == 1:
        row_B1 = torch.zeros_like(row_B1)
    lead = (slice(None),) * (token_dim - 1)
    return x[(*lead, row_B1, kept_BK)]


def gather_mask(mask: torch.Tensor, kept_BK: torch.Tensor) -> torch.Tensor:
    """Rows and columns `kept_BK` of a (B or 1, H or 1, N, N) mask; shape (B, H or 1, K, K)."""
    batch = kept_BK.shape[0]
    row_B = torch.arange(batch, device=mask.device)
    if mask.shape[0] == 1:
        row_B = torch.zeros_like(row_B)
    head_H = torch.arange(mask.shape[1], device=mask.device)
    return mask[
        row_B[:, None, None, None],
        head_H[None, :, None, None],
        kept_BK[:, None, :, None],
        kept_BK[:, None, None],
    ]


def cut_columns(mask: torch.Tensor, index: torch.Tensor, prompt: int) -> torch.Tensor:
    """Keys of a (B or 1, H, q, prompt + g) mask: the prompt's at `index` (B, n), then all g later ones."""
    wide = mask.expand(index.shape[0], *mask.shape[1:])
    where = index[:, None, None, :].expand(-1, wide.shape[1], wide.shape[2], -1)
    return torch.cat((wide[..., :prompt].gather(3, where), wide[..., prompt:]), dim=-1)
