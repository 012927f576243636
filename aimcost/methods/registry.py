"""Scorers by name: what choosing tokens costs, what the choice reads, and how it runs.

A scorer is registered beside its formula, in ``methods/<method>/cost.py``. Plans name it in their events,
`reduction_ops` looks up its cost, and ``methods/<method>/apply.py`` holds the function of the same name that the
runtime calls.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import InitVar, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from ..errors import UnknownNameError, UnsupportedModelError
from ..frozen import dataclass
from ..ops.cost import Array
from ..ops.reduction import Cut, NamedCosts, ScoreContext
from ..types import Schedule, Workload

__all__ = [
    "Launches",
    "Scorer",
    "all_scorers",
    "cannot_run",
    "find_scorer",
    "kept_tokens",
    "launches_of",
    "plan_module",
    "planned_scorers",
    "reads_tower",
    "reduction_ops",
    "register",
    "require_runnable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """Kernels that one cut launches one after another, and where Python waits for them.

    Attributes
    ----------
    score
        To score the tokens; ranking, gathering and merging take as many kernels as the software stack takes.
    total
        In place of `score`: of the whole cut, as released code executes it, WITHOUT those of its loop
        (`steps` × `per_step`), which are added.
    steps, per_step
        Iterations of its Python loop, each after the one before, and the launches of one.
    syncs, syncs_per_step
        Points at which Python reads a tensor's value or copies one to the device: ``.item()``, ``nonzero``,
        boolean indexing, ``tolist``, an index made on the host; beside the loop, and in one iteration.
    counted
        The released code that the counts were taken from (repository at commit); empty where they are
        estimated from the algorithm. Counted are the operators that Python issues to the device: a sort or a
        ``nonzero`` is one, whatever kernels it is made of.
    """

    score: float = 1.0
    total: float | None = None
    steps: Callable[[Cut, ScoreContext], Array] | None = None
    per_step: float = 0.0
    syncs: float = 0.0
    syncs_per_step: float = 0.0
    counted: str = ""

    def iterations(self, cut: Cut, context: ScoreContext) -> Array:
        """Iterations of the Python loop of one cut."""
        return 0.0 if self.steps is None else self.steps(cut, context)


def kept_tokens(cut: Cut, context: ScoreContext) -> Array:
    """Iterations of a loop over the tokens that stay of every group, one after another."""
    return cut.groups * cut.tokens_out


def _no_counts(workload: Workload, kept: int) -> Mapping[str, int]:
    return {}


Reads = Literal["positions", "embeddings", "layer", "next_layer", "tower", "inside_tower", "text_tower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """One way of choosing which tokens stay.

    Attributes
    ----------
    cost
        The costs of one cut, in execution order: any of score, select, merge and gather.
    reads
        What the choice is made from: ``positions`` alone, the visual ``embeddings``, queries and keys of
        the ``layer`` that is cut or of the ``next_layer`` on the same tokens, the attention and keys of the
        vision ``tower``; ``inside_tower`` merges within a tower layer, by its keys. ``text_tower`` reads a text
        encoder beside the model, which whoever runs it must bring along.
    launches, eager_launches, masked_launches
        Of the fused form, of released eager code (None: as fused), and of code that masks (None: as eager).
    exposes
        Where a stack that reads the attention matrix from memory must run eager attention: in the
        ``layer`` that is cut, in the whole ``decoder``, or in the whole ``tower``. None: it reads none.
    across_groups
        Whether tokens of all groups compete, however the event groups them.
    merges
        Whether an event before the language model averages tokens rather than drops them.
    counts
        What cost and run need beside the tokens before and after, from the workload and the tokens that a
        group keeps. A plan records it in its event and in the schedule's parameters.
    masks_every_layer
        Whether its released code, which masks, scores in every decoder layer (AIM).
    last_tower_layer
        Whether it reads the tower's last layer, all heads as one, rather than the layer whose output is used.
    square_scores
        Whether its eager form holds a second fp32 matrix, beside the layer's attention.
    """

    name: str
    cost: Callable[[Cut, ScoreContext], NamedCosts] = None  # type: ignore[assignment]
    reads: Reads
    launches: Launches = Launches()
    eager_launches: Launches | None = None
    masked_launches: Launches | None = None
    exposes: Literal["layer", "decoder", "tower"] | None = None
    across_groups: bool = False
    merges: bool = False
    counts: Callable[[Workload, int], Mapping[str, int]] = _no_counts
    masks_every_layer: bool = False
    last_tower_layer: bool = False
    square_scores: bool = False
    price: InitVar[Callable[[Cut, ScoreContext], NamedCosts] | None] = None

    def __post_init__(self, price: Callable[[Cut, ScoreContext], NamedCosts] | None) -> None:
        if price is not None:
            warnings.warn("Scorer(price=) will be removed in 0.3; use cost=", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "cost", price)
        if self.cost is None:
            raise TypeError("Scorer needs a cost")


_registered: dict[str, Scorer] = {}


def register(new: Scorer) -> Scorer:
    """Make a scorer known under its name.

    Raises
    ------
    ValueError
        The name is taken.
    """
    if new.name in _registered:
        raise ValueError(f"scorer {new.name!r} is registered twice")
    _registered[new.name] = new
    return new


def find_scorer(name: str, *, where: str = "") -> Scorer:
    """The scorer of that name.

    A plan imports the scorers that it names, so the other methods' are loaded only on a miss.

    Raises
    ------
    UnknownNameError
        No method registers it.
    """
    found = _registered.get(name) or all_scorers().get(name)
    if found is None:
        raise UnknownNameError("scorer", name, _registered, where=where)
    return found


def all_scorers() -> Mapping[str, Scorer]:
    """All scorers of all methods."""
    # price.py is what cost.py was called until 0.2
    for path in sorted(Path(__file__).resolve().parent.glob("*/*.py")):
        if path.stem in ("cost", "price"):
            importlib.import_module(f"{__package__}.{path.parent.name}.{path.stem}")
    return MappingProxyType(_registered)


def plan_module(name: str) -> Any:
    """``plan.py`` of a method: its SUMMARY, Params and plan, and the planner's candidates if it has any."""
    return importlib.import_module(f"{__package__}.{name}.plan")


