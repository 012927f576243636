"""DART's score: how little a token resembles the pivots, the tokens with the longest keys."""

from __future__ import annotations

from typing import Any

import torch

from .cost import PIVOT_COSINE, PIVOTS_A_SIDE

__all__ = ["LAYER_SCORERS", "unlike_pivots"]


def unlike_pivots(*, key: torch.Tensor, protected: torch.Tensor, live: torch.Tensor | None, **_: Any) -> torch.Tensor:
    """Minus the largest cosine to a pivot; pivots come first: (B, n) fp32.

    Pivots are the four visual and the four text tokens of largest key norm (fewer where there are
    fewer). Keys stand for the tokens, all KV heads side by side: `key` is (B, V, n, D), `protected`
    and `live` are (B, n). Source: ZichenWen1/DART, which compares hidden states.
    """
    tokens = key.transpose(1, 2).flatten(2).float()
    norms = tokens.abs().sum(-1)
    alive = torch.ones_like(protected) if live is None else live
    pivot = torch.zeros_like(protected)
    for side in (protected & alive, ~protected & alive):
        # the count is fixed: where a side has fewer, what else is found does not become a pivot
        best = norms.masked_fill(~side, -1.0).topk(min(PIVOTS_A_SIDE, side.shape[1]), dim=1).indices
        pivot |= torch.zeros_like(pivot).scatter(1, best, side.gather(1, best))
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    cosine = (unit @ unit.transpose(1, 2)).masked_fill(~pivot[:, None], -2.0)
    return torch.where(pivot, 2.0, -cosine.amax(-1))


LAYER_SCORERS = {PIVOT_COSINE.name: unlike_pivots}
