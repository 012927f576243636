"""What is known during one forward pass: a prompt being reduced, or tokens that follow a reduced one.

Shapes: B rows, P tokens that reach layer 0, n of them still live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from .cutting import cut_columns, cut_positions, cut_square, cut_tokens

__all__ = ["CacheNotes", "Continuation", "Prefill", "Record"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one prefill did.

    Attributes
    ----------
    tokens
        Tokens that each layer computed on.
    origin
        (B, P): where each token of layer 0 stood in the prompt.
    kept
        For each event inside the model, by ``after_layer``: (B, n) ascending positions among the P
        tokens of layer 0 that stayed.
    visual
        (B, P): which tokens of layer 0 are visual.
    """

    tokens: tuple[int, ...]
    origin: torch.Tensor
    visual: torch.Tensor
    kept: dict[int, torch.Tensor]


@dataclass(kw_only=True)
class Prefill:
    """A prompt on its way through the layers.

    Attributes
    ----------
    origin
        (B, P) places in the prompt of the tokens that reach layer 0.
    alive
        (B, n) positions among the P of the tokens that are live now.
    protected, real
        (B, n): never to be dropped (text and padding); not padding (None: no padding at all).
    visual
        (B, P): which tokens of layer 0 are visual.
    extras
        For each layer with visual features to add after it (DeepStack): a (B, P, D) tensor.
    """

    origin: torch.Tensor
    alive: torch.Tensor
    protected: torch.Tensor
    real: torch.Tensor | None
    visual: torch.Tensor
    extras: list[torch.Tensor] = field(default_factory=list)
    shown: tuple[torch.Tensor, torch.Tensor, float] | None = None
    tokens: list[int] = field(default_factory=list)
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    alive_at: list[torch.Tensor] = field(default_factory=list)
    layer_inputs: dict[str, Any] = field(default_factory=dict)
    _cut: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> int:
        """P, the tokens that reach layer 0."""
        return self.origin.shape[1]

    def keep(self, index: torch.Tensor) -> None:
        """Go on with the live tokens at `index` (B, k), ascending."""
        self.alive = self.alive.gather(1, index)
        self.protected = self.protected.gather(1, index)
        if self.real is not None:
            self.real = self.real.gather(1, index)
        self._cut.clear()

    def cut(self, kwargs: dict[str, Any]) -> None:
        """Cut a layer's keyword arguments, made for P tokens, to the live ones, in place.

        Layers share these tensors: each is cut once between two drops.
        """
        if self.alive.shape[1] == self.prompt:
            return
        for name, function in (
            ("position_embeddings", self._embeddings),
            ("position_ids", cut_positions),
            ("attention_mask", cut_square),
        ):
            full = kwargs.get(name)
            if full is None:
                continue
            known = self._cut.get(name)
            if known is None or known[0] is not full:
                known = self._cut[name] = (full, function(full, self.alive))
            kwargs[name] = known[1]

    @staticmethod
    def _embeddings(pair: tuple[torch.Tensor, ...], index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(cut_tokens(part, index) for part in pair)

    def record(self) -> Record:
        """What happened so far, without the tensors that only the pass itself needs."""
        return Record(
            tokens=tuple(self.tokens), origin=self.origin, kept=dict(self.kept), visual=self.visual
        )


@dataclass(frozen=True, kw_only=True)
class CacheNotes:
    """Which prompt tokens each layer of a KV cache holds, and how many the prompt lost before layer 0."""

    origin: torch.Tensor
    alive_at: tuple[torch.Tensor, ...]
    lost: int

    @property
    def prompt(self) -> int:
        """Tokens of the prompt that layer 0 holds."""
        return self.origin.shape[1]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Tokens that follow a reduced prompt: decoding, or more text."""

    notes: CacheNotes

    def cut_mask(self, mask: torch.Tensor | None, layer: int) -> torch.Tensor | None:
        """The mask over layer 0's keys, cut to the keys that `layer` holds."""
        alive = self.notes.alive_at[layer]
        if mask is None or alive.shape[1] == self.notes.prompt:
            return mask
        repeat = mask.shape[0] // alive.shape[0]
        return cut_columns(mask, alive.repeat_interleave(repeat, 0) if repeat > 1 else alive, self.notes.prompt)
