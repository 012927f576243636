"""Which function ranks or merges tokens for an event: looked up by the event's scorer.

Each ``methods/<method>/apply.py`` declares any of six tables by scorer name; what a scorer reads and
whether it merges stands in its registration (`aimcost.methods.registry`):

``LAYER_SCORERS``
    Ranks live tokens inside the language model, (B, n) scores.
``LAYER_PREPARERS``
    Before layer 0, marks tokens of the prompt, (B, P), for the scorer of that name.
``LAYER_RECYCLERS``
    Turns some of the tokens that a cut drops into means: (B, c, D), and (B, c) which token's place each takes.
``VISUAL_SCORERS``
    Ranks visual tokens before the language model, (B, groups, n) scores.
``VISUAL_MERGERS``
    Turns (G, n, D) visual tokens into (G, keep, D) by averaging.
``TOWER_MERGERS``
    The same inside a tower layer, with the patches that each token stands for.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import methods
from ..errors import ScheduleError, UnknownNameError
from ..methods.vtw.cost import WITHDRAW
from ..types import ReductionEvent, Schedule

__all__ = [
    "Policies",
    "all_policies",
    "check_policies",
    "layer_policy",
    "merging_policy",
    "pruning_policy",
    "tower_policy",
]

Policy = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Policies:
    """Functions by scorer name: inside the language model, and before it."""

    layer: dict[str, Policy] = field(default_factory=dict)
    prepare: dict[str, Policy] = field(default_factory=dict)
    recycle: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)
    prune: dict[str, Policy] = field(default_factory=dict)
    merge: dict[str, Policy] = field(default_factory=dict)
    tower: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)


@functools.cache
def all_policies() -> Policies:
    """The tables of all methods.

    Raises
    ------
    ValueError
        Two methods run one scorer.
    """
    found = Policies()
    for path in sorted(Path(methods.__file__).parent.glob("*/apply.py")):
        module = importlib.import_module(f"{methods.__name__}.{path.parent.name}.apply")
        _add(found.layer, getattr(module, "LAYER_SCORERS", {}))
        _add(found.prepare, getattr(module, "LAYER_PREPARERS", {}))
        _add(found.recycle, getattr(module, "LAYER_RECYCLERS", {}))
        _add(found.prune, getattr(module, "VISUAL_SCORERS", {}))
        _add(found.merge, getattr(module, "VISUAL_MERGERS", {}))
        _add(found.tower, getattr(module, "TOWER_MERGERS", {}))
    return found


def _add(known: dict[str, Any], new: Mapping[str, Any]) -> None:
    for name, policy in new.items():
        if name in known:
            raise ValueError(f"two methods run the scorer {name!r}")
        known[name] = policy


def _find(table: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in table:
        raise UnknownNameError("scorer", name, table, where=where)
    return table[name]


def layer_policy(name: str) -> Policy:
    """What ranks tokens inside the language model."""
    return _find(all_policies().layer, name, "pruning inside the language model")


def pruning_policy(name: str) -> Policy:
    """What ranks visual tokens before the language model."""
    return _find(all_policies().prune, name, "pruning before the language model")


def merging_policy(name: str) -> Policy:
    """What merges visual tokens before the language model."""
    return _find(all_policies().merge, name, "merging before the language model")


def tower_policy(name: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """What merges visual tokens in a layer of the tower, and how many patches each then stands for."""
    return _find(all_policies().tower, name, "merging inside the vision tower")


def check_policies(schedule: Schedule, text_tokens: int) -> None:
    """Raise unless every event has a policy and leaves the text alone.

    Raises
    ------
    UnknownNameError
        A scorer without a policy of that kind.
    ScheduleError
        An event that would have to drop text.
    """
    for event in schedule.pre_llm_events:
        if event.tower_layer is not None:
            tower_policy(event.scorer)
        else:
            (merging_policy if event.action == "merge" else pruning_policy)(event.scorer)
    for event in schedule.layer_events:
        layer_policy(event.scorer)
        _check_text(event, text_tokens)


def _check_text(event: ReductionEvent, text_tokens: int) -> None:
    if event.tokens_out < text_tokens:
        raise ScheduleError(
            f"after layer {event.after_layer}: {event.tokens_out} tokens are to stay, but {text_tokens} "
            "are text, which is never dropped; boundaries=(text before, visual, text after) says what is what"
        )
    if event.scorer == WITHDRAW.name and event.tokens_out != text_tokens:
        raise ScheduleError(
            f"after layer {event.after_layer}: scorer {event.scorer!r} withdraws every visual token, which leaves "
            f"{text_tokens} (got {event.tokens_out})"
        )
