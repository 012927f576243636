"""What ranks send each other. Ring algorithms: Patarasuk and Yuan 2009, doi 10.1016/j.jpdc.2008.09.002.

`bytes` of a collective is its message, as textbooks count it; ``dims["wire_bytes"]`` is what each
rank sends, which is what takes time on the link. ``dims["passes"]`` around the ring over
``dims["ring_bytes"]`` name the measured curve to look up: two for an all-reduce, one for an all-gather.
"""

from __future__ import annotations

from .cost import Array, Cost

__all__ = ["all_gather", "all_reduce", "send"]


def all_reduce(message: Array, ranks: float) -> Cost:
    """Every rank gets the sum over all ranks: a ring sends 2·(t − 1) / t of the message."""
    return _collective(message, ranks, 2.0 * (ranks - 1.0) / ranks, passes=2.0)


def all_gather(message: Array, ranks: float) -> Cost:
    """Every rank gets all parts of the message: a ring sends (t − 1) / t of it."""
    return _collective(message, ranks, (ranks - 1.0) / ranks, passes=1.0)


def send(message: Array) -> Cost:
    """One rank to the next: as two ranks that gather each other's half of twice as much."""
    return _collective(message, 2.0, 1.0, passes=1.0, ring=2.0)


def _collective(message: Array, ranks: float, share: float, *, passes: float, ring: float = 1.0) -> Cost:
    return Cost(
        kind="collective",
        dims={
            "bytes": message,
            "ranks": ranks,
            "wire_bytes": message * share,
            "passes": passes,
            "ring_bytes": message * ring,
        },
        write_activations=message,
    )
