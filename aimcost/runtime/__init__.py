"""Running schedules on real models: `apply` drops tokens, `apply_masked` hides them as the released AIM does.

Names are imported on first use, so that ``import aimcost.runtime`` works without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras import torch_module

if TYPE_CHECKING:
    from .build import build_model as build_model
    from .decode import Decode as Decode
    from .decode import capture_decode as capture_decode
    from .executor import Applied as Applied
    from .executor import apply as apply
    from .families import MODEL_CLASSES as MODEL_CLASSES
    from .graph import Captured as Captured
    from .graph import capture_prefill as capture_prefill
    from .masked import apply_masked as apply_masked
    from .masked import kept_overlap as kept_overlap
    from .question import ClipQuestion as ClipQuestion
    from .steps import Record as Record
    from .timing import Timing as Timing
    from .timing import time_alternately as time_alternately
    from .timing import time_call as time_call

_HOME = {
    "MODEL_CLASSES": ".families",
    "Applied": ".executor",
    "Captured": ".graph",
    "ClipQuestion": ".question",
    "Decode": ".decode",
    "Record": ".steps",
    "Timing": ".timing",
    "apply": ".executor",
    "build_model": ".build",
    "capture_decode": ".decode",
    "capture_prefill": ".graph",
    "kept_overlap": ".masked",
    "apply_masked": ".masked",
    "time_alternately": ".timing",
    "time_call": ".timing",
}

__all__ = [
    "MODEL_CLASSES",
    "Applied",
    "Captured",
    "ClipQuestion",
    "Decode",
    "Record",
    "Timing",
    "apply",
    "apply_masked",
    "build_model",
    "capture_decode",
    "capture_prefill",
    "kept_overlap",
    "time_alternately",
    "time_call",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'aimcost.runtime' has no attribute {name!r}")
    return getattr(torch_module(f"{__name__}{_HOME[name]}", f"aimcost.runtime.{name}"), name)
