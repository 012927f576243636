"""optimum-benchmark's ``benchmark_report.json`` (the report alone) and ``benchmark.json`` (with its configuration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import FileFormatError, InvalidValueError, argument
from .result import DECODED, FIRST_TOKEN, REQUEST, Clock, Result, Tool, figure, needed

__all__ = ["TOOL"]

_TARGETS = ("load_model", "first_generate", "generate", "prefill", "decode", "per_token", "forward", "call")


def _report(data: Mapping[str, Any]) -> Mapping[str, Any]:
    report = data.get("report")
    return report if isinstance(report, Mapping) else data


def _wrote(data: Mapping[str, Any]) -> bool:
    report = _report(data)
    return any(isinstance(report.get(name), Mapping) and "latency" in report[name] for name in _TARGETS)


def _read(data: Mapping[str, Any], given: Mapping[str, Any]) -> list[Result]:
    """Prefill, decode and generate; medians over repeats."""
    report, (model, workload) = _report(data), _configured(data)
    known = {"workload": {**workload, **(given.get("workload") or {})}}
    why = "the report does not record it (benchmark.json beside it does)"
    batch = needed(known, "batch", why)
    clocks, notes = [], []
    prefill, decode, generate = (_latency(report, name) for name in ("prefill", "decode", "generate"))
    if prefill is not None:
        clocks.append(Clock(quantity="ttft", seconds=prefill, stages=FIRST_TOKEN, trust="high"))
    if decode is not None or generate is not None:
        new = needed(known, "new_tokens", why)
        if new < 2:
            raise InvalidValueError(argument("new_tokens"), "at least 2: the report has decode steps", new)
        if decode is not None:
            _check_steps(report, decode, batch, new)
            clocks.append(Clock(quantity="tpot", seconds=decode / (new - 1), stages=DECODED, trust="high"))
        elif generate is not None:
            clocks.append(Clock(quantity="e2e", seconds=generate, stages=REQUEST, trust="high"))
    unused = [name for name in ("forward", "call") if _latency(report, name) is not None]
    if unused:
        notes.append(f"left out: {', '.join(unused)} (no stage of a request)")
    if not clocks:
        raise FileFormatError("has neither prefill nor decode nor generate")
    return [Result(model=model, run={"workload": workload}, clocks=tuple(clocks), notes=tuple(notes))]


def _latency(report: Mapping[str, Any], target: str) -> float | None:
    """Seconds of a target: the median, else the mean."""
    if report.get(target) is None:
        return None
    unit = report[target].get("latency", {}).get("unit", "s") if isinstance(report[target], Mapping) else None
    if unit != "s":
        raise FileFormatError(f"{target}.latency.unit must be 's' (got {unit!r})")
    median = figure(report, target, "latency", "p50")
    return median if median is not None else figure(report, target, "latency", "mean")


def _check_steps(report: Mapping[str, Any], decode_s: float, batch: int, new: int) -> None:
    """The tokens that decode's throughput counts must be those of the run."""
    rate, mean = figure(report, "decode", "throughput", "value"), figure(report, "decode", "latency", "mean")
    if rate is None:
        return
    tokens = rate * (mean if mean is not None else decode_s)
    if abs(tokens / (batch * (new - 1)) - 1.0) > 0.02:
        raise InvalidValueError(
            argument("new_tokens"),
            f"{round(tokens / batch) + 1} at batch {batch}: decode's throughput counts {tokens:.0f} tokens",
            new,
        )


def _configured(data: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Model and workload of ``benchmark.json``'s configuration."""
    config = data.get("config")
    if not isinstance(config, Mapping):
        return None, {}
    scenario, backend = (config.get(name) for name in ("scenario", "backend"))
    shapes = scenario.get("input_shapes") if isinstance(scenario, Mapping) else None
    generate = scenario.get("generate_kwargs") if isinstance(scenario, Mapping) else None
    model = backend.get("model") if isinstance(backend, Mapping) else None
    places: tuple[tuple[str, Any, str], ...] = (
        ("batch", shapes, "batch_size"),
        ("text_tokens", shapes, "sequence_length"),
        ("new_tokens", generate, "max_new_tokens"),
        ("images", shapes, "num_images"),
    )
    workload = {
        key: where[name]
        for key, where, name in places
        if isinstance(where, Mapping) and isinstance(where.get(name), int) and where[name] > 0
    }
    return model if isinstance(model, str) else None, workload


TOOL = Tool(name="optimum-benchmark", wrote=_wrote, read=_read)
