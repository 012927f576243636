"""What the cost of every reduction is made of: a cut, its context, select and gather.

The scorers' own costs stand in ``aimcost/methods/<method>/cost.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ..errors import ScheduleError
from ..frozen import dataclass
from ..types import ModelSpec
from ..types.formats import Widths
from .cost import Array, Cost

__all__ = [
    "INDEX_BYTES",
    "SCORE_BYTES",
    "Cut",
    "NamedCosts",
    "ScoreContext",
    "cut_ops",
    "gather",
    "positional",
    "required_count",
    "required_frames",
    "select",
]

SCORE_BYTES = 4.0  # scores and PageRank vectors are fp32 whatever the model's format
INDEX_BYTES = 8.0

NamedCosts = tuple[tuple[str, Cost], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Tokens before and after one reduction, or arrays of them for many.

    Before the language model the counts are those of one of `groups` groups, inside it all live
    tokens of a request that it computes on. `counts`: what the scorer needs beside them, by name.
    `cached`: tokens before these of which keys and values alone are there.
    """

    tokens_in: Array
    tokens_out: Array
    groups: float = 1.0
    counts: Mapping[str, int] = field(default_factory=dict)
    cached: Array = 0.0

    @property
    def keys(self) -> Array:
        """Tokens that the last one attends to."""
        return self.tokens_in + self.cached


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreContext:
    """What a scorer may look at besides its cut.

    Attributes
    ----------
    text_tokens
        Text tokens of a request that it computes on: those that question-guided scorers read their rows from.
    implementation
        ``fused``: kernels that never hold an n x n matrix. ``eager``: scores are read from a matrix
        that attention materialised in fp32. ``masked``: as eager, and nothing is moved.
    """

    model: ModelSpec
    batch: int
    widths: Widths
    text_tokens: int = 0
    implementation: str = "fused"

    @property
    def materialised(self) -> bool:
        """Whether an n x n matrix of attention lies in memory for the scorer to read."""
        return self.implementation != "fused"


def required_count(counts: Mapping[str, int], name: str, *, scorer: str) -> int:
    """A number that a scorer needs beside the tokens before and after (`ReductionEvent.counts`).

    Raises
    ------
    ScheduleError
        It is not there.
    """
    if name not in counts:
        raise ScheduleError(f"scorer {scorer!r} needs {name!r} among the counts of its event")
    return counts[name]


def required_frames(groups: int, tokens: int, counts: Mapping[str, int], *, scorer: str) -> int:
    """Frames of `groups` groups of `tokens` tokens: the groups, or the stated count where they are one.

    Raises
    ------
    ScheduleError
        Their number is unknown or does not divide the tokens.
    """
    frames = groups if groups > 1 else required_count(counts, "frames", scorer=scorer)
    if not frames or groups * tokens % frames:
        raise ScheduleError(f"scorer {scorer!r}: {groups * tokens} tokens are not those of {frames} frames")
    return frames


def select(rows: Array, candidates: Array, kept: Array) -> Cost:
    """Rank `candidates` fp32 scores in each row and list the `kept` best: no FLOPs, only traffic."""
    return Cost(
        kind="select",
        dims={"rows": rows, "candidates": candidates, "kept": kept},
        read_activations=rows * candidates * SCORE_BYTES,
        write_activations=rows * kept * INDEX_BYTES,
    )


def gather(rows: Array, width: float, widths: Widths) -> Cost:
    """Copy `rows` rows of `width` elements to where they are contiguous."""
    moved = rows * width * widths.activations
    return Cost(
        kind="gather",
        dims={"rows": rows, "width": width},
        read_activations=moved + rows * INDEX_BYTES,
        write_activations=moved,
    )


def cut_ops(cut: Cut, context: ScoreContext, *, ranked: bool) -> NamedCosts:
    """Rank (if anything was scored) and gather, inside the language model or before it."""
    rows = context.batch * cut.groups
    keep = gather(rows * cut.tokens_out, context.model.decoder.hidden, context.widths)
    if not ranked:
        return (("gather", keep),)
    return (("select", select(rows, cut.tokens_in, cut.tokens_out)), ("gather", keep))


def positional(cut: Cut, context: ScoreContext) -> NamedCosts:
    """Nothing is scored: which tokens stay follows from their positions alone."""
    return cut_ops(cut, context, ranked=False)
