"""Slow and plain versions of what the kernels do, in exact arithmetic where there is any, and how far off one is."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def of_bound(found: torch.Tensor, wanted: torch.Tensor, bound: torch.Tensor) -> float:
    """The largest error as a multiple of its bound: above 1 where one is broken, NaN where one is NaN."""
    return ((found.double() - wanted.double()).abs() / bound).max().item()


def _similarity(a: list[int], b: list[int]) -> Fraction:
    """Signed squared cosine, which orders as the cosine does; 0 where a norm is 0."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    norms = sum(x * x for x in a) * sum(y * y for y in b)
    return Fraction(dot * abs(dot), norms) if norms else Fraction(0)


def merge(frame: list[list[int]], r: int) -> list[list[float]]:
    """Bipartite merging of one frame of whole-number tokens."""
    r = min(r, len(frame) // 2)
    if r == 0:
        return [[float(v) for v in token] for token in frame]
    even = [frame[i] for i in range(len(frame)) if i % 2 == 0]
    odd = [frame[i] for i in range(len(frame)) if i % 2 == 1]
    target, closeness = [], []
    for token in even:
        best = 0
        for j in range(1, len(odd)):
            if _similarity(token, odd[j]) > _similarity(token, odd[best]):
                best = j
        target.append(best)
        closeness.append(_similarity(token, odd[best]))
    # sorted() is stable: among equals, the earlier token comes first.
    ranked = sorted(range(len(even)), key=lambda i: -closeness[i])
    result = [[float(v) for v in even[i]] for i in ranked[r:]]
    for j, token in enumerate(odd):
        group = [token] + [even[i] for i in ranked[:r] if target[i] == j]
        result.append([sum(column) / len(group) for column in zip(*group, strict=True)])
    return result


def importance(q: list, k: list, *, scale: float, tau: float, steps: int, live: list[bool]) -> list[float]:
    """PageRank scores of one request; `q` is [head][token][d], `k` [kv head][token][d]."""
    tokens, group = len(live), len(q) // len(k)
    square = [0.0] * tokens
    for head, queries in enumerate(q):
        keys = k[head // group]
        matrix = [[0.0] * tokens for _ in range(tokens)]
        for i in range(tokens):
            seen = [j for j in range(i + 1) if live[j]] if live[i] else []
            logit = {j: sum(x * y for x, y in zip(queries[i], keys[j], strict=True)) * scale / tau for j in seen}
            top = max(logit.values(), default=0.0)
            total = sum(math.exp(v - top) for v in logit.values())
            for j in seen:
                matrix[i][j] = math.exp(logit[j] - top) / total
        d = [1.0 / sum(live) if alive else 0.0 for alive in live]
        for _ in range(steps):
            d = [sum(d[i] * matrix[i][j] for i in range(tokens)) for j in range(tokens)]
        square = [s + v * v for s, v in zip(square, d, strict=True)]
    return [math.sqrt(s / len(q)) for s in square]


def select(scores: list[float], keep: int, protected: list[bool], live: list[bool]) -> list[int]:
    """Positions kept of one request: protected by position, live by score, dead by position."""
    tokens = range(len(scores))
    first = [i for i in tokens if protected[i]]
    ranked = sorted((i for i in tokens if live[i] and not protected[i]), key=lambda i: (-scores[i], i))
    last = [i for i in tokens if not live[i] and not protected[i]]
    return sorted((first + ranked + last)[:keep])
