"""PruMerge: the tokens that the class token attends to stay, and add their nearest neighbours to themselves."""

from __future__ import annotations

from typing import Any

import torch

from .cost import CLASS_ATTENTION, NEIGHBOURS

__all__ = ["VISUAL_MERGERS", "VISUAL_SCORERS", "add_neighbours", "most_attended"]


def by_class_attention(*, x: torch.Tensor, attention: torch.Tensor, **_: Any) -> torch.Tensor:
    """The tower's attention to each token as its score: (G, n) to (B, groups, n) as in `x`."""
    return attention.view(x.shape[:3])


def most_attended(attention: torch.Tensor, count: int) -> torch.Tensor:
    """(G, count) tokens by falling attention; among equals the earlier one first."""
    return attention.argsort(dim=1, descending=True, stable=True)[:, :count]


def add_neighbours(x: torch.Tensor, stay: torch.Tensor, attention: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(G, k + 1, D): the tokens at `stay` (G, k) in that order, and one made of all others.

    A token that stays becomes itself plus the sum of the 32 others whose keys are most similar to its own (cosine),
    each times the attention that it receives; whether those stay too does not matter. The last token is the sum of
    all that do not stay, each times its attention. Nothing is divided by the sum of the weights.
    """
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    similarity = unit.gather(1, stay[..., None].expand(-1, -1, unit.shape[-1])) @ unit.transpose(1, 2)
    similarity.scatter_(2, stay[..., None], -2.0)
    near = similarity.topk(min(NEIGHBOURS, x.shape[1] - 1), dim=-1).indices
    weights = torch.zeros_like(similarity).scatter_(2, near, 1.0) * attention.float()[:, None]
    left = attention.float().scatter(1, stay, 0.0)[:, None]
    values = x.float()
    kept = values.gather(1, stay[..., None].expand(-1, -1, x.shape[-1])) + weights @ values
    return torch.cat((kept, left @ values), dim=1).to(x.dtype)


def merge_by_class_attention(
    *, x: torch.Tensor, keep: int, joint_attention: torch.Tensor, last_keys: torch.Tensor, **_: Any
) -> torch.Tensor:
    """(G, n, D) tokens to (G, keep, D): the keep − 1 most attended, by falling attention, and one of all others.

    `joint_attention` (G, n) is what the class token pays in the tower's last layer with all heads as one,
    `last_keys` (G, n, E) that layer's keys. Released code counts outliers to know how many stay (above the third
    quartile by one and a half interquartile ranges); here the schedule says. Source: 42Shawn/LLaVA-PruMerge.
    """
    return add_neighbours(x, most_attended(joint_attention, keep - 1), joint_attention, last_keys)


VISUAL_SCORERS = {CLASS_ATTENTION.name: by_class_attention}
VISUAL_MERGERS = {CLASS_ATTENTION.name: merge_by_class_attention}
