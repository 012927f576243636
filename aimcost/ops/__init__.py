"""Formulas: plain functions of dimensions that return a `Cost`. Each formula is written once."""

from .cost import Cost

__all__ = ["Cost"]
