"""Choices by position alone: nothing is scored, and the survivors are copied."""

from __future__ import annotations

from ...ops.reduction import positional
from ..registry import Scorer, register

__all__ = ["RANDOM", "UNIFORM"]


UNIFORM = register(Scorer(name="uniform", cost=positional, reads="positions"))
RANDOM = register(Scorer(name="random", cost=positional, reads="positions"))
