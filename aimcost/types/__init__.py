"""The frozen core types that every other module speaks in.

Units are FLOPs (one multiply-add is 2), bytes and seconds throughout. Token counts are per
request; a batch multiplies them where an operation is priced.
"""

from .hardware import HardwareSpec
from .model import (
    DecoderSpec,
    ModelSpec,
    MoeSpec,
    ProjectorSpec,
    QuantisationSpec,
    ResamplerSpec,
    ResolutionSpec,
    SamplingSpec,
    VisionSpec,
)
from .request import Parallel, Precision, ReductionEvent, Schedule, Serving, TowerLoad, Workload, runs_of
from .stack import Figure, Stack

__all__ = [
    "DecoderSpec",
    "Figure",
    "HardwareSpec",
    "ModelSpec",
    "MoeSpec",
    "Parallel",
    "Precision",
    "ProjectorSpec",
    "QuantisationSpec",
    "ReductionEvent",
    "ResamplerSpec",
    "ResolutionSpec",
    "SamplingSpec",
    "Schedule",
    "Serving",
    "Stack",
    "TowerLoad",
    "VisionSpec",
    "Workload",
    "runs_of",
]
