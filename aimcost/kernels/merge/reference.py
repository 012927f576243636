"""Bipartite token merging in plain PyTorch: the specification of `aimcost.kernels.merge`.

Source: AIM (arXiv 2412.03248) section 3.1 as its released ``llava/model/token_merge.py`` executes it.
Shape suffixes: F frames, N tokens, A even positions, B odd positions, R merged, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Matching", "cosine_order", "match", "merge"]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Which tokens merge into which, as ordinals within A and B.

    Attributes
    ----------
    unmerged_FU
        Members of A that stay, most similar first; U = |A| - R.
    merged_FR
        Members of A that merge, most similar first.
    into_FR
        The member of B that each of `merged_FR` goes to.
    """

    unmerged_FU: torch.Tensor
    merged_FR: torch.Tensor
    into_FR: torch.Tensor


def _norms(x_FND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared row norms brought to [1/2, 2], and the power of two that does it to the rows."""
    square_FN = x_FND.square().sum(-1)
    _, exponent = torch.frexp(square_FN)
    unit_FN = torch.ldexp(torch.ones_like(square_FN), -torch.div(exponent, 2, rounding_mode="floor"))
    return square_FN * unit_FN * unit_FN, unit_FN


def cosine_order(x_FND: torch.Tensor) -> torch.Tensor:
    """Signed squared cosine of every even token with every odd one, shape (F, A, B).

    Squaring keeps the order of cosines and spares the square roots, so that rows of whole numbers
    give exactly equal values where the cosines are equal: ties are then decided by position, as
    stated, and not by rounding. A row of zeros has similarity 0 with everything. Computed in fp32
    (fp64 for fp64 inputs); row norms from 1e-18 to 1e18 neither overflow nor vanish.
    """
    x_FND = x_FND.to(torch.promote_types(x_FND.dtype, torch.float32))
    square_FN, unit_FN = _norms(x_FND)
    dot = x_FND[:, ::2] @ x_FND[:, 1::2].transpose(1, 2)
    dot = dot * unit_FN[:, ::2, None] * unit_FN[:, None, 1::2]
    scale = square_FN[:, ::2, None] * square_FN[:, None, 1::2]
    return torch.where(scale > 0, dot * dot.abs() / scale, 0)


def match(x_FND: torch.Tensor, r: int) -> Matching:
    """Pair tokens: each even one with its most similar odd one, ties to the lowest position."""
    similarity_FAB = cosine_order(x_FND)
    best = similarity_FAB.amax(dim=-1, keepdim=True)
    # Lowest position among equals, explicitly: torch does not specify which one max() returns. The clamp
    # is for NaN, which equals nothing and must not lead outside the tensor.
    position_B = torch.arange(similarity_FAB.shape[-1], device=x_FND.device)
    into_FA = torch.where(similarity_FAB == best, position_B, position_B.numel()).amin(dim=-1)
    into_FA.clamp_(max=position_B.numel() - 1)
    order_FA = best.squeeze(-1).sort(dim=-1, descending=True, stable=True).indices
    merged_FR = order_FA[:, :r]
    return Matching(unmerged_FU=order_FA[:, r:], merged_FR=merged_FR, into_FR=into_FA.gather(1, merged_FR))


def merge(x_FND: torch.Tensor, r: int) -> torch.Tensor:
    """Merge `r` even tokens of each frame into odd ones; see `aimcost.kernels.merge.merge_tokens`."""
    frames, tokens, width = x_FND.shape
    r = min(r, tokens // 2)
    if r <= 0:
        return x_FND
    pairs = match(x_FND, r)
    frame_F1 = torch.arange(frames, device=x_FND.device)[:, None]
    a_FAD, b_FBD = x_FND[:, ::2], x_FND[:, 1::2]
    targets = b_FBD.shape[1]

    total = b_FBD.to(torch.promote_types(x_FND.dtype, torch.float32), copy=True)
    total = total.reshape(frames * targets, width)
    slot = (pairs.into_FR + frame_F1 * targets).reshape(-1)
    arrivals = a_FAD[frame_F1, pairs.merged_FR].to(total.dtype)
    total.index_add_(0, slot, arrivals.reshape(-1, width))
    count = torch.ones(frames * targets, dtype=total.dtype, device=x_FND.device)
    count.index_add_(0, slot, torch.ones_like(slot, dtype=total.dtype))
    means = (total / count[:, None]).to(x_FND.dtype).reshape(frames, targets, width)
    return torch.cat([a_FAD[frame_F1, pairs.unmerged_FU], means], dim=1)
