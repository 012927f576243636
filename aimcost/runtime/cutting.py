"""The keys of a mask that a layer's cache holds; other cuts are `aimcost.kernels.select`'s."""

from __future__ import annotations

import torch

__all__ = ["cut_columns"]


def cut_columns(mask: torch.Tensor, index: torch.Tensor, prompt: int) -> torch.Tensor:
    """Keys of a (B or 1, H, q, prompt + g) mask: the prompt's at `index` (B, n), then all g later ones."""
    wide = mask.expand(index.shape[0], *mask.shape[1:])
    where = index[:, None, None, :].expand(-1, wide.shape[1], wide.shape[2], -1)
    return torch.cat((wide[..., :prompt].gather(3, where), wide[..., prompt:]), dim=-1)
