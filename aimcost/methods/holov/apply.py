"""HoloV's choice: every strip of an image keeps its most attended tokens, as many as its score allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...ops.reduction import required_count
from .cost import HOLISTIC, VARIETY_WEIGHT

__all__ = ["VISUAL_SCORERS", "attended_by_strips"]

EPSILON = 1e-6
ATTENTION_SCALE = 1e3


def attended_by_strips(
    *, x: torch.Tensor, keep: int, attention: torch.Tensor, counts: Mapping[str, int], **_: Any
) -> torch.Tensor:
    """Attention, + 2 for the tokens that stay by their strip's share: (B, groups, n) fp32.

    Strips are runs of consecutive tokens, the first ones a token longer where they do not divide. A token's score is
    its attention and 0.09 of the variance of its cosine with the others of its strip, scaled to the attention; a
    strip's share of `keep` is its mean score, floored, and the highest shares take what is left over. A share above
    a strip's size is filled with the most attended tokens elsewhere, where the released code pads with zeros. `x` is
    (B, groups, n, D), `attention` (G, n). Source: obananas/HoloV.
    """
    rows, groups, tokens, width = x.shape
    strips = min(tokens, required_count(counts, "patches", scorer=HOLISTIC.name))
    received = attention.float().reshape(rows * groups, tokens)
    unit = torch.nn.functional.normalize(x.float().reshape(rows * groups, tokens, width), dim=-1)
    number = torch.arange(strips, device=x.device)
    size = tokens // strips + (number < tokens % strips).int()
    place = (size.cumsum(0) - size)[:, None] + torch.arange(int(tokens // strips + 1), device=x.device)
    inside = place < size.cumsum(0)[:, None]
    place = place.clamp(max=tokens - 1)
    share, attended = _scores(unit[:, place], received[:, place], inside, size)
    share = share / (share.sum(-1, keepdim=True) + EPSILON) * keep
    allowed = share.floor()
    ranked = share.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    allowed += ranked < keep - allowed.sum(-1, keepdim=True)
    rank = attended.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    stays = (rank < allowed[..., None]) & inside
    # strips are runs of tokens: read strip by strip, what lies inside them is the tokens in order
    return (received + 2.0 * stays[:, inside]).view(rows, groups, tokens)


def _scores(
    unit: torch.Tensor, received: torch.Tensor, inside: torch.Tensor, size: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean score of each strip (G, P), and attention (G, P, s) with −1 outside it.

    `unit` is (G, P, s, D), `received` (G, P, s), `inside` (P, s), `size` (P,).
    """
    pairs = inside[:, :, None] & inside[:, None, :]
    others = pairs & ~torch.eye(inside.shape[1], dtype=torch.bool, device=unit.device)
    similarity = (unit @ unit.transpose(2, 3)) * others
    valid = (size - 1).clamp(min=1)[:, None]
    mean = similarity.sum(-1) / valid
    variance = ((similarity - mean[..., None]) * pairs).square().sum(-1) / valid
    scaled = received * inside * ATTENTION_SCALE
    to_attention = scaled.sum(-1) / (variance.sum(-1) + EPSILON * size)
    token = scaled + VARIETY_WEIGHT * variance * to_attention[..., None]
    return token.sum(-1) / size, received.masked_fill(~inside, -1.0)


VISUAL_SCORERS = {HOLISTIC.name: attended_by_strips}
