"""CDPruner's choice: greedy inference of a determinantal point process, conditioned on the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .cost import CONDITIONAL_DPP

__all__ = ["VISUAL_SCORERS", "diverse_given_the_question"]


def diverse_given_the_question(
    *,
    x: torch.Tensor,
    keep: int,
    image_embeds: torch.Tensor,
    text_embeds: Sequence[torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """1 for the `keep` tokens of each group that the process chooses, 0 for the rest: (B, groups, n) fp32.

    The kernel is r_i · cos(x_i, x_j) · r_j. The relevance r is one minus a token's cosine to the segments of the
    question, brought to 0 … 1 over all groups of a row. Every step takes the token that adds most to the determinant
    of the chosen ones' kernel. `x` is (B, groups, n, D), `image_embeds` (B · groups, n, P) and each row's
    `text_embeds` (M, P) lie in CLIP's common space. Source: Theia-4869/CDPruner, ``encode_images``.
    """
    rows, groups, tokens, _width = x.shape
    relevance = _relevance(image_embeds.view(rows, groups, tokens, -1), text_embeds)
    unit = (x / x.norm(dim=-1, keepdim=True)).float().view(rows * groups, tokens, -1)
    weight = relevance.view(rows * groups, tokens)
    kernel = weight[:, :, None] * (unit @ unit.transpose(1, 2)) * weight[:, None, :]
    gain = kernel.diagonal(dim1=1, dim2=2).clone()
    scores = torch.zeros_like(gain)
    group = torch.arange(rows * groups, device=x.device)
    earlier = gain.new_zeros(keep, rows * groups, tokens)
    for step in range(keep):
        chosen = gain.argmax(-1)
        along = earlier[:step, group, chosen]
        fresh = kernel[group, chosen] - torch.einsum("tg,tgn->gn", along, earlier[:step])
        fresh = fresh / gain[group, chosen].sqrt()[:, None]
        earlier[step] = fresh
        gain = (gain - fresh.square()).scatter(1, chosen[:, None], float("-inf"))
        scores.scatter_(1, chosen[:, None], 1.0)
    return scores.view(rows, groups, tokens)


def _relevance(image_embeds: torch.Tensor, text_embeds: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B, groups, n) from (B, groups, n, P) tokens and (M, P) segments of each row's question."""
    found = []
    for image, text in zip(image_embeds, text_embeds, strict=True):
        image = image / image.norm(dim=-1, keepdim=True)
        text = text.to(image) / text.to(image).norm(dim=-1, keepdim=True)
        away = -(image @ text.T).mean(-1)
        found.append((away - away.min() + 1e-6) / (away.max() - away.min()))
    return torch.stack(found).float()


VISUAL_SCORERS = {CONDITIONAL_DPP.name: diverse_given_the_question}
