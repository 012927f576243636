"""A decoder as its trace describes it: symbolic ops by layer."""

from __future__ import annotations

from typing import Literal

from ..frozen import dataclass
from .expression import Expression

NOTHING = Expression("0.0")
# As `aimcost.ops.op.Group`.
Group = Literal["projections", "attention", "norms", "mlp", "rest", "embedding", "projector", "head"]

__all__ = ["Share", "TracedDecoder", "TracedLayer", "TracedOp", "TracedRanks", "TracedTower"]


@dataclass(frozen=True, slots=True)
class Share:
    """What ranks divide of a size: a part that all divide, one that ranks of other KV heads do; or a vocabulary."""

    all: float = 0.0
    kv: float = 0.0
    vocabulary: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TracedOp:
    """One op as a function of counts.

    Attributes
    ----------
    kind
        ``gemm``, ``bmm``, ``experts``, ``attention``, ``rms_norm``, ``layer_norm``, ``rope``, ``gated_act``,
        ``activation``, ``softmax``, ``embed``, ``weighted_sum``, ``gather``, ``ranking``, ``pointwise``, ``move``, or
        ``unknown``: memory moved by an op of which nothing else is known.
    dims
        Sizes by name, as the formula of the kind takes them.
    mask, window
        Attention: ``causal``, ``full``, ``window`` (the last `window` keys), ``chunk`` (blocks of `window`), or in a
        tower ``square`` (squares of `window` patches a side).
    weight
        Parameters that it reads; of experts, of all of them.
    count
        How often it runs in one pass.
    read, write
        Activations, in elements; not given where the formula of the kind knows them.
    read_cached, cached
        Of those, elements that lie in the cache.
    flops
        Of elementwise kinds.
    split
        What tensor-parallel ranks divide of a size, by its name.
    exchange
        The collective behind it: of partial sums, of two sums a row that a norm takes, or of columns.
    routed
        It runs on all experts for every token, of which a stack that routes runs those chosen.
    """

    name: str
    kind: str
    group: Group
    dims: tuple[tuple[str, Expression], ...]
    mask: str = ""
    window: int = 0
    weight: float = 0.0
    count: Expression | None = None
    read: Expression | None = None
    write: Expression | None = None
    read_cached: Expression | None = None
    cached: Expression | None = None
    flops: Expression | None = None
    split: tuple[tuple[str, Share], ...] = ()
    exchange: Literal["", "all_reduce", "statistics", "all_gather"] = ""
    routed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TracedLayer:
    """One kind of layer.

    Attributes
    ----------
    ops, decode
        Of a prefill, by ``batch`` and ``tokens``; of one decode step, by ``batch`` and ``kv``. Of a tower by
        ``images`` and ``patches``, without decode steps.
    cache
        Elements of its cache after ``tokens`` tokens; of a tower, none.
    alive, decode_alive
        Elements of activations alive together: the largest is the peak.
    split
        What ranks divide of `parameters`, `cache`, `alive` and `decode_alive`, by name.
    """

    parameters: float
    ops: tuple[TracedOp, ...]
    alive: tuple[Expression, ...]
    decode: tuple[TracedOp, ...] = ()
    cache: Expression = NOTHING
    decode_alive: tuple[Expression, ...] = ()
    split: tuple[tuple[str, Share], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRanks:
    """Sizes of the configuration that tensor-parallel ranks divide, KV heads apart; or why they divide nothing."""

    sizes: tuple[tuple[str, int], ...] = ()
    kv_sizes: tuple[tuple[str, int], ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TracedDecoder:
    """A decoder's layers by kind, and what runs outside them.

    Attributes
    ----------
    kinds
        Layers that differ.
    order
        The kind of each layer.
    before, after
        Ops ahead of the first layer and behind the last one, by ``batch`` and ``tokens``.
    outer_parameters
        Stored outside the layers, tied tables once.
    unknown
        Names of ops of which nothing but the memory moved is known.
    ranks
        What tensor-parallel ranks divide.
    routed
        Experts of a layer, and those that a token is routed to, where the trace runs all; zeros elsewhere.
    """

    kinds: tuple[TracedLayer, ...]
    order: tuple[int, ...]
    before: tuple[TracedOp, ...]
    after: tuple[TracedOp, ...]
    outer_parameters: float
    unknown: tuple[str, ...] = ()
    routed: tuple[int, int] = (0, 0)
    ranks: TracedRanks = TracedRanks(refused="its trace does not say what ranks divide: trace it again")

    def kind_of(self, layer: int) -> int:
        """The kind of a layer; where all are alike there may be any number of them."""
        return 0 if len(self.kinds) == 1 else self.order[layer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TracedTower:
    """A vision tower and its projector, by ``images`` (inputs of all requests) and ``patches`` of one of them.

    Attributes
    ----------
    kinds, order
        Layers that differ, and the kind of each layer that runs.
    before, after
        Ops ahead of the first layer and behind the last one, the projector's among these.
    parameters
        Stored in tower and projector.
    tokens
        Visual tokens that leave the projector.
    unknown
        Names of ops of which nothing but the memory moved is known.
    """

    kinds: tuple[TracedLayer, ...]
    order: tuple[int, ...]
    before: tuple[TracedOp, ...]
    after: tuple[TracedOp, ...]
    parameters: float
    tokens: Expression
    unknown: tuple[str, ...] = ()

    def tokens_of(self, patches: int) -> int:
        """Visual tokens of one input of so many patches."""
        return int(self.tokens({"images": 1.0, "patches": float(patches)}))
