"""Stages of a request, in the order in which they run."""

from __future__ import annotations

__all__ = ["STAGES"]

STAGES = ("vision", "projector", "merge", "prefill", "decode")
