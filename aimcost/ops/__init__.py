"""Formulas: plain functions of dimensions that return a `Cost`. Each formula is written once."""

from .cost import Cost, Widths

__all__ = ["Cost", "Widths"]
