"""SparseVLM: some text tokens rate the visual ones, and part of what goes is merged into a few."""

from __future__ import annotations

from typing import Any

import torch

from .cost import RECYCLED_SHARE, TEXT_RATERS

__all__ = ["LAYER_PREPARERS", "LAYER_RECYCLERS", "LAYER_SCORERS", "cluster_means", "rated_by_text", "raters", "recycle"]

ROWS = 128
"""Raters whose attention is held at once."""


def raters(
    *, hidden: torch.Tensor, protected: torch.Tensor, live: torch.Tensor | None, visual_count: int, **_: Any
) -> torch.Tensor:
    """The text tokens that rate, (B, n): those behind the image that it resembles more than it does on average.

    A visual token shares itself out among the text tokens behind the image by the softmax of its products with them;
    a text token rates if its mean share is above the mean of all. `hidden` (B, n, h) is what layer 0 gets, `protected`
    (text) and `live` (B, n); `visual_count` tokens of a row are visual. Source: Gumpest/SparseVLMs.
    """
    place = torch.arange(hidden.shape[1], device=hidden.device)
    behind = protected & (place > torch.where(protected, -1, place).amax(1, keepdim=True))
    behind = behind if live is None else behind & live
    # visual tokens first, each side in order
    order = protected.int().argsort(dim=1, stable=True)
    image, text = (
        hidden.gather(1, some[..., None].expand(-1, -1, hidden.shape[-1]))
        for some in (order[:, :visual_count], order[:, visual_count:])
    )
    may = behind.gather(1, order[:, visual_count:])
    share = (image @ text.transpose(1, 2)).masked_fill(~may[:, None], float("-inf")).softmax(-1).mean(1)
    above = may & (share > share.sum(1, keepdim=True) / may.sum(1, keepdim=True))
    return torch.zeros_like(protected).scatter(1, order[:, visual_count:], above)


def rated_by_text(
    *,
    query: torch.Tensor,
    key: torch.Tensor,
    scale: float,
    protected: torch.Tensor,
    live: torch.Tensor | None,
    prepared: torch.Tensor,
    protected_count: int,
    **_: Any,
) -> torch.Tensor:
    """Mean attention over heads and raters: (B, n) fp32.

    Shapes: `query` (B, H, n, D), `key` (B, V, n, D), `protected` (text), `live` and `prepared` (the `raters`) (B, n);
    `protected_count` tokens of a row are text or padding. Only their rows of attention are computed, `ROWS` at a time.
    Source: Gumpest/SparseVLMs.
    """
    rows, heads, tokens, width = query.shape
    at = (~protected).int().argsort(dim=1, stable=True)[:, :protected_count]
    keys = key.float()[:, :, None].transpose(3, 4)
    place = torch.arange(tokens, device=query.device)
    total = torch.zeros(rows, tokens, device=query.device)
    for some in at.split(ROWS, dim=1):
        asked = query.gather(2, some[:, None, :, None].expand(-1, heads, -1, width)).float()
        logits = asked.view(rows, key.shape[1], heads // key.shape[1], some.shape[1], width) @ keys * scale
        hidden = place > some[..., None]
        if live is not None:
            hidden = hidden | ~live[:, None]
        logits.masked_fill_(hidden[:, None, None], torch.finfo(torch.float32).min)
        total += (logits.softmax(-1).mean((1, 2)) * prepared.gather(1, some)[..., None]).sum(1)
    return total / prepared.sum(1, keepdim=True).clamp(min=1)


def recycle(
    hidden: torch.Tensor, scores: torch.Tensor, kept: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, count, h) means of the best-rated 30 % of what goes, and whose places (B, count) they take.

    `kept` (B, k) stay of `hidden` (B, n, h), text among them. Source: Gumpest/SparseVLMs.
    """
    gone = hidden.shape[1] - kept.shape[1]
    some = int(RECYCLED_SHARE * gone) + 1
    best = scores.scatter(1, kept, float("-inf")).topk(min(some, gone), dim=1).indices
    means, centres = cluster_means(hidden.gather(1, best[..., None].expand(-1, -1, hidden.shape[-1])), count)
    return means, best.gather(1, centres)


def cluster_means(x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, count, h) means of clusters of (B, m, h) tokens, and (B, count) which tokens are their centres.

    A token is dense where its `count` nearest, itself among them, are near; centres are the tokens of largest density
    times distance to a denser one, and each other token joins the nearest of them. Released code adds noise of up to
    1e-6 to the density, so that no two are equal.
    """
    wide = x.float()  # cdist has no half-precision kernels
    distance = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") / x.shape[-1] ** 0.5
    density = (-distance.topk(count, dim=-1, largest=False).values.square().mean(-1)).exp()
    denser = density[:, None] > density[..., None]
    largest = distance.flatten(1).amax(1)[:, None, None]
    apart = torch.where(denser, distance, largest).amin(-1)
    centres = (apart * density).topk(count, dim=-1).indices
    member = distance.gather(1, centres[..., None].expand(-1, -1, x.shape[1])).argmin(1)
    member.scatter_(1, centres, torch.arange(count, device=x.device).expand_as(centres))
    joins = torch.nn.functional.one_hot(member, count).transpose(1, 2).float()
    return (joins / (joins.sum(-1, keepdim=True) + 1e-6) @ wide).to(x.dtype), centres


LAYER_SCORERS = {TEXT_RATERS.name: rated_by_text}
LAYER_PREPARERS = {TEXT_RATERS.name: raters}
LAYER_RECYCLERS = {TEXT_RATERS.name: recycle}
