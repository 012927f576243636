"""Merging inside the vision tower (ToMe): between the attention and the MLP of the layers that a schedule names.

The container expects as many tokens of an image as its prompt has placeholders. What the projector yields is
therefore filled up with zeros behind the merged tokens, which `aimcost.runtime.pre_llm` drops with their places.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import ScheduleError, UnsupportedModelError
from ..types import ReductionEvent, Schedule
from . import attention
from .families import Family
from .hooks import Hook
from .layout import Expectation
from .policies import tower_policy
from .tower import copies_of

__all__ = ["TowerMerging"]

_SUPPORTED = "LlavaModel"
_merged_by: WeakKeyDictionary[nn.Module, TowerMerging] = WeakKeyDictionary()


class TowerMerging:
    """Merges tokens in the layers of one tower, thread by thread.

    Attributes
    ----------
    patches, left
        Tokens of an image that the prompt has placeholders for, and those that the tower leaves of them.
    """

    def __init__(self, family: Family, events: Sequence[ReductionEvent]) -> None:
        container = family.container
        name = type(container).__name__ if container is not None else "a text-only model"
        if container is None or not any(cls.__name__ == _SUPPORTED for cls in type(container).__mro__):
            raise UnsupportedModelError(
                f"merging inside the tower needs one token a patch, in no grid: {_SUPPORTED} (got {name})"
            )
        self._tower: nn.Module = container.vision_tower
        self._projector: nn.Module = container.multi_modal_projector
        self._has_class_token = container.config.vision_feature_select_strategy == "default"
        layers = [module for module in self._tower.modules() if hasattr(module, "self_attn")]
        if not all(hasattr(layer, part) for layer in layers for part in ("layer_norm2", "mlp")):
            raise UnsupportedModelError(f"{type(layers[0]).__name__}: merging goes before layer_norm2, which it lacks")
        chosen = container.config.vision_feature_layer
        if not isinstance(chosen, int):
            raise UnsupportedModelError("merging inside the tower needs one vision_feature_layer, not a list")
        # hidden_states[0] is the embedding: the layer that made hidden_states[i] is i - 1
        self._layers = layers[: chosen if chosen > 0 else len(layers) + 1 + chosen]
        self._events = {event.tower_layer: event for event in events}
        if any(layer is None or layer >= len(self._layers) for layer in self._events):
            raise ScheduleError(
                f"the schedule merges after tower layers {list(self._events)}, of which {len(self._layers)} are used"
            )
        self._places = {layer.self_attn: index for index, layer in enumerate(self._layers)}
        self.patches = events[0].tokens_in - self._has_class_token
        self.left = events[-1].tokens_out - self._has_class_token
        self._local = threading.local()
        self._handles: list[RemovableHandle] = []
        self._found = ""
        attention.check_attention(self._tower)

    def install(self) -> None:
        """Start merging."""
        self._found = attention.switch_attention(self._tower)
        attention.listen(list(self._places), self._listen)
        add = self._handles.append
        for index, layer in enumerate(self._layers):
            if index in self._events:
                add(layer.layer_norm2.register_forward_pre_hook(Hook(functools.partial(self._merge, index))))
                add(layer.mlp.register_forward_hook(Hook(self._hold)))
                _merged_by[layer] = self
                _drop_copy(layer)
                layer.__class__ = _merging(type(layer))
        add(self._projector.register_forward_hook(Hook(self._fill)))

    def remove(self) -> None:
        """Restore the tower."""
        while self._handles:
            self._handles.pop().remove()
        for layer in self._layers:
            if _merged_by.pop(layer, None) is not None:
                _drop_copy(layer)
                layer.__class__ = type(layer).__mro__[1]
        attention.unlisten(list(self._places))
        attention.restore_attention(self._tower, self._found)

    def forget(self) -> None:
        """Let go of what was counted."""
        self._local.images = 0

    def expect(self, schedule: Schedule) -> Expectation:
        """The prompt as it arrives, with a placeholder for every patch.

        Raises
        ------
        ScheduleError
            The schedule's visual tokens are not what the tower leaves of whole images.
        """
        images, rest = divmod(schedule.visual_tokens, self.left)
        if rest:
            raise ScheduleError(f"{schedule.visual_tokens} visual tokens are not images of {self.left} merged ones")
        text = schedule.prompt_tokens - schedule.visual_tokens
        return Expectation(prompt=text + images * self.patches, visual=images * self.patches)

    def check_merged(self, rows: int, images: int) -> None:
        """Raise unless the tower has just merged tokens of `images` in each of the rows.

        Raises
        ------
        ScheduleError
            It did not run, or on other images.
        """
        merged = getattr(self._local, "images", 0)
        if not copies_of(merged, rows, images):
            raise ScheduleError(
                f"the vision tower merged the tokens of {merged} images, the prompt has {rows * images}"
            )

    # One layer: its attention, what stands between attention and MLP, the MLP, and the layer as a whole.

    def _listen(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor | None:
        """Attention in which a token that stands for s patches counts s times: log s is added to its scores."""
        local = self._local
        if self._places[module] == 0:
            local.sizes, local.merged = None, None
        local.keys = key
        if local.sizes is None:
            return None
        bias = local.sizes.log().transpose(1, 2)[:, None].to(query.dtype)
        out = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
        return out.transpose(1, 2)

    def _merge(self, index: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor]:
        x, local, event = args[0], self._local, self._events[index]
        if x.shape[1] != event.tokens_in:
            raise ScheduleError(f"tower layer {index} computes on {x.shape[1]} tokens, the plan on {event.tokens_in}")
        sizes = torch.ones_like(x[..., :1]) if local.sizes is None else local.sizes
        with attention.exactly(x.device):
            local.merged, local.sizes = tower_policy(event.scorer)(
                x=x, sizes=sizes, keys=local.keys, keep=event.tokens_out, class_token=self._has_class_token
            )
        local.keys, local.before = None, x.shape[1]
        return (local.merged,)

    def _hold(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Keep what the MLP yields: the layer is about to add it to all tokens that it had before."""
        self._local.mlp = output
        return output.new_zeros(1, 1, 1).expand(output.shape[0], self._local.before, output.shape[2])

    def finish(self, output: Any) -> Any:
        """What a layer yields: the merged tokens and what the MLP made of them."""
        local = self._local
        hidden = local.merged + local.mlp
        local.merged = local.mlp = None
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _fill(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        self._local.images = getattr(self._local, "images", 0) + output.shape[0]
        return nn.functional.pad(output, (0, 0, 0, self.patches - output.shape[1]))


@functools.cache
def _merging(kind: type[nn.Module]) -> type[nn.Module]:
    """A layer class whose output is that of the merged tokens, whoever records it; copies are of `kind` again."""

    class Merging(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = kind.forward(self, *args, **kwargs)
            return _merged_by[self].finish(output)

        def __reduce_ex__(self, protocol: Any) -> Any:
            return _empty, (kind,), self.__dict__

    Merging.__name__, Merging.__qualname__, Merging.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Merging


def _drop_copy(layer: nn.Module) -> None:
    """Let a layer find its class's forward: transformers 5.0 leaves that of the class it had on layers it recorded."""
    held = layer.__dict__.get("forward")
    if getattr(held, "__func__", None) is type(layer).forward:
        del layer.__dict__["forward"]


def _empty(kind: type[nn.Module]) -> nn.Module:
    """A module for `__setstate__` to fill."""
    return kind.__new__(kind)
