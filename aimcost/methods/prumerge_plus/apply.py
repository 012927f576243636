"""PruMerge+: PruMerge's merging around the most attended tokens and an even grid."""

from __future__ import annotations

from typing import Any

import torch

from ..prumerge.apply import add_neighbours, by_class_attention, most_attended
from .cost import CLASS_ATTENTION_GRID

__all__ = ["VISUAL_MERGERS", "VISUAL_SCORERS", "grid_step"]


def grid_step(tokens: int, keep: int) -> int:
    """Distance of the grid's tokens where `keep` − 1 tokens are the outliers and what the grid adds to them.

    Released code counts o outliers of n tokens and lays every int(int(n / o) / 3)-th token beside them. From the total
    alone, o is the largest number that, with o / n of its grid among the outliers, does not exceed it.
    """
    best = tokens
    for outliers in range(1, keep):
        step = max(1, int(int(tokens / outliers) / 3))
        grid = len(range(0, tokens - 1, step))
        if outliers + grid * (1 - outliers / tokens) > keep - 1:
            break
        best = step
    return best


def merge_with_grid(
    *, x: torch.Tensor, keep: int, joint_attention: torch.Tensor, last_keys: torch.Tensor, **_: Any
) -> torch.Tensor:
    """(G, n, D) tokens to (G, keep, D): the most attended by falling attention, the grid's others, one of the rest.

    As many of the most attended stay as `keep` − 1 tokens allow beside the grid. Source: 42Shawn/LLaVA-PruMerge.
    """
    return add_neighbours(x, attended_and_grid(joint_attention, keep - 1), joint_attention, last_keys)


def attended_and_grid(attention: torch.Tensor, count: int) -> torch.Tensor:
    """(G, count) tokens: the most attended by falling attention, then those that the grid adds, ascending.

    The grid's step is the one that released code takes from the outliers of each group's attention, unless that grid
    is longer than `count`; then it is `grid_step`.
    """
    tokens = attention.shape[1]
    place = torch.arange(tokens, device=attention.device)
    planned = grid_step(tokens, count + 1)
    quartiles = attention.float().quantile(torch.tensor([0.25, 0.75], device=attention.device), dim=1, keepdim=True)
    outliers = attention.float() > quartiles[1] + 1.5 * (quartiles[1] - quartiles[0])
    share = outliers.sum(1, keepdim=True).double() / tokens
    step = (((1 / share).floor() / 3).floor()).clamp(min=1, max=tokens)
    step = torch.where(((tokens - 1) / step).ceil() > count, planned, step).long()
    grid = (place % step == 0) & (place < tokens - 1)
    order = most_attended(attention, tokens)
    on_grid = grid.gather(1, order).long()
    # with the first m by attention, the total is m and what of the grid lies beyond them
    total = place + 1 + on_grid.flip(1).cumsum(1).flip(1) - on_grid
    chosen = torch.zeros_like(grid).scatter(1, order, total <= count)
    rank = torch.zeros_like(order).scatter(1, order, place.expand_as(order))
    first = torch.where(chosen, rank, torch.where(grid, tokens + place, 2 * tokens + rank))
    return first.argsort(dim=1)[:, :count]


VISUAL_SCORERS = {CLASS_ATTENTION_GRID.name: by_class_attention}
VISUAL_MERGERS = {CLASS_ATTENTION_GRID.name: merge_with_grid}
