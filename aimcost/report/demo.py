"""The demonstration's result, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..units import format_seconds
from .table import table
from .text import token_runs

if TYPE_CHECKING:
    from ..measure.demo import Demonstration

__all__ = ["demo_text"]


def demo_text(result: Demonstration) -> str:
    """Measured tokens by layer, times, speedup, and what FLOPs alone would give."""
    schedule, measured = result.schedule, result.measured
    rows = [
        [name, format_seconds(timing.median), f"{timing.spread:.1%}", str(len(timing.samples))]
        for name, timing in (
            ("dense", measured.dense),
            ("reduced", measured.reduced),
            ("as released (masked, eager)", measured.released),
        )
    ]
    clock = "one thread's CPU time" if measured.device == "cpu" else "CUDA events"
    same = "as scheduled" if measured.tokens == schedule.tokens else "NOT as scheduled"
    cuts = ", ".join(f"after {e.after_layer}: {e.tokens_in} → {e.tokens_out}" for e in schedule.layer_events)
    share = measured.selection_s / measured.reduced.median
    masked = measured.dense.median / measured.released.median
    shares = (
        ", ".join(f"{share:.0%} after {layer}" for layer, share in measured.overlap.items()) or "no visual tokens left"
    )
    return "\n".join(
        [
            f"{result.frames} frames, {len(schedule.tokens)} layers of Qwen2-0.5B's shape, random weights, "
            f"{measured.dtype} on {measured.device} ({clock})",
            f"tokens by layer, measured: {token_runs(schedule)} ({same})",
            f"cuts {cuts}",
            "",
            table(rows, ["LLM prefill", "median", "spread", "repeats"]),
            "",
            f"measured speed-up {result.speedup:.2f}x; by FLOPs alone {result.flop_ratio:.2f}x "
            f"({result.speedup / result.flop_ratio - 1:+.1%})",
            f"speed-up as released (merging removes tokens, pruning only masks them): {masked:.2f}x",
            f"tokens kept by the released code as well: {shares}",
            f"selection (score, select, gather), timed separately: {format_seconds(measured.selection_s)}, "
            f"{share:.1%} of the reduced prefill",
        ]
    )
