"""A generic reduction before the language model: a share or a number of visual tokens stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from ...errors import InvalidValueError
from ...types import ModelSpec, ReductionEvent, Schedule, Workload
from ..base import MethodParams, build_schedule, keep_per_group, require_between
from ..registry import find_scorer

SUMMARY = "any reduction before the language model: ratio | keep_tokens, scorer"


class Params(MethodParams):
    """`ratio` of each group's tokens stay, or `keep_tokens` of all visual tokens."""

    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    keep_tokens: Annotated[int, Field(ge=0)] | None = None
    scorer: Literal["uniform", "random", "cls_attention", "cls_attention_contextual", "max_min_cosine", "evs"] = (
        "uniform"
    )


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """Constant counts over the layers."""
    if (params.ratio is None) == (params.keep_tokens is None):
        raise InvalidValueError("method.ratio", "given, or keep_tokens, but not both", params.ratio)
    return reduce_before(
        model,
        workload,
        params,
        method="pre_llm",
        scorer=params.scorer,
        per_group=None if params.ratio is None else max(1, int(workload.tokens_per_group * params.ratio)),
        keep_tokens=params.keep_tokens,
        extra={"frames": workload.groups} if params.scorer == "evs" else None,
    )


def reduce_before(
    model: ModelSpec,
    workload: Workload,
    params: MethodParams,
    *,
    method: str,
    scorer: str,
    per_group: int | None,
    keep_tokens: int | None,
    notes: tuple[str, ...] = (),
    across_groups: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Schedule:
    """One event before the language model: `per_group` tokens of each group, or `keep_tokens` in all.

    `across_groups`: tokens of all groups compete. `extra` joins the schedule's parameters.
    """
    action: Literal["merge", "prune"] = "merge" if find_scorer(scorer).merges else "prune"
    event: ReductionEvent | None
    grouped = workload.groups * workload.tokens_per_group
    if keep_tokens is not None:
        require_between("keep_tokens", keep_tokens, 0, workload.visual_tokens, "visual tokens")
        kept = max(0, keep_tokens - workload.newline_tokens)
        if kept >= grouped:
            event = None
        elif not across_groups and kept % workload.groups == 0:
            event = keep_per_group(workload, kept // workload.groups, action=action, scorer=scorer)
        else:
            event = ReductionEvent(action=action, scorer=scorer, after_layer=None, tokens_in=grouped, tokens_out=kept)
    else:
        kept = (per_group or 0) * workload.groups
        event = keep_per_group(workload, per_group or 0, action=action, scorer=scorer)
    return build_schedule(
        model=model,
        workload=workload,
        params={**params.model_dump(), **(extra or {})},
        method=method,
        visual_tokens=min(kept, grouped) + workload.newline_tokens,
        pre_llm=[event] if event is not None else [],
        notes=notes,
    )
