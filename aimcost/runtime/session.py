"""Hooks around a model's forward pass: they find the visual tokens, run what comes before layer 0, and
hand each layer to a subclass.

Everything about one forward pass lives in thread-local storage of the session, so that threads may
share a model; the only thing that outlives it are notes on the KV cache that it filled.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from ..errors import InvalidValueError, ScheduleError, UnsupportedModelError
from ..types import Schedule
from . import attention, layout, policies
from .cutting import cut_positions, cut_square, cut_tokens
from .families import Family, locate
from .layout import Boundaries
from .pre_llm import Reduced, reduce_visuals
from .steps import CacheNotes, Continuation, Prefill, Record
from .tower import TowerAttention

__all__ = ["Session"]

_NOTES = "_aimcost_notes"


class Session:
    """One schedule in force on one model. Subclasses say what happens around a layer."""

    reads_attention = True

    def __init__(self, model: nn.Module, schedule: Schedule, boundaries: Boundaries | None) -> None:
        self.family: Family = locate(model)
        attention.check_attention(self.family.decoder)
        self.schedule = schedule
        self.expected = layout.check_schedule(schedule, len(self.family.layers))
        self.boundaries = layout.check_boundaries(boundaries, self.expected)
        self.events = {event.after_layer: event for event in schedule.layer_events}
        self.seed = int(schedule.params.get("seed", 0))
        self._check_reach()
        needs_tower = any(event.scorer == "cls_attention" for event in schedule.pre_llm_events)
        self._tower = TowerAttention(self.family) if needs_tower else None
        self._local = threading.local()
        self._handles: list[RemovableHandle] = []
        self._latest: Record | None = None

    def _check_reach(self) -> None:
        """Raise for what can be known to fail before a prompt is seen."""
        text = self.expected.prompt - self.expected.visual
        after = self.schedule.text_after
        if self.boundaries is not None and not isinstance(self.boundaries, torch.Tensor):
            first = self.boundaries if isinstance(self.boundaries[0], int) else self.boundaries[0]
            text, after = self.expected.prompt - first[1], first[2]
        if not isinstance(self.boundaries, torch.Tensor):
            policies.check_policies(self.schedule, text)
            if self.events and self.family.container is None and after == 0:
                raise ScheduleError("the prompt must end in text: its last token yields the next one")
        window = self.family.window
        if window is not None and self.expected.prompt >= window:
            raise UnsupportedModelError(
                f"a prompt of {self.expected.prompt} tokens exceeds the sliding window of {window}: dropping "
                "inside a sliding window is not supported"
            )

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
        self._undo: list[Any] = []
        if self.reads_attention:
            attention.switch_attention(family.decoder)
            self._undo.append(lambda: attention.restore_attention(family.decoder))
            modules = [layer.self_attn for layer in family.layers]
            attention.listen(modules, self.on_attention)
            self._undo.append(lambda: attention.unlisten(modules))
        if self._tower is not None:
            self._tower.install()
            self._undo.append(self._tower.remove)
        if family.container is not None:
            add(family.container.register_forward_pre_hook(self._enter_container, with_kwargs=True))
            add(family.container.register_forward_hook(self._leave_container, with_kwargs=True, always_call=True))
        add(family.decoder.register_forward_pre_hook(self._enter_decoder, with_kwargs=True))
        add(family.decoder.register_forward_hook(self._leave_decoder, with_kwargs=True, always_call=True))
        for index, layer in enumerate(family.layers):
            add(layer.register_forward_pre_hook(self._layer_pre(index), with_kwargs=True))
            add(layer.register_forward_hook(self._layer_post(index), with_kwargs=True))

    def leave(self) -> None:
        """Remove every hook and put the attention implementation back."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for undo in reversed(getattr(self, "_undo", [])):
            undo()
        self._undo = []

    # What subclasses define.

    def before_layer(self, step: Prefill | Continuation, index: int, hidden: torch.Tensor, kwargs: dict) -> None:
        """Change the layer's keyword arguments in place."""
        raise NotImplementedError

    def after_layer(self, step: Prefill, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states that go on, after layer `index` of a prefill."""
        raise NotImplementedError

    def on_attention(self, module, query, key, value, mask, scale) -> torch.Tensor | None:  # noqa: ANN001
        """See post-RoPE queries and keys; a tensor returned replaces SDPA's output."""
        raise NotImplementedError

    @property
    def step(self) -> Prefill | Continuation | None:
        """The forward pass that this thread is in."""
        return getattr(self._local, "step", None)

    # The container: input ids are only seen here.

    def _enter_container(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs = _by_name(module, args, kwargs)
        cache = kwargs.get("past_key_values")
        _check_cache(cache)
        ids = kwargs.get("input_ids")
        self._local.visual_mask = None
        if ids is not None and self.family.visual_ids:
            wanted = torch.tensor(self.family.visual_ids, device=ids.device)
            self._local.visual_mask = torch.isin(ids, wanted)
        notes = getattr(cache, _NOTES, None)
        if notes is not None and notes.lost and self.family.mrope and kwargs.get("position_ids") is None:
            kwargs["position_ids"] = self._mrope_positions(module, ids, kwargs, cache.get_seq_length() + notes.lost)
        return (), kwargs

    @staticmethod
    def _mrope_positions(module: nn.Module, ids: torch.Tensor | None, kwargs: dict, past: int) -> torch.Tensor:
        """(3, B, q) positions that go on from the whole prompt, not from what the cache holds."""
        tokens = ids if ids is not None else kwargs["inputs_embeds"]
        rows, count = tokens.shape[:2]
        mask = kwargs.get("attention_mask")
        first = past if mask is None else mask.long().sum(1, keepdim=True) - count
        positions = torch.arange(count, device=tokens.device) + first
        deltas = 0 if module.rope_deltas is None else module.rope_deltas.to(tokens.device)
        return (positions + deltas).expand(rows, count)[None].expand(3, -1, -1)

    def _leave_container(self, *_: Any) -> None:
        self._local.visual_mask = None

    # The decoder: prompts are checked and reduced, caches get their notes.

    def _enter_decoder(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        kwargs = _by_name(module, args, kwargs)
        self._local.step = None
        cache = kwargs.get("past_key_values")
        _check_cache(cache)
        past = cache.get_seq_length() if cache is not None else 0
        if past:
            self._continue(kwargs, getattr(cache, _NOTES, None), past)
        else:
            self._local.step = self._start(kwargs)
        return (), kwargs

    def _continue(self, kwargs: dict, notes: CacheNotes | None, past: int) -> None:
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
            head = cut_positions(mask, notes.origin)
            kwargs["attention_mask"] = torch.cat((head, mask[:, notes.prompt + notes.lost :]), dim=1)
        for name in ("position_ids", "cache_position"):
            if kwargs.get(name) is not None and not (self.family.mrope and name == "position_ids"):
                kwargs[name] = kwargs[name] - notes.lost

    def _start(self, kwargs: dict) -> Prefill:
        """Check a prompt, run the events before layer 0 on it, and say what is live."""
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        tokens = ids if ids is not None else embeds
        rows, prompt = tokens.shape[:2]
        if prompt != self.expected.prompt:
            raise ScheduleError(
                f"the prompt has {prompt} tokens, the schedule was planned for {self.expected.prompt} "
                f"({self.expected.visual} visual)"
            )
        if embeds is not None and embeds.device.type == "cpu" and not bool(torch.isfinite(embeds).all()):
            raise InvalidValueError("inputs_embeds", "finite", "NaN or infinite values")
        mask = kwargs.get("attention_mask")
        if isinstance(mask, dict):
            raise UnsupportedModelError("attention masks prepared per layer type are not supported: pass the 2D mask")
        real = layout.padding_of(mask, rows, prompt)
        visual = self._visual(rows, prompt, real, tokens.device)
        extras = _deepstack(kwargs, rows, prompt)
        origin = torch.arange(prompt, device=tokens.device).expand(rows, -1)
        if self.schedule.pre_llm_events:
            reduced = self._reduce(kwargs, visual, extras)
            origin, visual = reduced.origin, reduced.visual
            extras = [_spread(extra, visual, origin.shape[1]) for extra in reduced.extras]
            real = None if real is None else cut_positions(real, origin)
        protected = torch.ones(origin.shape, dtype=torch.bool, device=tokens.device).scatter(1, visual, False)
        alive = torch.arange(origin.shape[1], device=tokens.device).expand(rows, -1)
        return Prefill(
            origin=origin, alive=alive, protected=protected, real=real, visual=~protected, extras=extras
        )

    def _visual(
        self, rows: int, prompt: int, real: torch.Tensor | None, device: torch.device
    ) -> torch.Tensor:
        given = self.boundaries
        if given is None:
            given = getattr(self._local, "visual_mask", None)
        if given is None:
            given = (self.schedule.text_before, self.expected.visual, self.schedule.text_after)
        if isinstance(given, torch.Tensor) and given.shape[1] != prompt:
            raise ScheduleError(f"input_ids cover {given.shape[1]} tokens, the prompt has {prompt}")
        if real is not None and not isinstance(given, torch.Tensor) and isinstance(given[0], int):
            given = _shorter_rows(given, real)
        visual = layout.visual_positions(rows, self.expected, boundaries=given, real=real, device=device)
        if visual.shape[1] != self.expected.visual and (self.boundaries is None or self.schedule.pre_llm_events):
            raise ScheduleError(
                f"the prompt has {visual.shape[1]} visual tokens a row, the schedule was planned for "
                f"{self.expected.visual}"
            )
        if isinstance(given, torch.Tensor):
            policies.check_policies(self.schedule, self.schedule.tokens[0] - self._visual_left(visual.shape[1]))
            if self.events and visual.numel() and bool((visual[:, -1] == prompt - 1).any()):
                raise ScheduleError("the prompt must end in text: its last token yields the next one")
        return visual

    def _visual_left(self, visual: int) -> int:
        return self.schedule.visual_tokens if self.schedule.pre_llm_events else visual

    def _reduce(self, kwargs: dict, visual: torch.Tensor, extras: list[torch.Tensor]) -> Reduced:
        """Run the events before layer 0, and make the decoder's arguments fit the shorter prompt."""
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            embeds = self.family.decoder.get_input_embeddings()(kwargs["input_ids"])
        reduced = reduce_visuals(
            embeds,
            visual,
            self.schedule,
            seed=self.seed,
            extras=[cut_tokens(extra, visual) for extra in extras],
            tower=self._tower,
        )
        if self._tower is not None:
            self._tower.forget()
        origin, mask, positions = reduced.origin, kwargs.get("attention_mask"), kwargs.get("position_ids")
        kwargs["input_ids"], kwargs["inputs_embeds"] = None, reduced.embeds
        if mask is not None:
            kwargs["attention_mask"] = cut_square(mask, origin) if mask.ndim == 4 else cut_positions(mask, origin)
        if self.family.mrope:
            full = torch.arange(embeds.shape[1], device=origin.device)[None] if positions is None else positions
            kwargs["position_ids"] = cut_positions(full, origin)
        elif positions is not None:
            closed_up = origin - torch.arange(origin.shape[1], device=origin.device)
            kwargs["position_ids"] = cut_positions(positions, origin) - closed_up
        if kwargs.get("cache_position") is not None:
            kwargs["cache_position"] = kwargs["cache_position"][: origin.shape[1]]
        return reduced

    def _leave_decoder(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        step, self._local.step = self.step, None
        if not isinstance(step, Prefill) or output is None:
            return
        self._local.record = self._latest = step.record()
        values = output.values() if isinstance(output, dict) else output
        for value in values:
            if isinstance(value, DynamicCache):
                lost = self.expected.prompt - step.prompt
                setattr(value, _NOTES, CacheNotes(origin=step.origin, alive_at=tuple(step.alive_at), lost=lost))

    # The layers.

    def _layer_pre(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            step = self.step
            if step is None:
                return None
            self.before_layer(step, index, args[0] if args else kwargs["hidden_states"], kwargs)
            return args, kwargs

        return hook

    def _layer_post(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            step = self.step
            if not isinstance(step, Prefill):
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = self.after_layer(step, index, hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook


def _by_name(module: nn.Module, args: tuple, kwargs: dict) -> dict:
    """All arguments by name; hooks then change them without caring how they were passed."""
    if not args:
        return dict(kwargs)
    names = [name for name in inspect.signature(module.forward).parameters if name != "kwargs"]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _check_cache(cache: Any) -> None:
    if cache is not None and not isinstance(cache, DynamicCache):
        raise UnsupportedModelError(
            f"KV cache {type(cache).__name__} cannot hold a different number of tokens in each layer; use DynamicCache"
        )


def _shorter_rows(triple: tuple[int, int, int], real: torch.Tensor) -> list[tuple[int, int, int]]:
    """The triple for each row of a padded batch: the text after the visual tokens is what is shorter."""
    before, visual, _ = triple
    counts = real.sum(1).tolist()
    if min(counts) < before + visual:
        raise ScheduleError(
            f"a row of {min(counts)} tokens cannot hold {before} text and {visual} visual tokens: "
            "give boundaries row by row, or as a mask"
        )
    return [(before, visual, count - before - visual) for count in counts]


def _deepstack(kwargs: dict, rows: int, prompt: int) -> list[torch.Tensor]:
    """Take per-layer visual features (Qwen3-VL) out of the arguments, each spread to (B, P, D).

    Between layers the decoder would add them at positions of the whole prompt; the session adds
    them after each layer instead, where it knows which tokens are live.
    """
    features, mask = kwargs.get("deepstack_visual_embeds"), kwargs.get("visual_pos_masks")
    if not features:
        return []
    kwargs["deepstack_visual_embeds"] = kwargs["visual_pos_masks"] = None
    spread = []
    for feature in features:
        full = feature.new_zeros(rows, prompt, feature.shape[-1])
        spread.append(full.masked_scatter(mask.to(feature.device)[..., None], feature))
    return spread


def _spread(feature: torch.Tensor, visual: torch.Tensor, prompt: int) -> torch.Tensor:
    """(B, v, D) features at their places among `prompt` tokens, zeros elsewhere."""
    full = feature.new_zeros(feature.shape[0], prompt, feature.shape[-1])
    return full.scatter(1, visual[..., None].expand(-1, -1, feature.shape[-1]), feature)
