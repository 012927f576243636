"""Stages of a request, in the order in which they run."""

from __future__ import annotations

__all__ = ["DEFAULT_INCLUDE", "STAGES"]

# preprocess: CPU work before the tower. overhead: what a software stack adds beside the operations of other stages.
STAGES = ("preprocess", "vision", "projector", "merge", "prefill", "decode", "overhead")
DEFAULT_INCLUDE = tuple(stage for stage in STAGES if stage != "preprocess")
