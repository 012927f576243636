"""A whole prefill as one CUDA graph: token counts are static once a schedule is given.

Below some thousand tokens a prefill is bound by the host, which queues hundreds of kernels one by
one; the reduction's many small kernels are so at any size. A graph queues them all at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from ..errors import InvalidValueError, one_line
from ..types import Schedule
from . import compat
from .executor import Applied, apply
from .host_reads import FixedValues, HostReads
from .layout import Boundaries
from .steps import Record

__all__ = ["Captured", "capture", "capture_prefill", "shallow"]

WARMUP = 3
Call = Callable[..., Any]


class Captured:
    """A call that replays a CUDA graph, or the same call run eagerly if no graph was captured.

    Attributes
    ----------
    captured
        Whether a graph was recorded.
    reason
        Why not; empty where it was.
    """

    def __init__(
        self,
        call: Call,
        static: dict[str, Any],
        *,
        reason: str = "",
        graph: Any = None,
        output: Any = None,
        fixed: FixedValues | None = None,
        record: Callable[[], Record | None] = lambda: None,
    ) -> None:
        self._call, self._static, self._graph, self._output = call, static, graph, output
        self._fixed, self._record = fixed, record
        self.captured = graph is not None
        self.reason = reason

    def __call__(self, inputs: Mapping[str, Any] | None = None) -> Any:
        """Run on `inputs` (as before when None), which must have the names, shapes and formats captured.

        The tensors of a captured result, KV cache included, are overwritten by the next call.

        Raises
        ------
        InvalidValueError
            Inputs of other names, shapes, formats or, where they are no tensors or the graph depends on them, values.
        """
        if inputs is not None:
            self._check(inputs)
        if self._fixed is not None:
            self._fixed.check(self._static if inputs is None else inputs)
        with torch.no_grad():
            if not self.captured:
                return self._call(**(self._static if inputs is None else inputs))
            if inputs is not None:
                for name, given in inputs.items():
                    if isinstance(given, torch.Tensor):
                        self._static[name].copy_(given)
            self._graph.replay()
            return shallow(self._output)

    @property
    def record(self) -> Record | None:
        """What the reduction did (`aimcost.runtime.Record`): kept positions are those of the latest call."""
        return self._record()

    @property
    def buffers(self) -> Mapping[str, Any]:
        """The inputs that the next call without arguments runs on; tensors may be changed in place."""
        return self._static

    def free(self) -> None:
        """Give the graph's memory back; later calls run eagerly."""
        if self._graph is not None:
            self._graph.reset()
        self._graph = self._output = self._fixed = None
        self.captured, self.reason = False, "the graph was freed"

    def _check(self, inputs: Mapping[str, Any]) -> None:
        if inputs.keys() != self._static.keys():
            raise InvalidValueError("inputs", f"named {', '.join(sorted(self._static))}", sorted(inputs))
        for name, known in self._static.items():
            given = inputs[name]
            if isinstance(known, torch.Tensor):
                wanted = (tuple(known.shape), known.dtype)
                if not isinstance(given, torch.Tensor) or (tuple(given.shape), given.dtype) != wanted:
                    found = (tuple(given.shape), given.dtype) if isinstance(given, torch.Tensor) else given
                    raise InvalidValueError(name, f"a tensor of {wanted[0]} in {wanted[1]}, as captured", found)
            elif given is not known and given != known:
                raise InvalidValueError(name, f"{known!r}, as captured", given)


