"""Choices that look at positions alone: evenly spaced, or drawn by a seeded generator."""

from __future__ import annotations

from typing import Any

import torch

from .cost import RANDOM, UNIFORM

__all__ = ["LAYER_SCORERS", "VISUAL_SCORERS"]


def evenly(*, protected: torch.Tensor, keep: int, **_: Any) -> torch.Tensor:
    """1 on evenly spaced candidates, 0 elsewhere: (B, n) fp32.

    Of V candidates in a row, the k = keep − protected ones whose rank r crosses a multiple of V / k.
    """
    candidate = ~protected
    total = candidate.sum(1, keepdim=True).clamp(min=1)
    wanted = keep - protected.sum(1, keepdim=True)
    rank = candidate.cumsum(1) - 1
    chosen = (rank + 1) * wanted // total > rank * wanted // total
    return (chosen & candidate).float()


def randomly(*, protected: torch.Tensor, seed: int, **_: Any) -> torch.Tensor:
    """Uniform random scores (B, n), the same on every device for the same `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(protected.shape, generator=generator).to(protected.device)


def _nothing_protected(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(x.shape[0] * x.shape[1], x.shape[2], dtype=torch.bool, device=x.device)


def evenly_in_groups(*, x: torch.Tensor, keep: int, **_: Any) -> torch.Tensor:
    """`evenly` over each group of (B, groups, n, D) tokens: (B, groups, n)."""
    return evenly(protected=_nothing_protected(x), keep=keep).view(x.shape[:3])


def randomly_in_groups(*, x: torch.Tensor, seed: int, **_: Any) -> torch.Tensor:
    """`randomly` over each group of (B, groups, n, D) tokens: (B, groups, n)."""
    return randomly(protected=_nothing_protected(x), seed=seed).view(x.shape[:3])


LAYER_SCORERS = {UNIFORM.name: evenly, RANDOM.name: randomly}
VISUAL_SCORERS = {UNIFORM.name: evenly_in_groups, RANDOM.name: randomly_in_groups}
