"""Colours that the colour-blind tell apart (Okabe and Ito)."""

from __future__ import annotations

__all__ = ["COLOURS"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
