"""Bipartite token merging, per frame: AIM's step before the language model.

``merge_tokens`` is the public entry, ``path_for`` tells which implementation it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from .. import _dispatch
from . import reference

__all__ = ["merge_to_schedule", "merge_tokens", "path_for"]


def path_for(x: torch.Tensor) -> Literal["torch", "triton"]:
    """The path that ``path="auto"`` takes for `x`: "triton" on CUDA where supported, else "torch"."""
    return _dispatch.pick((x,), _dispatch.triton_refusal(x))


def _validate(x: torch.Tensor, check: bool | None, where: str) -> None:
    _dispatch.require_shape("x", x, (None, None, None), where)
    _dispatch.require_dtype("x", x, _dispatch.FLOATS, where)
    if _dispatch.should_check(check, x):
        _dispatch.require_finite("x", x, where)


def _run(x: torch.Tensor, r: int, taken: str) -> torch.Tensor:
    if taken == "triton" and min(r, x.shape[1] // 2) > 0:
        from . import triton_impl

        return triton_impl.merge(x, r)
    return reference.merge(x, r)


def merge_tokens(x: torch.Tensor, r: int, *, path: _dispatch.Path = "auto", check: bool | None = None) -> torch.Tensor:
    """Merge `r` tokens of every frame into their most similar neighbours.

    With A the even and B the odd positions of a frame: each A picks its most similar B by cosine
    (ties: lowest position), A is ranked by that similarity (ties: earlier position first), the top
    ``min(r, N // 2)`` merge, and each B becomes the plain mean of itself and its arrivals.

    Parameters
    ----------
    x
        Embeddings, shape (F, N, D); fp32, fp16, bf16 or (PyTorch path only) fp64.
    r
        Tokens to merge a frame, at least 0; more than N // 2 counts as N // 2.
    path
        "auto" (see `path_for`), "torch" or "triton".
    check
        Look for NaN and infinity first. None: on the CPU yes, on a GPU no, where it would
        synchronise; there the result of such inputs is undefined, but no memory is harmed.

    Returns
    -------
    torch.Tensor
        Shape (F, N - r, D) in the dtype of `x`: the unmerged A by falling similarity, then every B
        in its original order. With nothing to merge (r = 0 or N = 1), `x` itself.

    Raises
    ------
    InvalidValueError
        For a bad shape, dtype, `r` or `path`, and for NaN or infinity where looked for.

    Notes
    -----
    Similarities accumulate in fp32; means are taken in fp32 and rounded once to the dtype of `x`.
    The PyTorch path on CUDA adds arrivals with atomics, so that last bits may vary; the Triton path
    and the CPU add them in rank order. Source: AIM, arXiv 2412.03248.
    """
    where = "merge_tokens"
    _validate(x, check, where)
    _dispatch.require_int("r", r, 0, None, where)
    return _run(x, r, _dispatch.choose(path, (x,), _dispatch.triton_refusal(x), where))


def merge_to_schedule(
    x: torch.Tensor, rs: Sequence[int], *, path: _dispatch.Path = "auto", check: bool | None = None
) -> torch.Tensor:
    """Apply `merge_tokens` once for each r of `rs`, in order.

    AIM halves: for N = 196, ``rs = (98, 49, 24, 12, …)`` gives 98, 49, 25, 13, … tokens a frame.
    Parameters, result and errors are those of `merge_tokens`; values are looked at once, at the start.
    """
    where = "merge_to_schedule"
    _validate(x, check, where)
    for index, r in enumerate(rs):
        _dispatch.require_int(f"rs[{index}]", r, 0, None, where)
    taken = _dispatch.choose(path, (x,), _dispatch.triton_refusal(x), where)
    for r in rs:
        x = _run(x, r, taken)
    return x
