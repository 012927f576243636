"""aiperf's ``profile_export_aiperf.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import FileFormatError
from .result import Result, Tool, batch_of, figure, served, stated, whole

__all__ = ["TOOL"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


def _wrote(data: Mapping[str, Any]) -> bool:
    return "aiperf_version" in data or ("request_latency" in data and "input_sequence_length" in data)


def _read(data: Mapping[str, Any], given: Mapping[str, Any]) -> list[Result]:
    """Medians over requests; requests in flight by Little's law, from throughput and latency."""
    if data.get("was_cancelled"):
        raise FileFormatError("the benchmark was cancelled")
    count = figure(data, "request_count", "avg", zero=True)
    if not count:
        raise FileFormatError("no request completed")
    text, new = figure(data, "input_sequence_length", "avg"), figure(data, "output_sequence_length", "avg")
    rate, latency = figure(data, "request_throughput", "avg"), _seconds(data, "request_latency", "avg")
    if text is None or new is None or rate is None or latency is None:
        raise FileFormatError(
            "input_sequence_length, output_sequence_length, request_throughput and request_latency must be given"
        )
    concurrency = max(1.0, rate * latency)
    clocks, notes = served(
        ttft_s=_typical(data, "time_to_first_token"),
        tpot_s=_typical(data, "inter_token_latency"),
        e2e_s=_typical(data, "request_latency"),
        concurrency=concurrency,
        statistic="median",
    )
    workload: dict[str, Any] = {
        "text_tokens": whole(text, "input tokens a request"),
        "new_tokens": whole(new, "output tokens a request"),
        "batch": batch_of(concurrency),
    }
    images = figure(data, "num_images", "avg", zero=True)
    if images and stated(given, "images") is None:
        workload["images"] = whole(images, "images a request")
    visual = workload.get("images") or any(stated(given, key) for key in ("images", "frames", "visual_tokens"))
    if visual and stated(given, "text_tokens") is None:
        notes = (*notes, f"the file's {text:g} input tokens are taken to be text, in addition to the visual tokens")
    return [Result(model=_model(data), run={"workload": workload}, clocks=clocks, notes=notes)]


def _typical(data: Mapping[str, Any], name: str) -> float | None:
    median = _seconds(data, name, "p50")
    return median if median is not None else _seconds(data, name, "avg")


def _seconds(data: Mapping[str, Any], name: str, statistic: str) -> float | None:
    value = figure(data, name, statistic, zero=True)
    if not value:
        return None
    unit = data[name].get("unit")
    if unit not in _UNITS:
        raise FileFormatError(f"{name}.unit must be one of {', '.join(_UNITS)} (got {unit!r})")
    return value * _UNITS[unit]


def _model(data: Mapping[str, Any]) -> str | None:
    config = data.get("input_config")
    endpoint = config.get("endpoint") if isinstance(config, Mapping) else None
    models = endpoint.get("model_names") if isinstance(endpoint, Mapping) else None
    return models[0] if isinstance(models, list) and len(models) == 1 and isinstance(models[0], str) else None


TOOL = Tool(name="aiperf", wrote=_wrote, read=_read)
