"""Token counts given layer by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from ...errors import InvalidValueError, ScheduleError
from ...types import ModelSpec, ReductionEvent, Schedule, Workload
from ...types.strict import Bounds
from ..aim.cost import PAGERANK
from ..aim.plan import merge_by_ratio
from ..base import MethodParams, build_schedule, event_before
from .cost import RANDOM, UNIFORM

SUMMARY = "explicit token counts per layer: tokens_per_layer, select, merge_ratio"

_SCORERS = {"uniform": UNIFORM, "random": RANDOM, "aim": PAGERANK}
_MAX = 100_000_000

Runs = list[tuple[Annotated[int, Bounds(ge=0, le=_MAX)], Annotated[int, Bounds(ge=1, le=100_000)]]]
Plain = list[Annotated[int, Bounds(ge=0, le=_MAX)]]


class Params(MethodParams):
    """Counts of visual + text tokens: runs of [tokens, layers], or one number a layer.

    With `merge_ratio`, AIM's merging comes first and the counts start with what it leaves.

    Attributes
    ----------
    tokens_per_layer
        Runs of [tokens, layers], or one count a layer.
    select
        How tokens are chosen when the schedule runs; priced where it is given.
    merge_ratio
        Share of a frame's tokens that AIM's merging leaves first.
    """

    tokens_per_layer: Plain | list[list[Annotated[int, Bounds(ge=0, le=_MAX)]]]
    select: Literal["uniform", "random", "aim"] | None = None
    merge_ratio: Annotated[float, Bounds(gt=0, le=1)] | None = None


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """The schedule as given. Selection is free in an estimate unless `select` names a way.

    Raises
    ------
    ScheduleError
        Wrong layer count, zero tokens, counts that rise, or more tokens than the prompt has.
    """
    layers = model.decoder.layers
    counts = _expand(params.tokens_per_layer, layers)
    prompt = workload.prompt_tokens
    if counts[0] > prompt:
        raise ScheduleError(
            f"method.tokens_per_layer starts with {counts[0]} tokens, but the workload has {prompt} "
            f"({workload.visual_tokens} visual + {workload.text_tokens} text)"
        )
    scorer, selects = _SCORERS[params.select or "uniform"], params.select is not None
    visual = max(0, counts[0] - workload.text_tokens)
    pre_llm: list[ReductionEvent] = []
    merged = params.merge_ratio is not None
    if params.merge_ratio is not None:
        pre_llm, left = merge_by_ratio(workload, params.merge_ratio, paper=params.convention == "paper")
        start = workload.groups * left + workload.newline_tokens + workload.text_tokens
        if counts[0] != start:
            raise InvalidValueError(
                "method.tokens_per_layer", f"{start} in layer 0, the count after merging", counts[0]
            )
    elif counts[0] < prompt and visual:
        pre_llm = [event_before(RANDOM if params.select == "random" else UNIFORM, workload.visual_tokens, visual)]
    schedule = build_schedule(
        model=model,
        workload=replace(workload, newline_tokens=0) if counts[0] < prompt and not merged else workload,
        params=params.dump(),
        method="explicit",
        visual_tokens=counts[0] - workload.text_tokens,
        pre_llm=pre_llm,
        cuts=enumerate(counts),
        scorer=scorer,
    )
    return replace(
        schedule,
        visual_tokens=visual,
        # merging is work that is known, however the layers select
        events=tuple(replace(event, selects=selects or event.action == "merge") for event in schedule.events),
    )


def _expand(given: list[int] | list[list[int]], layers: int) -> list[int]:
    """One count a layer, from either notation.

    Raises
    ------
    InvalidValueError, ScheduleError
        Neither notation, or more layers than the model has.
    """
    if not given:
        raise InvalidValueError("method.tokens_per_layer", "not empty", given)
    runs = [(item, 1) if isinstance(item, int) else tuple(item) for item in given]
    for run in runs:
        if len(run) != 2 or run[1] < 1:
            raise InvalidValueError("method.tokens_per_layer", "runs of [tokens, layers]", list(run))
    covered = sum(run[1] for run in runs)
    if covered != layers:
        raise ScheduleError(f"method.tokens_per_layer covers {covered} layers, the model has {layers}")
    return [tokens for tokens, count in runs for _ in range(count)]
