"""ToMe's merging inside a tower layer: even tokens join the odd ones whose keys are nearest."""

from __future__ import annotations

import torch

from .cost import MEAN_KEY_BIPARTITE

__all__ = ["TOWER_MERGERS", "merge_nearest_keys"]


def merge_nearest_keys(
    *, x: torch.Tensor, sizes: torch.Tensor, keys: torch.Tensor, keep: int, class_token: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(G, n, D) tokens to (G, keep, D), and how many patches each stands for: (G, n, 1) to (G, keep, 1).

    The n − keep even tokens whose mean key over the heads is nearest (cosine) to an odd one's join it, weighted by
    their sizes; a class token never joins. Even tokens that are left come first: as they stood behind a class token,
    else the most similar first. Then all odd ones. `keys` are (G, H, n, E); formats are the tower's own, as released.
    Source: facebookresearch/ToMe, ``bipartite_soft_matching`` and ``merge_wavg``.
    """
    removed, width = x.shape[1] - keep, x.shape[-1]
    mean = keys.mean(1)
    unit = mean / mean.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    if class_token:
        similarity[:, 0] = float("-inf")
    best, nearest = similarity.max(-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    joins, stays = order[:, :removed], order[:, removed:]
    if class_token:
        stays = stays.sort(dim=1).values
    target = nearest.gather(1, joins)

    def merged(values: torch.Tensor) -> torch.Tensor:
        size = values.shape[-1]
        even, odd = values[:, ::2], values[:, 1::2]
        arriving = even.gather(1, joins[..., None].expand(-1, -1, size))
        odd = odd.scatter_add(1, target[..., None].expand(-1, -1, size), arriving)
        return torch.cat((even.gather(1, stays[..., None].expand(-1, -1, size)), odd), dim=1)

    weighted, total = merged(torch.cat((x * sizes, sizes), dim=-1)).split((width, 1), dim=-1)
    return weighted / total, total


TOWER_MERGERS = {MEAN_KEY_BIPARTITE.name: merge_nearest_keys}
