"""A generic reduction before the language model: a share or a number of visual tokens stays."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ...errors import InvalidValueError
from ...types import ModelSpec, Schedule, Workload
from ...types.strict import Bounds
from ..base import RATIOS, KeptParams, reduce_before
from ..registry import find_scorer

SUMMARY = "any reduction before the language model: ratio | keep_tokens, scorer, seed"


class Params(KeptParams):
    """`ratio` of each group's tokens stay, or `keep_tokens` of all visual tokens.

    `seed` draws other tokens where the scorer is ``random``: several make an average.

    Attributes
    ----------
    scorer
        What ranks the tokens.
    seed
        Of the random scorer.
    """

    scorer: Literal["uniform", "random", "cls_attention", "cls_attention_contextual", "max_min_cosine", "evs"] = (
        "uniform"
    )
    seed: Annotated[int, Bounds(ge=0, le=2**31 - 1)] = 0


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """Constant counts over the layers."""
    if (params.ratio is None) == (params.keep_tokens is None):
        raise InvalidValueError("method.ratio", "given, or keep_tokens, but not both", params.ratio)
    if params.seed and params.scorer != "random":
        raise InvalidValueError("method.seed", "omitted unless scorer is random", params.seed)
    ratio, scorer = params.ratio, find_scorer(params.scorer)
    return reduce_before(
        model,
        workload,
        params,
        method="pre_llm",
        scorer=scorer,
        per_group=None if ratio is None else lambda n: max(1, int(n * ratio)),
        keep_tokens=params.keep_tokens,
        # the tower attends inside each crop
        crops=scorer.reads == "tower",
    )


def candidates(layers: int) -> list[dict[str, Any]]:
    """Parameters that the planner tries."""
    return [{"ratio": ratio} for ratio in RATIOS]
