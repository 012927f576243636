"""FastV's score: the last token's attention row, averaged over heads."""

from __future__ import annotations

from typing import Any

import torch

from .cost import LAST_ROW

__all__ = ["LAYER_SCORERS", "last_row"]


def last_row(
    *, query: torch.Tensor, key: torch.Tensor, scale: float, live: torch.Tensor | None, **_: Any
) -> torch.Tensor:
    """Attention of the last real token to every token, mean over heads: (B, n) fp32.

    Shapes: `query` (B, H, n, D), `key` (B, V, n, D), `live` (B, n) False on padding.
    Source: pkunlp-icler/FastV, which reads it off the layer before the cut.
    """
    rows, heads, tokens, width = query.shape
    if live is None:
        last = torch.full((rows,), tokens - 1, device=query.device)
    else:
        last = tokens - 1 - live.flip(1).int().argmax(1)
    one = query.gather(2, last[:, None, None, None].expand(-1, heads, 1, width)).float()
    groups = one.view(rows, key.shape[1], heads // key.shape[1], width)
    logits = (groups @ key.float().transpose(2, 3)).reshape(rows, heads, tokens) * scale
    hidden = torch.arange(tokens, device=query.device) > last[:, None]
    if live is not None:
        hidden = hidden | ~live
    return logits.masked_fill(hidden[:, None], float("-inf")).softmax(-1).mean(1)


LAYER_SCORERS = {LAST_ROW.name: last_row}
