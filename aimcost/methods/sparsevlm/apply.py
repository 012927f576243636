"""SparseVLM's score: the attention that text tokens pay to each token."""

from __future__ import annotations

from typing import Any

import torch

from .cost import TEXT_RATERS

__all__ = ["LAYER_SCORERS", "rated_by_text"]

ROWS = 128
"""Raters whose attention is held at once."""


def rated_by_text(
    *,
    query: torch.Tensor,
    key: torch.Tensor,
    scale: float,
    protected: torch.Tensor,
    live: torch.Tensor | None,
    protected_count: int | None = None,
    **_: Any,
) -> torch.Tensor:
    """Mean attention over heads and text rows: (B, n) fp32.

    Every text token rates; the released code picks raters by their similarity to the image, and
    merges part of what it prunes, where this keeps as many of the best-rated as they are. Shapes:
    `query` (B, H, n, D), `key` (B, V, n, D), `protected` (text) and `live` (B, n); `protected_count` is
    the most that are protected in a row (None: counted, for which the host waits). Only the raters' rows
    of attention are computed, `ROWS` at a time. Source: Gumpest/SparseVLMs.
    """
    rows, heads, tokens, width = query.shape
    count = int(protected.sum(1).max()) if protected_count is None else protected_count
    raters = protected if live is None else protected & live
    at = (~protected).int().argsort(dim=1, stable=True)[:, :count]
    keys = key.float()[:, :, None].transpose(3, 4)
    place = torch.arange(tokens, device=query.device)
    total = torch.zeros(rows, tokens, device=query.device)
    for some in at.split(ROWS, dim=1):
        asked = query.gather(2, some[:, None, :, None].expand(-1, heads, -1, width)).float()
        logits = asked.view(rows, key.shape[1], heads // key.shape[1], some.shape[1], width) @ keys * scale
        hidden = place > some[..., None]
        if live is not None:
            hidden = hidden | ~live[:, None]
        logits.masked_fill_(hidden[:, None, None], torch.finfo(torch.float32).min)
        weights = logits.softmax(-1).mean((1, 2))
        total += (weights * raters.gather(1, some)[..., None]).sum(1)
    return total / raters.sum(1, keepdim=True).clamp(min=1)


LAYER_SCORERS = {TEXT_RATERS.name: rated_by_text}
