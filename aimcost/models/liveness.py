"""Which tensors are alive together: the peak of activations, not the sum of all outputs.

The ops of a layer declare what they read and allocate (`aimcost.ops.op.Op`). A tensor is alive from the op
that writes it to the last one that reads it, or for as long as a variable of the usual modules holds
it: a layer's caller holds its input, an MLP its normed input, eager attention returns its weights.
Sizes are bytes, numbers or arrays (one entry a layer). Library workspaces and allocator fragmentation
are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..frozen import dataclass
from ..ops.cost import Array
from ..ops.op import OpCost

__all__ = ["Step", "layer_peak", "peak_live"]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: the tensors it reads, and the sizes of those it writes."""

    name: str
    reads: tuple[str, ...]
    writes: Mapping[str, Array]


def peak_live(inputs: Mapping[str, Array], steps: Sequence[Step], held: tuple[str, ...] = ()) -> Array:
    """The largest sum of tensors alive during one step; `held` live on to the end."""
    last = dict.fromkeys(inputs, -1)
    for index, step in enumerate(steps):
        for name in (*step.reads, *step.writes):
            last[name] = index
    last.update({name: len(steps) for name in held})
    alive: dict[str, Array] = dict(inputs)
    peak: Array = sum(inputs.values(), 0.0)
    for index, step in enumerate(steps):
        alive = {name: size for name, size in alive.items() if last[name] >= index}
        alive.update(step.writes)
        peak = np.maximum(peak, sum(alive.values(), 0.0))
    return peak


def layer_peak(x: Array, ops: Iterable[OpCost], *after: Step, held: tuple[str, ...] = ("x",)) -> Array:
    """Peak bytes of the activations of a run of ops on an input `x`.

    Parameters
    ----------
    after
        What follows the ops while their output is alive.
    held
        What the caller holds until the end: the layer's input.
    """
    steps, returned = [], list(held)
    for op, cost in ops:
        steps.append(Step(op.name, op.reads, {op.name: cost.write_activations, **op.extra}))
        if op.returned:
            returned.append(op.name)
    if steps:
        returned.append(steps[-1].name)
    return peak_live({"x": x}, [*steps, *after], held=tuple(returned))
