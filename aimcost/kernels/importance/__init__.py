"""AIM's token importance inside the language model: PageRank on sharpened attention.

``importance_scores`` is the public entry, ``path_for`` tells which implementation it takes.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from ...errors import InvalidValueError
from .. import _dispatch
from . import reference

__all__ = ["importance_scores", "path_for"]

MAX_HEAD_DIM = 256
MAX_WAVEFRONT_STEPS = 8
"""Masses that a thread of the wavefront kernel holds for each of its keys."""
WAVEFRONT_WIDTH = 128
"""Widest head on which the wavefront was faster than the steps in 16 bit (ADR 0004)."""

Path = Literal["auto", "torch", "triton", "wavefront"]


def _refusal(q: torch.Tensor, k: torch.Tensor) -> str | None:
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"head_dim {q.shape[-1]} exceeds {MAX_HEAD_DIM}"
    return _dispatch.triton_refusal(q, k)


def path_for(q: torch.Tensor, k: torch.Tensor, steps: int = 5) -> Literal["torch", "triton", "wavefront"]:
    """The path that ``path="auto"`` takes: "torch" on a CPU and where Triton refuses; on CUDA "wavefront" where it
    was timed to be faster, else "triton".

    On an H100, 296 to 1668 tokens, the wavefront takes 0.57 to 0.77 of the time of the steps in 16 bit on heads
    of 64 and 128, 1.01 to 1.15 on heads of 256, and 0.33 to 0.41 in fp32 on all three. No other GPU has run it.
    """
    path = _dispatch.pick((q, k), _refusal(q, k))
    if path == "triton" and steps <= MAX_WAVEFRONT_STEPS and _faster_as_wavefront(q):
        return "wavefront"
    return path


def _faster_as_wavefront(q: torch.Tensor) -> bool:
    return _dispatch.on_hopper(q.device) and (q.dtype == torch.float32 or q.shape[-1] <= WAVEFRONT_WIDTH)


def _validate(q: torch.Tensor, k: torch.Tensor, live: torch.Tensor | None, where: str) -> None:
    _dispatch.require_shape("q", q, (None,) * 4, where)
    _dispatch.require_shape("k", k, (q.shape[0], None, q.shape[2], q.shape[3]), where)
    if q.shape[1] % k.shape[1]:
        raise InvalidValueError(
            "k", f"of a head count that divides the {q.shape[1]} query heads", k.shape[1], where=where
        )
    _dispatch.require_dtype("q", q, _dispatch.FLOATS, where)
    _dispatch.require_dtype("k", k, (q.dtype,), where)
    _dispatch.require_same_device("k", k, q.device, where)
    if live is not None:
        _dispatch.require_shape("live", live, (q.shape[0], q.shape[2]), where)
        _dispatch.require_dtype("live", live, (torch.bool,), where)
        _dispatch.require_same_device("live", live, q.device, where)


def importance_scores(
    q: torch.Tensor,
    k: torch.Tensor,
    *,
    scale: float | None = None,
    tau: float = 0.1,
    steps: int = 5,
    live: torch.Tensor | None = None,
    path: Path = "auto",
    check: bool | None = None,
) -> torch.Tensor:
    """Score tokens by PageRank on temperature-sharpened causal attention.

    With S the scaled, causally masked logits and M = softmax(S / τ) by row: per head d starts
    uniform, `steps` times d ← d·M without damping; the score is the root mean square of d over heads.

    Parameters
    ----------
    q, k
        Queries (B, H, N, D) and keys (B, V, N, D) after RoPE, V dividing H; one dtype of fp32, fp16,
        bf16 or (PyTorch path only) fp64. Any strides.
    scale
        Factor on q·k; 1/√D when None.
    tau
        Temperature, above 0.
    steps
        Products with M, at least 1.
    live
        Boolean (B, N), or None for all: dead tokens (padding) neither give nor receive mass, and
        score 0. d starts uniform over each request's live tokens.
    path
        "auto" (see `path_for`), "torch", "triton" (one launch a step), or "wavefront" (Triton, all steps in one
        launch).
    check
        Look for NaN, infinity and requests without a live token first. None: on the CPU yes, on a
        GPU no, where it would synchronise; there the scores of such inputs are undefined.

    Returns
    -------
    torch.Tensor
        Scores, shape (B, N), fp32. Many may be exactly 0, where the softmax underflows.

    Raises
    ------
    InvalidValueError
        For shapes, dtypes, devices, `tau`, `steps` or `path` outside the above, and for bad values
        where looked for.

    Notes
    -----
    Source: AIM, arXiv 2412.03248. Neither path holds an N×N matrix; logits and statistics are fp32.
    """
    where = "importance_scores"
    _validate(q, k, live, where)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    for name, value in (("scale", scale), ("tau", tau)):
        if not (math.isfinite(value) and value > 0):
            raise InvalidValueError(name, "a finite number above 0", value, where=where)
    _dispatch.require_int("steps", steps, 1, None, where)
    if path == "auto":
        taken: str = path_for(q, k, steps)
    else:
        taken = _dispatch.choose(path, (q, k), _refusal(q, k), where, paths=get_args(Path))
    if taken == "wavefront":
        _dispatch.require_int("steps", steps, 1, MAX_WAVEFRONT_STEPS, f"{where} with path='wavefront'")
    if _dispatch.should_check(check, q):
        _dispatch.require_finite("q", q, where)
        _dispatch.require_finite("k", k, where)
        if live is not None and not bool(live.any(dim=1).all()):
            raise InvalidValueError("live", "true somewhere in every row", "a row without", where=where)
    if taken == "triton":
        from . import triton_impl

        return triton_impl.importance(q, k, scale=scale, tau=tau, steps=steps, live=live)
    if taken == "wavefront":
        from . import wavefront_impl

        return wavefront_impl.importance(q, k, scale=scale, tau=tau, steps=steps, live=live)
    return reference.importance_streamed(q, k, scale=scale, tau=tau, steps=steps, live_BN=live)
