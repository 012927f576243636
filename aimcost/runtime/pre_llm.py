"""Reducing visual tokens where they enter the language model, and what follows for the rest of the prompt.

Shapes: B rows, P prompt tokens, V visual tokens a row, p and v the same after the reduction, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import UnsupportedModelError
from ..kernels.merge.reference import match
from ..kernels.select import gather_tokens, select_tokens
from ..methods.registry import find_scorer
from ..types import ReductionEvent, Schedule
from .policies import merging_policy, pruning_policy
from .tower import Tower, TowerAttention
from .tower_merging import TowerMerging

__all__ = ["Reduced", "reduce_visuals"]


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A prompt after the events before the language model.

    Attributes
    ----------
    embeds
        (B, p, D).
    origin
        (B, p): where each token stood in the prompt. Merged tokens of a group take the places of
        the group's first tokens, in the order in which merging yields them; with `own_places`, each that of
        the token that did not move: its own, or of the odd token that the others were averaged into.
    visual
        (B, v): where the visual tokens are among the p.
    extras
        Per-layer visual features (DeepStack) reduced alike, each (B, v, D).
    """

    embeds: torch.Tensor
    origin: torch.Tensor
    visual: torch.Tensor
    extras: tuple[torch.Tensor, ...]


def reduce_visuals(
    embeds: torch.Tensor,
    visual: torch.Tensor,
    schedule: Schedule,
    *,
    seed: int,
    extras: Sequence[torch.Tensor] = (),
    tower: Tower | None = None,
    own_places: bool = False,
) -> Reduced:
    """Run the schedule's events before the language model on (B, P, D) embeddings.

    `visual` (B, V) are the ascending positions of the visual tokens; the last
    ``schedule.newline_tokens`` of them belong to no group and stay as they are. `own_places`: merged
    tokens stay where one of the tokens that they hold was, for positions that mean a place in the image.
    """
    loose = schedule.newline_tokens
    grouped = visual.shape[1] - loose
    features = [_rows(embeds, visual), *extras]
    tails = [feature[:, grouped:] for feature in features]
    features = [feature[:, :grouped] for feature in features]
    places = visual[:, :grouped]
    if isinstance(tower, TowerMerging):
        features, places = _merged_inside(tower, features, places)
    shown = tower if isinstance(tower, TowerAttention) else None
    for number, event in enumerate(schedule.pre_llm_events):
        if event.tower_layer is not None:
            continue
        if event.action == "merge":
            features, places = _merge(event, features, places, tower=shown, own_places=own_places)
        else:
            features, places = _prune(event, features, places, seed=seed + number, tower=shown)
    places = torch.cat((places, visual[:, grouped:]), dim=1)
    features = [torch.cat(pair, dim=1) for pair in zip(features, tails, strict=True)]
    origin, where = _close_up(embeds, visual, places)
    cut = _rows(embeds, origin)
    cut = cut.scatter(1, where[..., None].expand(-1, -1, cut.shape[-1]), features[0].to(cut.dtype))
    return Reduced(embeds=cut, origin=origin, visual=where, extras=tuple(features[1:]))


