"""Hooks around a model's forward pass: they find the visual tokens, run what comes before layer 0, and
hand each layer to a subclass.

Everything about one forward pass lives in thread-local storage of the session, so that threads may
share a model; the only thing that outlives it are notes on the KV cache that it filled.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from ..errors import ScheduleError, UnsupportedModelError
from ..kernels.select.reference import gather_rows
from . import attention, compat
from .families import Family
from .prompt import Plan, start
from .steps import CacheNotes, Continuation, Prefill, Record

__all__ = ["Session"]

_NOTES = "_aimcost_notes"


class Session(ABC):
    """One schedule in force on one model. Subclasses say what happens around a layer."""

    reads_attention = True

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.events = {event.after_layer: event for event in plan.schedule.layer_events}
        self._local = threading.local()
        self._handles: list[RemovableHandle] = []
        self._undo: list[Callable[[], None]] = []
        self._latest: Record | None = None

    @property
    def family(self) -> Family:
        """The parts of the model."""
        return self.plan.family

    @property
    def record(self) -> Record | None:
        """What the latest prefill did: of this thread if it ran one, else of any."""
        return getattr(self._local, "record", None) or self._latest

    def enter(self) -> None:
        """Install the hooks; on failure nothing stays behind."""
        try:
            self._install()
        except BaseException:
            self.leave()
            raise

    def _install(self) -> None:
        family, add = self.family, self._handles.append
        if self.reads_attention:
            attention.switch_attention(family.decoder)
            self._undo.append(lambda: attention.restore_attention(family.decoder))
            modules = [layer.self_attn for layer in family.layers]
            attention.listen(modules, self.on_attention)
            self._undo.append(lambda: attention.unlisten(modules))
        if self.plan.tower is not None:
            self.plan.tower.install()
            self._undo.append(self.plan.tower.remove)
        after = {"with_kwargs": True, "always_call": True}
        if family.container is not None:
            add(family.container.register_forward_pre_hook(self._enter_container, with_kwargs=True))
            add(family.container.register_forward_hook(self._leave_container, **after))
        add(family.decoder.register_forward_pre_hook(self._enter_decoder, with_kwargs=True))
        add(family.decoder.register_forward_hook(self._leave_decoder, **after))
        for index, layer in enumerate(family.layers):
            add(layer.register_forward_pre_hook(self._layer_pre(index), with_kwargs=True))
            add(layer.register_forward_hook(self._layer_post(index), with_kwargs=True))

    def leave(self) -> None:
        """Remove every hook and put the attention implementation back."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        while self._undo:
            self._undo.pop()()

    # What subclasses define.

    @abstractmethod
    def before_layer(
        self, step: Prefill | Continuation, index: int, hidden: torch.Tensor, kwargs: dict[str, Any]
    ) -> None:
        """Change the layer's keyword arguments in place."""

    @abstractmethod
    def after_layer(self, step: Prefill, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states that go on, after layer `index` of a prefill."""

    @abstractmethod
    def on_attention(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor | None:
        """See post-RoPE queries and keys; a tensor returned replaces SDPA's output."""

    @property
    def step(self) -> Prefill | Continuation | None:
        """The forward pass that this thread is in."""
        return getattr(self._local, "step", None)

    # The container: input ids are available only here.

    def _enter_container(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = compat.by_name(module, args, kwargs)
        cache = _checked(compat.find_cache(module, kwargs))
        ids = kwargs.get("input_ids")
        self._local.placeholders = None
        if ids is not None and self.family.visual_ids:
            wanted = torch.tensor(self.family.visual_ids, device=ids.device)
            self._local.placeholders = torch.isin(ids, wanted)
        notes = _notes_on(cache)
        if notes is not None and notes.lost and notes.next_position is not None and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = _mrope_positions(notes, kwargs, cache.get_seq_length())
        return (), kwargs

    def _leave_container(self, *_: Any) -> None:
        self._local.placeholders = None

    # The decoder: prompts are checked and reduced, caches get their notes.

    def _enter_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = compat.by_name(module, args, kwargs)
        self._local.step = None
        cache = _checked(compat.find_cache(module, kwargs))
        past = cache.get_seq_length() if cache is not None else 0
        if past:
            self._continue(kwargs, _notes_on(cache), past)
        else:
            self._local.step = start(self.plan, kwargs, getattr(self._local, "placeholders", None))
        return (), kwargs

    def _continue(self, kwargs: dict[str, Any], notes: CacheNotes | None, past: int) -> None:
        placeholders = getattr(self._local, "placeholders", None)
        if placeholders is not None and placeholders.shape[1] > 1 and bool(placeholders.any()):
            raise ScheduleError(
                f"visual tokens that follow {past} cached ones would not be reduced: empty the cache first"
            )
        if notes is None:
            return
        tokens = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
        if self.family.window is not None and past + tokens.shape[1] >= self.family.window:
            raise UnsupportedModelError(
                f"{past + tokens.shape[1]} tokens exceed the sliding window of {self.family.window}"
            )
        self._local.step = Continuation(notes=notes)
        if not notes.lost:
            return
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            head = gather_rows(mask, notes.origin, 1)
            kwargs["attention_mask"] = torch.cat((head, mask[:, notes.prompt + notes.lost :]), dim=1)
        for name in ("position_ids", compat.CACHE_POSITIONS):
            if kwargs.get(name) is not None and not (self.family.mrope and name == "position_ids"):
                kwargs[name] = kwargs[name] - notes.lost

    def _leave_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        step, self._local.step = self.step, None
        if not isinstance(step, Prefill) or output is None:
            return
        self._local.record = self._latest = step.record()
        values = output.values() if isinstance(output, dict) else output
        for cache in compat.caches_in((*kwargs.values(), *values)):
            lost = self.plan.expected.prompt - step.prompt
            held = tuple(cache.get_seq_length(layer) for layer in range(len(step.alive_at)))
            notes = CacheNotes(
                origin=step.origin,
                alive_at=tuple(step.alive_at),
                lost=lost,
                held=held,
                next_position=step.next_position,
            )
            # On the cache itself: generations may interleave, and copies of a cache keep it.
            setattr(cache, _NOTES, notes)

    # The layers.

    def _layer_pre(self, index: int) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            step = self.step
            if step is None:
                return None
            self.before_layer(step, index, args[0] if args else kwargs["hidden_states"], kwargs)
            return args, kwargs

        return hook

    def _layer_post(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            step = self.step
            if not isinstance(step, Prefill):
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = self.after_layer(step, index, hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook


def _notes_on(cache: Any) -> CacheNotes | None:
    """The notes on a KV cache, unless it was emptied and filled by something else since."""
    notes = getattr(cache, _NOTES, None)
    if notes is None:
        return None
    grown = {cache.get_seq_length(layer) - held for layer, held in enumerate(notes.held)}
    return notes if len(grown) == 1 and min(grown) >= 0 else None


def _mrope_positions(notes: CacheNotes, kwargs: dict[str, Any], past: int) -> torch.Tensor:
    """(3, B, q) positions that go on from the whole prompt, not from the `past` tokens that the cache holds."""
    tokens = kwargs["inputs_embeds"] if kwargs.get("input_ids") is None else kwargs["input_ids"]
    rows, count = tokens.shape[:2]
    mask = kwargs.get("attention_mask")
    since = past - notes.held[0]
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        since = mask[:, notes.prompt + notes.lost :].long().sum(1, keepdim=True) - count
    first = notes.next_position.to(tokens.device)
    first = first.repeat_interleave(rows // len(first))[:, None] + since  # beams share a prompt
    return (first + torch.arange(count, device=tokens.device))[None].expand(3, -1, -1)


def _checked(cache: Any) -> DynamicCache | None:
    if cache is not None and not isinstance(cache, DynamicCache):
        raise UnsupportedModelError(
            f"KV cache {type(cache).__name__} cannot hold another number of tokens in each layer; use DynamicCache"
        )
    return cache