def planned_scorers(module: Any, params: Any) -> tuple[Scorer, ...]:
    """The scorers that a method's plans may name, whatever the prompt: what its module imports, or `params` name."""
    named = getattr(params, "scorer", None)
    if named is not None:
        return (find_scorer(named),)
    return tuple(found for found in vars(module).values() if isinstance(found, Scorer))


def cannot_run(schedule: Schedule) -> str:
    """Why the model alone cannot run the schedule's selection; empty where it can."""
    reads = {find_scorer(event.scorer).reads for event in schedule.events}
    return "ranks with CLIP's text tower, which the model does not have" if "text_tower" in reads else ""


def require_runnable(schedule: Schedule) -> None:
    """Raise UnsupportedModelError, with the reason, for a schedule that the model alone `cannot_run`."""
    if reason := cannot_run(schedule):
        raise UnsupportedModelError(
            f"method {schedule.method!r} {reason}: it runs where aimcost.apply is given one (question=)"
        )


def reads_tower(schedule: Schedule) -> bool:
    """Whether tokens are ranked, or merged, by what the vision tower computes."""
    reads = {find_scorer(event.scorer).reads for event in schedule.pre_llm_events}
    return bool(reads & {"tower", "inside_tower", "text_tower"})


def launches_of(scorer: Scorer, implementation: str) -> Launches:
    """The launches of a cut in an implementation."""
    if implementation == "fused":
        return scorer.launches
    eager = scorer.eager_launches or scorer.launches
    return scorer.masked_launches or eager if implementation == "masked" else eager


def reduction_ops(name: str, cut: Cut, context: ScoreContext) -> NamedCosts:
    """The operations of a cut, in execution order, with their launches. Masking ranks, but moves nothing.

    Raises
    ------
    UnknownNameError
        No method registers the scorer.
    """
    chosen = find_scorer(name)
    launches = launches_of(chosen, context.implementation)
    named = [
        (op, cost)
        for op, cost in chosen.cost(cut, context)
        if cost.kind != "gather" or context.implementation != "masked"
    ]
    steps = launches.iterations(cut, context)
    loop = launches.per_step * steps
    if launches.total is None:
        stated = {"score": launches.score, **({"select": loop} if launches.steps else {})}
        return tuple((op, replace(cost, launches=stated.get(cost.kind, cost.launches))) for op, cost in named)
    (*before, (last, cost)) = named
    fixed = np.maximum(1.0, launches.total - len(before) + (0.0 if launches.syncs_per_step else loop))
    if launches.syncs_per_step:
        if not before:
            raise ValueError(f"scorer {name!r}: a loop that syncs needs an operation before it")
        # The loop waits for the device. Its first wait drains what was queued before, so that the loop hides behind
        # no earlier kernel. Every operation has one launch; the first has the other launches outside the loop and
        # the waits there as well, the last has the loop.
        ((first, opening), *middle) = before
        return (
            (first, replace(opening, launches=fixed, syncs=launches.syncs)),
            *((op, replace(each, launches=1.0)) for op, each in middle),
            (last, replace(cost, launches=1.0 + loop, syncs=launches.syncs_per_step * steps)),
        )
    # every operation before the last has one launch; the last one has the rest
    return (
        *((op, replace(each, launches=1.0)) for op, each in before),
        (last, replace(cost, launches=fixed, syncs=launches.syncs)),
    )
