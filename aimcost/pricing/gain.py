"""What a reduction gains over the same run unreduced: the speed-up and the time saved, each with the ratio's own band.

Both runs share most errors (`aimcost.pricing.priced.Band`): the card's kernels, the host's pace, what the stack adds.
With d and r the move of a term in the dense and in the reduced run:

    saved      D − R    moves by d − r
    speed-up   D / R    moves by (D / R) · (d / D − r / R): what both share in proportion drops out

Moves of different terms add in quadrature. `OWN` is what the two runs do not share. The second line holds for moves
that are small beside D and R: a speed-up lies no further out than the quotient of opposite ends of the runs' own bands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass
from ..machine.bands import OWN, OWN_FROM
from .result import Estimate, Interval

__all__ = ["Gain", "gain", "limit"]

Floats = NDArray[np.float64]


# Logarithm of the widest band: a stack's own band may be wider than any number.
FARTHEST = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A speed-up, and seconds saved."""

    speedup: Interval
    saved: Interval


def gain(dense: Estimate, reduced: Estimate, what: str | Iterable[str] = "ttft") -> Gain | None:
    """The gain of `reduced` over `dense` in a quantity (`Estimate.shares`); None where either takes no time."""
    what = what if isinstance(what, str) else tuple(what)
    before, after = dense.shares(what), reduced.shares(what)
    d, r = float((before * dense.seconds).sum()), float((after * reduced.seconds).sum())
    if not d or not r:
        return None
    if dense.band is None or reduced.band is None:
        return Gain(speedup=Interval(d / r, d / r, None), saved=Interval(d - r, d - r, None))
    moves = list(_moves(dense.band.moves(before), reduced.band.moves(after)))
    ratio = d / r
    own = OWN * min(1.0, _changed(dense, before, reduced, after) / (OWN_FROM * d))
    down, up = _quadrature([a / d - b / r for a, b in moves], own)
    less, more = _quadrature([a - b for a, b in moves], own * r)
    (least_d, most_d), (least_r, most_r) = dense.band.around(before), reduced.band.around(after)
    most = most_d / least_r * math.exp(own) if least_r else math.inf
    low = max(ratio * math.exp(-min(down, FARTHEST)), least_d / most_r * math.exp(-own))
    high = min(ratio * math.exp(min(up, FARTHEST)), most)
    return Gain(
        speedup=Interval(ratio, low, high),
        saved=Interval(d - r, d - r - less, d - r + more),
    )


def _changed(dense: Estimate, before: Floats, reduced: Estimate, after: Floats) -> float:
    """Seconds of operations that the reduction changes; those that it adds and removes do not cancel."""
    by_name: dict[tuple[str, str], float] = {}
    for estimate, share, sign in ((dense, before, 1.0), (reduced, after, -1.0)):
        spent = share * estimate.seconds
        for segment in estimate.table.segments:
            key = (segment.beside or segment.stage, segment.name)
            by_name[key] = by_name.get(key, 0.0) + sign * float(spent[segment.start : segment.stop].sum())
    return sum(map(abs, by_name.values()))


_Moves = dict[str, tuple[float, float]]


def _moves(dense: _Moves, reduced: _Moves) -> Iterator[tuple[float, float]]:
    """Signed moves of every term in both runs, at its low and at its high end."""
    for name in dense.keys() | reduced.keys():
        before, after = dense.get(name, (0.0, 0.0)), reduced.get(name, (0.0, 0.0))
        yield -before[0], -after[0]
        yield before[1], after[1]


def _quadrature(moves: list[float], own: float) -> tuple[float, float]:
    """Below and above: negative and positive moves, each with `own`, as square roots of sums of squares."""
    below = own**2 + sum(move**2 for move in moves if move < 0)
    above = own**2 + sum(move**2 for move in moves if move > 0)
    return math.sqrt(below), math.sqrt(above)


def limit(dense: Estimate) -> str:
    """Upper bound on the gain, in one line: the time that no token reduction can touch.

    Outside is everything to the first token but the language model's own operations; a method that merges inside the
    tower saves there too, which the line does not count.
    """
    total = dense.ttft_s
    inside = float(dense.seconds[dense.first_token_rows & dense.rows(["prefill"])].sum())
    outside = total - inside
    if not total:
        return ""
    if outside < 0.02 * total:
        return f"{_ms(outside)} of {_ms(total)} are outside the language model"
    return (
        f"{outside * 1e3:.0f} of {_ms(total)} are outside the language model: "
        f"no reduction can beat {total / outside:.1f}x here"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms"
