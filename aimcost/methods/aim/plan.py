"""AIM: merge inside each frame before the language model, prune layer by layer inside it.

Source: arXiv 2412.03248; the released code (LaVi-Lab/AIM, commit edc24e9) for what is executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InvalidValueError
from ...types import ModelSpec, ReductionEvent, Schedule, Workload
from ...types.strict import Bounds
from ..base import (
    MethodParams,
    Released,
    at_most_one,
    build_schedule,
    event_before,
    require_between,
    side_by_side,
)
from .cost import BIPARTITE, PAGERANK

SUMMARY = "AIM: merge per frame, prune from l1 to l2: merge_ratio | merge_r, l1, l2, decay, convention"

RELEASED = Released(
    code="LaVi-Lab/AIM at edc24e9",
    overlap=0.95,
    differs=(
        "importance starts from live tokens and flows among them alone, where dropped ones go on voting "
        "(apply_masked runs that, kept_overlap compares)",
        "merging, all the same in fp32 and fp16, compares in fp32 in bf16 too",
    ),
)

# What arXiv 2412.03248 evaluates with: merging to 25 %, and (l1, l2) of LLaVA-OneVision-7B (28 layers) and
# LLaVA-1.5-7B (32). Other depths take those of 28 in proportion.
DEFAULT_MERGE_RATIO = 0.25
_BOUNDARIES = {28: (14, 22), 32: (13, 21)}


class Params(MethodParams):
    """Merging by ratio or explicit steps, and the layers between which pruning happens.

    Attributes
    ----------
    merge_ratio
        Share of a frame's tokens that merging leaves: 1, or what halving reaches.
    merge_r
        Tokens that each merge step removes, in place of a ratio.
    l1
        Layer whose output is pruned first: layer l1 + 1 is the first to compute on fewer tokens (convention paper:
        layer l1 itself).
    l2
        First layer without visual tokens (convention paper: layer l2 - 1), reached in equal steps; without effect
        on token counts where decay is given.
    decay
        Share of the visual tokens that reached the language model, dropped after each layer from l1 on; 1 / (l2 - l1)
        by default.
    """

    merge_ratio: Annotated[float, Bounds(gt=0, le=1)] | None = None
    merge_r: list[Annotated[int, Bounds(ge=0, le=100_000_000)]] | None = None
    l1: Annotated[int, Bounds(ge=0)] | None = None
    l2: Annotated[int, Bounds(ge=0)] | None = None
    decay: Annotated[float, Bounds(ge=0, le=1)] | None = None


def plan(model: ModelSpec, workload: Workload, params: Params) -> Schedule:
    """AIM's schedule under either convention.

    ``executed`` (default): counts as the merge code yields them, a cut after layer l effective at
    l + 1. ``paper``: floor(N · merge_ratio) tokens a frame, the cut charged at layer l itself, the
    decay rounded to four decimals. Both keep int(V · rate(l) + T) tokens, with
    rate(l) = max(0, 1 − (l − l1 + 1) · decay) and decay = 1 / (l2 − l1).

    Raises
    ------
    InvalidValueError
        A ratio that halving cannot reach, or boundaries that fit no model.
    """
    paper = params.convention == "paper"
    layers = model.decoder.layers
    l1, l2 = _boundaries(params, layers)
    merges, left = _merges(workload, params, paper)
    visual = left + workload.newline_tokens
    decay = _decay(params, l1, l2)
    counts = left_of(visual, workload.text_tokens, _shares(layers, l1, decay, paper=paper))
    if counts.min() < 1:
        raise _nothing_left(workload.text_tokens)
    filled: dict[str, Any] = {**params.dump(), "l1": l1, "l2": l2, "decay": decay}
    if params.merge_r is None and params.merge_ratio is None:
        filled["merge_ratio"] = DEFAULT_MERGE_RATIO
    return build_schedule(
        model=model,
        workload=workload,
        params=filled,
        method="aim",
        visual_tokens=visual,
        pre_llm=merges,
        cuts=enumerate(counts.tolist()),
        scorer=PAGERANK,
    )


def pruned(visual: int, text: int, layers: int, params: Params) -> tuple[int, ...]:
    """Tokens by layer where `visual` tokens are left after merging: the pruning half of `plan`.

    Raises
    ------
    InvalidValueError
        Boundaries that fit no model, or no text where every visual token is pruned.
    """
    counts = left_of(visual, text, shares(layers, params))
    if counts.min() < 1:
        raise _nothing_left(text)
    return tuple(counts[:layers].tolist())


def shares(layers: int, params: Params) -> NDArray[np.float64]:
    """Share of the merged visual tokens that each layer computes on, and one entry for behind the last layer.

    Raises
    ------
    InvalidValueError
        Boundaries that fit no model.
    """
    l1, l2 = _boundaries(params, layers)
    return _shares(layers, l1, _decay(params, l1, l2), paper=params.convention == "paper")


def left_of(visual: int, text: int, share: NDArray[np.float64]) -> NDArray[np.int64]:
    """int(V · share + T): tokens of a layer, an entry for each share; below 1 where no token is left."""
    return (visual * share + text).astype(np.int64)


def _shares(layers: int, l1: int, decay: float, *, paper: bool) -> NDArray[np.float64]:
    # under the paper's convention layer l1 itself computes on less
    first = l1 if paper else l1 + 1
    falling = [max(0.0, 1.0 - (layer - l1 + 1) * decay) for layer in range(l1, layers)]
    every = [1.0] * first + falling
    return np.array([*every, every[-1]][: layers + 1])


def _decay(params: Params, l1: int, l2: int) -> float:
    if params.decay is not None:
        return params.decay
    return round(1 / (l2 - l1), 4) if params.convention == "paper" else 1 / (l2 - l1)


def _nothing_left(text: int) -> InvalidValueError:
    return InvalidValueError("workload.text_tokens", "at least 1: AIM prunes every visual token", text)


def _boundaries(params: Params, layers: int) -> tuple[int, int]:
    in_proportion = tuple(round(layers * boundary / 28) for boundary in _BOUNDARIES[28])
    default_l1, default_l2 = _BOUNDARIES.get(layers, in_proportion)
    l1 = params.l1 if params.l1 is not None else default_l1
    l2 = params.l2 if params.l2 is not None else max(default_l2, l1 + 1)
    require_between("l1", l1, 0, layers, f"the model has {layers} layers")
    if l2 <= l1:
        raise InvalidValueError("method.l2", f"greater than l1 ({l1})", l2)
    return l1, l2


def _merges(workload: Workload, params: Params, paper: bool) -> tuple[list[ReductionEvent], int]:
    """Merge events and the tokens they leave of all groups."""
    at_most_one(params, "merge_r", "merge_ratio")
    ratio = params.merge_ratio if params.merge_ratio is not None else DEFAULT_MERGE_RATIO
    events, left = [], 0
    for groups, n in workload.group_sizes:
        of_this_size = replace(workload, groups=groups, tokens_per_group=n, sizes=())
        if params.merge_r is not None:
            steps, left_of_each = _steps(of_this_size, params.merge_r)
        else:
            steps, left_of_each = merge_by_ratio(of_this_size, ratio, paper=paper)
        events.append(steps)
        left += groups * left_of_each
    return side_by_side(events, workload.group_sizes), left


def merge_by_ratio(workload: Workload, ratio: float, *, paper: bool) -> tuple[list[ReductionEvent], int]:
    """Merge events that leave `ratio` of each group's tokens, and how many those are.

    Raises
    ------
    InvalidValueError
        A ratio that halving cannot reach.
    """
    n = workload.tokens_per_group
    if not n or ratio == 1:
        return [], n
    if paper:
        return _paper_merge(workload, math.floor(n * ratio), ratio)
    return _steps(workload, _steps_to(workload, ratio))


def _halvings(n: int) -> Iterator[tuple[int, int]]:
    """The released steps r = n/2, n/4, … (rounded down), each with the tokens of a group that it leaves."""
    left, step = n, n >> 1
    while min(step, left // 2) >= 1:
        left -= min(step, left // 2)
        yield step, left
        step >>= 1


def reachable_ratios(workload: Workload) -> dict[float, int]:
    """Powers of two that halving reaches, and the tokens of a group that each leaves."""
    n = workload.tokens_per_group
    return {1.0: n, **{2.0**-count: left for count, (_, left) in enumerate(_halvings(n), 1)}}


def _steps_to(workload: Workload, ratio: float) -> list[int]:
    """The halvings that reach `ratio`: a power of two (0.125), or the share that they leave (25/196)."""
    n, steps = workload.tokens_per_group, list[int]()
    for count, (step, left) in enumerate(_halvings(n), 1):
        steps.append(step)
        # 0.063, 0.031 and 0.016 are how the paper prints 1/16, 1/32 and 1/64
        if abs(ratio * 2**count - 1) <= 0.03 or abs(ratio * n - left) < 1e-3 * n:
            return steps
    reachable = ", ".join(f"{power:g} ({left} of {n})" for power, left in reachable_ratios(workload).items())
    raise InvalidValueError("method.merge_ratio", f"one that halving reaches: {reachable}", ratio)


def _steps(workload: Workload, removals: list[int]) -> tuple[list[ReductionEvent], int]:
    """One event a step; a step removes min(r, n // 2) tokens of a group."""
    n, events = workload.tokens_per_group, []
    for r in removals:
        left = n - min(r, n // 2)
        if left < n:
            events.append(event_before(BIPARTITE, n, left, groups=workload.groups))
        n = left
    return events, n


def _paper_merge(workload: Workload, kept: int, ratio: float) -> tuple[list[ReductionEvent], int]:
    """Steps that leave `kept` tokens: halvings, the last one shorter."""
    if kept < 1:
        raise InvalidValueError("method.merge_ratio", f"at least 1/{workload.tokens_per_group}", ratio)
    removals, n = [], workload.tokens_per_group
    while n > kept:
        removals.append(min(n // 2, n - kept))
        n -= removals[-1]
    return _steps(workload, removals)
