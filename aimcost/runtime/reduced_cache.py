"""The mark that a reduced prompt leaves on its KV cache, and what it forbids.

Only a block of `aimcost.apply` knows how to continue such a cache: positions and masks of the whole prompt do
not fit it. The mark is on the cache itself, since generations may interleave, and its copies keep it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from transformers import Cache, DynamicCache

from ..errors import UnsupportedModelError
from .steps import CacheNotes

__all__ = ["FixedCache", "ReducedCache", "mark", "notes_on", "open_cache"]

_NOTES = "_aimcost_notes"
_open = threading.local()


class ReducedCache(DynamicCache):
    """A DynamicCache that holds a reduced prompt: it grows inside a block of `aimcost.apply` alone.

    Raises
    ------
    UnsupportedModelError
        When a model continues it elsewhere, or when it is cut to a length of the whole prompt or into that prompt.
    """

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Add the keys and values of one layer."""
        if getattr(_open, "cache", None) is not self:
            if notes_on(self) is not None:
                raise UnsupportedModelError(
                    "this KV cache holds a prompt that aimcost.apply reduced: continue it inside such a block, "
                    "or fill a new cache"
                )
            unmark(self)
        return DynamicCache.update(self, *args, **kwargs)  # super() fails once the mark is off

    def crop(self, max_length: int) -> None:
        """Drop the last tokens of every layer; a length from the start has no meaning where layers differ."""
        held = self.get_seq_length()
        emptied = -max_length >= held
        notes = None if emptied else notes_on(self)  # emptied whole, it may hold anything
        if notes is not None and max_length > 0:
            raise UnsupportedModelError(
                "a reduced KV cache cannot be cropped to a number of tokens, as assisted decoding does: "
                "its layers hold different numbers"
            )
        if notes is not None and held - notes.held[0] < -max_length:
            raise UnsupportedModelError(
                f"a reduced KV cache can be cropped by the {held - notes.held[0]} tokens that follow its prompt, not "
                f"by {-max_length}: fill a new cache"
            )
        if not emptied:
            DynamicCache.crop(self, max_length)
            return
        # each by its own length: transformers 4 would leave tokens in a layer that is shorter than the first
        for index, layer in enumerate(self.layers):
            if length := self.get_seq_length(index):
                layer.crop(-length)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, and what is noted of it."""
        DynamicCache.batch_repeat_interleave(self, repeats)
        self._move(lambda rows: rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows, and what is noted of them."""
        DynamicCache.batch_select_indices(self, indices)
        self._move(lambda rows: rows[indices.to(rows.device)])

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put rows in another order, and what is noted of them."""
        DynamicCache.reorder_cache(self, beam_idx)
        self._move(lambda rows: rows[beam_idx.to(rows.device)])

    def _move(self, moved: Callable[[torch.Tensor], torch.Tensor]) -> None:
        notes = notes_on(self)
        if notes is not None:
            rows = torch.arange(len(notes.origin), device=notes.origin.device)
            setattr(self, _NOTES, notes.of_rows(moved(rows)))


class FixedCache(Cache):
    """A cache of buffers of fixed sizes (`aimcost.runtime.decode`), which knows what each layer holds by itself."""


def mark(cache: DynamicCache, notes: CacheNotes) -> None:
    """Note on `cache` what it holds; it refuses strangers if that is not the whole prompt."""
    setattr(cache, _NOTES, notes)
    cache.__class__ = ReducedCache if notes.reduced else DynamicCache


def unmark(cache: DynamicCache) -> None:
    """Take the mark off a cache that was emptied."""
    vars(cache).pop(_NOTES, None)
    if type(cache) is ReducedCache:
        cache.__class__ = DynamicCache


def notes_on(cache: Any) -> CacheNotes | None:
    """The notes on a KV cache, unless it was emptied and filled by something else since.

    Raises
    ------
    UnsupportedModelError
        Part of a reduced prompt was taken out of it.
    """
    notes: CacheNotes | None = getattr(cache, _NOTES, None)
    if notes is None:
        return None
    lengths = [cache.get_seq_length(layer) for layer in range(len(notes.held))]
    if not any(lengths):
        return None
    grown = {length - held for length, held in zip(lengths, notes.held, strict=True)}
    if len(grown) == 1 and min(grown) >= 0:
        return notes
    if notes.reduced:
        raise UnsupportedModelError(
            f"layers of this KV cache hold {lengths} tokens, fewer or others than the {list(notes.held)} of the prompt "
            "that aimcost.apply reduced: fill a new cache"
        )
    return None


def open_cache(cache: Any) -> None:
    """Let this thread add to `cache`, whatever its mark, and to no other marked one (None: to none)."""
    _open.cache = cache
