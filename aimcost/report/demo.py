"""The demonstration's result, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import format_seconds
from .text import table, token_runs

if TYPE_CHECKING:
    from ..runtime.demo import DemoResult

__all__ = ["demo_text"]


def demo_text(result: DemoResult) -> str:
    """Measured tokens by layer, times, speedup, and what FLOPs alone would give."""
    schedule = result.schedule
    rows = [
        [name, format_seconds(timing.median), f"{timing.spread:.1%}", str(len(timing.samples))]
        for name, timing in (("dense", result.dense), ("reduced", result.reduced))
    ]
    clock = "one thread's CPU time" if result.device == "cpu" else "CUDA events"
    same = "as scheduled" if result.tokens == schedule.tokens else "NOT as scheduled"
    cuts = ", ".join(f"after {e.after_layer}: {e.tokens_in} → {e.tokens_out}" for e in schedule.layer_events)
    share = result.selection_s / result.reduced.median
    return "\n".join(
        [
            f"{result.frames} frames, {len(schedule.tokens)} layers of Qwen2-0.5B's shape, random weights, "
            f"{result.dtype} on {result.device} ({clock})",
            f"tokens by layer, measured: {token_runs(schedule)} ({same})",
            f"cuts {cuts}",
            "",
            table(rows, ["LLM prefill", "median", "spread", "repeats"]),
            "",
            f"measured speedup {result.speedup:.2f}x; FLOPs alone give {result.flop_ratio:.2f}x "
            f"({result.speedup / result.flop_ratio - 1:+.1%})",
            f"selection (score, select, gather), timed alone: {format_seconds(result.selection_s)}, "
            f"{share:.1%} of the reduced prefill",
        ]
    )
