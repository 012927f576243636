"""DivPrune's choice: one token after another, always the one farthest from those chosen."""

from __future__ import annotations

from typing import Any

import torch

from .cost import MAX_MIN_COSINE

__all__ = ["VISUAL_SCORERS", "farthest_first"]


def farthest_first(*, x: torch.Tensor, keep: int, **_: Any) -> torch.Tensor:
    """The later a token is chosen the lower its score; 0 where it is not: (B, groups, n) fp32.

    Distance is 1 − cosine in the tokens' own format, whose rounding decides among many as good as equal. The first is
    the one farthest from its second-nearest, itself being among those. `x` is (B, groups, n, D); tokens of all groups
    compete. Released code may choose a token again, which then stands in the prompt twice. Source: vbdi/divprune.
    """
    rows, groups, tokens, width = x.shape
    flat = x.reshape(rows, groups * tokens, width)
    unit = flat / flat.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    distance = 1 - unit @ unit.transpose(1, 2)
    nearest = distance.topk(min(2, groups * tokens), dim=1, largest=False).values[:, -1]
    scores = torch.zeros(rows, groups * tokens, device=x.device)
    for order in range(min(keep, groups * tokens)):
        chosen = nearest.masked_fill(scores > 0, float("-inf")).argmax(1, keepdim=True)
        scores.scatter_(1, chosen, float(keep - order))
        to_chosen = distance.gather(1, chosen[..., None].expand(-1, -1, groups * tokens))[:, 0]
        nearest = to_chosen if order == 0 else torch.minimum(nearest, to_chosen)
    return scores.view(rows, groups, tokens)


VISUAL_SCORERS = {MAX_MIN_COSINE.name: farthest_first}
