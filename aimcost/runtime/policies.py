"""Which function ranks or merges tokens for an event: looked up by the event's scorer.

Each ``methods/<method>/apply.py`` declares any of three tables, by scorer name:

``LAYER_SCORERS``
    ``(reads, function)``: ranks live tokens inside the language model, (B, n) scores. `reads` says
    what it needs: ``"layer"`` the queries and keys of the layer that is cut, ``"next"`` those that
    the following layer would compute on the same tokens, ``"nothing"``.
``VISUAL_SCORERS``
    Ranks visual tokens before the language model, (B, groups, n) scores.
``VISUAL_MERGERS``
    Turns (G, n, D) visual tokens into (G, keep, D) by averaging.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ScheduleError, UnknownNameError
from ..types import ReductionEvent, Schedule

__all__ = ["check_policies", "layer_scorer", "visual_merger", "visual_scorer"]

Scorer = Callable[..., torch.Tensor]


@functools.cache
def _tables() -> Mapping[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {"LAYER_SCORERS": {}, "VISUAL_SCORERS": {}, "VISUAL_MERGERS": {}}
    package = __package__.rsplit(".", 1)[0] + ".methods"
    folder = Path(__file__).resolve().parent.parent / "methods"
    for path in sorted(folder.glob("*/apply.py")):
        module = importlib.import_module(f"{package}.{path.parent.name}.apply")
        for table, entries in tables.items():
            entries.update(getattr(module, table, {}))
    return tables


def _find(table: str, name: str) -> Any:
    entries = _tables()[table]
    if name not in entries:
        raise UnknownNameError("scorer", name, entries, where=f"runtime {table.lower()}")
    return entries[name]


def layer_scorer(name: str) -> tuple[str, Scorer]:
    """What the scorer reads, and the scorer, for a cut inside the language model."""
    reads, function = _find("LAYER_SCORERS", name)
    return reads, function


def visual_scorer(name: str) -> Scorer:
    """The scorer of visual tokens before the language model."""
    return _find("VISUAL_SCORERS", name)


def visual_merger(name: str) -> Scorer:
    """The function that merges visual tokens before the language model."""
    return _find("VISUAL_MERGERS", name)


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
        (visual_merger if event.action == "merge" else visual_scorer)(event.scorer)
    for event in schedule.layer_events:
        layer_scorer(event.scorer)
        _check_text(event, text_tokens)


def _check_text(event: ReductionEvent, text_tokens: int) -> None:
    if event.tokens_out < text_tokens:
        raise ScheduleError(
            f"after layer {event.after_layer}: {event.tokens_out} tokens are to stay, but {text_tokens} "
            "are text, which is never dropped; boundaries=(text before, visual, text after) says what is what"
        )
    if event.scorer == "none" and event.tokens_out != text_tokens:
        raise ScheduleError(
            f"after layer {event.after_layer}: scorer 'none' withdraws every visual token, which leaves "
            f"{text_tokens} (got {event.tokens_out})"
        )
