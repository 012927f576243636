"""An attention function that captures queries and keys, and the switch that installs it.

Registered once under one name in transformers' public registries. It runs the model's own SDPA
attention; modules that are listed here first show their post-RoPE queries and keys to a listener.
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
_lock = threading.RLock()


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    listener = _listeners.get(module)
    if listener is not None:
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        replaced = listener(module, query, key, value, attention_mask, scale)
        if replaced is not None:
            return replaced, None
    return compat.sdpa_attention(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(NAME, _attention)
# Without a mask function under the same name transformers drops padding silently.
AttentionMaskInterface.register(NAME, compat.sdpa_mask)


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off: scores are computed in the precision that their formulas name."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def check_attention(decoder: nn.Module) -> None:
    """Raise UnsupportedModelError unless `decoder` runs SDPA attention through the registry."""
    found = compat.attention_name(decoder)
    if found not in (SUPPORTED, NAME):
        raise UnsupportedModelError(
            f"{type(decoder).__name__}: attention implementation {found!r} is not supported; "
            "call model.set_attn_implementation('sdpa') first"
        )


def switch_attention(decoder: nn.Module) -> None:
    """Make `decoder` attend through `NAME`. Counted by config object: models may share one."""
    with _lock:
        config = decoder.config
        held, original, users = _switched.get(id(config), (config, compat.attention_name(decoder), 0))
        if users == 0:
            _set(decoder, NAME)
        _switched[id(config)] = (held, original, users + 1)


def restore_attention(decoder: nn.Module) -> None:
    """Undo one `switch_attention`."""
    with _lock:
        config, original, users = _switched[id(decoder.config)]
        if users > 1:
            _switched[id(config)] = (config, original, users - 1)
            return
        del _switched[id(config)]
        _set(decoder, original)


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
