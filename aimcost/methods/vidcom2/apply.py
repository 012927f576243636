"""VidCom2's choice: tokens unlike their frame and the video, and more of frames unlike the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...ops.reduction import required_frames
from .cost import CHANNEL_SHARE, SCALES, TEMPERATURE, UNIQUENESS

__all__ = ["VISUAL_SCORERS", "unlike_frame_and_video"]

# A token's similarity is at most two sums of exponentials; tokens inside a frame's budget outrank all others.
INSIDE_BUDGET = 4.0 * len(SCALES)


def unlike_frame_and_video(*, x: torch.Tensor, keep: int, counts: Mapping[str, int], **_: Any) -> torch.Tensor:
    """Minus a token's similarity to its frame and to the video, raised inside its frame's budget: (B, groups, n) fp32.

    `x` is (B, groups, n, D) with groups · n = frames · tokens a frame. Budgets are those of a retention ratio that
    `keep` is of all tokens; rounded, they may add up to a few more or fewer than `keep`, which is made up by
    similarity. Source: xuyang-liu16/VidCom2.

    Raises
    ------
    ScheduleError
        The number of frames is unknown or does not divide the tokens.
    """
    rows, groups, tokens, width = x.shape
    frames = required_frames(groups, tokens, counts, scorer=UNIQUENESS.name)
    features = x.float().reshape(rows, groups * tokens, width)
    steady = features.var(dim=1, correction=0).topk(int(width * CHANNEL_SHARE), dim=-1, largest=False).indices
    features = features.gather(2, steady[:, None].expand(-1, groups * tokens, -1))
    unit = torch.nn.functional.normalize(features, dim=-1).view(rows, frames, groups * tokens // frames, -1)
    to_video = _similarity(unit, unit.mean(dim=(1, 2), keepdim=True))
    similar = to_video + _similarity(unit, unit.mean(dim=2, keepdim=True))
    unlike = -to_video.mean(-1)
    share = ((unlike - unlike.amax(1, keepdim=True)) / TEMPERATURE).softmax(1)
    each = unit.shape[2]
    ratio = keep / (frames * each)
    budget = ((ratio * (1 + share - share.mean(1, keepdim=True))).clamp(max=1.0) * each).round().clamp(min=1)
    rank = similar.argsort(dim=2, stable=True).argsort(dim=2)
    return (INSIDE_BUDGET * (rank < budget[..., None]) - similar).view(rows, groups, tokens)


def _similarity(x: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Sum of Gaussians of the distance to `centre`, (B, F, n) of (B, F, n, C)."""
    distance = (x - centre).square().sum(-1)
    return sum((torch.exp(-distance / (2 * scale)) for scale in SCALES), torch.zeros_like(distance))


VISUAL_SCORERS = {UNIQUENESS.name: unlike_frame_and_video}
