"""Sizes observed at several counts → an expression of the counts, exact at every one of them.

An expression is a sum of at most three terms, a rational coefficient times a product of counts,
``min(window, n)`` and ``ceil(n / block)``. With eight or more observations a sum of three terms that
holds at all of them is no coincidence; what no such sum reproduces is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fitter"]

_MOST_TERMS = 3
_LARGEST_DENOMINATOR = 128
# Of a correlation matrix: below it, terms cannot be told apart at the points.
_LEAST_DETERMINANT = 1e-12


class Fitter:
    """Fits values observed at `points`.

    Parameters
    ----------
    points
        Counts by name, one mapping a pass.
    counts
        Names to use, the repeating one (``batch``, ``images``) first and the length last.
    windows
        Stand-in width → width that is written.
    blocks
        Widths of blocks that lengths may be padded to.
    squared
        Terms of the repeating count's square too: a loop over images of what is done on all of them.
    """

    def __init__(
        self,
        points: Sequence[Mapping[str, float]],
        counts: tuple[str, str],
        *,
        windows: Mapping[int, int] | None = None,
        blocks: Iterable[int] = (),
        squared: bool = False,
    ) -> None:
        outer, length = counts
        n = np.array([point[length] for point in points], dtype=float)
        repeat = np.array([point[outer] for point in points], dtype=float)
        lengths: list[tuple[str, NDArray[np.float64]]] = [
            ("", np.ones_like(n)),
            (length, n),
            (f"{length}*{length}", n * n),
        ]
        for stand_in, width in (windows or {}).items():
            # a cache of a window holds one less than the window
            for offset in (0, -1):
                seen = np.minimum(stand_in + offset, n)
                text = f"min({width + offset}, {length})"
                lengths += [(text, seen), (f"{length}*{text}", n * seen)]
        extended = list(lengths)
        for block in sorted(set(blocks)):
            padded = np.ceil(n / block)
            text = f"ceil({length}/{block})"
            extended += [(text, padded), (f"{length}*{text}", n * padded), (f"{text}*{text}", padded * padded)]
        self._tiers = []
        prefixes = [("", np.ones_like(n)), (outer, repeat)]
        more = [*prefixes, (f"{outer}*{outer}", repeat * repeat)] if squared else prefixes
        for tier, factors in ((lengths[:2], prefixes), (lengths, prefixes), (extended, more)):
            pairs = [(text, values, *prefix) for text, values in tier for prefix in factors]
            names = tuple(_product(prefix, text) for text, _, prefix, _ in pairs)
            self._tiers.append(_Tier(names, np.stack([values * factor for _, values, _, factor in pairs], axis=1)))
        self._names, self._outer, self._length = counts, repeat, n
        self._single = repeat == 1
        self._indicators = [(f"min(1, {outer} - 1)", repeat > 1), (f"max(0, 2 - {outer})", repeat == 1)]
        for block in sorted(set(blocks)):
            padded, text = np.ceil(n / block), f"ceil({length}/{block})"
            self._indicators.append((f"min(1, {text} - 1)", padded > 1))
            self._indicators.append((f"min(1, {outer}*{text} - 1)", repeat * padded > 1))
        self._known: dict[tuple[float, ...], str | float | None] = {}

    def on(self, chosen: Sequence[int]) -> Fitter:
        """The fitter of some of the points."""
        part: Fitter = object.__new__(Fitter)
        part._tiers = [tier.on(chosen) for tier in self._tiers]
        part._known, part._single, part._indicators = {}, self._single[list(chosen)], []
        part._names = self._names
        return part

    def bound(self, values: Sequence[float]) -> str:
        """An expression that no value exceeds and that the one at the most tokens attains: linear in the length."""
        outer, length = self._names
        most = int(np.argmax(self._outer * self._length))
        slope = values[most] / (self._outer[most] * self._length[most])
        rest = max(0.0, *(value / b - slope * n for value, b, n in zip(values, self._outer, self._length, strict=True)))
        return f"{math.ceil(slope)}*{outer}*{length} + {math.ceil(rest)}*{outer}"

    def indicator(self, present: Sequence[bool]) -> str | None:
        """An expression that is 1 where `present` and 0 elsewhere."""
        for text, values in self._indicators:
            if list(values) == list(present):
                return text
        return None

    def fit_apart(self, values: Sequence[float]) -> str | float | None:
        """As `fit`, or one expression for a single request or image and another for several, whose strides differ.

        Each half has about half of the points, so at most two terms.
        """
        whole = self.fit(values)
        if whole is not None:
            return whole
        halves = []
        outer = self._names[0]
        for factor, chosen in ((f"max(0, 2 - {outer})", self._single), (f"min(1, {outer} - 1)", ~self._single)):
            part = self.on([int(n) for n in np.flatnonzero(chosen)])
            found = part._fit(np.array(values, dtype=float)[chosen], most=2)
            if found is None:
                return None
            halves.append(f"{factor}*({found})")
        return " + ".join(halves)

    def fit(self, values: Sequence[float]) -> str | float | None:
        """The expression that gives `values`; None where there is none."""
        key = tuple(values)
        if key not in self._known:
            self._known[key] = self._fit(np.array(values, dtype=float))
        return self._known[key]

    def _fit(self, values: NDArray[np.float64], most: int = _MOST_TERMS) -> str | float | None:
        if (values == values[0]).all():
            return float(values[0])
        for terms in range(1, most + 1):
            for tier in self._tiers:
                for chosen in tier.candidates(values, terms):
                    text = _exact(chosen, values)
                    if text is not None:
                        return text
        return None


@dataclass(frozen=True, slots=True)
class _Tier:
    """Terms to choose from, and their values at every point."""

    names: tuple[str, ...]
    columns: NDArray[np.float64]

    def on(self, chosen: Sequence[int]) -> _Tier:
        return _Tier(self.names, self.columns[list(chosen)])

    def candidates(self, values: NDArray[np.float64], terms: int) -> Iterator[list[_Term]]:
        """Choices of `terms` terms whose least squares leave next to nothing, with the coefficients found."""
        scale = np.sqrt((self.columns**2).sum(axis=0))
        unit = self.columns / np.where(scale, scale, 1.0)
        pick = np.array(list(itertools.combinations(range(len(self.names)), terms)))
        gram, right = unit.T @ unit, unit.T @ values
        normal = gram[pick[:, :, None], pick[:, None, :]]
        pick, normal = (kept[np.linalg.det(normal) > _LEAST_DETERMINANT] for kept in (pick, normal))
        if not len(pick):
            return
        found = np.linalg.solve(normal, right[pick][:, :, None])[:, :, 0]
        rest = np.abs(np.einsum("pct,ct->cp", unit[:, pick], found) - values).max(axis=1)
        for row in np.flatnonzero(rest <= 1e-6 * max(1.0, float(np.abs(values).max()))):
            yield [
                _Term(
                    self.names[i],
                    self.columns[:, i],
                    Fraction(float(c / scale[i])).limit_denominator(_LARGEST_DENOMINATOR),
                )
                for i, c in zip(pick[row], found[row], strict=True)
            ]


@dataclass(frozen=True, slots=True)
class _Term:
    name: str
    values: NDArray[np.float64]
    coefficient: Fraction

    def __str__(self) -> str:
        if not self.name:
            return str(self.coefficient)
        return self.name if self.coefficient == 1 else f"{self.coefficient}*{self.name}"


def _exact(terms: Sequence[_Term], values: NDArray[np.float64]) -> str | None:
    """The sum of the terms, where it is `values` in whole numbers."""
    if any(term.coefficient == 0 for term in terms):
        return None
    for point, value in enumerate(values):
        total = sum((term.coefficient * Fraction(float(term.values[point])) for term in terms), Fraction(0))
        if total != Fraction(float(value)):
            return None
    return " + ".join(map(str, terms)).replace("+ -", "- ")


def _product(*factors: str) -> str:
    return "*".join(factor for factor in factors if factor)
