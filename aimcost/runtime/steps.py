"""What is known during one forward pass: a prompt being reduced, or tokens that follow a reduced one.

Shapes: B rows, P tokens that reach layer 0, n of them still live.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ..kernels.select import gather_tokens
from ..kernels.select.reference import cut_columns, gather_mask, gather_rows
from ..types import Schedule
from . import compat

if TYPE_CHECKING:
    from .prompt import Plan

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
    schedule
        The schedule that ran: as given, or as planned for this prompt.
    prefix
        Tokens that were in the KV cache before the prompt; none of the above counts them.
    """

    tokens: tuple[int, ...]
    origin: torch.Tensor
    visual: torch.Tensor
    kept: dict[int, torch.Tensor]
    schedule: Schedule | None = None
    prefix: int = 0


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
    real_at_start
        (B, P), the prefix before them included: `real` as it was at layer 0.
    visual
        (B, P): which tokens of layer 0 are visual.
    visual_count
        How many of each row's are.
    extras
        For each layer with visual features to add after it (DeepStack): a (B, P, D) tensor.
    next_position, closed_up
        As in `CacheNotes`.
    identity
        (B, n): which of the P each live token is; None where it is `alive`. A merged token is its cluster's centre.
    plan
        What is to happen to it.
    length
        Tokens of the prompt before anything was reduced.
    prefix
        Tokens that the cache held before the prompt, which it attends to and which stay.
    unseen
        Whether a module that the session does not know takes the hidden states.
    """

    plan: Plan
    length: int
    visual_count: int
    prefix: int = 0
    origin: torch.Tensor
    alive: torch.Tensor
    protected: torch.Tensor
    real: torch.Tensor | None
    real_at_start: torch.Tensor | None = None
    visual: torch.Tensor
    extras: list[torch.Tensor] = field(default_factory=list)
    next_position: torch.Tensor | None = None
    closed_up: bool = False
    identity: torch.Tensor | None = None
    prepared: dict[str, torch.Tensor] = field(default_factory=dict)
    shown: tuple[torch.Tensor, torch.Tensor, float] | None = None
    tokens: list[int] = field(default_factory=list)
    kept: dict[int, torch.Tensor] = field(default_factory=dict)
    alive_at: list[torch.Tensor] = field(default_factory=list)
    layer_inputs: dict[str, Any] = field(default_factory=dict)
    unseen: bool = False
    _cut: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def prompt(self) -> int:
        """P, the tokens that reach layer 0."""
        return self.origin.shape[1]

    def cut(self, kwargs: dict[str, Any]) -> None:
        """Cut a layer's keyword arguments, made for P tokens, to the live ones, in place.

        Layers share these tensors: each is cut once between two drops.
        """
        for name in ("position_embeddings", "position_ids", "attention_mask"):
            full = kwargs.get(name)
            if full is None:
                continue
            if self.closed_up and name != "attention_mask":
                kwargs[name] = self._first(full)
                continue
            if id(full) not in self._cut:
                self._cut[id(full)] = (full, self._from_prompt(full))
            kwargs[name] = self._cut[id(full)][1]

    def _first(self, full: Any) -> Any:
        """Positions of the prompt's first tokens, as many as are live."""
        if isinstance(full, tuple):
            return tuple(part.narrow(part.ndim - 2, 0, self.alive.shape[1]) for part in full)
        return full.narrow(full.ndim - 1, 0, self.alive.shape[1])

    def spread_positions(self, full: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Position embeddings of the whole prompt in which the live tokens have those of its first ones."""
        index = self.alive[..., None]
        parts = (part.expand(index.shape[0], -1, -1) for part in full)
        return tuple(part.scatter(1, index.expand(-1, -1, part.shape[-1]), part[:, : index.shape[1]]) for part in parts)

    def _from_prompt(self, full: Any) -> Any:
        if self.alive.shape[1] == self.prompt:
            return full
        if isinstance(full, tuple):
            return tuple(gather_rows(part, self.alive, part.ndim - 2) for part in full)
        if compat.is_block_mask(full):
            return compat.cut_block_mask(full, self.alive, self._behind_prefix(self.alive))
        if full.ndim != 4:
            before = full.shape[-1] - self.prompt  # a 2D mask, which covers a cached prefix, or positions
            left = gather_rows(full[..., before:], self.alive, full.ndim - 1)
            return torch.cat((full[..., :before].expand(*left.shape[:-1], -1), left), dim=-1) if before else left
        if not self.prefix:
            return gather_mask(full, self.alive)
        before = full[..., : self.prefix].expand(self.alive.shape[0], -1, -1, -1)
        rows = self.alive[:, None, :, None].expand(-1, full.shape[1], -1, self.prefix)
        return torch.cat((before.gather(2, rows), gather_mask(full[..., self.prefix :], self.alive)), dim=3)

    def keep(self, index: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Go on with the live tokens at `index` (B, k), ascending; their hidden states.

        Whatever the next layers need of them is gathered in the same pass; a second kind of mask,
        where layers differ, or one that begins with a cached prefix, is cut when it is met.
        """
        entries = list(self._cut.values())
        entries = [pair for pair in entries if not self._recut(pair[0])]
        masks = [(full, cut) for full, cut in entries if not isinstance(full, tuple) and full.ndim == 4]
        others = [pair for pair in entries if all(pair[0] is not full for full, _ in masks)]
        aux = [(self.alive, 1), (self.protected, 1)] + ([] if self.real is None else [(self.real, 1)])
        for _, cut in others:
            parts = [(part, part.ndim - 2) for part in cut] if isinstance(cut, tuple) else [(cut, cut.ndim - 1)]
            aux.extend(parts)
        mask = masks[0][1] if masks else None
        hidden, gathered, mask = gather_tokens(hidden, index, aux=aux, mask=mask)
        taken = iter(gathered)
        self.alive, self.protected = next(taken), next(taken)
        self.real = None if self.real is None else next(taken)
        self._cut = {id(masks[0][0]): (masks[0][0], mask)} if masks else {}
        for full, cut in others:
            smaller = tuple(next(taken) for _ in cut) if isinstance(cut, tuple) else next(taken)
            self._cut[id(full)] = (full, smaller)
        return hidden

    def _recut(self, full: Any) -> bool:
        """Whether an argument is cut anew when it is next met: masks over a prefix, and flex attention's."""
        if isinstance(full, tuple):
            return False
        return compat.is_block_mask(full) or (self.prefix > 0 and full.shape[-1] > self.prompt)

    def places(self) -> torch.Tensor:
        """(B, n): where the live tokens stood in the prompt."""
        return self.origin.gather(1, self.alive if self.identity is None else self.identity)

    def notes(self, held: tuple[int, ...]) -> CacheNotes:
        """What became of the prompt in the KV cache that it filled, whose layers hold `held` keys."""
        return CacheNotes(
            origin=self._behind_prefix(self.origin),
            alive_at=tuple(self._behind_prefix(alive) for alive in self.alive_at),
            lost=self.length - self.prompt,
            held=held,
            next_position=self.next_position,
            closed_up=self.closed_up,
            real=self.real_at_start,
        )

    def _behind_prefix(self, index: torch.Tensor) -> torch.Tensor:
        if not self.prefix:
            return index
        first = torch.arange(self.prefix, device=index.device).expand(index.shape[0], -1)
        return torch.cat((first, index + self.prefix), dim=1)

    def add_recycled(
        self, hidden: torch.Tensor, kept: torch.Tensor, merged: torch.Tensor, centres: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `keep` takes so that (B, c, D) `merged` tokens stay beside the `kept` (B, k).

        Where positions are closed up they come right behind the visual tokens that stay; else each takes the place of
        its cluster's centre (B, c).
        """
        visual = ~self.protected
        index = torch.cat((kept, centres), dim=1)
        sources = torch.cat((gather_rows(hidden, kept, 1), merged.to(hidden.dtype)), dim=1)
        if not self.closed_up:
            order = index.argsort(dim=1)
            index = index.gather(1, order)
        else:
            self.identity = self.alive if self.identity is None else self.identity
            place = torch.arange(hidden.shape[1], device=hidden.device)
            last = torch.where(visual, place, -1).amax(1, keepdim=True)
            order = torch.cat((2 * kept, (2 * last + 1).expand_as(centres)), dim=1).argsort(dim=1, stable=True)
            self.identity = self.identity.gather(1, index.gather(1, order))
            # they stand where the first visual tokens stood: for masks and for what follows only their order counts
            left = visual.sum(1, keepdim=True) - (hidden.shape[1] - index.shape[1])
            stays = self.protected | (visual & (visual.cumsum(1) <= left))
            index = (~stays).int().argsort(dim=1, stable=True)[:, : index.shape[1]]
        sources = gather_rows(sources, order, 1)
        return index, hidden.scatter(1, index[..., None].expand_as(sources), sources)

    def record(self) -> Record:
        """What happened so far, without the tensors that only the pass itself needs."""
        return Record(
            tokens=tuple(self.tokens),
            origin=self.origin,
            kept=dict(self.kept),
            visual=self.visual,
            schedule=self.plan.schedule,
            prefix=self.prefix,
        )


@dataclass(frozen=True, kw_only=True)
class CacheNotes:
    """What became of the prompt in a KV cache, a prefix that was cached before it included.

    Attributes
    ----------
    origin
        (B, P) places in the prompt of layer 0's tokens.
    alive_at
        For each layer, (B, n) the ones of the P that are live there.
    lost
        Tokens that the prompt lost before layer 0.
    held
        Keys that each layer held after the prompt.
    next_position
        (B,) the position that follows the whole prompt, as its positions were given; None where they were not, and
        are no mRoPE ones.
    closed_up
        Whether the tokens that a cut leaves take the positions of the prompt's first ones, and what follows goes on
        from there, layer by layer.
    real
        (B, P): which of layer 0's tokens are no padding; None: all.
    """

    origin: torch.Tensor
    alive_at: tuple[torch.Tensor, ...]
    lost: int
    held: tuple[int, ...]
    next_position: torch.Tensor | None = None
    closed_up: bool = False
    real: torch.Tensor | None = None

    @property
    def prompt(self) -> int:
        """Tokens of the prompt that layer 0 holds."""
        return self.origin.shape[1]

    @property
    def reduced(self) -> bool:
        """Whether any layer holds less than the whole prompt."""
        return self.lost > 0 or any(alive.shape[1] < self.prompt for alive in self.alive_at)

    def of_rows(self, rows: torch.Tensor) -> CacheNotes:
        """The notes of a cache that holds these rows (k,) of this one's; what layers share is taken once."""
        taken: dict[int, torch.Tensor] = {}

        def take(value: torch.Tensor) -> torch.Tensor:
            if id(value) not in taken:
                taken[id(value)] = value[rows.to(value.device)]
            return taken[id(value)]

        following = self.next_position
        return replace(
            self,
            origin=take(self.origin),
            alive_at=tuple(take(alive) for alive in self.alive_at),
            next_position=None if following is None else take(following),
            real=None if self.real is None else take(self.real),
        )


@dataclass(kw_only=True)
class Continuation:
    """Tokens that follow a reduced prompt: decoding, or more text."""

    notes: CacheNotes
    mask: torch.Tensor | None = None

    def cut_mask(self, mask: torch.Tensor | None, layer: int) -> torch.Tensor | None:
        """The mask over layer 0's keys, cut to the keys that `layer` holds.

        transformers sizes a mask by the first layer of its kind, which may hold fewer keys than the
        mask's other layers. Layer 0's is right, and serves all: inside a window they are equal.
        """
        if layer == 0:
            self.mask = mask
        alive, mask = self.notes.alive_at[layer], self.mask
        if mask is None or alive.shape[1] == self.notes.prompt:
            return mask
        if compat.is_block_mask(mask):
            later = torch.arange(self.notes.prompt, mask.shape[-1], device=alive.device).expand(alive.shape[0], -1)
            queries = torch.arange(mask.shape[-2], device=alive.device).expand(alive.shape[0], -1)
            return compat.cut_block_mask(mask, queries, torch.cat((alive, later), dim=1))
        if mask.ndim == 2:
            return torch.cat((gather_rows(mask, alive, 1), mask[:, self.notes.prompt :]), dim=1)
        repeat = mask.shape[0] // alive.shape[0]
        alive = alive.repeat_interleave(repeat, 0) if repeat > 1 else alive
        return cut_columns(mask, alive, self.notes.prompt)

    def dropped(self, layer: int) -> int:
        """Tokens of the prompt by which positions are closed up at `layer`."""
        return self.notes.prompt - self.notes.alive_at[layer].shape[1] if self.notes.closed_up else 0
