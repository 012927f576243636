"""aimcost: what dropping visual tokens really buys, on your model, your GPU, your workload.

>>> import aimcost
>>> estimate = aimcost.estimate(model="llava-onevision-qwen2-7b", hardware="nvidia_a100_sxm_80gb",
...                             frames=32, text_tokens=100, method="aim")
>>> estimate.ttft_s, estimate.saved_s, estimate.speedup  # doctest: +SKIP

Names are imported on first use, so that ``import aimcost`` stays cheap and never pulls in torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import apply as apply
    from .api import compare as compare
    from .api import estimate as estimate
    from .api import plan as plan
    from .api import reproduce as reproduce
    from .api import schedule as schedule

__version__ = "0.1.0"

_HOME = {
    "apply": ".api",
    "estimate": ".api",
    "schedule": ".api",
    "compare": ".api",
    "plan": ".api",
    "reproduce": ".api",
}

__all__ = ["__version__", "apply", "compare", "estimate", "plan", "reproduce", "schedule"]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module 'aimcost' has no attribute {name!r}")
