"""An op as its layer declares it: everything that follows from an op without knowing its name.

A layer yields ``(Op, Cost)`` pairs. How tensor parallelism splits the op, where collectives go, what is
stored and what is alive in memory, and where reports file it are read off the `Op`; no list of
operation names exists elsewhere. `Ranks.one_rank` makes such a pair.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, Literal, ParamSpec, TypeVar

from ..frozen import dataclass
from .cost import Array, Cost

__all__ = [
    "ONE",
    "Fusion",
    "Group",
    "Op",
    "OpCost",
    "Place",
    "Ranks",
    "Split",
    "divided",
    "packed_parameters",
    "stored_parameters",
]

# What a validation times together, and what reports sum: the modules of a layer, then what is outside one.
Group = Literal[
    "projections",
    "attention",
    "norms",
    "mlp",
    "rest",  # residual additions and gates: a layer's own code, outside its modules
    "selection",
    "exchange",
    "embedding",
    "projector",
    "head",
    "overhead",  # what a software stack adds beside the ops
]

# Where an op that belongs to no layer stands: before the first one or after the last one.
Place = Literal["before", "layer", "after"]

# How tensor-parallel ranks divide an op, after Megatron-LM (arXiv 1909.08053).
#   replicated  every rank does all of it
#   linear      as replicated, but may run on partial sums: a reduction is due only after it
#   column      output features; the result stays divided, and elementwise ops on it are too
#   row         input features (of a table: its rows); every rank is left with partial sums
#   heads       attention heads; kv_column and kv_heads: those of keys and values, of which several
#               ranks hold the same one where there are more ranks than KV heads
#   vocabulary  as column, but the result is gathered
Split = Literal["replicated", "linear", "column", "kv_column", "row", "heads", "kv_heads", "vocabulary"]

Fusion = Literal["", "qkv", "gate_up", "add_norm"]

# Rows that a vocabulary is padded to, in vLLM (``DEFAULT_VOCAB_PADDING_SIZE``) and SGLang.
VOCABULARY_BLOCK = 64

P = ParamSpec("P")
Size = TypeVar("Size", bound=Array)
Formula = TypeVar("Formula", bound=Callable[..., Cost])

# By formula and split: name and position of each of the formula's parameters that the split divides (`divided`).
_DIVIDED: dict[Callable[..., Cost], dict[str, tuple[tuple[str, int], ...]]] = {}


def divided(**by_split: tuple[str, ...]) -> Callable[[Formula], Formula]:
    """Declare beside a formula which of its sizes each split of `Split` divides among ranks."""

    def declare(formula: Formula) -> Formula:
        parameters = list(inspect.signature(formula).parameters)
        _DIVIDED[formula] = {
            split: tuple((name, parameters.index(name)) for name in names) for split, names in by_split.items()
        }
        return formula

    return declare


@dataclass(frozen=True, slots=True)
class Op:
    """What an op declares beside its cost.

    Attributes
    ----------
    name
        As it is listed; its output is known to later ops by this name.
    group, place
        Where reports and validations file it.
    split
        How tensor-parallel ranks divide it.
    exchange
        What its collective is named after (``attn`` → ``all_reduce_attn``); by default its own name.
    reads
        Tensors it reads, or that its module holds until then: names of earlier ops or of their `extra`, ``x`` for
        the input of the layer. Liveness and the places of collectives follow from it; traffic is the `Cost`'s.
    extra
        Tensors it allocates beside its output, name → bytes. One that no later op reads is scratch.
    returned
        Its output is held until the layer returns.
    weight
        Stored parameters, in elements, that its formula does not count: a position table, a gate, a learned token.
    fusion
        What a software stack may run it inside of: one product with the others of that name on the same layers
        (``qkv``, ``gate_up``), or the kernel of the norm behind it (``add_norm``).
    """

    name: str
    group: Group
    split: Split
    place: Place = "layer"
    exchange: str = ""
    reads: tuple[str, ...] = ()
    extra: Mapping[str, Array] = field(default_factory=dict)
    returned: bool = False
    weight: float = 0.0
    fusion: Fusion = ""


# What a layer yields: an op, and its FLOPs and bytes by tensor. Seconds come with a machine, in `aimcost.pricing`.
OpCost = tuple[Op, Cost]


@dataclass(frozen=True, slots=True)
class Ranks:
    """Tensor-parallel ranks, of which one is looked at.

    Attributes
    ----------
    count
        All ranks.
    kv
        Ranks that hold different KV heads: fewer than `count` where there are fewer KV heads.
    """

    count: int = 1
    kv: int = 1

    def share(self, size: Size) -> Size:
        """One rank's share of anything counted in heads, columns or rows of a weight."""
        return _share(size, self.count)

    def kv_share(self, size: Size) -> Size:
        """One rank's share of anything counted in KV heads."""
        return _share(size, self.kv)

    def vocabulary(self, rows: int) -> int:
        """One rank's rows of a vocabulary, which is padded to whole blocks where ranks do not divide it."""
        return self.padded(rows) // self.count

    def padded(self, rows: int) -> int:
        """Rows of a vocabulary that ranks store together."""
        if rows % self.count == 0:
            return rows
        block = math.lcm(VOCABULARY_BLOCK, self.count)
        return math.ceil(rows / block) * block

    def one_rank(self, op: Op, formula: Callable[P, Cost], *args: P.args, **kwargs: P.kwargs) -> OpCost:
        """(op, Cost) of one rank. Pass the sizes of the WHOLE op: those that `formula` declares are divided here.

        Raises
        ------
        TypeError
            The formula declares no sizes for the op's split (`divided`).
        """
        if self.count == 1 or op.split in ("replicated", "linear"):
            return op, formula(*args, **kwargs)
        sizes = _DIVIDED.get(formula, {}).get(op.split)
        if sizes is None:
            raise TypeError(f"{formula.__name__} declares no sizes that split {op.split!r} divides")
        positional, named = list[Any](args), dict[str, Any](kwargs)
        for name, position in sizes:
            share: Callable[[Any], Any] = self.share
            if op.split in ("kv_column", "kv_heads") or name == "kv_heads":
                share = self.kv_share
            elif op.split == "vocabulary" or name == "vocab":
                share = self.vocabulary
            if name in named:
                named[name] = share(named[name])
            elif position < len(positional):
                positional[position] = share(positional[position])
        return op, formula(*positional, **named)


ONE = Ranks()


def _share(size: Size, ranks: int) -> Size:
    return size // ranks if isinstance(size, int) else size / ranks  # type: ignore[return-value]


def stored_parameters(ops: Iterable[OpCost]) -> float:
    """Parameters that a run of ops stores, whether it reads all of them or not."""
    return float(sum(cost.parameters + op.weight for op, cost in ops))


def packed_parameters(ops: Iterable[OpCost]) -> float:
    """Those of `stored_parameters` that quantisation packs."""
    return float(sum(cost.packed for _, cost in ops))
