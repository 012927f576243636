"""What limits an operation: the names that reports print, and their codes in row arrays."""

from __future__ import annotations

__all__ = ["BOUNDS", "COMPUTE", "LAUNCH", "MEMORY", "NETWORK"]

BOUNDS = ("memory", "compute", "launch", "network")
MEMORY, COMPUTE, LAUNCH, NETWORK = range(4)
