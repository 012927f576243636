"""Withdrawing every visual token scores nothing."""

from __future__ import annotations

from ...ops.reduction import positional
from ..registry import Scorer, register

__all__ = ["WITHDRAW"]


WITHDRAW = register(Scorer(name="none", cost=positional, reads="positions"))
