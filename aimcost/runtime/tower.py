"""The vision tower's own attention, for policies that rank visual tokens by it (PruMerge).

Where the tower has a class token, a patch's score is the class token's attention to it. Where it
has none (SigLIP), it is the mean attention that the patch receives. Means run over the heads.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

from ..errors import ScheduleError, UnsupportedModelError
from . import attention
from .families import Family

__all__ = ["TowerAttention"]

_SUPPORTED = ("LlavaModel", "LlavaOnevisionModel")


class TowerAttention:
    """Records queries and keys of the tower layer whose output is used, thread by thread."""

    def __init__(self, family: Family) -> None:
        container = family.container
        name = type(container).__name__ if container is not None else "a text-only model"
        if container is None or not any(cls.__name__ in _SUPPORTED for cls in type(container).__mro__):
            raise UnsupportedModelError(
                f"scorer 'cls_attention' needs a tower whose patches can be traced to tokens: "
                f"{' or '.join(_SUPPORTED)} (got {name})"
            )
        layer = container.config.vision_feature_layer
        if not isinstance(layer, int):
            raise UnsupportedModelError("scorer 'cls_attention' needs one vision_feature_layer, not a list")
        self._container = container
        self._tower = container.vision_tower
        layers = [module for module in self._tower.modules() if hasattr(module, "q_proj")]
        # hidden_states[0] is the embedding: the layer that made hidden_states[i] is i − 1.
        self._layer: nn.Module = layers[layer - 1 if layer > 0 else len(layers) + layer]
        self._has_class_token = container.config.vision_feature_select_strategy == "default"
        self._captured = threading.local()
        attention.check_attention(self._tower)

    def install(self) -> None:
        """Start listening."""
        attention.switch_attention(self._tower)
        attention.listen([self._layer], self._listen)

    def remove(self) -> None:
        """Stop listening and restore the tower."""
        attention.unlisten([self._layer])
        attention.restore_attention(self._tower)

    def forget(self) -> None:
        """Let go of what was recorded."""
        self._captured.value = None

    def _listen(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: object,
        mask: object,
        scale: float,
    ) -> None:
        with attention.exactly(query.device):
            scores = torch.stack([self._received(q, k, scale) for q, k in zip(query, key, strict=True)])
        keys = key.transpose(1, 2).flatten(2)
        if self._has_class_token:
            keys = keys[:, 1:]
        self._captured.value = (scores, keys)

    def _received(self, query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
        """(n,) attention received in one image, from (H, N, d) queries and keys."""
        rows = query[:, :1] if self._has_class_token else query
        weights = (rows.float() @ key.float().transpose(1, 2) * scale).softmax(-1).mean((0, 1))
        return weights[1:] if self._has_class_token else weights

    def of_groups(self, groups: int, tokens: int) -> dict[str, Any]:
        """``attention`` (groups, tokens) and ``keys`` (groups, tokens, E) of the current prompt.

        Raises
        ------
        ScheduleError
            The tower did not run, or its patches are not the schedule's groups of tokens.
        """
        captured = getattr(self._captured, "value", None)
        if captured is None:
            raise ScheduleError("scorer 'cls_attention': the vision tower did not run before the decoder")
        scores, keys = captured
        if scores.shape != (groups, tokens) and hasattr(self._container, "apply_pooling"):
            scores = self._container.apply_pooling(scores[..., None])[..., 0]
            keys = self._container.apply_pooling(keys)
        if scores.shape != (groups, tokens):
            raise ScheduleError(
                f"scorer 'cls_attention': the tower processed {tuple(scores.shape)} images and patches, "
                f"the schedule has {groups} groups of {tokens} tokens"
            )
        return {"attention": scores, "keys": keys}
