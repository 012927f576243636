"""Hooks that copies of a model do without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Hook"]


class Hook:
    """A hook that stays with the model it was installed on: copies and pickles of the model run without it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return no_hook

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _nothing, ()


def no_hook(*_: Any, **__: Any) -> None:
    """What a copied hook does."""


def _nothing() -> Callable[..., None]:
    return no_hook
