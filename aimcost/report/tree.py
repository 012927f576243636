"""Where the time to the first token goes: tower → projector → merge → prefill → lm_head, as a tree."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass
from ..machine.peaks import compute_dtypes, peak_flops_per_s, require_hardware
from ..pricing.priced import BOUNDS
from ..pricing.result import Estimate
from ..pricing.table import Segment
from ..units import format_bytes, format_flops, format_seconds

__all__ = ["Branch", "breakdown", "tree_rows"]

_MATRIX_KINDS = ("gemm", "attention", "bmm")
_STAGE_TITLES = {"preprocess": "preprocess", "vision": "vision tower", "projector": "projector", "merge": "merge"}


@dataclass(frozen=True, slots=True)
class Branch:
    """One line of the tree: sums over the rows below it.

    `mfu` is matrix-product FLOPs over time at the peak of the products' format; None where no such
    product runs.
    """

    depth: int
    name: str
    flops: float
    bytes: float
    time_s: float
    bound: str
    mfu: float | None


def breakdown(estimate: Estimate) -> list[Branch]:
    """The tree in reading order; stages that are absent or left out are not listed."""
    groups: dict[tuple[str, ...], list[Segment]] = {}
    counted = estimate.rows(estimate.included)
    for segment in estimate.table.segments:
        # overhead that is one-sided, and so without a value, is in the band alone
        if counted[segment.start] and (not segment.beside or estimate.seconds[segment.start]):
            groups.setdefault(_path(estimate, segment), []).append(segment)
    order = sorted(groups, key=lambda path: _ORDER.index(path[1] if len(path) > 1 else path[0]))
    first = [segment for path in order if path[0] == _FIRST for segment in groups[path]]
    branches = [_branch(estimate, 0, _FIRST, first)] if first else []
    for title in dict.fromkeys(path[1] for path in order if path[0] == _FIRST):
        below = [path for path in order if path[:2] == (_FIRST, title)]
        together = [segment for path in below for segment in groups[path]]
        branches.append(_branch(estimate, 1, title, together))
        inside = {path[2]: groups[path] for path in below if len(path) > 2}
        # what chooses tokens in execution order, between the layers and what devices exchange
        order_inside = [*_FIRST_INSIDE, *(name for name in inside if name not in _NAMED), *_LAST_INSIDE]
        branches += [_branch(estimate, 2, name, inside[name]) for name in order_inside if name in inside]
    steps = [segment for path in order if path[0] == "decode" for segment in groups[path]]
    if steps:
        branches.append(_branch(estimate, 0, f"decode, {estimate.table.steps} steps", steps))
        if first:
            branches.append(_branch(estimate, 0, "total", [*first, *steps]))
    return branches


_FIRST = "to first token"
_ORDER = ("preprocess", "vision tower", "projector", "merge", "prefill", "lm_head", "stack overhead", "decode")
_FIRST_INSIDE, _LAST_INSIDE = ("embedding", "layers"), ("inter-device transfers",)
_NAMED = (*_FIRST_INSIDE, *_LAST_INSIDE)


def _path(estimate: Estimate, segment: Segment) -> tuple[str, ...]:
    """Position of an operation in the tree."""
    if "decode" in (segment.stage, segment.beside):
        return ("decode",)
    if segment.beside:
        return (_FIRST, "stack overhead")
    if segment.stage in _STAGE_TITLES:
        title = _STAGE_TITLES[segment.stage]
        merging = estimate.run.schedule.tower_events and segment.stage == "vision"
        if not merging:
            return (_FIRST, title)
        return (_FIRST, title, segment.name if segment.group == "selection" else "layers")
    if segment.place == "after":
        return (_FIRST, "lm_head")
    if segment.kind == "collective":
        return (_FIRST, "prefill", "inter-device transfers")
    if segment.group == "selection":
        return (_FIRST, "prefill", segment.name)
    if segment.place == "before":
        return (_FIRST, "prefill", "embedding")
    return (_FIRST, "prefill", "layers")


def _branch(estimate: Estimate, depth: int, name: str, segments: list[Segment]) -> Branch:
    table = estimate.table
    flops = size = seconds = matrix = 0.0
    shares: NDArray[np.float64] = np.zeros(len(BOUNDS))
    for segment in segments:
        rows = slice(segment.start, segment.stop)
        count, times = table.count[rows], estimate.seconds[rows]
        done = float(table.flops[rows] @ count)
        flops += done
        matrix += done if segment.kind in _MATRIX_KINDS else 0.0
        size += float(table.traffic[:, rows].sum(axis=0) @ count)
        seconds += float(times.sum())
        shares += np.bincount(estimate.bound[rows], weights=times, minlength=len(BOUNDS))
    machine = require_hardware(estimate.run.hardware)
    peak, _ = peak_flops_per_s(machine, compute_dtypes(estimate.run.precision)[0])
    mfu = matrix / (seconds * peak) if matrix and seconds else None
    return Branch(depth, name, flops, size, seconds, BOUNDS[int(shares.argmax())], mfu)


def tree_rows(branches: list[Branch], shown: Callable[[float], str] = format_flops) -> list[list[str]]:
    """Cells of a table: the name with its branches drawn, FLOPs as `shown`, traffic, time, share, bound, MFU."""
    total = max((branch.time_s for branch in branches), default=0.0) or 1.0
    rows = []
    for index, branch in enumerate(branches):
        rows.append(
            [
                _lines(branches, index) + branch.name,
                shown(branch.flops),
                format_bytes(branch.bytes),
                format_seconds(branch.time_s),
                f"{branch.time_s / total:.1%}",
                branch.bound,
                "-" if branch.mfu is None else f"{branch.mfu:.0%}",
            ]
        )
    return rows


def _lines(branches: list[Branch], index: int) -> str:
    """The branches drawn before a name: a line runs on where a later one hangs at its depth."""
    depth, text = branches[index].depth, ""
    for level in range(1, depth + 1):
        later = next((b.depth for b in branches[index + 1 :] if b.depth <= level), 0)
        on = later == level
        if level == depth:
            text += "├─ " if on else "└─ "
        else:
            text += "│  " if on else "   "
    return text
