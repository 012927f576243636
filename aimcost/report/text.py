"""Tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..inputs.run import Run
from ..pricing.estimator import estimator_of
from ..pricing.gain import gain, limit
from ..pricing.memory import Memory
from ..pricing.result import Estimate
from ..pricing.summary import mean_visual_tokens, model_parameters
from ..types import HardwareSpec, Schedule, Serving, runs_of
from ..units import GIGA, format_bytes, format_count, format_flops, format_macs, format_seconds
from .table import plain_table, sparkline, table, terminal_width
from .tree import breakdown, tree_rows

if TYPE_CHECKING:
    from ..pricing.formulas import Formula

__all__ = ["estimate_text", "layers_text", "ops_text", "stack_label", "token_runs"]


def token_runs(schedule: Schedule) -> str:
    """Tokens layer by layer in runs: ``1,669 × 15, 1,472, 1,276``."""
    runs = runs_of(schedule.tokens)
    return ", ".join(format_count(tokens) + (f" × {layers}" if layers > 1 else "") for tokens, layers in runs)


def _work(macs: bool) -> tuple[str, Callable[[float], str]]:
    """What arithmetic is counted in: the head of a column, and how FLOPs are written there."""
    return ("MACs", format_macs) if macs else ("FLOPs", format_flops)


def estimate_text(
    estimate: Estimate,
    baseline: Estimate | None = None,
    fused: Estimate | None = None,
    *,
    macs: bool = False,
    formulas: Sequence[Formula] = (),
) -> str:
    """The headline view: where the time goes, gain over `baseline` (the unreduced run), memory, notes.

    Parameters
    ----------
    fused
        The same run with fused kernels, for a run with another implementation.
    macs
        Arithmetic in multiply-adds, each 2 FLOPs.
    formulas
        Papers whose count of the prompt is shown beside the executed FLOPs.
    """
    parts = [_headline(estimate), *(["MACs are multiply-adds: FLOPs / 2"] if macs else []), "", _stages(estimate, macs)]
    if baseline is not None:
        parts += ["", _gain(estimate, baseline, fused, macs)]
    parts += ["", _details(estimate, macs, formulas)]
    return "\n".join(parts)


def _headline(estimate: Estimate) -> str:
    run, workload = estimate.run, estimate.run.workload
    inputs = []
    if workload.frames:
        inputs.append(f"{workload.frames} frame" + ("s" if workload.frames > 1 else ""))
    if workload.images:
        inputs.append(f"{workload.images} image" + ("s" if workload.images > 1 else ""))
    inputs.append(f"{format_count(workload.visual_tokens)} visual + {format_count(workload.text_tokens)} text tokens")
    if workload.cached_tokens:
        inputs.append(f"{format_count(workload.cached_tokens)} of them cached")
    inputs.append(f"batch {workload.batch}")
    hardware = run.hardware.name if run.hardware else "no hardware"
    means = estimator_of(estimate.estimator).time_means
    return (
        f"{run.model.name} on {hardware}: {', '.join(inputs)}\n"
        f"method {run.schedule.method}, {stack_label(run)}, implementation {run.implementation}, "
        f"attention {_attention(run)}, estimator {estimate.estimator} ({means})"
    )


def stack_label(run: Run) -> str:
    """The software stack of a run; marked where it is the default."""
    if not estimator_of(run.estimator).uses_stack:
        return "no stack"
    return f"stack {run.stack.name}" + ("" if run.stack_given else " (default)")


def _attention(run: Run) -> str:
    tower = run.tower_attention
    return run.attention if tower == run.attention or run.model.vision is None else f"{run.attention} (tower {tower})"


def _stages(estimate: Estimate, macs: bool) -> str:
    arithmetic, shown = _work(macs)
    headers = ["", arithmetic, "DRAM traffic", "time", "share", "bound", "MFU"]
    branches = breakdown(estimate)
    if not branches:
        priced = dict.fromkeys(s.stage for s in estimate.table.segments if s.stage in estimate.stages_priced)
        return (
            f"nothing to price: `include` leaves out every stage that {estimate.estimator} prices ({', '.join(priced)})"
        )
    lines = [plain_table(tree_rows(branches, shown), headers)]
    if estimate.ttft_s > 0:
        low, high = estimate.ttft_band_s
        lines.append(
            f"time to first token {format_seconds(estimate.ttft_s)}"
            + ("" if high is None else f", 80 % band {format_seconds(low)} to {format_seconds(high)}")
            + (" (extrapolated beyond the calibrated range)" if estimate.ttft_extrapolated else "")
        )
    decode = estimate.stages["decode"]
    if decode.steps and "decode" in estimate.included:
        first, last = estimate.tpot_range_s
        low, high = estimate.tpot_band_s
        lines.append(
            f"time per output token {format_seconds(decode.tpot_s)}"
            + ("" if high is None else f", 80 % band {format_seconds(low)} to {format_seconds(high)}")
            + (f", rising from {both}" if (both := _range(first, last, " to ")) != format_seconds(first) else "")
        )
    return "\n".join(lines)


def _gain(estimate: Estimate, baseline: Estimate, fused: Estimate | None, macs: bool) -> str:
    """Speedup over the unreduced run, of what is included: to the first token, the prefill alone, a decode step.

    The band of a ratio is its own; under the table, what no reduction can touch.
    """

    def ratio(before: float, after: float) -> str:
        return f"{before / after:.2f}x" if after else "-"

    def timed(name: str, after: Estimate, what: str | Sequence[str]) -> list[str]:
        flops = [float(each.shares(what) @ each.priced.total_flops) for each in (baseline, after)]
        seconds = [each.interval(what).value for each in (baseline, after)]
        row = [name, ratio(*flops), ratio(*seconds), "", *map(format_seconds, seconds), ""]
        found = gain(baseline, after, what)
        if found is not None:
            row[6] = _signed_seconds(found.saved.value)
            if found.speedup.high is not None and found.saved.high is not None:
                row[3] = f"{found.speedup.low:.2f}–{found.speedup.high:.2f}x"
                row[6] += f" ({_signed_seconds(found.saved.low)} to {_signed_seconds(found.saved.high)})"
        return row

    first = [stage for stage in estimate.included if stage not in ("decode", "overhead")]
    rows = [timed("to first token", estimate, "ttft")] if first else []
    if first and fused is not None:
        rows.append(timed("same, if fused", fused, "ttft"))
    if "prefill" in first:
        rows.append(timed("LLM prefill alone", estimate, ["prefill"]))
    if "decode" in estimate.included and estimate.stages["decode"].steps:
        rows.append(timed("per output token", estimate, "tpot"))
    rows += _request(estimate, baseline, timed)
    cache = [baseline.memory.kv_bytes, estimate.memory.kv_bytes]
    rows.append(["KV cache", "-", ratio(*cache), "", *map(format_bytes, cache), format_bytes(cache[0] - cache[1])])
    headers = [
        "gain over no reduction",
        _work(macs)[0],
        "time, rate, size",
        "80 % band",
        "before",
        "after",
        "saved (80 % band)",
    ]
    if baseline.band is None:
        rows = [[cell for at, cell in enumerate(row) if at != 3] for row in rows]
        headers = [*headers[:3], *headers[4:-1], "saved"]
    bound = limit(baseline) if first else ""
    return plain_table(rows, headers) + (f"\n{bound}" if bound else "")


def _request(
    estimate: Estimate, baseline: Estimate, timed: Callable[[str, Estimate, str], list[str]]
) -> Iterator[list[str]]:
    """The whole request, where it goes on after the first token, and what comes out of it a second."""
    workload, seconds = estimate.run.workload, [each.totals.time_s for each in (baseline, estimate)]
    decodes = "decode" in estimate.included and estimate.stages["decode"].steps > 0
    counts = {"tokens": workload.new_tokens if decodes else 0}
    if estimate.ttft_s:
        counts |= {"images": workload.images, "frames": workload.frames}
        if decodes:
            yield timed("whole request", estimate, "request")
    for what, count in counts.items():
        if count and all(seconds):
            rates = [workload.batch * count / each for each in seconds]
            yield [f"{what} a second", "-", f"{rates[1] / rates[0]:.2f}x", "", *map(_rate, rates), ""]


def _rate(each_second: float) -> str:
    return f"{each_second:,.{1 if each_second < 1000 else 0}f}/s"


def _signed_seconds(seconds: float) -> str:
    # a difference of equal times may round to less than the last digit of a nanosecond
    seconds = 0.0 if abs(seconds) < 5e-13 else seconds
    return format_seconds(seconds) if seconds >= 0 else f"−{format_seconds(-seconds)}"


def _details(estimate: Estimate, macs: bool, formulas: Sequence[Formula]) -> str:
    memory, hardware = estimate.memory, estimate.run.hardware
    lines = [_model(estimate.run), f"tokens by layer  {token_runs(estimate.run.computed)}"]
    width = terminal_width()
    if width is not None:
        lines.append(" " * 17 + sparkline(estimate.run.computed.tokens, width - 17))
    if estimate.run.workload.visual_tokens:
        mean, given = mean_visual_tokens(estimate.run), estimate.run.workload.visual_tokens
        lines.append(f"visual tokens    {mean:,.1f} a layer on average, of {format_count(given)}")
    executed = _work(macs)[1](estimate.stages["prefill"].flops)
    lines += [
        f"formula          {formula.name}: {format_flops(formula.flops(estimate.run))}, {formula.stated} "
        f"({formula.source}); {executed} executed in prefill"
        for formula in formulas
    ]
    reduction = estimate.reduction()
    if reduction["time_s"]:
        parts = ", ".join(f"{name} {format_seconds(s)}" for name, s in reduction["time_by_op_s"].items())
        share = reduction["time_s"] / estimate.ttft_s if estimate.ttft_s else 0.0
        lines.append(
            f"reduction        {format_seconds(reduction['time_s'])}, {share:.1%} of the time to first token: {parts}"
        )
    lines += _memory(memory, hardware, estimate.run.serving)
    towered = estimate.run.model.vision is not None and estimate.run.workload.visual_tokens > 0
    if towered and "vision" not in estimate.included:
        lines.append("note             memory covers the whole request, vision tower included")
    if estimate.run.include is None:
        lines.append("included         all stages but preprocess")
    else:
        lines.append(f"included         {', '.join(estimate.included)}")
    lines += [f"note             {note}" for note in estimate.notes]
    return "\n".join(lines)


def _model(run: Run) -> str:
    """Parameters, stored and those that a token passes through, and the positions that the model was made for."""
    stored, active = model_parameters(run.model)
    line = f"model            {stored / GIGA:.2f} G parameters"
    if active != stored:
        line += f", {active / GIGA:.2f} G active"
    limit = run.model.decoder.context_limit
    return line + (f"; context limit {format_count(limit)}" if limit is not None else "")


def _memory(memory: Memory, hardware: HardwareSpec | None, serving: Serving) -> list[str]:
    """Peak memory and the stage that sets it, what fits, and the KV cache after the last token."""
    peak = memory.peak_stage
    parts = (
        f"weights {format_bytes(memory.weights_bytes)} + KV {format_bytes(peak.kv_bytes)} + "
        f"activations {format_bytes(peak.activation_bytes)} = {format_bytes(memory.peak_bytes)} "
        f"at peak ({peak.stage})"
    )
    lines = [
        f"memory           {parts}",
        f"KV cache         {format_bytes(memory.kv_bytes)} after the last token",
    ]
    if memory.usable_bytes is not None and hardware is not None:
        verdict = "fits"
        if not memory.fits:
            verdict = f"DOES NOT FIT, {format_bytes(memory.shortfall_bytes)} short"
        largest = memory.largest_batch
        room = f"largest batch {format_count(largest)}" if largest else "not even a batch of 1 fits"
        lines.append(
            f"fit              {verdict}: {format_bytes(memory.usable_bytes)} usable "
            f"({hardware.usable_memory_source}); {room}"
        )
    if memory.concurrent_requests is not None:
        named = f"{serving.memory_fraction:.0%} of the memory"
        if hardware is not None and (memory.usable_bytes or math.inf) < serving.memory_fraction * (
            hardware.memory_bytes or 0.0
        ):
            named = "the usable memory"
        lines.append(f"serving          {_served(memory.concurrent_requests, serving, named)}")
    return lines


def _served(requests: int, serving: Serving, memory: str) -> str:
    length = f" of {format_count(serving.max_model_len)} tokens" if serving.max_model_len is not None else ""
    named = "request" if requests == 1 else "requests"
    return (
        f"{format_count(requests)} {named}{length} at once in {memory}, "
        f"{format_count(serving.prefill_chunk)} prompt tokens in flight"
    )


def _range(low: float, high: float, between: str) -> str:
    """Two times, or one where they read the same."""
    return between.join(dict.fromkeys([format_seconds(low), format_seconds(high)]))


def layers_text(estimate: Estimate, *, macs: bool = False) -> str:
    """Prefill by layer."""
    arithmetic, shown = _work(macs)
    rows = [
        [
            str(layer["index"]),
            format_count(layer["tokens"]),
            shown(layer["flops"]),
            format_bytes(layer["bytes"]),
            format_seconds(layer["time_s"]),
            layer["bound"],
        ]
        for layer in estimate.layers()
    ]
    return table(rows, ["layer", "tokens", arithmetic, "DRAM traffic", "time", "bound"])


def ops_text(estimate: Estimate, *, macs: bool = False) -> str:
    """By operation: each name of a stage summed over layers and steps, and the range of one run's time."""
    arithmetic, shown = _work(macs)
    merged: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for op in estimate.ops():
        merged.setdefault((op["stage"], op["name"]), []).append(op)
    rows = []
    for (stage, name), ops in merged.items():
        times = [op["time_s"] for op in ops]
        bounds = sorted({op["bound"] for op in ops})
        steps = estimate.table.steps if stage == "decode" else 1
        each = _range(min(times) / steps, max(times) / steps, " … ") if len(ops) * steps > 1 else ""
        rows.append(
            [
                stage,
                name,
                format_count(len(ops) * steps),
                shown(sum(op["flops"] for op in ops)),
                format_bytes(sum(op["bytes"] for op in ops)),
                format_seconds(sum(times)),
                each,
                "/".join(bounds),
            ]
        )
    headers = ["stage", "operation", "runs", arithmetic, "DRAM traffic", "time", "each", "bound"]
    return table(rows, headers, left=2)
