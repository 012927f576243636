"""Taking the live tokens out of everything that has a token axis.

Shapes: B rows, N tokens before, n tokens after. `index` (B, n) holds ascending positions in 0…N−1.
"""

from __future__ import annotations

import torch

__all__ = ["cut_columns", "cut_positions", "cut_square", "cut_tokens"]


def cut_tokens(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of a (…, B or 1, N, D) tensor at `index`: (…, B, n, D)."""
    wide = tensor.expand(*tensor.shape[:-3], index.shape[0], *tensor.shape[-2:])
    where = index.unsqueeze(-1).expand(*wide.shape[:-2], index.shape[1], wide.shape[-1])
    return wide.gather(-2, where)


def cut_positions(positions: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Entries of (…, B or 1, N) position ids at `index`: (…, B, n)."""
    wide = positions.expand(*positions.shape[:-2], index.shape[0], positions.shape[-1])
    return wide.gather(-1, index.expand(*wide.shape[:-1], index.shape[1]))


def cut_columns(mask: torch.Tensor, index: torch.Tensor, prompt: int) -> torch.Tensor:
    """Keys of a (B or 1, H, q, prompt + g) mask: the live part of the prompt, then all g later ones."""
    wide = mask.expand(index.shape[0], *mask.shape[1:])
    where = index[:, None, None, :].expand(-1, wide.shape[1], wide.shape[2], -1)
    return torch.cat((wide[..., :prompt].gather(3, where), wide[..., prompt:]), dim=-1)


def cut_square(mask: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Queries and keys of a (B or 1, H, N, N) mask at `index`: (B, H, n, n)."""
    wide = mask.expand(index.shape[0], *mask.shape[1:])
    rows = wide.gather(2, index[:, None, :, None].expand(-1, wide.shape[1], -1, wide.shape[3]))
    return rows.gather(3, index[:, None, None, :].expand(-1, wide.shape[1], index.shape[1], -1))
