"""The vision tower's own attention, for policies that rank or merge visual tokens by it.

Where the tower has a class token, a patch's score is the class token's attention to it. Where it
has none (SigLIP), it is the mean attention that the patch receives. Means run over the heads.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import ScheduleError, UnsupportedModelError
from ..methods.registry import find_scorer
from ..types import ReductionEvent, Schedule
from . import attention
from .families import Family
from .policies import merging_policy

__all__ = ["TowerAttention"]

_SUPPORTED = ("LlavaModel", "LlavaOnevisionModel")


class TowerAttention:
    """Records what policies read of the tower, and merges where the projector begins, thread by thread.

    Queries and keys come from the layer whose output is used, and from the last layer too where a scorer reads it.
    Released mergers work on what the tower yields: their event runs on the projector's input where that is one token
    a patch, and the projector's output is filled up to the tokens that the placeholders promise.
    """

    def __init__(self, family: Family, schedule: Schedule) -> None:
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
        index = layer - 1 if layer > 0 else len(layers) + layer
        self._listened: dict[str, nn.Module] = {"feature": layers[index]}
        if any(find_scorer(event.scorer).last_tower_layer for event in schedule.pre_llm_events):
            self._listened["last"] = layers[-1]
        block = next(module for module in self._tower.modules() if getattr(module, "self_attn", None) is layers[index])
        self._block: nn.Module = block
        self._has_class_token = container.config.vision_feature_select_strategy == "default"
        self._event = schedule.pre_llm_events[0] if schedule.pre_llm_events[0].action == "merge" else None
        self._captured = threading.local()
        self._handles: list[RemovableHandle] = []
        attention.check_attention(self._tower)

    def install(self) -> None:
        """Start listening."""
        attention.switch_attention(self._tower)
        attention.listen(list(self._listened.values()), self._listen)
        projector = self._container.multi_modal_projector
        self._handles.append(self._block.register_forward_hook(self._after_block))
        if self._event is not None:
            self._handles.append(projector.register_forward_pre_hook(self._before_projector))
            self._handles.append(projector.register_forward_hook(self._after_projector))

    def remove(self) -> None:
        """Stop listening and restore the tower."""
        while self._handles:
            self._handles.pop().remove()
        attention.unlisten(list(self._listened.values()))
        attention.restore_attention(self._tower)

    def forget(self) -> None:
        """Let go of what was recorded."""
        self._captured.value = None

    @property
    def _now(self) -> dict[str, Any]:
        """What this thread's tower has shown since the last prompt."""
        if getattr(self._captured, "value", None) is None:
            self._captured.value = {}
        found: dict[str, Any] = self._captured.value
        return found

    def has_merged(self, event: ReductionEvent) -> bool:
        """Whether the projector's input was merged: the first tokens of each group are what stays of it.

        Raises
        ------
        ScheduleError
            It was, but by another event.
        """
        done = self._now.get("merged")
        if done is not None and done != event:
            raise ScheduleError(f"the tower's tokens were merged {done.tokens_in} to {done.tokens_out} already")
        return done is not None

    def _listen(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: object,
        mask: object,
        scale: float,
    ) -> None:
        now, first = self._now, int(self._has_class_token)
        keys = key.transpose(1, 2).flatten(2)[:, first:]
        if module is self._listened["feature"]:
            now.pop("merged", None)
            with attention.exactly(query.device):
                now["attention"] = torch.stack([self._received(q, k, scale) for q, k in zip(query, key, strict=True)])
            now["keys"], now["heads"] = keys, key.shape[1]
        if module is self._listened.get("last"):
            # all heads as one, as wide as the tower: one softmax
            joint = [x.transpose(1, 2).flatten(2)[:, None] for x in (query, key)]
            width = joint[0].shape[-1]
            with attention.exactly(query.device):
                pairs = zip(*joint, strict=True)
                now["joint_attention"] = torch.stack([self._received(q, k, width**-0.5) for q, k in pairs])
            now["last_keys"] = keys

    def _received(self, query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
        """(n,) attention received in one image, from (H, N, d) queries and keys."""
        rows = query[:, :1] if self._has_class_token else query
        weights = (rows.float() @ key.float().transpose(1, 2) * scale).softmax(-1).mean((0, 1))
        return weights[1:] if self._has_class_token else weights

    def _after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        features = output[0] if isinstance(output, tuple) else output
        if self._has_class_token:
            self._now["class_feature"] = features[:, :1]
        self._now["features"] = features[:, int(self._has_class_token) :]

    def _before_projector(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        event, now, x = self._event, self._now, args[0]
        if event is None or x.ndim != 3 or x.shape[1] != event.tokens_in or event.untouched:
            return None
        context = self.of_groups(x.shape[0], x.shape[1])
        with attention.exactly(x.device):
            merged = merging_policy(event.scorer)(x=x, keep=event.tokens_out, counts=dict(event.counts), **context)
        now["merged"] = event
        return (merged, *args[1:])

    def _after_projector(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        done = self._now.get("merged")
        return output if done is None else nn.functional.pad(output, (0, 0, 0, done.tokens_in - output.shape[1]))

    def of_groups(self, groups: int, tokens: int) -> dict[str, Any]:
        """What policies read of the current prompt's tower.

        ``attention`` (groups, tokens), ``keys`` and ``features`` (groups, tokens, E), ``heads``; ``class_feature``
        (groups, 1, E) where the tower has a class token; ``joint_attention`` and ``last_keys`` where a scorer reads
        the last layer.

        Raises
        ------
        ScheduleError
            The tower did not run, or its patches are not the schedule's groups of tokens.
        """
        now = dict(self._now)
        if "attention" not in now:
            raise ScheduleError("scorer 'cls_attention': the vision tower did not run before the decoder")
        now.pop("merged", None)
        if now["attention"].shape != (groups, tokens) and hasattr(self._container, "apply_pooling"):
            pool = self._container.apply_pooling
            for name in ("attention", "joint_attention"):
                if name in now:
                    now[name] = pool(now[name][..., None])[..., 0]
            for name in ("keys", "last_keys", "features"):
                if name in now:
                    now[name] = pool(now[name])
        if now["attention"].shape != (groups, tokens):
            raise ScheduleError(
                f"scorer 'cls_attention': the tower processed {tuple(now['attention'].shape)} images and patches, "
                f"the schedule has {groups} groups of {tokens} tokens"
            )
        return now
