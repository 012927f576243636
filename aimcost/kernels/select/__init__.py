"""Keep the best tokens, and gather everything that belongs to them.

``select_tokens`` ranks, ``gather_tokens`` gathers, ``path_for`` tells which implementation they take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ...errors import InvalidValueError
from .. import _dispatch
from . import reference

__all__ = ["gather_tokens", "path_for", "select_tokens"]


def path_for(*tensors: torch.Tensor) -> Literal["torch", "triton"]:
    """The path that ``path="auto"`` takes for these scores, or this hidden state and its companions."""
    return _dispatch.pick(tensors, _dispatch.triton_refusal(*tensors))


def _check_counts(
    scores: torch.Tensor, keep: int, protected: torch.Tensor | None, live: torch.Tensor | None, where: str
) -> None:
    """The checks that need values, and so synchronise with the device."""
    _dispatch.require_finite("scores", scores, where)
    if protected is not None:
        most = int(protected.sum(dim=1).max())
        if keep < most:
            raise InvalidValueError("keep", f"at least the {most} protected tokens", keep, where=where)
    if live is not None:
        eligible = live if protected is None else live | protected
        fewest = int(eligible.sum(dim=1).min())
        if keep > fewest:
            raise InvalidValueError("keep", f"at most the {fewest} live tokens", keep, where=where)


def select_tokens(
    scores: torch.Tensor,
    keep: int,
    *,
    protected: torch.Tensor | None = None,
    live: torch.Tensor | None = None,
    path: _dispatch.Path = "auto",
    check: bool | None = None,
) -> torch.Tensor:
    """Positions of the `keep` tokens to stay in each request, in their original order.

    Protected tokens stay first of all, then live ones by falling score; among equal scores, zeros
    included, the earlier position stays. Every request keeps equally many: to leave padding in place
    of what shorter prompts lack, protect it.

    Parameters
    ----------
    scores
        Shape (B, N), floating point.
    keep
        Tokens to keep in each request, from 1 to N.
    protected, live
        Boolean (B, N), or None for none protected and all alive. A dead token stays only if protected.
    path
        "auto" (see `path_for`), "torch" or "triton".
    check
        Verify finite scores, and `keep` against the protected and the live counts, first. None: on
        the CPU yes, on a GPU no, where it would synchronise; there NaN ranks last, the earliest of
        too many protected tokens stay, and the earliest dead fill up: always `keep` valid positions.

    Returns
    -------
    torch.Tensor
        Shape (B, keep), int64, ascending.

    Raises
    ------
    InvalidValueError
        For shapes, dtypes, counts or `path` outside the above.
    """
    where = "select_tokens"
    _dispatch.require_shape("scores", scores, (None, None), where)
    _dispatch.require_dtype("scores", scores, _dispatch.FLOATS, where)
    for name, flags in (("protected", protected), ("live", live)):
        if flags is not None:
            _dispatch.require_shape(name, flags, tuple(scores.shape), where)
            _dispatch.require_dtype(name, flags, (torch.bool,), where)
            _dispatch.require_same_device(name, flags, scores.device, where)
    batch, tokens = scores.shape
    _dispatch.require_int("keep", keep, 1, tokens, where)
    scores = scores.detach()
    taken = _dispatch.choose(path, (scores,), _dispatch.triton_refusal(scores), where)
    if _dispatch.should_check(check, scores):
        _check_counts(scores, keep, protected, live, where)
    if keep == tokens:
        return torch.arange(tokens, device=scores.device).repeat(batch, 1)
    if taken == "triton":
        from . import triton_impl

        return triton_impl.select(scores, keep, protected, live)
    return reference.select(scores, keep, protected, live)


def _validate_gather(
    hidden: torch.Tensor,
    kept: torch.Tensor,
    aux: Sequence[tuple[torch.Tensor, int]],
    mask: torch.Tensor | None,
    where: str,
) -> None:
    _dispatch.require_shape("hidden", hidden, (None, None, None), where)
    batch, tokens = hidden.shape[:2]
    _dispatch.require_shape("kept", kept, (batch, None), where)
    _dispatch.require_dtype("kept", kept, (torch.int64,), where)
    _dispatch.require_same_device("kept", kept, hidden.device, where)
    for index, (tensor, token_dim) in enumerate(aux):
        name = f"aux[{index}]"
        _dispatch.require_int(f"{name} token dimension", token_dim, 1, tensor.dim() - 1, where)
        _dispatch.require_same_device(name, tensor, hidden.device, where)
        rows = tuple(tensor.shape[token_dim - 1 : token_dim + 1])
        if rows not in ((batch, tokens), (1, tokens)):
            expected = f"of {batch} or 1 requests by {tokens} tokens at dimensions {token_dim - 1}, {token_dim}"
            raise InvalidValueError(name, expected, tuple(tensor.shape), where=where)
    if mask is not None:
        _dispatch.require_same_device("mask", mask, hidden.device, where)
        _dispatch.require_shape("mask", mask, (None, None, tokens, tokens), where)
        if mask.shape[0] not in (1, batch):
            raise InvalidValueError("mask", f"of batch {batch} or 1", mask.shape[0], where=where)


def gather_tokens(
    hidden: torch.Tensor,
    kept: torch.Tensor,
    *,
    aux: Sequence[tuple[torch.Tensor, int]] = (),
    mask: torch.Tensor | None = None,
    path: _dispatch.Path = "auto",
    check: bool | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
    """Take the kept tokens of a hidden state, of what is indexed alike, and of an attention mask.

    Parameters
    ----------
    hidden
        Shape (B, N, D), any dtype.
    kept
        Positions, shape (B, K), int64: what `select_tokens` returns.
    aux
        Pairs of a tensor and its token dimension, the batch being the dimension before: cos and sin
        (B, N, d) are given with 1, mRoPE's position ids (3, B, N) with 2. A batch of 1 serves all.
    mask
        Shape (B or 1, H or 1, N, N), or None.
    path
        "auto" (see `path_for`), "torch" or "triton".
    check
        Verify that 0 ≤ kept < N first. None: on the CPU yes, on a GPU no, where it would synchronise.

    Returns
    -------
    tuple
        Hidden state (B, K, D); the aux tensors with K in place of N and a batch of B; the mask
        (B, H or 1, K, K) or None.

    Raises
    ------
    InvalidValueError
        For shapes, dtypes, devices, positions or `path` outside the above.

    Notes
    -----
    Copies bits, so that results are exact. On Triton one launch serves `hidden` and five companions,
    one more the mask.
    """
    where = "gather_tokens"
    _validate_gather(hidden, kept, aux, mask, where)
    read = (hidden, *(tensor for tensor, _ in aux), *(() if mask is None else (mask,)))
    taken = _dispatch.choose(path, read, _dispatch.triton_refusal(*read), where)
    if _dispatch.should_check(check, kept) and bool(((kept < 0) | (kept >= hidden.shape[1])).any()):
        raise InvalidValueError(
            "kept",
            f"of positions from 0 to {hidden.shape[1] - 1}",
            (int(kept.min()), int(kept.max())),
            where=where,
        )
    pairs = [(hidden, 1), *aux]
    if taken == "triton":
        from . import triton_impl

        rows = triton_impl.gather_rows(pairs, kept)
        smaller = None if mask is None else triton_impl.gather_mask(mask, kept)
    else:
        rows = [reference.gather_rows(tensor, kept, token_dim) for tensor, token_dim in pairs]
        smaller = None if mask is None else reference.gather_mask(mask, kept)
    return rows[0], rows[1:], smaller
