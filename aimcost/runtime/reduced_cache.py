"""The mark that a reduced prompt leaves on its KV cache, and what it forbids.

Only a block of `aimcost.apply` knows how to continue such a cache: positions and masks of the whole prompt do
not fit it. The mark is on the cache itself, since generations may interleave, and its copies keep it.
"""

from __future__ import annotations

import threading
from typing import Any

from transformers import DynamicCache

from ..errors import UnsupportedModelError
from .steps import CacheNotes

__all__ = ["ReducedCache", "mark", "notes_on", "open_cache"]

_NOTES = "_aimcost_notes"
_open = threading.local()


class ReducedCache(DynamicCache):
    """A DynamicCache that holds a reduced prompt: it grows inside a block of `aimcost.apply` alone.

    Raises
    ------
    UnsupportedModelError
        When a model continues it elsewhere, or when it is cut to a length of the whole prompt.
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
        if max_length > 0 and notes_on(self) is not None:
            raise UnsupportedModelError(
                "a reduced KV cache cannot be cropped to a number of tokens, as assisted decoding does: "
                "its layers hold different numbers"
            )
        DynamicCache.crop(self, max_length)


def mark(cache: DynamicCache, notes: CacheNotes) -> None:
    """Note on `cache` what it holds; it refuses strangers if that is not the whole prompt."""
    setattr(cache, _NOTES, notes)
    if type(cache) in (DynamicCache, ReducedCache):
        cache.__class__ = ReducedCache if notes.reduced else DynamicCache


def unmark(cache: DynamicCache) -> None:
    """Take the mark off a cache that was emptied."""
    vars(cache).pop(_NOTES, None)
    if type(cache) is ReducedCache:
        cache.__class__ = DynamicCache


def notes_on(cache: Any) -> CacheNotes | None:
    """The notes on a KV cache, unless it was emptied and filled by something else since."""
    notes = getattr(cache, _NOTES, None)
    if notes is None:
        return None
    grown = {cache.get_seq_length(layer) - held for layer, held in enumerate(notes.held)}
    return notes if len(grown) == 1 and min(grown) >= 0 else None


def open_cache(cache: Any) -> None:
    """Let this thread add to `cache`, whatever its mark, and to no other marked one (None: to none)."""
    _open.cache = cache
