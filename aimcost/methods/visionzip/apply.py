"""VisionZip: the most attended tokens as they are, the others added to a few contextual ones."""

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
    heads: int,
    counts: Mapping[str, int],
    class_feature: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """(G, n, D) tokens to (G, keep, D): dominant ones in their order, then contextual ones.

    The class token is the first of the dominant ones where `x` is what the tower yields, and so is `class_feature`
    (G, 1, D); the others are the most attended. Of the rest, every s-th is a target (s = rest // contextual); each
    other token joins the target whose key is most similar (cosine of the means over the `heads`), and a contextual
    token is its target plus the mean of what joined it. Shapes: `attention` (G, n), `keys` (G, n, heads · E);
    ``counts["contextual"]`` says how many there are. Source: dvlab-research/VisionZip.
    """
    groups, tokens, width = x.shape
    contextual = contextual_tokens(counts, keep)
    begin = [] if class_feature is None or class_feature.shape[-1] != width or contextual == keep else [class_feature]
    dominant = x.new_zeros(groups, 0, dtype=torch.long)
    if contextual + len(begin) < keep:
        dominant = select_tokens(attention.float(), keep - contextual - len(begin))
    stays = torch.cat((*begin, x.gather(1, dominant[..., None].expand(-1, -1, width))), dim=1)
    if not contextual:
        return stays
    inside = torch.zeros(groups, tokens, dtype=torch.bool, device=x.device).scatter_(1, dominant, True)
    rest = inside.int().argsort(dim=1, stable=True)[:, : tokens - dominant.shape[1]]
    targets = torch.arange(contextual, device=x.device) * max(1, rest.shape[1] // contextual)
    unit = torch.nn.functional.normalize(keys.float().unflatten(-1, (heads, -1)).mean(-2), dim=-1)
    unit = unit.gather(1, rest[..., None].expand(-1, -1, unit.shape[-1]))
    nearest = (unit @ unit[:, targets].transpose(1, 2)).argmax(-1)
    joins = torch.nn.functional.one_hot(nearest, contextual).transpose(1, 2).float()
    joins[:, :, targets] = 0.0
    values = x.gather(1, rest[..., None].expand(-1, -1, width)).float()
    means = (joins @ values) / joins.sum(-1, keepdim=True).clamp(min=1)
    return torch.cat((stays, (values[:, targets] + means).to(x.dtype)), dim=1)


VISUAL_SCORERS = {CLASS_ATTENTION_CONTEXTUAL.name: by_tower_attention}
VISUAL_MERGERS = {CLASS_ATTENTION_CONTEXTUAL.name: dominant_and_contextual}
