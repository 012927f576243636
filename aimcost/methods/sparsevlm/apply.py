"""SparseVLM's score: the attention that text tokens pay to each token."""

from __future__ import annotations

from typing import Any

import torch

from .cost import TEXT_RATERS

__all__ = ["LAYER_SCORERS", "rated_by_text"]


def rated_by_text(
    *,
    query: torch.Tensor,
    key: torch.Tensor,
    scale: float,
    protected: torch.Tensor,
    live: torch.Tensor | None,
    **_: Any,
) -> torch.Tensor:
    """Mean attention over heads and text rows: (B, n) fp32.

    Every text token rates; the released code picks raters by their similarity to the image, and
    merges part of what it prunes, where this keeps as many of the best-rated as they are. Shapes:
    `query` (B, H, n, D), `key` (B, V, n, D), `protected` (text) and `live` (B, n). Source:
    Gumpest/SparseVLMs.
    """
    rows, heads, tokens, width = query.shape
    groups = query.float().view(rows, key.shape[1], heads // key.shape[1], tokens, width)
    logits = groups @ key.float()[:, :, None].transpose(3, 4) * scale
    hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
    if live is not None:
        hidden = hidden | ~live[:, None, None, None]
    weights = logits.masked_fill(hidden, torch.finfo(torch.float32).min).softmax(-1).mean((1, 2))
    raters = protected if live is None else protected & live
    return (weights * raters[..., None]).sum(1) / raters.sum(1, keepdim=True).clamp(min=1)


LAYER_SCORERS = {TEXT_RATERS.name: rated_by_text}
