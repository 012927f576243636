"""EVS's choice of video tokens: what changed since the frame before stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...ops.reduction import required_frames
from .cost import TEMPORAL_COSINE

__all__ = ["VISUAL_SCORERS"]


def change_since_last_frame(*, x: torch.Tensor, counts: Mapping[str, int], **_: Any) -> torch.Tensor:
    """1 − cosine to the same patch of the frame before; the first frame outranks all others.

    `x` is (B, groups, n, D) with groups · n = frames · tokens a frame; the scores are (B, groups, n).
    Tokens of all frames compete, whatever the grouping. Source: vLLM ``multimodal/evs.py``.

    Raises
    ------
    ScheduleError
        The number of frames is unknown or does not divide the tokens.
    """
    rows, groups, tokens, width = x.shape
    count = required_frames(groups, tokens, counts, scorer=TEMPORAL_COSINE.name)
    # in the tokens' own format, as released: its rounding makes ties
    per_frame = x.reshape(rows, count, -1, width)
    change = 1 - torch.nn.functional.cosine_similarity(per_frame[:, 1:], per_frame[:, :-1], dim=-1)
    # A cosine distance is at most 2: the first frame outranks every change.
    first = torch.full_like(per_frame[:, :1, :, 0], 3.0)
    return torch.cat((first, change), dim=1).view(rows, groups, tokens).float()


VISUAL_SCORERS = {TEMPORAL_COSINE.name: change_since_last_frame}
