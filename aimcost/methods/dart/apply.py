"""DART's choice: a few pivots, and for each of them the tokens that resemble it least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .cost import PIVOT_COSINE, PIVOTS_A_SIDE

__all__ = ["LAYER_SCORERS", "unlike_pivots"]

SLOTS = 32
"""Of the hash table in which released code keeps its eight pivots, and in whose order it visits them."""


def unlike_pivots(
    *,
    key: torch.Tensor,
    hidden: torch.Tensor,
    norm: Callable[[torch.Tensor], torch.Tensor],
    protected: torch.Tensor,
    live: torch.Tensor | None,
    keep: int,
    **_: Any,
) -> torch.Tensor:
    """2 for the visual pivots, 1 for what stays beside them, 0 for the rest: (B, n) fp32.

    Pivots are the four visual tokens and the four text tokens behind the image whose keys, all KV heads side by side,
    have the largest sum of magnitudes (fewer where there are fewer). One after another, each takes an equal share of
    what is to stay: of the visual tokens not taken yet, those whose hidden states, after the model's last norm, have
    the lowest cosine with its own. Where shares do not divide evenly, the first pivots take one more. `key` is
    (B, V, n, D), `hidden` (B, n, h), `protected` and `live` (B, n). Source: ZichenWen1/DART.
    """
    magnitude = key.transpose(1, 2).flatten(2).abs().sum(-1)
    place = torch.arange(magnitude.shape[1], device=key.device)
    visual = ~protected
    last = torch.where(visual, place, -1).amax(1, keepdim=True)
    behind = protected & (place > last) if live is None else protected & live & (place > last)
    wanted = keep - protected.sum(1, keepdim=True)
    parts = [_largest(magnitude, side) for side in (visual, behind)]
    pivots, found = (torch.cat(pair, dim=1) for pair in zip(*parts, strict=True))
    is_visual = torch.arange(pivots.shape[1], device=key.device) < parts[0][0].shape[1]
    seated = found & is_visual & (is_visual.cumsum(0) <= wanted)
    scores = 2.0 * torch.zeros_like(magnitude, dtype=torch.float32).scatter(1, pivots, seated.float())
    order = torch.where(found, pivots % SLOTS, SLOTS).argsort(dim=1, stable=True)
    pivots, found = pivots.gather(1, order), found.gather(1, order)
    left = (wanted - seated.sum(1, keepdim=True)).clamp(min=0)
    count = found.sum(1, keepdim=True).clamp(min=1)
    share = left // count + (torch.arange(pivots.shape[1], device=key.device) < left % count)
    states = norm(hidden)
    for number in range(pivots.shape[1]):
        one = states.gather(1, pivots[:, number, None, None].expand(-1, 1, states.shape[-1]))
        cosine = torch.nn.functional.cosine_similarity(one, states, dim=-1)
        free = visual & (scores == 0)
        rank = torch.where(free, cosine.float(), 2.0).argsort(dim=1, stable=True).argsort(dim=1)
        taken = free & (rank < share[:, number, None]) & found[:, number, None]
        scores = torch.where(taken, 1.0, scores)
    return scores


def _largest(magnitude: torch.Tensor, side: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The four tokens of `side` of largest `magnitude`, (B, 4), and which of them are of it."""
    best = magnitude.masked_fill(~side, -1.0).topk(min(PIVOTS_A_SIDE, side.shape[1]), dim=1).indices
    return best, side.gather(1, best)


LAYER_SCORERS = {PIVOT_COSINE.name: unlike_pivots}
