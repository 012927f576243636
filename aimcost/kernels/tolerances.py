"""How far a kernel may lie from exact arithmetic: bounds from dtype, length and condition.

A rounding in arithmetic of unit roundoff u is taken as uniform between -u and u, of variance u²/3, and
roundings as independent: their variances add, whatever the order in which a machine adds and whether or
not it fuses multiply and add (Higham and Mary, SIAM J. Sci. Comput. 41, 2019; the certain bounds have n
where these have √n). A bound is λ standard deviations. No constant is fitted to a result, and all hold
on any machine. Selecting and gathering compare and copy: they have no tolerance.
"""

from __future__ import annotations

import math

import torch

from .importance.reference import sharpened, uniform
from .merge.reference import cosine_order

__all__ = ["ROWS_MOVED", "importance_error", "merge_error", "similarity_error", "undecided", "unit_in_last_place"]

SIGMAS = 5
"""λ: a normal variable is beyond once in 1.7 million times."""
INTRINSIC = 16
"""Squared error of exp2 and of a division in u²: 2 ulp are 4u (PTX ISA, ex2.approx and div.full)."""
ROWS_MOVED = 3
"""Rows of a merged frame that one decision moves: one that stays, or a place in the order, and two targets."""
UNDERFLOW = 2.0**-63
"""Root of the smallest normal fp32 number: a smaller score may square to zero."""


def _roundoff(dtype: torch.dtype) -> float:
    """u of the arithmetic on `dtype`: fp32 at least."""
    return torch.finfo(torch.promote_types(dtype, torch.float32)).eps / 2


def _deviations(u: float, variance: torch.Tensor) -> torch.Tensor:
    """λ standard deviations, the variance being counted in roundings of size 1."""
    return SIGMAS * u * (variance / 3).sqrt()


def _sum_error(terms: int, u: float) -> float:
    """Error of a sum of positive terms, relative to it: λ·u·√(n/3)."""
    return SIGMAS * u * math.sqrt(terms / 3)


def _dot_variance(dot: torch.Tensor, square: torch.Tensor, terms: int) -> torch.Tensor:
    """Roundings of dot = Σ aᵢ·bᵢ, squared and summed, with square = Σ (aᵢ·bᵢ)²: (n + 6)·(dot² + square)/3.

    For products of random signs: their partial sums go from 0 to dot as a Brownian bridge does, at a
    mean square of dot²/3 + square/6. The 6: each product, or else the dot, is rounded twice more.
    """
    return (terms + 6) * (dot.square() + square) / 3


