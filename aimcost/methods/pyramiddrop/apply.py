"""PyramidDrop's score: the last instruction token against the keys of the following layer."""

from __future__ import annotations

from ..fastv.apply import last_row
from .cost import LAST_QUERY

__all__ = ["LAYER_SCORERS"]

# The row is FastV's; only whose queries and keys it reads differs. Source: Cooperx521/PyramidDrop.
LAYER_SCORERS = {LAST_QUERY.name: last_row}
