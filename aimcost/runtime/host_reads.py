"""Values that the host reads on its way through a call, read once so that a CUDA graph can record the call.

What a processor returns has values that the host looks at: a mask (is anything padded?), placeholders (as many as the
image has tokens?), grids. A first pass keeps every answer; later ones give it again without waiting, which is right as
long as the inputs that it was computed from are the same. So each read is traced back to the inputs: counts, masks and
places of placeholders are fixed and compared before a replay; a read of what was computed (an expert's share of the
tokens, a score) is not allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import InvalidValueError
from .host_syncs import INDEXING, READS, HostSyncs

__all__ = ["FixedValues", "HostReads"]

IDS = "input_ids"
# Functions that take numbers of the host to a device, where no operator may show it.
_MAKERS = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
Sources = frozenset[str]
_NONE: Sources = frozenset()


class FixedValues:
    """What of a call's inputs a recording depends on: the values of some, and where ``input_ids`` hold some tokens."""

    def __init__(self, static: Mapping[str, Any], names: Sources, tokens: frozenset[int]) -> None:
        self._known = {name: static[name].clone() for name in sorted(names)}
        self._tokens = {token: static[IDS] == token for token in sorted(tokens)}

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Compare, in one wait for the device, or none where nothing is fixed.

        Raises
        ------
        InvalidValueError
            Another value than the recorded one.
        """
        changed = {
            name: (inputs[name].to(known.device) != known).any() if known.numel() else None
            for name, known in self._known.items()
        }
        changed |= {
            f"token {token}": ((inputs[IDS].to(places.device) == token) != places).any()
            for token, places in self._tokens.items()
        }
        flags = {what: flag for what, flag in changed.items() if flag is not None}
        if not flags:
            return
        for what, differs in zip(flags, torch.stack(list(flags.values())).tolist(), strict=True):
            if differs and what in self._known:
                raise InvalidValueError(what, "the values that were captured, which the prefill depends on", "others")
            if differs:
                raise InvalidValueError(IDS, f"with {what} in the places that were captured", "others")


class HostReads:
    """The reads of one call: kept by the first pass, answered in those that follow.

    Parameters
    ----------
    device
        The device that the call computes on.
    static
        Its inputs by name.
    fix
        Whether a read of values that inputs fix is allowed.

    Attributes
    ----------
    forbidden
        Names of the reads that are not allowed, each once; with any, the call cannot be recorded.
    done
        Whether a pass was noted.
    """

    def __init__(self, device: str | torch.device, static: Mapping[str, Any], *, fix: bool) -> None:
        self._waiting, self._fix, self._in_list = HostSyncs(device), fix, False
        self._static = {name: value for name, value in static.items() if isinstance(value, torch.Tensor)}
        self._answers: list[tuple[str, Any]] = []
        self._names: set[str] = set()
        self._tokens: set[int] = set()
        self._sources: dict[int, Sources] = {_place(value): frozenset({name}) for name, value in self._static.items()}
        self._ids = _place(self._static[IDS]) if IDS in self._static else 0
        self.forbidden: list[str] = []
        self.done = False

    @property
    def fixed(self) -> FixedValues:
        """What the kept answers depend on."""
        return FixedValues(self._static, frozenset(self._names), frozenset(self._tokens))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A context whose reads wait, and are noted."""
        with _Lists(self._keep_list), _Operators(self._keep):
            yield
        self.done = True

    @contextmanager
    def answered(self) -> Iterator[None]:
        """A context whose reads are those noted, in the same order.

        Raises
        ------
        RuntimeError
            They are not.
        """
        given = iter(self._answers)

        def answer(name: str) -> Any:
            known, value = next(given, ("none", None))
            if known != name:
                raise RuntimeError(f"the call reads {name} where it read {known} before")
            return _copied(value)

        def operator(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if name not in READS and not self._waits(func, name, args, kwargs):
                return func(*args, **kwargs)
            value = answer(name)
            if name in INDEXING:
                marked = iter(value)
                index = [part for each in args[1] for part in (next(marked) if _is_mask(each) else (each,))]
                return func(args[0], index, *args[2:], **kwargs)
            return args[0].copy_(value) if name == "copy_" else value

        with _Lists(lambda func, args, kwargs: answer(func.__name__)), _Operators(operator):
            yield

    # The first pass.

    def _waits(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return self._waiting.waits_in(name, func._overloadname, args, kwargs)

    def _keep(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        waits = self._waits(func, name, args, kwargs)
        masks = [index for index in args[1] if _is_mask(index)] if waits and name in INDEXING else []
        if waits or name in READS:
            self._depend(name, masks or args, waits=waits)
        result = func(*args, **kwargs)
        if (waits or name in READS) and not self._in_list:
            answer = [mask.nonzero().unbind(1) for mask in masks] if masks else _copied(result)
            self._answers.append((name, answer))
        self._trace(name, args, kwargs, result)
        return result

    def _keep_list(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        self._in_list = True
        try:
            result = func(*args, **kwargs)
        finally:
            self._in_list = False
        if func is torch.Tensor.tolist:
            self._depend(func.__name__, args, waits=self._waiting.here(args[0]))
        else:
            # neither a number, which is filled in, nor an empty list, by which a release makes its cache, is copied
            copied = result.ndim > 0 and result.numel() > 0
            self._depend(func.__name__, args, waits=copied and self._waiting.here(result))
            self._sources[_place(result)] = _NONE
        self._answers.append((func.__name__, _copied(result)))
        return result

    def _depend(self, name: str, values: Any, *, waits: bool) -> None:
        """Note what a read depends on."""
        sources = self._of(values)
        floating = {each for each in sources if each in self._static and self._static[each].is_floating_point()}
        if floating or IDS in sources or (waits and not self._fix):
            self.forbidden += [] if name in self.forbidden else [name]
        for source in sources:
            token = source.removeprefix(f"{IDS}=")
            if token != source:
                self._tokens.add(int(token))
            else:
                self._names.add(source)

    def _of(self, values: Any) -> Sources:
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
        return _NONE.union(*(self._sources.get(_place(each), _NONE) for each in tensors))

    def _trace(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        sources = self._of((args, kwargs))
        if name in ("eq", "ne") and _place(args[0]) == self._ids and isinstance(args[1], int):
            sources = frozenset({f"{IDS}={args[1]}"})
        given = {_place(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and (place := _place(leaf)):
                # memory that an argument holds keeps what was written into it before; other memory is new
                self._sources[place] = sources | self._sources.get(place, _NONE) if place in given else sources


class _Operators(TorchDispatchMode):
    """Hands each operator to a function."""

    def __init__(self, handle: Callable[[Any, str, tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self._handle = handle

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self._handle(func, func._schema.name.partition("::")[2], args, dict(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Hands what makes tensors of lists, and lists of tensors, to a function."""

    def __init__(self, handle: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]) -> None:
        super().__init__()
        self._handle = handle

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.tolist or (
            any(func is each for each in _MAKERS) and not isinstance(args[-1], torch.Tensor)
        ):
            return self._handle(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _place(value: Any) -> int:
    """Where the memory of a tensor begins; 0 where it has none."""
    return int(value.untyped_storage().data_ptr()) if isinstance(value, torch.Tensor) else 0


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _copied(value: Any) -> Any:
    """What is handed out may be written to."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, value)