def importance_error(
    q: torch.Tensor,
    k: torch.Tensor,
    *,
    scale: float,
    tau: float = 0.1,
    steps: int = 5,
    live: torch.Tensor | None = None,
    products: int = 1,
) -> torch.Tensor:
    """Bound on the error of each importance score, shape (B, N), fp64.

    With logits z = scale/τ·q·k of variance v (`_dot_variance`, the exponent's and its exp2's roundings)
    and M = softmax(z), the relative error R of an entry has the variance Σₖ (δⱼₖ - Mᵢₖ)²·vᵢₖ: a small τ
    makes z and v larger, and the row sharper, which passes on less of them. That holds for one product
    in numerator and denominator, as the PyTorch path has it. The Triton path forms two `products`, q·k
    and k·q, which a machine may round differently: their variance is vᵢⱼ + Σₖ Mᵢₖ²·vᵢₖ. A step carries
    errors on as e ← e·M + λ·√(d²·(M²∘var R)) + λ·u·√(N/3)·d.
    """
    u = _roundoff(q.dtype)
    heads, tokens, width = q.shape[1:]
    q, k = q.double(), k.double()
    logits, matrix = sharpened(q, k, scale=scale, tau=tau, live_BN=live)
    visible = logits.isfinite()
    below = (logits.amax(-1, keepdim=True) - logits).masked_fill(~visible, 0)
    square = q.square() @ k.square().repeat_interleave(heads // k.shape[1], dim=1).transpose(2, 3)
    exponent = _dot_variance(logits.masked_fill(~visible, 0), square * (scale / tau) ** 2, width)
    exponent += 2 * below.square() + INTRINSIC
    row = (matrix.square() * exponent).sum(-1, keepdim=True)
    entry = (exponent if products == 2 else (1 - 2 * matrix) * exponent) + row
    # The row's sum, the division by it, and the products with a mass.
    entry = matrix.square() * (entry + tokens + INTRINSIC + 3)
    # Of one sign throughout: scale/τ is one number, rounded once.
    scaled = u * matrix * (below + (matrix * below).sum(-1, keepdim=True))
    d = uniform(q, live, matrix.dtype)[:, None, None, :].expand(-1, heads, -1, -1)
    error = u * d
    for _ in range(steps):
        error = error @ matrix + d @ scaled + _deviations(u, d.square() @ entry)
        d = d @ matrix
        error = error + _sum_error(tokens, u) * d
    score, error = (x.square().mean(dim=1).sqrt().squeeze(1) for x in (d, error))
    # Squares, mean and root; then both sides are rounded to fp32.
    return error + (_sum_error(heads, u) + 4 * u + 2 * _roundoff(torch.float32)) * score + UNDERFLOW


def similarity_error(x: torch.Tensor) -> torch.Tensor:
    """Bound on the error of each `cosine_order` of an even with an odd token, shape (F, A, B), fp64.

    With c the cosine and ε the error of a dot product of unit rows: (2|c| + ε)·ε for its square, and
    c²·(2·λ·u·√(D/3) + 8u) for both squared norms and six products.
    """
    u, width = _roundoff(x.dtype), x.shape[-1]
    x = x.double()
    unit = x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    even, odd = unit[:, ::2], unit[:, 1::2].transpose(1, 2)
    cosine = even @ odd
    error = _deviations(u, _dot_variance(cosine, even.square() @ odd.square(), width))
    return (2 * cosine.abs() + error) * error + cosine.square() * (2 * _sum_error(width, u) + 8 * u)


def undecided(x: torch.Tensor) -> torch.Tensor:
    """Decisions of merging that rounding may turn, counted by frame, shape (F,).

    An even token's between its two nearest odd ones, and the order of two even ones of adjacent ranks:
    each where the similarities differ by no more than both errors. Each moves up to `ROWS_MOVED` rows.
    """
    similarity, error = cosine_order(x.double()), similarity_error(x).amax(-1)
    nearest = similarity.topk(min(2, similarity.shape[-1]), dim=-1).values
    # Without a second odd token, there is no choice.
    choices = nearest[..., :1] - nearest[..., 1:] <= 2 * error[..., None]
    ranked, order = nearest[..., 0].sort(dim=-1, descending=True)
    error = error.gather(1, order)
    ranks = ranked[:, :-1] - ranked[:, 1:] <= error[:, :-1] + error[:, 1:]
    return choices.sum((-2, -1)) + ranks.sum(-1)


def merge_error(x: torch.Tensor, exact: torch.Tensor, r: int) -> torch.Tensor:
    """Bound on the error of merged tokens, `exact` being right: one rounding to the dtype of `x`, and the mean's.

    A mean adds at most r + 1 tokens, its partial sums being at most r + 1 times the largest number.
    """
    u, info = _roundoff(x.dtype), torch.finfo(x.dtype)
    largest = x.double().abs().amax(dim=(1, 2), keepdim=True)
    return info.eps / 2 * exact.abs().clamp_min(info.tiny) + (_sum_error(r + 1, u) + u) * largest


def unit_in_last_place(x: torch.Tensor) -> torch.Tensor:
    """Distance to the next number of the dtype of `x`: what a cast that truncates may lose."""
    info = torch.finfo(x.dtype)
    return torch.exp2(x.double().abs().clamp_min(info.tiny).log2().floor()) * info.eps