def capture_prefill(
    model: nn.Module,
    inputs: Mapping[str, Any],
    schedule: Schedule | None = None,
    *,
    boundaries: Boundaries | None = None,
    warmup: int = WARMUP,
    pool: Any = None,
) -> Captured:
    """Record the prefill of `model` on prompts like `inputs`, reduced by `schedule` if one is given.

    `inputs` may be what a processor returns. Where placeholders are among ``input_ids``, what a mask hides and the
    sizes of images decide which kernels run: they are read once, and fixed. A call compares, which is its one wait
    for the device, and refuses others; the text and the pixels are free. Without CUDA all calls run eagerly, and so
    does a model that reads what it computes, as some mixtures of experts do.

    Parameters
    ----------
    inputs
        Keyword arguments of ``model``; tensors are copied into static buffers.
    schedule
        Applied while recording; the graph then needs no `aimcost.apply` around it. None: the model as
        it is, an `apply` block around this call included.
    boundaries
        As for `aimcost.apply`.
    warmup, pool
        As for `capture`.

    Raises
    ------
    AimcostError
        What `aimcost.apply` raises for this model, schedule and prompt.
    """
    if not isinstance(inputs, Mapping):
        raise InvalidValueError("inputs", "keyword arguments of the model by name", inputs, where="capture_prefill")
    if schedule is None:
        return capture(model, inputs, fix=True, warmup=warmup, pool=pool)
    apply(model, schedule, boundaries=boundaries)  # what it refuses, it refuses now
    plan = schedule
    latest: list[Applied] = []

    def around() -> AbstractContextManager[Any]:
        latest[:] = [apply(model, plan, boundaries=boundaries)]
        return latest[0]

    captured = capture(model, inputs, around=around, fix=True, warmup=warmup, pool=pool)
    captured._record = lambda: latest[0].record if latest else None
    return captured


def capture(
    call: Call,
    inputs: Mapping[str, Any],
    *,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    fix: bool = False,
    warmup: int = WARMUP,
    pool: Any = None,
) -> Captured:
    """Record ``call(**inputs)`` as a CUDA graph, or say why it runs eagerly.

    Parameters
    ----------
    around
        Makes the context in which the call is recorded, and in which it runs eagerly.
    fix
        Record a call that reads integers or masks among its inputs, and compare them before each replay. By default
        it runs eagerly: what else a call depends on (a cache, how often it was called) is not compared.
    warmup
        Calls before recording, at least 1: kernels are compiled and chosen there.
    pool
        A memory pool shared with other graphs (``torch.cuda.graph_pool_handle()``) that never run at
        the same time.
    """
    if warmup < 1:
        raise InvalidValueError("warmup", "at least 1", warmup)

    def entered(**given: Any) -> Any:
        with around():
            return call(**given)

    device = next((value.device for value in inputs.values() if isinstance(value, torch.Tensor)), None)
    if device is None or device.type != "cuda":
        return Captured(entered, dict(inputs), reason=f"not captured: the inputs are on {device}, not on CUDA")
    static = {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    try:
        with torch.no_grad(), torch.cuda.device(device), around():
            reads = HostReads(device, static, fix=fix)
            graph, output = _record(call, static, device, reads, warmup, pool)
    except RuntimeError as error:  # out of memory, or an operation that cannot be recorded
        _drain(device)
        return Captured(entered, dict(inputs), reason=f"not captured: {one_line(error)}")
    if reads.forbidden:
        return Captured(entered, dict(inputs), reason=f"not captured: data-dependent ({', '.join(reads.forbidden)})")
    return Captured(call, static, graph=graph, output=output, fixed=reads.fixed)


def _record(
    call: Call, static: Mapping[str, Any], device: torch.device, reads: HostReads, warmup: int, pool: Any
) -> tuple[Any, Any]:
    """Warm up beside the main stream, then record, unless `reads` finds what forbids it."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # The first call may read what later ones find ready. A call that waits would fail during capture; detecting
        # it before leaves no half-captured graph.
        for index in range(warmup):
            with nullcontext() if index < min(1, warmup - 1) else reads.answered() if reads.done else reads.kept():
                call(**static)
            if reads.forbidden:
                break
    torch.cuda.current_stream().wait_stream(stream)
    if reads.forbidden:
        return None, None
    graph = torch.cuda.CUDAGraph()
    with compat.masks_as_called(), torch.cuda.graph(graph, pool=pool), reads.answered():
        output = call(**static)
    return graph, output


def _drain(device: torch.device) -> None:
    """Leave nothing behind of a recording that failed."""
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError:
        pass  # the first error says more


def shallow(value: Any) -> Any:
    """The same tensors in fresh containers: decoding grows a cache by replacing its entries."""
    if isinstance(value, DynamicCache):
        cache = copy.copy(value)
        cache.layers = [copy.copy(layer) for layer in value.layers]
        return cache
    if isinstance(value, dict):
        return type(value)(**{name: shallow(part) for name, part in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(shallow(part) for part in value)
    return value
