"""Micro-benchmarks that turn a machine into numbers: ceilings, grids, overheads.

Names are imported on first use, so that ``import aimcost.measure.profile`` works without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...extras import torch_module
from .process import quiet_process

if TYPE_CHECKING:
    from .environment import describe as describe
    from .run import profile as profile

_HOME = {"describe": ".environment", "profile": ".run"}

__all__ = ["describe", "profile", "quiet_process"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aimcost.measure.profile' has no attribute {name!r}")
    return getattr(torch_module(f"{__name__}{_HOME[name]}", f"aimcost.measure.profile.{name}"), name)
