"""PruMerge: the tokens that the class token attends to stay, and take in their nearest neighbours."""

from __future__ import annotations

from typing import Any

import torch

from ...kernels.select import select_tokens
from .cost import CLASS_ATTENTION, NEIGHBOURS

__all__ = ["VISUAL_MERGERS", "VISUAL_SCORERS"]


def by_class_attention(*, x: torch.Tensor, attention: torch.Tensor, **_: Any) -> torch.Tensor:
    """The tower's attention to each token as its score: (G, n) to (B, groups, n) as in `x`."""
    return attention.view(x.shape[:3])


def merge_by_class_attention(
    *, x: torch.Tensor, keep: int, attention: torch.Tensor, keys: torch.Tensor, **_: Any
) -> torch.Tensor:
    """Keep the most attended tokens of each group, each the weighted mean of its neighbourhood.

    The neighbourhood of a token that stays is itself and the 32 tokens whose tower keys are most similar to
    its own (cosine); weights are the attention received. The schedule says how many stay,
    not outlier detection. Shapes: `x` (G, n, D), `attention` (G, n), `keys` (G, n, E); the result
    is (G, keep, D) in original order. Source: LLaVA-PruMerge (42Shawn/LLaVA-PruMerge), simplified.
    """
    kept = select_tokens(attention, keep)
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    similarity = unit.gather(1, kept[..., None].expand(-1, -1, unit.shape[-1])) @ unit.transpose(1, 2)
    similarity.scatter_(2, kept[..., None], 2.0)
    near = similarity.topk(min(NEIGHBOURS + 1, x.shape[1]), dim=-1).indices
    inside = torch.zeros_like(similarity).scatter_(2, near, 1.0)
    weights = inside * attention.float()[:, None].clamp(min=torch.finfo(torch.float32).tiny)
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights @ x.float()).to(x.dtype)


VISUAL_SCORERS = {CLASS_ATTENTION.name: by_class_attention}
VISUAL_MERGERS = {CLASS_ATTENTION.name: merge_by_class_attention}
