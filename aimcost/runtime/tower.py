"""The vision tower's own attention, for policies that rank or merge visual tokens by it.

Where the tower has a class token, a patch's score is the class token's attention to it. Where it
has none (SigLIP), it is the mean attention that the patch receives. Means run over the heads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import ScheduleError, UnsupportedModelError
from ..methods.registry import Scorer, find_scorer
from ..types import ReductionEvent, Schedule
from . import attention, compat
from .families import Family
from .hooks import Hook
from .policies import merging_policy
from .question import ClipQuestion

__all__ = ["Tower", "TowerAttention", "copies_of"]

_SUPPORTED = ("LlavaModel", "LlavaOnevisionModel")


class Tower(Protocol):
    """What runs beside the vision tower while a schedule is applied."""

    def install(self) -> None:
        """Start."""

    def remove(self) -> None:
        """Stop, and restore the tower."""

    def forget(self) -> None:
        """Let go of what the latest prompt showed."""


class TowerAttention:
    """Records what policies read of the tower, thread by thread, and merges what it yields.

    Queries and keys come from the layer whose output is used, and from the last layer too where a scorer reads it.
    Released mergers work before the projector. How many tokens stay may be known only when the decoder is reached, so
    all are projected on their way there, and the merged ones again.
    """

    def __init__(
        self,
        family: Family,
        schedule: Schedule | None = None,
        *,
        scorers: Iterable[Scorer] = (),
        question: ClipQuestion | None = None,
    ) -> None:
        """For the scorers of `schedule`, or for `scorers`, whichever of them a prompt's schedule will name."""
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
        self._has_class_token = container.config.vision_feature_select_strategy == "default"
        layers = [module for module in self._tower.modules() if hasattr(module, "q_proj")]
        # hidden_states[0] is the embedding: the layer that made hidden_states[i] is i − 1.
        index = layer - 1 if layer > 0 else len(layers) + layer
        if schedule is not None:
            scorers = [find_scorer(event.scorer) for event in schedule.pre_llm_events]
        scorers = list(scorers)
        self._listened: dict[str, nn.Module] = {}
        if any(scorer.reads == "tower" for scorer in scorers):
            self._listened["feature"] = layers[index]
        if any(scorer.last_tower_layer for scorer in scorers):
            self._listened["last"] = layers[-1]
        self._question = question
        if any(scorer.reads == "text_tower" for scorer in scorers):
            self._check_question(layers[index])
        block = next(module for module in self._tower.modules() if getattr(module, "self_attn", None) is layers[index])
        self._block: nn.Module = block
        self._norm: Any = next(
            (module for name, module in self._tower.named_modules() if name.endswith("post_layernorm")), None
        )
        self._captured = threading.local()
        self._handles: list[RemovableHandle] = []
        self._found = ""
        attention.check_attention(self._tower)

    def _check_question(self, attention_module: nn.Module) -> None:
        width = attention_module.q_proj.in_features  # type: ignore[union-attr]
        if self._question is None:
            raise UnsupportedModelError(
                "the method ranks with CLIP's text tower, which the model does not have: pass question=ClipQuestion"
                "(clip, tokenizer) of the tower's own checkpoint to apply"
            )
        if self._question.width != width or not self._has_class_token:
            raise UnsupportedModelError(
                f"question: CLIP of the model's own tower is needed, {width} wide and with a class token "
                f"(got one that projects from {self._question.width})"
            )

    def install(self) -> None:
        """Start listening."""
        self._found = attention.switch_attention(self._tower)
        attention.listen(list(self._listened.values()), self._listen)
        self._handles.append(self._block.register_forward_hook(Hook(self._after_block)))

    def remove(self) -> None:
        """Stop listening and restore the tower."""
        while self._handles:
            self._handles.pop().remove()
        attention.unlisten(list(self._listened.values()))
        attention.restore_attention(self._tower, self._found)

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
        if module is self._listened.get("feature"):
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

    def merge(self, event: ReductionEvent, rows: int) -> torch.Tensor | None:
        """What a merger makes of the tower's own tokens, projected: (rows · groups, tokens that stay, D).

        None where the tower's tokens are not the event's, since they are pooled after the projector.
        """
        features = self._now.get("features")
        copies = 0 if features is None else copies_of(len(features), rows, event.groups)
        if features is None or not copies or features.shape[1] != event.tokens_in:
            return None
        context = self.of_groups(rows // copies, event.groups, event.tokens_in)
        with attention.exactly(features.device):
            merged = merging_policy(event.scorer)(
                x=features, keep=event.tokens_out, counts=dict(event.counts), **context
            )
        projected: torch.Tensor = self._container.multi_modal_projector(merged)
        return _repeated(projected, event.groups, copies)

    def of_groups(self, rows: int, groups: int, tokens: int) -> dict[str, Any]:
        """What policies read of the current prompt's tower, for `groups` of each of the rows.

        ``attention`` (rows · groups, tokens), ``keys`` and ``features`` (…, tokens, E), ``heads``; ``class_feature``
        (…, 1, E) where the tower has a class token; ``joint_attention`` and ``last_keys`` where a scorer reads
        the last layer; ``image_embeds`` (…, tokens, P) and ``text_embeds``, one (M, P) a row, where one reads the
        question. The beams of a prompt, and the sequences that it returns, share what the tower showed of it.

        Raises
        ------
        ScheduleError
            The tower did not run, or its patches are not the schedule's groups of tokens.
        """
        now = dict(self._now)
        if "features" not in now:
            raise ScheduleError("scorer 'cls_attention': the vision tower did not run before the decoder")
        if now["features"].shape[1] != tokens and hasattr(self._container, "apply_pooling"):
            pool = self._container.apply_pooling
            for name in ("attention", "joint_attention"):
                if name in now:
                    now[name] = pool(now[name][..., None])[..., 0]
            for name in ("keys", "last_keys", "features"):
                if name in now:
                    now[name] = pool(now[name])
        images, patches = now["features"].shape[:2]
        copies = copies_of(images, rows, groups)
        if patches != tokens or not copies:
            raise ScheduleError(
                f"scorer 'cls_attention': the tower processed {(images, patches)} images and patches, "
                f"the schedule has {rows * groups} groups of {tokens} tokens"
            )
        if self._question is not None:
            now["image_embeds"] = self._question.see(self._norm(now["features"]))
        shown = {
            name: _repeated(found, groups, copies) if isinstance(found, torch.Tensor) else found
            for name, found in now.items()
        }
        return shown if self._question is None else {**shown, "text_embeds": self._question.of_rows(rows)}


def copies_of(images: int, rows: int, groups: int) -> int:
    """How many rows in a row are of one prompt, where the tower saw `images` of all of them; 0: they do not match.

    ``generate`` runs the tower once a prompt, and repeats each prompt for its beams and returned sequences.
    """
    if images == rows * groups:
        return 1
    copies, rest = divmod(rows * groups, max(1, images))
    known = not rest and images % groups == 0 and next(compat.generations(), None) is not None
    return copies if known else 0


def _repeated(found: torch.Tensor, groups: int, copies: int) -> torch.Tensor:
    """(prompts · groups, …) to (prompts · copies · groups, …), the copies of a prompt one after the other."""
    if copies == 1:
        return found
    return found.unflatten(0, (-1, groups)).repeat_interleave(copies, dim=0).flatten(0, 1)
