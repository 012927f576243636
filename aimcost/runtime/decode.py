"""Decoding from fixed buffers: each layer's keys and values in one of its own size, so that a step can be captured.

After a reduced prefill layers hold different numbers of tokens. Every layer is handed to a buffer of what it holds and
the tokens to come; how far the buffers are filled is a number on the device, so that one recording serves all steps.

Shapes: B rows, H key heads, n tokens that a layer holds, T tokens to come, D width of a head.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from transformers import DynamicCache

from ..errors import InvalidValueError, ScheduleError, UnsupportedModelError
from ..kernels.select.reference import gather_rows
from . import compat
from .families import locate
from .graph import WARMUP, Captured, capture
from .hooks import Hook
from .reduced_cache import FixedCache, notes_on
from .steps import CacheNotes

__all__ = ["Decode", "capture_decode"]


class _FixedLayer(compat.CacheLayer):
    """Keys and values (B, H, n + T, D) of one layer; tokens are added behind the `done` ones that follow the prompt."""

    is_compileable = True
    is_croppable = False
    is_sliding = False

    def __init__(self, held: int, room: int, done: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.held, self.size, self._done = held, held + room, done
        self.keys, self.values = (x.new_zeros(*x.shape[:2], self.size, x.shape[3]) for x in (keys, values))
        self.is_initialized = True

    def lazy_initialization(self, *_: Any) -> None:
        """Buffers are there from the start."""

    def fill(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copy what a prompt left."""
        self.keys[:, :, : self.held].copy_(keys)
        self.values[:, :, : self.held].copy_(values)

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values (B, H, 1, D) of the token that is being computed."""
        place = (self._done + self.held)[None]
        self.keys.index_copy_(2, place, keys)
        self.values.index_copy_(2, place, values)
        return self.keys, self.values

    def get_mask_sizes(self, *_: Any) -> tuple[int, int]:
        """The whole buffer: masks say what of it is filled."""
        return self.size, 0

    def get_seq_length(self, *_: Any) -> int:
        """Tokens of the prompt that the layer holds; those that follow are counted on the device."""
        return self.held

    def get_max_length(self) -> int:
        """Tokens that the buffer takes."""
        return self.size

    get_max_cache_shape = get_max_length


class Decode:
    """A decode step on fixed buffers: ``logits = decode(input_ids)``, (B, 1) ids to (B, 1, vocabulary).

    Attributes
    ----------
    cache
        The buffers.
    steps
        Tokens added since the prompt.
    """

    def __init__(
        self, model: nn.Module, cache: DynamicCache, *, tokens: int, attention_mask: torch.Tensor | None
    ) -> None:
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise InvalidValueError("tokens", "an integer of at least 1", tokens)
        self._family = locate(model)
        held = _lengths(cache)
        self._notes = notes = notes_on(cache)
        if notes is None and self._family.mrope:
            raise UnsupportedModelError("mRoPE: positions are known of prompts that aimcost.apply ran, dense or not")
        if self._family.window is not None and held[0] + tokens >= self._family.window:
            raise UnsupportedModelError(
                f"{held[0]} prompt tokens and {tokens} to come exceed the sliding window of {self._family.window}"
            )
        first = cache.layers[0].keys
        if any(layer.keys.device != first.device for layer in cache.layers):
            raise UnsupportedModelError("fixed buffers need all layers on one device")
        self.steps, self._room, self._held = 0, tokens, held
        self._done = torch.zeros((), dtype=torch.long, device=first.device)
        self._layers = [
            _FixedLayer(length, tokens, self._done, layer.keys, layer.values)
            for length, layer in zip(held, cache.layers, strict=True)
        ]
        self.cache = FixedCache(layers=self._layers)
        self._step = _Step(self, len(first))
        self._call: Captured | None = None
        self.fill(cache, attention_mask)

    def __reduce__(self) -> NoReturn:
        raise UnsupportedModelError(
            "a decode step is bound to its buffers, and has no copies: call capture_decode again"
        )

    @property
    def captured(self) -> bool:
        """Whether a step replays a CUDA graph."""
        return self._call is not None and self._call.captured

    @property
    def reason(self) -> str:
        """Why not; empty where it does."""
        return "" if self._call is None else self._call.reason

    def fill(self, cache: DynamicCache, attention_mask: torch.Tensor | None = None) -> None:
        """Go on from another prompt, whose layers hold as many tokens.

        Raises
        ------
        ScheduleError
            They do not.
        """
        held, notes = _lengths(cache), notes_on(cache)
        if held != self._held:
            raise ScheduleError(f"the prompt left {held} tokens in the layers, the buffers hold {self._held}")
        for fixed, layer in zip(self._layers, cache.layers, strict=True):
            fixed.fill(layer.keys, layer.values)
        self._step.begin(notes, attention_mask)
        self.steps = 0
        self._done.zero_()

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The logits of the token that follows (B, 1) `input_ids`; with the next call they are overwritten.

        Raises
        ------
        ScheduleError
            The buffers are full.
        """
        if self.steps == self._room:
            raise ScheduleError(f"the buffers take {self._room} tokens after the prompt, which are there already")
        self.steps += 1
        if self._call is not None:
            return self._call({"input_ids": input_ids})  # type: ignore[no-any-return]
        with torch.no_grad():
            return self._step(input_ids=input_ids)

    def compile(self, **options: Any) -> None:
        """Have ``torch.compile`` (`options` are its arguments) make one graph of the step, used from the next call on.

        Where a step was captured, the CUDA graph goes: ``mode="reduce-overhead"`` records one of the compiled kernels.
        """
        if self._call is not None:
            self._call.free()
            self._call = None
        self._step.compute = torch.compile(self._step._compute, fullgraph=True, **options)