def _merged_inside(
    tower: TowerMerging, features: list[torch.Tensor], places: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Of each image, the tokens that the tower's merging left: they come first, and what fills up follows."""
    rows, images = places.shape[0], places.shape[1] // tower.patches
    tower.check_merged(rows, images)
    left = [feature.unflatten(1, (images, -1))[:, :, : tower.left].flatten(1, 2) for feature in features]
    return left, places.view(rows, images, -1)[..., : tower.left].reshape(rows, -1)


def _rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(B, k, D): the tokens at `index` (B, k) of `x` (B, n, D)."""
    return gather_tokens(x, index)[0] if index.shape[1] else x[:, :0]


def _close_up(embeds: torch.Tensor, visual: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of all survivors, (B, p), and the places (B, v) among them."""
    stays = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    stays.scatter_(1, visual, False).scatter_(1, places, True)
    left = embeds.shape[1] - visual.shape[1] + places.shape[1]
    origin = (~stays).int().argsort(dim=1, stable=True)[:, :left]
    return origin, (stays.cumsum(1) - 1).gather(1, places)


def _merge(
    event: ReductionEvent,
    features: list[torch.Tensor],
    places: torch.Tensor,
    *,
    tower: TowerAttention | None,
    own_places: bool,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    rows, keep = places.shape[0], event.tokens_out
    if not keep:
        return [feature[:, :0] for feature in features], places[:, :0]
    x = _in_groups(features[0], event)
    before = None if tower is None else tower.merge(event, rows)
    if before is not None:
        merged = [before.to(x.dtype)]
    else:
        context = {} if tower is None else tower.of_groups(rows, event.groups, event.tokens_in)
        merged = [merging_policy(event.scorer)(x=x, keep=keep, counts=dict(event.counts), **context)]
    places = places.view(rows, event.groups, event.tokens_in)
    if own_places:
        if find_scorer(event.scorer).reads != "embeddings":  # whatever else merges is not bipartite
            raise UnsupportedModelError(f"scorer {event.scorer!r} merges tokens of unknown places in the image")
        stays = _unmoved(x, keep).view(rows, event.groups, keep)
        places = places.gather(2, stays)
    else:
        places = places[..., :keep]
    if len(features) > 1:
        weights = _merge_weights(x, keep)
        merged += [(weights @ _in_groups(extra, event).float()).to(extra.dtype) for extra in features[1:]]
    return [m.reshape(rows, event.groups * keep, -1) for m in merged], places.reshape(rows, -1)


def _unmoved(x: torch.Tensor, keep: int) -> torch.Tensor:
    """(G, keep): for each result of a bipartite merge of `x` (G, n, D), the token that did not move into another."""
    pairs = match(x, x.shape[1] - keep)
    odd = 2 * torch.arange(x.shape[1] // 2, device=x.device) + 1
    return torch.cat((2 * pairs.unmerged_FU, odd.expand(x.shape[0], -1)), dim=1)


def _in_groups(feature: torch.Tensor, event: ReductionEvent) -> torch.Tensor:
    return feature.reshape(feature.shape[0] * event.groups, event.tokens_in, feature.shape[-1])


def _merge_weights(x: torch.Tensor, keep: int) -> torch.Tensor:
    """(G, keep, n): the shares of each token in each result of a bipartite merge of `x`.

    Features that ride along (DeepStack) must be averaged exactly as the embeddings were.
    """
    groups, tokens, _ = x.shape
    pairs = match(x, tokens - keep)
    share = torch.zeros(groups, keep, tokens, device=x.device)
    unmerged, odds = pairs.unmerged_FU.shape[1], tokens // 2
    share[:, :unmerged].scatter_(2, 2 * pairs.unmerged_FU[..., None], 1.0)
    index = torch.arange(odds, device=x.device)
    share[:, unmerged + index, 2 * index + 1] = 1.0
    group = torch.arange(groups, device=x.device)[:, None]
    share[group, unmerged + pairs.into_FR, 2 * pairs.merged_FR] = 1.0
    return share / share.sum(-1, keepdim=True)


def _prune(
    event: ReductionEvent,
    features: list[torch.Tensor],
    places: torch.Tensor,
    *,
    seed: int,
    tower: TowerAttention | None,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    rows, width = places.shape[0], features[0].shape[-1]
    score = pruning_policy(event.scorer)
    x = features[0].reshape(rows, event.groups, event.tokens_in, width)
    context = {} if tower is None else tower.of_groups(rows, event.groups, event.tokens_in)
    scores = score(x=x, keep=event.tokens_out, seed=seed, counts=dict(event.counts), **context)
    groups = 1 if find_scorer(event.scorer).across_groups else event.groups
    size, keep = event.groups * event.tokens_in // groups, event.groups * event.tokens_out // groups
    flat = scores.reshape(rows * groups, size)
    kept = select_tokens(flat, keep) if keep else flat.new_zeros(len(flat), 0, dtype=torch.long)
    kept = kept.view(rows, groups, keep)
    kept = (kept + size * torch.arange(groups, device=kept.device)[:, None]).reshape(rows, groups * keep)
    return [_rows(feature, kept) for feature in features], places.gather(1, kept)
