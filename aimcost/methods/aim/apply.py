"""AIM's two steps on tensors: PageRank importance inside the model, bipartite merging before it."""

from __future__ import annotations

from typing import Any

import torch

from ...kernels.importance import importance_scores
from ...kernels.merge import merge_tokens
from .cost import BIPARTITE, PAGERANK, PAGERANK_ITERATIONS, PAGERANK_TEMPERATURE

__all__ = ["LAYER_SCORERS", "VISUAL_MERGERS", "pagerank"]


def pagerank(
    *, query: torch.Tensor, key: torch.Tensor, scale: float, live: torch.Tensor | None, **_: Any
) -> torch.Tensor:
    """Importance of each live token, (B, n) fp32, from (B, H, n, D) queries and (B, V, n, D) keys.

    `live` (B, n) is False on padding, which then neither gets nor gives mass. Unlike the released
    code, PageRank starts uniformly over the live tokens alone. Source: arXiv 2412.03248.
    """
    return importance_scores(query, key, scale=scale, tau=PAGERANK_TEMPERATURE, steps=PAGERANK_ITERATIONS, live=live)


def bipartite_cosine(*, x: torch.Tensor, keep: int, **_: Any) -> torch.Tensor:
    """(G, n, D) tokens merged to (G, keep, D) in one step, each group by itself."""
    return merge_tokens(x, x.shape[1] - keep)


LAYER_SCORERS = {PAGERANK.name: pagerank}
VISUAL_MERGERS = {BIPARTITE.name: bipartite_cosine}
