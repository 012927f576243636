"""An estimate: stages, layers and ops; where the time goes, tokens by layer, the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...machine.peaks import compute_dtypes, peak_flops_per_s, require_hardware
from ...pricing.gain import limit
from ...pricing.priced import BOUNDS
from ...pricing.result import Estimate, Interval
from ...types.stages import STAGES
from ...units import KILO, TERA, format_seconds
from ..text import token_runs
from ..tree import breakdown, tree_rows
from . import Views
from .colours import COLOURS

__all__ = ["views"]

_MARKERS = "osD^v"


def views(estimate: Estimate) -> Views:
    """What can be shown of an estimate."""
    branches = breakdown(estimate)
    return Views(
        title=estimate._line(),
        facts=_facts(estimate),
        headers=["", "FLOPs", "DRAM traffic", "time", "share", "bound", "MFU"],
        cells=tree_rows(branches),
        notes=estimate.notes,
        frames={"ops": estimate.ops, "layers": estimate.layers, "stages": lambda: _stage_rows(estimate)},
        plots={
            "breakdown": lambda figure: draw_breakdown(estimate, figure),
            "tokens": lambda figure: draw_tokens(estimate, figure),
            "roofline": lambda figure: draw_roofline(estimate, figure),
        },
    )


def _facts(estimate: Estimate) -> list[str]:
    facts = [f"time to first token {_banded(estimate.ttft)}"] if estimate.ttft_s else []
    if estimate.tpot_s and "decode" in estimate.included:
        facts.append(f"time per output token {_banded(estimate.tpot)}")
    if estimate.gain is not None:
        ratio, saved = estimate.gain.speedup, estimate.gain.saved
        band = "" if ratio.high is None else f", 80 % band {ratio.low:.2f} to {ratio.high:.2f}x"
        change = f"{format_seconds(abs(saved.value))} {'saved' if saved.value >= 0 else 'lost'}"
        facts.append(f"{ratio.value:.2f}x over no reduction{band}: {change}; {limit(estimate.dense)}")
    facts.append(f"tokens by layer: {token_runs(estimate.run.computed)}")
    return facts


def _banded(found: Interval) -> str:
    band = "" if found.high is None else f", 80 % band {format_seconds(found.low)} to {format_seconds(found.high)}"
    return format_seconds(found.value) + band


def _stage_rows(estimate: Estimate) -> list[dict[str, Any]]:
    sums = estimate.to_dict()["stages"]
    return [{"stage": stage, "included": stage in estimate.included, **sums[stage]} for stage in STAGES]


def draw_breakdown(estimate: Estimate, figure: Any) -> None:
    """Time by stage to the first token, dense beside reduced where the run reduces."""
    runs = {"no reduction": estimate.dense, estimate.run.schedule.method: estimate}
    if estimate.dense is estimate:
        runs = {estimate.run.schedule.method: estimate}
    axes = figure.subplots()
    stages = [stage for stage in STAGES if stage != "decode" and any(stage in each.included for each in runs.values())]
    left = np.zeros(len(runs))
    for number, stage in enumerate(stages):
        # what a stack adds beside an operation is overhead, and beside a decode step not in the first token
        times = [_first_token_s(each, stage) * KILO for each in runs.values()]
        if any(times):
            axes.barh(list(runs), times, left=left, label=stage, color=COLOURS[number % len(COLOURS)])
            left += times
    for each, (position, end) in zip(runs.values(), enumerate(left), strict=True):
        axes.annotate(format_seconds(each.ttft_s), (end, position), (4, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("time to first token, ms")
    axes.set_title(_title(estimate), fontsize="medium")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")


def _first_token_s(estimate: Estimate, stage: str) -> float:
    if stage not in estimate.included:
        return 0.0
    own = estimate.priced.overhead(STAGES) if stage == "overhead" else estimate.rows([stage])
    return float(estimate.seconds[estimate.first_token_rows & own].sum())


def draw_tokens(estimate: Estimate, figure: Any) -> None:
    """Tokens by layer, visual over text, beside those without reduction."""
    schedule = estimate.run.computed
    tokens = np.asarray(schedule.tokens)
    edges = np.arange(len(tokens) + 1)
    axes = figure.subplots()
    axes.stairs(tokens, edges, fill=True, color=COLOURS[0], label="visual")
    axes.stairs(np.minimum(tokens, schedule.text_tokens), edges, fill=True, color=COLOURS[4], label="text")
    if estimate.dense is not estimate:
        axes.stairs(estimate.dense.run.computed.tokens, edges, color="0.35", linestyle="--", label="no reduction")
    axes.set(xlabel="layer of the language model", ylabel="tokens a request", xlim=(0, len(tokens)))
    axes.set_ylim(bottom=0)
    axes.set_title(_title(estimate), fontsize="medium")
    axes.legend(frameon=False, fontsize="small")


def draw_roofline(estimate: Estimate, figure: Any) -> None:
    """Every operation at its FLOPs per byte and the rate it attains, under the machine's datasheet ceilings."""
    machine = require_hardware(estimate.run.hardware)
    peak, _ = peak_flops_per_s(machine, compute_dtypes(estimate.run.precision)[0])
    axes = figure.subplots()
    points = _points(estimate)
    for number, bound in enumerate(BOUNDS):
        own = [point for point in points if point["bound"] == bound]
        if own:
            axes.scatter(
                [point["flops"] / point["bytes"] for point in own],
                [point["flops"] / point["time_s"] / TERA for point in own],
                s=22,
                marker=_MARKERS[number % len(_MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                alpha=0.8,
                linewidths=0,
                label=f"{bound}-bound",
            )
    found = [point["flops"] / point["bytes"] for point in points] or [1.0]
    ridge = peak / machine.memory_bytes_per_s
    across = np.geomspace(min(*found, ridge) / 2, max(*found, ridge) * 2, 64)
    roof = np.minimum(peak, across * machine.memory_bytes_per_s) / TERA
    axes.plot(across, roof, color="0.35", linewidth=1.2, label=f"{machine.name}, datasheet")
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte of DRAM traffic", ylabel="TFLOP/s")
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.set_title(_title(estimate), fontsize="medium")
    axes.legend(frameon=False, fontsize="small", loc="lower right")


def _points(estimate: Estimate) -> Sequence[dict[str, Any]]:
    return [
        op for op in estimate.ops() if op["flops"] and op["bytes"] and op["time_s"] and op["stage"] in estimate.included
    ]


def _title(estimate: Estimate) -> str:
    machine = estimate.run.hardware.name if estimate.run.hardware else "no hardware"
    return f"{estimate.run.model.name} on {machine}"
