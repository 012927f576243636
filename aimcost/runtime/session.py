"""Hooks around a model's forward pass: they find the visual tokens, run what comes before layer 0, and
hand each layer to a subclass.

Everything about one forward pass lives in thread-local storage of the session, so that threads may
share a model; the only thing that outlives it are notes on the KV cache that it filled.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from ..errors import ScheduleError, UnsupportedModelError
from ..kernels.select.reference import gather_rows
from . import attention, compat
from .families import Family
from .heads import HeadCall, at_their_places
from .hooks import Hook
from .prompt import Planner, behind_under_mrope, start
from .reduced_cache import FixedCache, ReducedCache, mark, notes_on, open_cache
from .steps import CacheNotes, Continuation, Prefill, Record

__all__ = ["Session"]

# What a container is told about the sizes of what it sees.
_MEDIA = ("image_grid_thw", "video_grid_thw", "image_sizes", "pixel_values", "pixel_values_videos")


class Session(ABC):
    """One schedule, or one way of planning them, in force on one model.

    Subclasses say what happens around a layer.
    """

    reads_attention = True

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._local = threading.local()
        self._handles: list[RemovableHandle] = []
        self._undo: list[Callable[[], None]] = []
        self._latest: Record | None = None

    @property
    def family(self) -> Family:
        """The parts of the model."""
        return self.planner.family

    @property
    def record(self) -> Record | None:
        """What the latest prompt's prefill did: of this thread if it ran one, else of any; None if it failed."""
        return getattr(self._local, "record", self._latest)

    def enter(self) -> None:
        """Install the hooks; on failure nothing stays behind."""
        try:
            self._install()
        except BaseException:
            self.leave()
            raise

    @abstractmethod
    def agrees(self, other: Session) -> bool:
        """Whether `other`, of an equal planner and equal boundaries, does the same."""

    def _install(self) -> None:
        family, add = self.family, self._handles.append
        if self.reads_attention:
            found = attention.switch_attention(family.decoder)
            self._undo.append(lambda: attention.restore_attention(family.decoder, found))
            modules = [layer.self_attn for layer in family.layers]
            attention.listen(modules, self.on_attention)
            self._undo.append(lambda: attention.unlisten(modules))
        if self.planner.tower is not None:
            self.planner.tower.install()
            self._undo.append(self.planner.tower.remove)
        after = {"with_kwargs": True, "always_call": True}
        if family.head is not None:
            add(family.head.register_forward_pre_hook(Hook(self._enter_head), with_kwargs=True))
            add(family.head.register_forward_hook(Hook(self._leave_head), **after))
        if family.container is not None:
            add(family.container.register_forward_pre_hook(Hook(self._enter_container), with_kwargs=True))
            add(family.container.register_forward_hook(Hook(self._leave_container), **after))
        add(family.decoder.register_forward_pre_hook(Hook(self._enter_decoder), with_kwargs=True))
        add(family.decoder.register_forward_hook(Hook(self._leave_decoder), **after))
        for index, layer in enumerate(family.layers):
            add(layer.register_forward_pre_hook(Hook(self._layer_pre(index)), with_kwargs=True))
            add(layer.register_forward_hook(Hook(self._layer_post(index)), with_kwargs=True))

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

    # The head: what it computes must agree with the tokens that are left.

    def _enter_head(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = compat.by_name(module, args, kwargs)
        for cache in compat.caches_in(kwargs.values()):
            self._follow(kwargs, cache, self._noted(cache))
        self._local.head = HeadCall.of(module, kwargs)
        return (), kwargs

    def _leave_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        head, self._local.head = getattr(self._local, "head", None), None
        return None if head is None or output is None else head.finish(output)

    # The container: input ids are available only here.

    def _enter_container(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = compat.by_name(module, args, kwargs)
        cache = compat.find_cache(module, kwargs)
        notes = self._noted(cache)
        past = cache.get_seq_length() if cache is not None else 0
        if not past:
            self._forget()
        self._follow(kwargs, cache, notes)
        ids = kwargs.get("input_ids")
        self._local.placeholders = None
        self._local.media = _media_of(kwargs)
        if ids is not None and self.family.visual_ids:
            found = [ids == token for token in self.family.visual_ids]
            self._local.placeholders = found[0] if len(found) == 1 else found[0] | found[1]
        placeholders = self._local.placeholders
        if past and notes is None and self.family.mrope and placeholders is not None and placeholders.shape[1] > 1:
            self._forget()
            if bool(placeholders.any()):  # before the container works out positions, which it cannot
                raise behind_under_mrope(past, placeholders.shape[1])
        if self.family.mrope and notes is not None and notes.lost and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = _mrope_positions(notes, kwargs, past)
        return (), kwargs

    def _leave_container(self, *_: Any) -> None:
        self._local.placeholders = self._local.media = None
        if self.planner.tower is not None:
            self.planner.tower.forget()  # a prompt that was refused took none of it

    def _noted(self, cache: Any) -> CacheNotes | None:
        """The notes on the KV cache of a call; where it is refused, no record is left."""
        try:
            _check(cache)
            return notes_on(cache)
        except UnsupportedModelError:
            self._forget()
            raise

    def _follow(self, kwargs: dict[str, Any], cache: Any, notes: CacheNotes | None) -> None:
        """Cut the tokens of a call to those that the cached prompt does not hold yet, in place.

        ``generate`` cuts a sequence by the length of the cache, which lacks what the prompt lost before layer 0.
        """
        if notes is None or not notes.lost:
            return
        tokens = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
        past, count, mask = cache.get_seq_length(), tokens.shape[1], kwargs.get("attention_mask")
        call = next(compat.generations(), None) if count > notes.lost else None
        if call is not None and call.length - count == past:
            count -= notes.lost
            for name in ("input_ids", "position_ids", "mm_token_type_ids", "token_type_ids", compat.CACHE_POSITIONS):
                if isinstance(kwargs.get(name), torch.Tensor):
                    kwargs[name] = kwargs[name][..., -count:]
            if kwargs.get("inputs_embeds") is not None:
                kwargs["inputs_embeds"] = kwargs["inputs_embeds"][:, -count:]
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and mask.shape[1] - count != past + notes.lost:
            raise ScheduleError(
                f"attention_mask covers {mask.shape[1]} tokens, {count} of them new, but the cache stands for "
                f"{past + notes.lost}: the {past} that it holds and {notes.lost} that its prompt lost before layer 0"
            )

    def _forget(self) -> None:
        """No record: what it would tell of has just begun."""
        self._local.record = self._latest = None

    # The decoder: prompts are checked and reduced, caches get their notes.

    def _enter_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = compat.by_name(module, args, kwargs)
        self._local.step = None
        cache = compat.find_cache(module, kwargs)
        if isinstance(cache, FixedCache):
            return (), kwargs
        notes = self._noted(cache)
        past = cache.get_seq_length() if cache is not None else 0
        self._follow(kwargs, cache, notes)
        tokens = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
        if past and notes is not None:
            self._continue(kwargs, notes, past, tokens)
        elif not past or tokens.shape[1] > 1:
            self._forget()
            given = _generation()
            local = self._local
            media = getattr(local, "media", None) or _media_of(given)
            local.step = start(
                self.planner,
                kwargs,
                getattr(local, "placeholders", None),
                past=past,
                media=media,
                prompts=_rows_of(given),
            )
            self._look_around(local.step)
        # and else one token that follows a prompt which was never reduced
        open_cache(cache)
        return (), kwargs

    def _look_around(self, step: Prefill) -> None:
        """Note whether a module that was not given to `aimcost.apply` counts the tokens of this prompt.

        Raises
        ------
        UnsupportedModelError
            It has a label for each of them.
        """
        if getattr(self._local, "head", None) is not None:
            return
        family = self.family
        inner = family.container if family.container is not None else family.decoder
        around = compat.callers(inner)
        step.unseen = bool(around)
        for module, labels in around:
            if isinstance(labels, torch.Tensor) and labels.ndim == 2 and labels.shape[1] == step.length:
                self._local.step = None
                raise UnsupportedModelError(
                    f"{type(module).__name__} has labels for tokens that are dropped, and is around the "
                    f"{type(inner).__name__} that aimcost.apply reduces: give a transformers head itself to apply"
                )

    def _continue(self, kwargs: dict[str, Any], notes: CacheNotes, past: int, tokens: torch.Tensor) -> None:
        placeholders = getattr(self._local, "placeholders", None)
        if placeholders is not None and placeholders.shape[1] > 1 and bool(placeholders.any()):
            self._forget()
            raise ScheduleError(
                f"visual tokens that follow {past} cached ones would not be reduced: empty the cache first"
            )
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

    def _leave_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        step, self._local.step = self.step, None
        open_cache(None)
        if self.planner.tower is not None:
            self.planner.tower.forget()
        if not isinstance(step, Prefill) or output is None:
            return None
        self._local.record = self._latest = step.record()
        values = output.values() if isinstance(output, dict) else output
        for cache in compat.caches_in((*kwargs.values(), *values)):
            mark(cache, step.notes(tuple(cache.get_seq_length(layer) for layer in range(len(step.alive_at)))))
        head = getattr(self._local, "head", None)
        if not (step.unseen if head is None else head.whole):
            return None
        states = output[0] if isinstance(output, tuple) else output["last_hidden_state"]
        if states.shape[1] > step.alive.shape[1]:  # hidden from the others, but there
            states = gather_rows(states, step.alive, 1)
        if head is None:
            states = at_their_places(states, step.places(), step.length, fill=float("nan"))
        else:
            states = head.spread(states, step.places(), step.length)
        if isinstance(output, tuple):
            return (states, *output[1:])
        output["last_hidden_state"] = states
        return output

    # The layers.

    def close_up(self, step: Continuation, index: int, hidden: torch.Tensor, kwargs: dict[str, Any]) -> None:
        """Move positions that follow a closed-up prompt down by what layer `index` lost of it."""
        dropped = step.dropped(index)
        if dropped:
            kwargs["position_ids"] = kwargs["position_ids"] - dropped
            kwargs["position_embeddings"] = self.family.decoder.rotary_emb(hidden, position_ids=kwargs["position_ids"])

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


def _media_of(given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: given[name] for name in _MEDIA if isinstance(given.get(name), torch.Tensor)}


def _rows_of(given: Mapping[str, Any]) -> int | None:
    """Prompts that ``generate`` was given, each of which may have become several rows; None outside of it."""
    ids = given.get("input_ids")
    return len(ids) if isinstance(ids, torch.Tensor) else None


def _generation() -> Mapping[str, Any]:
    """What the ``generate`` around this pass was given, nothing where there is none.

    Raises
    ------
    UnsupportedModelError
        Decoding that splits the prompt, repeats it, or takes back what it added to the cache.
    """
    calls = list(compat.generations())
    for config, assisted, *_ in calls:
        refused = {
            "use_cache=False": not getattr(config, "use_cache", True),
            "prefill_chunk_size": getattr(config, "prefill_chunk_size", None) is not None,
            "guidance_scale": getattr(config, "guidance_scale", None) not in (None, 1),
            "assistant_model": assisted,
            "prompt_lookup_num_tokens": getattr(config, "prompt_lookup_num_tokens", None) is not None,
            "assistant_early_exit": getattr(config, "assistant_early_exit", None) is not None,
        }
        for name, given in refused.items():
            if given:
                raise UnsupportedModelError(f"generate with {name} is not supported while a schedule is applied")
    return calls[0].given if calls else {}


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


def _check(cache: Any) -> None:
    if cache is None or type(cache) in (DynamicCache, ReducedCache):
        return
    why = "hold another number of tokens in each layer"
    if isinstance(cache, DynamicCache):
        why = "be marked as that of a reduced prompt, so that nothing continues it by mistake"
    raise UnsupportedModelError(f"KV cache {type(cache).__name__} cannot {why}; use DynamicCache")
