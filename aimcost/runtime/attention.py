"""An attention function that captures queries and keys, and the switch that installs it.

Whatever attention the model runs goes through transformers' public registry, under a name of ours or wrapped
where it is; modules that are listed here first show their post-RoPE queries and keys to a listener.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from ..errors import UnsupportedModelError
from . import compat

__all__ = ["check_attention", "exactly", "listen", "restore_attention", "switch_attention", "unlisten"]

NAME = "aimcost_sdpa"
SUPPORTED = "sdpa"
EAGER_NAME = "aimcost_eager"
EAGER = "eager"


class Listener(Protocol):
    """Called with (B, H, n, D) queries and (B, V, n, D) keys; a tensor returned replaces the output."""

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor | None: ...


_listeners: WeakKeyDictionary[nn.Module, Listener] = WeakKeyDictionary()
_switched: dict[int, tuple[Any, str, int]] = {}
_wrappers: dict[str, tuple[Callable[..., Any], int]] = {}
_lock = threading.RLock()


def _shown(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, kwargs: dict[str, Any]
) -> tuple[torch.Tensor, None] | None:
    """Show them to the module's listener, if it has one; an attention function's result where it replaces it."""
    listener = _listeners.get(module)
    if listener is None:
        return None
    replaced = listener(module, query, key, value, mask, kwargs.get("scaling") or query.shape[-1] ** -0.5)
    return None if replaced is None else (replaced, None)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    replaced = _shown(module, query, key, value, attention_mask, kwargs)
    if replaced is not None:
        return replaced
    return compat.sdpa_attention(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(NAME, _attention)
# Without a mask function under the same name transformers drops padding silently.
AttentionMaskInterface.register(NAME, compat.sdpa_mask)


def _eager(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
) -> Any:
    """The model's own eager attention, which no registry holds."""
    replaced = _shown(module, query, key, value, mask, kwargs)
    return compat.eager_attention(module)(module, query, key, value, mask, **kwargs) if replaced is None else replaced


AttentionInterface.register(EAGER_NAME, _eager)
AttentionMaskInterface.register(EAGER_NAME, compat.eager_mask)


def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    """A registered attention function that shows queries and keys first: flash, flex, or one of the user's."""

    def attend(
        module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        replaced = _shown(module, query, key, value, mask, kwargs)
        return original(module, query, key, value, mask, **kwargs) if replaced is None else replaced

    return attend


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off: scores are computed in the precision that their formulas name."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def check_attention(decoder: nn.Module, *, only_sdpa: bool = False) -> None:
    """Raise UnsupportedModelError unless `decoder` attends through the registry, in SDPA if need be."""
    found = compat.attention_name(decoder)
    if only_sdpa and found not in (SUPPORTED, NAME):
        raise UnsupportedModelError(
            f"{type(decoder).__name__}: masking needs attention implementation 'sdpa' (got {found!r}); "
            "call model.set_attn_implementation('sdpa') first"
        )
    if found not in (SUPPORTED, NAME, EAGER, EAGER_NAME) and compat.registered_attention(found) is None:
        raise UnsupportedModelError(
            f"{type(decoder).__name__}: attention implementation {found!r} is not one that transformers has registered"
        )


def switch_attention(decoder: nn.Module) -> str:
    """Make `decoder` show its queries and keys; the name of its attention, for `restore_attention`.

    SDPA and eager attention run under names of ours. Other functions are wrapped where they are registered, since
    flash attention looks at its name. Counted by config object, which models may share, or by name.
    """
    with _lock:
        name = compat.attention_name(decoder)
        ours = {SUPPORTED: NAME, NAME: NAME, EAGER: EAGER_NAME, EAGER_NAME: EAGER_NAME}.get(name)
        if ours is None:
            original, users = _wrappers.get(name, (compat.registered_attention(name), 0))
            if original is None:
                raise UnsupportedModelError(f"attention implementation {name!r} is not registered")
            if users == 0:
                AttentionInterface.register(name, _wrapped(original))
            _wrappers[name] = (original, users + 1)
            return name
        config = decoder.config
        held, original_name, users = _switched.get(id(config), (config, name, 0))
        if users == 0:
            _set(decoder, ours)
        _switched[id(config)] = (held, original_name, users + 1)
        return name


def restore_attention(decoder: nn.Module, name: str) -> None:
    """Undo one `switch_attention`, which found attention `name`: since then another may have been set."""
    with _lock:
        if name in _wrappers:
            original, users = _wrappers.pop(name)
            if users > 1:
                _wrappers[name] = (original, users - 1)
            else:
                AttentionInterface.register(name, original)
            return
        config, original_name, users = _switched[id(decoder.config)]
        if users > 1:
            _switched[id(config)] = (config, original_name, users - 1)
            return
        del _switched[id(config)]
        _set(decoder, original_name)


def _set(decoder: nn.Module, name: str) -> None:
    decoder.set_attn_implementation(name)
    if compat.attention_name(decoder) != name:
        raise UnsupportedModelError(
            f"{type(decoder).__name__} does not attend through transformers' attention registry"
        )


def listen(modules: list[nn.Module], listener: Callable[..., torch.Tensor | None]) -> None:
    """Show the queries and keys of each attention module to `listener`."""
    with _lock:
        for module in modules:
            _listeners[module] = listener


def unlisten(modules: list[nn.Module]) -> None:
    """Stop showing anything of these modules."""
    with _lock:
        for module in modules:
            _listeners.pop(module, None)
