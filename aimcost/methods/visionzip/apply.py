"""VisionZip: the most attended tokens as they are, the others averaged into a few contextual ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...kernels.select import select_tokens
from .cost import CLASS_ATTENTION_CONTEXTUAL, contextual_tokens

__all__ = ["VISUAL_MERGERS", "VISUAL_SCORERS", "dominant_and_contextual"]


def by_tower_attention(*, x: torch.Tensor, attention: torch.Tensor, **_: Any) -> torch.Tensor:
    """The tower's attention to each token as its score: (G, n) to (B, groups, n) as in `x`."""
    return attention.view(x.shape[:3])


def dominant_and_contextual(
    *,
    x: torch.Tensor,
    keep: int,
    attention: torch.Tensor,
    keys: torch.Tensor,
    counts: Mapping[str, int],
    **_: Any,
) -> torch.Tensor:
    """(G, n, D) tokens to (G, keep, D): dominant ones in their order, then contextual ones.

    Contextual tokens start as evenly spaced ones of the rest; each other token joins the one whose
    tower key is most similar (cosine), and each becomes the mean of those that joined it. Shapes:
    `attention` (G, n), `keys` (G, n, E); ``counts["contextual"]`` says how many there are. Source:
    dvlab-research/VisionZip.
    """
    groups, tokens, width = x.shape
    contextual = contextual_tokens(counts, keep)
    dominant = x.new_zeros(groups, 0, dtype=torch.long)
    if contextual < keep:
        dominant = select_tokens(attention.float(), keep - contextual)
    stays = x.gather(1, dominant[..., None].expand(-1, -1, width))
    if not contextual:
        return stays
    inside = torch.zeros(groups, tokens, dtype=torch.bool, device=x.device).scatter_(1, dominant, True)
    rest = inside.int().argsort(dim=1, stable=True)[:, : tokens - dominant.shape[1]]
    spaced = torch.arange(contextual, device=x.device) * rest.shape[1] // contextual
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    unit = unit.gather(1, rest[..., None].expand(-1, -1, unit.shape[-1]))
    nearest = (unit @ unit[:, spaced].transpose(1, 2)).argmax(-1)
    nearest[:, spaced] = torch.arange(contextual, device=x.device)
    joins = torch.nn.functional.one_hot(nearest, contextual).transpose(1, 2).float()
    values = x.gather(1, rest[..., None].expand(-1, -1, width)).float()
    means = (joins @ values) / joins.sum(-1, keepdim=True)
    return torch.cat((stays, means.to(x.dtype)), dim=1)


VISUAL_SCORERS = {CLASS_ATTENTION_CONTEXTUAL.name: by_tower_attention}
VISUAL_MERGERS = {CLASS_ATTENTION_CONTEXTUAL.name: dominant_and_contextual}
