"""A run with one layer for every case: one estimate of it is a table, and no formula is written twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..inputs.run import Run
from ..types import ReductionEvent

__all__ = ["Pair", "with_layers"]

# Tokens that a layer computes on, and those that are left after it.
Pair = tuple[int, int]


def with_layers(run: Run, pairs: Sequence[Pair], scorer: str, *, priced: bool = True) -> Run:
    """The run on a model with a layer for each of `pairs`, and a cut after it where the two differ."""
    cuts = tuple(
        ReductionEvent(action="prune", scorer=scorer, after_layer=i, tokens_in=before, tokens_out=after, priced=priced)
        for i, (before, after) in enumerate(pairs)
        if after < before
    )
    schedule = replace(
        run.schedule, tokens=tuple(before for before, _ in pairs), events=(*run.schedule.pre_llm_events, *cuts)
    )
    decoder = replace(run.model.decoder, layers=len(pairs))
    return replace(run, model=replace(run.model, decoder=decoder), schedule=schedule)
