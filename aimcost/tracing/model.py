"""A transformers model on the ``meta`` device, and its passes: prefill, decode, image features."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache, PreTrainedConfig
from transformers.models.auto import modeling_auto

from ..errors import UnsupportedModelError
from .recorder import FORMAT, IMPLEMENTATION, Event, Recorder

__all__ = ["STAND_IN", "Pass", "Subject", "first_line", "handing_on"]

# Windows are traced at this width, which the counts of a trace exceed, and written at their own.
STAND_IN = 61
# Their forward reads image features off the text model's output, which has none (transformers 5.24).
_TEXT_ALONE = ("llama4",)
# What a configuration's parameters and FLOPs rest on most.
_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    "vocab_size",
)
_WINDOWS = ("sliding_window", "attention_chunk_size", "sliding_window_size", "local_attention")


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did: events by layer (``before``, index, ``after``), cache elements by layer."""

    values: Mapping[str, float]
    events: Mapping[int | str, list[Event]]
    cache: tuple[float, ...] = ()


@dataclass(slots=True)
class Subject:
    """A model to trace.

    Attributes
    ----------
    windows
        Widths by key of the configuration: what `STAND_IN` means in this model's expressions.
    with_mask
        Give it a mask of ones. Without one, layers that multiply states with it are left as in generation.
    own_cache
        Let it make its cache itself: it takes none of transformers' classes.
    keeps_logits
        Its forward computes logits of the last token alone, where it is asked to.
    source
        The mapping that it was built from.
    """

    config: PreTrainedConfig
    model: nn.Module
    layers: list[nn.Module]
    decoder: nn.Module
    windows: dict[str, int] = field(default_factory=dict)
    with_mask: bool = False
    own_cache: bool = False
    keeps_logits: bool = True
    source: Mapping[str, Any] = field(default_factory=dict)
    _returned: int = 0

    @classmethod
    def build(cls, data: Mapping[str, Any], change: Callable[[PreTrainedConfig], None] | None = None) -> Subject:
        """The model of a config.json's mapping.

        Parameters
        ----------
        change
            Done to the language model's configuration before the model is made.

        Raises
        ------
        UnsupportedModelError
            Not a causal or image-text model of the installed transformers, or its layers are not a list.
        """
        kind = str(data.get("model_type"))
        try:
            config = AutoConfig.for_model(**data)
        except Exception as error:  # a configuration class validates as it likes
            raise UnsupportedModelError(f"{kind}: {first_line(error)}") from error
        if getattr(config, "is_encoder_decoder", False):
            raise UnsupportedModelError(f"{kind}: an encoder-decoder")
        text = config.get_text_config(decoder=True)
        # all of them before the first is set: two names may be one
        given = {name: getattr(text, name, None) for name in _WINDOWS}
        windows = {
            name: width
            for name, width in given.items()
            if isinstance(width, int) and not isinstance(width, bool) and width > 1
        }
        for name in windows:
            setattr(text, name, STAND_IN)
        if len(set(windows.values())) > 1:
            raise UnsupportedModelError(f"{kind}: windows of several widths: {windows}")
        family = _family(kind)
        if change is not None:
            change(text)
        with torch.device("meta"):
            try:
                model = family.from_config(config, dtype=FORMAT, attn_implementation="eager")
                if windows and change is None:
                    whole = family.from_config(AutoConfig.for_model(**data), dtype=FORMAT, attn_implementation="eager")
                    if _stored(whole) != _stored(model):
                        raise UnsupportedModelError("parameters are as many as its window is wide")
            except Exception as error:
                raise UnsupportedModelError(f"{kind}: {first_line(error)}") from error
        _through_ours(model)
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
        layers = _layers(decoder if decoder is not None else model, text)
        subject = cls(config, model.eval(), layers, decoder, windows, source=data)
        each = sum(subject.layer_parameters(index) for index in range(len(layers)))
        if each + subject.outer_parameters() != subject.parameters():
            raise UnsupportedModelError(f"{kind}: its layers share parameters")
        return subject

    @property
    def sees(self) -> bool:
        """Whether it has a tower beside the language model."""
        return getattr(self.config, "vision_config", None) is not None

    def assumed_sizes(self) -> dict[str, int]:
        """Sizes of the language model that its configuration leaves to the class."""
        text = self.config.get_text_config(decoder=True)
        sections = (value for key, value in self.source.items() if getattr(self.config, key, None) is text)
        given = next((value for value in sections if isinstance(value, Mapping)), self.source)
        absent = (key for key in _SIZES if not {key, text.attribute_map.get(key)} & set(given))
        found = {key: getattr(text, key, None) for key in absent}
        return {key: value for key, value in found.items() if type(value) is int}

    def changed(self, change: Callable[[PreTrainedConfig], None]) -> Subject:
        """The same model of a changed configuration, to be run as this one was."""
        other = Subject.build(self.source, change)
        other.with_mask, other.own_cache, other._returned = self.with_mask, self.own_cache, self._returned
        return other

    def tables(self) -> set[int]:
        """Tensors of token embeddings and lm_head, by storage."""
        model: Any = self.model
        found = {m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None}
        return {weight.untyped_storage()._cdata for weight in found}

    def recorder(self, like: Recorder | None = None) -> Recorder:
        """A recorder of the decoder's layers; `like`: one whose sites it shares."""
        recorder = Recorder(self.model, self.layers, like)

        def note(_: nn.Module, __: Any, output: Any) -> None:
            self._returned = len(output) if isinstance(output, tuple) else 0

        self.layers[-1].register_forward_hook(note)
        return recorder

    def run(self, recorder: Recorder, *, batch: int, tokens: int, cached: int = 0) -> Pass:
        """`tokens` new tokens a request after `cached` ones."""
        cache: Any = None
        try:
            if cached:
                with recorder.recording():
                    cache = self._forward(batch, cached, 0, None)
            with recorder.recording(self._cache_tensors(cache)):
                cache = self._forward(batch, tokens, cached, cache)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{self.config.model_type}: {error}") from error
        except Exception as error:  # whatever a model's own code raises on this configuration
            said = f"{self.config.model_type}: does not run: {type(error).__name__}: {first_line(error)}"
            raise UnsupportedModelError(said) from error
        values = {"batch": batch, "tokens": tokens, "kv": tokens + cached}
        return Pass(values, recorder.events, self._cache_elements(cache))

    def _forward(self, batch: int, tokens: int, cached: int, cache: Any) -> Any:
        whole: Any = self.model
        model = whole.language_model if self.config.model_type in _TEXT_ALONE else whole
        names = inspect.signature(model.forward).parameters
        ids = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
        positions = torch.arange(cached, cached + tokens)[None].expand(batch, -1)
        given: dict[str, Any] = {
            "input_ids": ids,
            "position_ids": positions,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if self.with_mask:
            given["attention_mask"] = torch.ones(batch, cached + tokens, dtype=torch.long)
        self.keeps_logits = "logits_to_keep" in names
        slot = next((name for name in ("cache", "past_key_values", "cache_params") if name in names), None)
        if slot is None:
            raise UnsupportedModelError("takes no cache")
        if cache is None and not self.own_cache:
            cache = DynamicCache(config=self.config)
        given[slot] = cache
        given = {name: value for name, value in given.items() if name in names}
        output = model(**given)
        found = getattr(output, slot, None)
        return cache if found is None else found

    def _cache_tensors(self, cache: Any) -> list[torch.Tensor]:
        return [tensor for layer in _cached_layers(cache) for tensor in layer]

    def _cache_elements(self, cache: Any) -> tuple[float, ...]:
        sizes = (sum(t.numel() * t.element_size() for t in layer) / FORMAT.itemsize for layer in _cached_layers(cache))
        return tuple(float(size) for size in sizes)

    def only(self, chosen: set[int]) -> AbstractContextManager[None]:
        """Layers that are none of `chosen` hand their input on."""
        return handing_on(self.layers, chosen, self._returned)

    def parameters(self) -> float:
        """Stored parameters, tied ones once."""
        return _stored(self.model)

    def layer_parameters(self, index: int) -> float:
        """Stored parameters of a layer."""
        return _stored(self.layers[index])

    def outer_parameters(self) -> float:
        """Stored parameters outside the layers."""
        inside = {id(p) for layer in self.layers for p in layer.parameters()}
        return float(sum({id(p): p.numel() for p in self.model.parameters() if id(p) not in inside}.values()))

    def sizes(self) -> dict[str, Any]:
        """Sizes that scorers and reports ask for, and the positions that the language model was made for."""
        text = self.config.get_text_config(decoder=True)
        hidden = int(text.hidden_size)
        heads = _whole(text, "num_attention_heads", 1)
        return {
            "hidden": hidden,
            "heads": heads,
            "kv_heads": _whole(text, "num_key_value_heads", heads),
            "head_dim": _whole(text, "head_dim", max(1, hidden // heads)),
            "vocab": int(text.vocab_size),
            "context_limit": _whole(text, "max_position_embeddings", 0) or None,
        }

    def experts(self) -> tuple[int, int]:
        """Experts of a layer, and how many of them a token is routed to; zeros without any."""
        text = self.config.get_text_config(decoder=True)
        stored = (_whole(text, name, 0) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
        return max(stored), _whole(text, "num_experts_per_tok", 0)

    def blocks(self) -> set[int]:
        """Widths of blocks that the configuration names."""
        text = self.config.get_text_config(decoder=True).to_dict()
        return {v for k, v in text.items() if "chunk" in k and isinstance(v, int) and 1 < v <= 4096}


def _stored(module: nn.Module) -> float:
    """Parameters, tied ones once."""
    return float(sum({id(p): p.numel() for p in module.parameters()}.values()))


def _whole(config: PreTrainedConfig, name: str, default: int) -> int:
    """A size; `default` where it is absent or another one in each layer."""
    try:
        given = getattr(config, name, None)
    except Exception:
        return default
    return given if isinstance(given, int) and given > 0 else default


def _cached_layers(cache: Any) -> list[list[torch.Tensor]]:
    """Tensors of a cache by layer; MiniMax holds its states beside those of transformers' layers."""
    held = [_held(layer) for layer in getattr(cache, "layers", [])]
    states = getattr(cache, "linear_cache", [])
    held += [[] for _ in states[len(held) :]]
    for tensors, state in zip(held, states, strict=False):
        if isinstance(state, torch.Tensor):
            tensors.append(state)
    return held


def _held(layer: Any) -> list[torch.Tensor]:
    """Tensors of one layer of a cache; a scalar is its window's width, not part of it."""
    found: dict[int, torch.Tensor] = {}
    for value in vars(layer).values():
        for entry in value.values() if isinstance(value, dict) else [value]:
            if isinstance(entry, torch.Tensor) and entry.ndim:
                found[id(entry)] = entry
    return list(found.values())


@contextmanager
def handing_on(layers: Sequence[nn.Module], chosen: set[int], returned: int) -> Iterator[None]:
    """Layers that are none of `chosen` return their input, first of `returned` values, or alone for zero."""
    replaced = []
    for index, layer in enumerate(layers):
        if index not in chosen:
            replaced.append(layer)
            layer.forward = _handed_on(returned)
    try:
        yield
    finally:
        for layer in replaced:
            del layer.forward


def _handed_on(returned: int) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden_states = args[0] if args else next(iter(kwargs.values()))
        return (hidden_states, *[None] * (returned - 1)) if returned else hidden_states

    return forward


def _family(kind: str) -> Any:
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            return AutoModelForImageTextToText
        return AutoModelForCausalLM
    if kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    raise UnsupportedModelError(f"{kind}: not a causal or image-text model of the installed transformers")


def _through_ours(model: nn.Module) -> None:
    """Attention and experts through the recorder's functions, in every config that a module holds."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            config._attn_implementation_internal = IMPLEMENTATION
            config._experts_implementation_internal = IMPLEMENTATION


def _layers(decoder: nn.Module, config: PreTrainedConfig) -> list[nn.Module]:
    """The decoder's layers: its one list of modules as long as the config says."""
    count = getattr(config, "num_hidden_layers", None)
    lists = [
        module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and name.count(".") <= 1
    ]
    if len(lists) != 1:
        found = "none" if not lists else f"{len(lists)}"
        raise UnsupportedModelError(
            f"{config.model_type}: its layers are not one list of {count} modules ({found} found)"
        )
    return list(lists[0])


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # a validator names the key, and what is wrong with it a line below
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:300]
