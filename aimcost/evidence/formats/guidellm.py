"""guidellm's ``benchmarks.json``: one operating point a benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...errors import FileFormatError
from .result import Result, Tool, batch_of, figure, served, stated, whole

__all__ = ["TOOL"]

_MS = 1e-3


def _wrote(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("benchmarks"), list) and "metadata" in data


def _read(data: Mapping[str, Any], given: Mapping[str, Any]) -> list[Result]:
    """Medians over successful requests, by benchmark."""
    benchmarks = data["benchmarks"]
    if not benchmarks:
        raise FileFormatError("benchmarks is empty")
    return [_point(each, index, len(benchmarks), given) for index, each in enumerate(benchmarks)]


def _point(benchmark: Any, index: int, count: int, given: Mapping[str, Any]) -> Result:
    if not isinstance(benchmark, Mapping) or not isinstance(benchmark.get("metrics"), Mapping):
        raise FileFormatError(f"benchmarks.{index} must be a mapping with 'metrics'")
    metrics = benchmark["metrics"]
    label = f"{index}-{_strategy(benchmark)}/" if count > 1 else ""
    done = figure(metrics, "request_totals", "successful", zero=True)
    if done == 0:
        return Result(label=label, run={}, clocks=(), notes=(f"benchmark {index}: no request succeeded",))
    text, new = (_successful(metrics, key, "mean") for key in ("prompt_token_count", "output_token_count"))
    concurrency = _successful(metrics, "request_concurrency", "mean")
    if text is None or new is None or concurrency is None:
        raise FileFormatError(
            f"benchmarks.{index}.metrics: prompt_token_count, output_token_count and request_concurrency must be given"
        )
    ttft, step, e2e = (
        _successful(metrics, key, "median")
        for key in ("time_to_first_token_ms", "inter_token_latency_ms", "request_latency")
    )
    clocks, left_out = served(
        ttft_s=None if ttft is None else ttft * _MS,
        tpot_s=None if step is None else step * _MS,
        e2e_s=e2e,
        concurrency=max(1.0, concurrency),
        statistic="median",
    )
    workload, notes = _visual(metrics, text, given)
    workload |= {"new_tokens": whole(new, "output tokens a request"), "batch": batch_of(concurrency)}
    return Result(label=label, run={"workload": workload}, clocks=clocks, notes=(*notes, *left_out))


def _successful(metrics: Mapping[str, Any], name: str, statistic: str) -> float | None:
    value = figure(metrics, name, "successful", statistic, zero=True)
    return value or None


def _visual(metrics: Mapping[str, Any], text: float, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Images of a request, and the text beside them: a server counts both as prompt tokens."""
    tokens = _successful(_part(metrics, "image"), "tokens", "mean")
    images = _successful(_part(metrics, "image"), "images", "mean")
    pixels = _successful(_part(metrics, "image"), "pixels", "mean")
    frames = _successful(_part(metrics, "video"), "frames", "mean")
    frame_tokens = _successful(_part(metrics, "video"), "tokens", "mean")
    workload: dict[str, Any] = {}
    notes: list[str] = []
    visual = (tokens or 0.0) + (frame_tokens or 0.0)
    if visual and stated(given, "text_tokens") is None:
        notes.append(f"{visual:g} visual tokens subtracted from {text:g} prompt tokens")
    elif (images or frames) and not visual and stated(given, "text_tokens") is None:
        notes.append(f"the file does not count visual tokens: {text:g} prompt tokens are taken to be text")
    workload["text_tokens"] = whole(text - visual, "text tokens a request")
    if images and stated(given, "images") is None:
        workload["images"] = whole(images, "images a request")
        if pixels and stated(given, "image_size") is None:
            side = round(math.sqrt(pixels / images))
            workload["image_size"] = side
            notes.append(f"image_size {side}: squares of the same area, since the file records no sides")
    if frames and stated(given, "frames") is None:
        workload["frames"] = whole(frames, "frames a request")
    return workload, notes


def _part(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = metrics.get(name)
    return part if isinstance(part, Mapping) else {}


def _strategy(benchmark: Mapping[str, Any]) -> str:
    config = benchmark.get("config")
    strategy = config.get("strategy") if isinstance(config, Mapping) else None
    name = strategy.get("type_") if isinstance(strategy, Mapping) else None
    return name if isinstance(name, str) else "benchmark"


TOOL = Tool(name="guidellm", wrote=_wrote, read=_read)
