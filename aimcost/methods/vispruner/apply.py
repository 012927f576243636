"""VisPruner's choice: the most attended tokens, and of the others those unlike each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...ops.reduction import required_count
from .cost import IMPORTANT_AND_DIVERSE, REMOVED_A_ROUND

__all__ = ["VISUAL_SCORERS", "attended_or_distinct"]


def attended_or_distinct(
    *,
    x: torch.Tensor,
    keep: int,
    attention: torch.Tensor,
    features: torch.Tensor,
    counts: Mapping[str, int],
    **_: Any,
) -> torch.Tensor:
    """2 for the most attended tokens of a group, 1 for the diverse ones, 0 for the rest: (B, groups, n) fp32.

    Of the tokens that attention leaves, every round drops up to eight of the even ones, those whose nearest odd one
    is nearest (cosine), until the diverse ones are left. `x` is (B, groups, n, D); compared are `features` (G, n, E),
    what the tower yields, in their own format. `attention` is (G, n). Source: Theia-4869/VisPruner.
    """
    rows, groups, tokens, _width = x.shape
    width = features.shape[-1]
    important = required_count(counts, "important", scorer=IMPORTANT_AND_DIVERSE.name)
    diverse = keep - important
    order = attention.float().view(rows * groups, tokens).argsort(dim=1, descending=True, stable=True)
    rest = order[:, important:]
    unit = features / features.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)
    while 0 < diverse < rest.shape[1]:
        left = unit.gather(1, rest[..., None].expand(-1, -1, width))
        nearest = (left[:, ::2] @ left[:, 1::2].transpose(1, 2)).amax(-1)
        dropped = min(REMOVED_A_ROUND, rest.shape[1] - diverse, nearest.shape[1])
        distinct = nearest.argsort(dim=1, descending=True, stable=True)[:, dropped:]
        rest = torch.cat((rest[:, ::2].gather(1, distinct), rest[:, 1::2]), dim=1)
    scores = torch.zeros(rows * groups, tokens, device=x.device)
    scores.scatter_(1, order[:, :important], 2.0)
    if diverse > 0:
        scores.scatter_(1, rest, 1.0)
    return scores.view(rows, groups, tokens)


VISUAL_SCORERS = {IMPORTANT_AND_DIVERSE.name: attended_or_distinct}
