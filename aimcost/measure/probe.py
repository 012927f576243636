"""Where the time of a forward pass goes: marks around the parts of a model, read out afterwards.

On a CPU a mark is this thread's CPU time; on CUDA it is an event, so that nothing waits while the model
runs. Hooks are placed outside those of an applied schedule: a layer's span holds what is dropped after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..runtime.families import Family
from ..runtime.timing import Mark, Stopwatch

__all__ = ["Key", "Probe"]

Key = tuple[str, int]

# What a container calls to turn pixels into tokens, tower and projector together.
FEATURE_METHODS = ("get_image_features", "get_video_features")
_TOWERS = ("vision_tower", "visual")
_PARTS = ("projections", "self_attn", "mlp", "norms")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class Probe:
    """Marks around the parts of one model, as a context manager.

    Enter it after the schedule is applied. `seconds` then holds, for the latest pass: ``prefill`` (from
    the decoder's first operation, after any merging, to the end), ``merge`` (what happens to the prompt
    before it), ``layer`` and ``selection`` by layer index, ``vision`` and ``projector``, and with
    `groups` the time in the parts of all layers together.

    Parameters
    ----------
    groups
        Mark the parts of each layer too: some twenty marks more a layer, half a microsecond each on a
        CPU, several on CUDA.
    """

    def __init__(self, family: Family, watch: Stopwatch, *, groups: bool = False) -> None:
        self.family, self.watch, self.groups = family, watch, groups
        self._marks: dict[Key, list[Mark]] = defaultdict(list)
        self._handles: list[RemovableHandle] = []
        self._undo = ExitStack()
        self._computing = False

    def __enter__(self) -> Probe:
        decoder, layers = self.family.decoder, self.family.layers
        self._before(decoder, ("merge", 0), outermost=True)
        self._before(decoder, ("prefill", 0), outermost=False)
        for index, layer in enumerate(layers):
            self._before(layer, ("layer", index), outermost=True)
            # before the hook that drops tokens, and after it
            self._after(layer, ("computed", index), outermost=False)
            self._after(layer, ("layer", index), outermost=True)
            if self.groups:
                self._mark_parts(layer, index)
        if self.family.container is not None:
            self._mark_features(self.family.container)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._undo.close()

    def time(self, call: Callable[[], object]) -> dict[Key, float]:
        """Run a forward pass; seconds by (what, layer), ``total`` being all of it."""
        self._marks.clear()
        self.watch.drain()
        start = self.watch.mark()
        call()
        end = self.watch.mark()
        self.watch.drain()
        return self._read(start, end)

    def _read(self, start: Mark, end: Mark) -> dict[Key, float]:
        between, marks = self.watch.seconds, self._marks
        begun = marks["prefill", 0][0]
        seconds = {
            ("total", 0): between(start, end),
            ("prefill", 0): between(begun, end),
            ("merge", 0): between(marks["merge", 0][0], begun),
        }
        for index in range(len(self.family.layers)):
            first, last = marks["layer", index]
            seconds["layer", index] = between(first, last)
            seconds["selection", index] = between(marks["computed", index][0], last)
        for name in ("features", "vision"):
            found = marks.get((name, 0), [])
            if found:
                seconds[name, 0] = sum(between(a, b) for a, b in zip(found[::2], found[1::2], strict=True))
        if ("features", 0) in seconds:
            seconds["projector", 0] = seconds.pop(("features", 0)) - seconds.get(("vision", 0), 0.0)
        if self.groups:
            self._read_parts(seconds)
        return seconds

    def _read_parts(self, seconds: dict[Key, float]) -> None:
        """Parts of all layers together; what is in none of them is the residual
        additions and what calling the modules takes."""
        total = dict.fromkeys(_PARTS, 0.0)
        for (name, _), marks in self._marks.items():
            if name in total:
                total[name] += sum(self.watch.seconds(a, b) for a, b in zip(marks[::2], marks[1::2], strict=True))
        count = range(len(self.family.layers))
        selection = sum(seconds["selection", index] for index in count)
        whole = sum(seconds["layer", index] for index in count)
        inside = total["self_attn"] + total["mlp"] + total["norms"]
        groups = {
            "projections": total["projections"],
            "attention": total["self_attn"] - total["projections"],
            "mlp": total["mlp"],
            "norms": total["norms"],
            "rest": whole - selection - inside,
        }
        seconds.update({(f"group {name}", 0): max(value, 0.0) for name, value in groups.items()})

    def _hook(self, key: Key) -> Callable[..., None]:
        what = key[0]

        def hook(*_: object) -> None:
            if what in _PARTS and not self._computing:
                return  # a selection that looks at the next layer's queries runs parts of it, to no end
            self._marks[key].append(self.watch.mark())
            if what in ("layer", "computed"):
                # a layer computes from its first mark to the one before the selection
                self._computing = what == "layer" and len(self._marks[key]) == 1

        return hook

    def _before(self, module: nn.Module, key: Key, *, outermost: bool) -> None:
        self._handles.append(module.register_forward_pre_hook(self._hook(key), prepend=outermost))

    def _after(self, module: nn.Module, key: Key, *, outermost: bool) -> None:
        # hooks after a module run in order: the outermost comes last
        self._handles.append(module.register_forward_hook(self._hook(key), prepend=not outermost))

    def _around(self, module: nn.Module, key: Key) -> None:
        self._before(module, key, outermost=True)
        self._after(module, key, outermost=True)

    def _mark_parts(self, layer: nn.Module, index: int) -> None:
        attention = layer.self_attn
        for name in _PROJECTIONS:
            if isinstance(getattr(attention, name, None), nn.Module):
                self._around(getattr(attention, name), ("projections", index))
        self._around(attention, ("self_attn", index))
        self._around(layer.mlp, ("mlp", index))
        for name in ("input_layernorm", "post_attention_layernorm"):
            self._around(getattr(layer, name), ("norms", index))

    def _mark_features(self, container: nn.Module) -> None:
        for name in _TOWERS:
            if isinstance(getattr(container, name, None), nn.Module):
                self._around(getattr(container, name), ("vision", 0))
        for name in FEATURE_METHODS:
            if callable(getattr(container, name, None)):
                self._wrap(container, name)

    def _wrap(self, container: nn.Module, name: str) -> None:
        original = getattr(container, name)

        def marked(*args: Any, **kwargs: Any) -> Any:
            self._marks["features", 0].append(self.watch.mark())
            result = original(*args, **kwargs)
            self._marks["features", 0].append(self.watch.mark())
            return result

        # on the instance, in front of the class's own; taken away again on leaving
        setattr(container, name, marked)
        self._undo.callback(delattr, container, name)
