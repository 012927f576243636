"""One schedule of a plan: its run file, and what the estimator says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...inputs.run import Run, load_run
from ...pricing.budgets import figures_of
from ...pricing.pricing import estimate_run
from ...pricing.result import Estimate
from .budgets import Budgets, upper_end
from .search import Found

__all__ = ["Choice", "choice_of", "run_mapping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A candidate, estimated as any run.

    Attributes
    ----------
    run
        The run file, budgets included.
    ttft_upper_s
        The end of the band that the budget is held against; None where its middle is.
    kept_tokens, kept_share
        Visual tokens summed over layers, and their share of what no reduction would keep.
    expected_score
        The surrogate's; None without one, or beyond its measured points.
    """

    run: dict[str, Any]
    label: str
    shape: str
    estimate: Estimate
    ttft_upper_s: float | None
    kept_tokens: int
    kept_share: float
    expected_score: float | None

    @property
    def figures(self) -> dict[str, float]:
        """What budgets are held against, by `Budgets` name."""
        found = figures_of(self.estimate)
        return found if self.ttft_upper_s is None else {**found, "ttft": self.ttft_upper_s}

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        result, workload = self.estimate, self.estimate.run.workload
        low, high = result.ttft_band_s
        return {
            "run": self.run,
            "label": self.label,
            "shape": self.shape,
            "hardware": result.run.hardware.name if result.run.hardware else None,
            "batch": workload.batch,
            "frames": workload.frames,
            "tokens": list(result.run.schedule.tokens),
            "kept_tokens": self.kept_tokens,
            "kept_share": self.kept_share,
            "expected_score": self.expected_score,
            "ttft_s": result.ttft_s,
            "ttft_low_s": low,
            "ttft_high_s": high,
            "ttft_upper_s": self.ttft_upper_s,
            **result.decode_step(),
            "flops": result.totals.flops,
            "kv_bytes": result.memory.kv_bytes,
            "peak_bytes": result.memory.peak_bytes,
        }


def run_mapping(run: Run, method: Mapping[str, Any], budgets: Budgets) -> dict[str, Any]:
    """The run file of `run` with another method, and the budgets it was planned for."""
    mapping = run.document()
    mapping["method"] = dict(method)
    mapping["budgets"] = budgets.to_file()
    return {key: value for key, value in mapping.items() if value != {}}


def choice_of(found: Found, budgets: Budgets, spread: float | None) -> Choice:
    """A candidate of the search, run through the estimator on its own."""
    grid = found.grid
    mapping = run_mapping(grid.run, grid.method(found.position), budgets)
    # not `with_method`: the grid's run holds the schedule of its base, which would be reused for the run's own method
    result = estimate_run(load_run(mapping))
    schedule, workload = result.run.schedule, result.run.workload
    visual = sum(max(0, count - schedule.text_tokens) for count in schedule.tokens)
    return Choice(
        run=mapping,
        label=grid.label,
        shape=grid.shape,
        estimate=result,
        ttft_upper_s=None if spread is None else upper_end(result, spread),
        kept_tokens=visual,
        kept_share=visual / max(1, workload.visual_tokens * len(schedule.tokens)),
        expected_score=found.score,
    )
