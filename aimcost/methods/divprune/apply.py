"""DivPrune's choice: one token after another, always the one farthest from those chosen."""

from __future__ import annotations

from typing import Any

import torch

from .cost import MAX_MIN_COSINE

__all__ = ["VISUAL_SCORERS", "farthest_first"]


def farthest_first(*, x: torch.Tensor, keep: int, **_: Any) -> torch.Tensor:
    """The later a token is chosen the lower its score; 0 where it is not: (B, groups, n) fp32.

    Distance is 1 − cosine. The first is the one farthest from its nearest neighbour. `x` is
    (B, groups, n, D); tokens of all groups compete. Source: vbdi/divprune.
    """
    rows, groups, tokens, width = x.shape
    unit = torch.nn.functional.normalize(x.float().reshape(rows, groups * tokens, width), dim=-1)
    distance = 1 - unit @ unit.transpose(1, 2)
    distance.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    nearest = distance.amin(-1)
    scores = torch.zeros_like(nearest)
    for order in range(min(keep, groups * tokens)):
        chosen = nearest.masked_fill(scores > 0, float("-inf")).argmax(1, keepdim=True)
        scores.scatter_(1, chosen, float(keep - order))
        to_chosen = distance.gather(1, chosen[..., None].expand(-1, -1, groups * tokens))[:, 0]
        nearest = to_chosen if order == 0 else torch.minimum(nearest, to_chosen)
    return scores.view(rows, groups, tokens)


VISUAL_SCORERS = {MAX_MIN_COSINE.name: farthest_first}
