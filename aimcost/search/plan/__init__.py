"""Plan a retention budget: which schedule keeps most under a latency, memory or FLOPs budget."""

from __future__ import annotations

from .budgets import Budgets
from .planning import SHAPES, plan_run
from .result import Plan

__all__ = ["SHAPES", "Budgets", "Plan", "plan_run"]
