"""VTW scores nothing: every visual token is withdrawn at once."""

from __future__ import annotations

from typing import Any

import torch

from .cost import WITHDRAW

__all__ = ["LAYER_SCORERS"]


def withdraw(*, protected: torch.Tensor, **_: Any) -> torch.Tensor:
    """Zeros of the shape of `protected` (B, n): text is protected, nothing else is to stay."""
    return torch.zeros_like(protected, dtype=torch.float32)


LAYER_SCORERS = {WITHDRAW.name: withdraw}