class _Step:
    """What a step computes, from tensors on the device alone."""

    def __init__(self, owner: Decode, rows: int) -> None:
        self._family, self._cache, self._layers, self._done = owner._family, owner.cache, owner._layers, owner._done
        device = self._done.device
        self._columns = [torch.zeros(rows, layer.size, dtype=torch.bool, device=device) for layer in self._layers]
        self._places = [torch.arange(layer.size, device=device) - layer.held for layer in self._layers]
        self._first = torch.zeros(rows, dtype=torch.long, device=device)
        self._dropped = [0] * len(self._layers)
        self._hooks = [Hook(self._before(index)) for index in range(len(self._layers))]
        self._cache_name = compat.cache_argument(self._family.decoder)
        self._takes_places = compat.CACHE_POSITIONS in compat.arguments(self._family.decoder)
        head = self._family.head
        self._head = None if head is None else head.get_output_embeddings()  # type: ignore[operator]
        self.compute = self._compute

    def begin(self, notes: CacheNotes | None, attention_mask: torch.Tensor | None) -> None:
        """Note which keys of a prompt are real, and what position follows it."""
        prompt = self._layers[0].held if notes is None else notes.prompt
        self._dropped = [0] * len(self._layers)
        if notes is not None and notes.closed_up:
            self._dropped = [prompt - alive.shape[1] for alive in notes.alive_at]
        real = None
        if attention_mask is not None:
            real = attention_mask.bool()
            wanted = (len(self._first), prompt + (0 if notes is None else notes.lost))
            if real.shape != wanted:
                raise ScheduleError(f"attention_mask covers {tuple(real.shape)}, the prompt is {wanted}")
            if notes is not None:
                real = gather_rows(real, notes.origin, 1)
        elif notes is not None:
            real = notes.real
        for index, (columns, layer) in enumerate(zip(self._columns, self._layers, strict=True)):
            columns.fill_(True)
            if real is not None:
                alive = real if notes is None else gather_rows(real, notes.alive_at[index], 1)
                columns[:, : layer.held].copy_(alive)
        if notes is not None and notes.next_position is not None:
            self._first.copy_(notes.next_position).sub_(0 if self._family.mrope else notes.lost)
        elif real is not None and notes is None:
            self._first.copy_(real.sum(1))
        else:
            self._first.fill_(prompt)

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        handles = [
            layer.register_forward_pre_hook(hook, with_kwargs=True)
            for layer, hook in zip(self._family.layers, self._hooks, strict=True)
        ]
        try:
            return self.compute(input_ids)
        finally:
            for handle in handles:
                handle.remove()

    def _compute(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The step itself, with the hooks in place: no wait, no branch on a value, nothing made anew."""
        decoder, done = self._family.decoder, self._done
        positions = self._positions()
        given: dict[str, Any] = {"position_ids": positions[None].expand(3, -1, -1) if self._family.mrope else positions}
        if self._takes_places:
            given[compat.CACHE_POSITIONS] = (done + self._layers[0].held)[None]
        given[self._cache_name] = self._cache
        # a 4D mask passes as it is; each layer gets its own
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=done.device)
        hidden = decoder(input_ids=input_ids, attention_mask=mask, use_cache=True, **given)[0]
        done.add_(1)
        return hidden if self._head is None else self._head(hidden)  # type: ignore[no-any-return]

    def _positions(self) -> torch.Tensor:
        return (self._first + self._done)[:, None]

    def _before(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if all(value is not self._cache for value in kwargs.values()):
                return None  # another thread's pass
            visible = self._columns[index] & (self._places[index] <= self._done)
            kwargs["attention_mask"] = visible[:, None, None]
            if self._dropped[index]:
                hidden = args[0] if args else kwargs["hidden_states"]
                kwargs["position_ids"] = self._positions() - self._dropped[index]
                rotary: Any = self._family.decoder.rotary_emb
                kwargs["position_embeddings"] = rotary(hidden, position_ids=kwargs["position_ids"])
            return args, kwargs

        return hook


def _lengths(cache: DynamicCache) -> list[int]:
    if not isinstance(cache, DynamicCache):
        raise UnsupportedModelError(
            f"KV cache {type(cache).__name__} cannot be handed to fixed buffers: fill a DynamicCache with the prompt"
        )
    held = [int(cache.get_seq_length(layer)) for layer in range(len(cache.layers))]
    if not any(held):
        raise ScheduleError("the KV cache is empty: fill it with a prompt")
    return held


def capture_decode(
    model: nn.Module, cache: DynamicCache, *, tokens: int, attention_mask: torch.Tensor | None = None, pool: Any = None
) -> Decode:
    """Hand a prompt's KV cache to fixed buffers, and record the decode step as a CUDA graph where there is CUDA.

    ``cache`` comes from a prefill inside `aimcost.apply`, reduced or not, and may be thrown away. Steps need no such
    block; inside one they work too. `Decode.fill` goes on from the next prompt of the same token counts.

    Parameters
    ----------
    tokens
        Tokens to come: the buffers take no more.
    attention_mask
        (B, P) of a prompt that no `aimcost.apply` ran, where rows are padded; one that it ran has it noted. Positions
        go on from those that the prompt was given; without such a block, from the number of a row's real tokens, as
        ``generate`` counts them.
    pool
        As for `aimcost.runtime.capture_prefill`.

    Raises
    ------
    UnsupportedModelError, ScheduleError, InvalidValueError
        A model without supported decoder, another cache than a DynamicCache, tokens beyond a sliding window, a mask
        that is not the prompt's.
    """
    decode = Decode(model, cache, tokens=tokens, attention_mask=attention_mask)
    first = cache.layers[0].keys
    ids = torch.zeros(len(first), 1, dtype=torch.long, device=first.device)
    call = capture(decode._step, {"input_ids": ids}, warmup=min(WARMUP, tokens), pool=pool)
    decode._done.zero_()
    decode._call = call
    return decode
