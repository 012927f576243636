"""``vllm bench serve`` (--save-result, --save-detailed), ``vllm bench latency`` and ``vllm bench throughput``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from statistics import median
from typing import Any

from ...errors import FileFormatError, InvalidValueError, argument
from .result import REQUEST, Clock, Result, Tool, batch_of, figure, needed, served, stated, whole

__all__ = ["TOOLS"]

_MS = 1e-3


def _serve(data: Mapping[str, Any], given: Mapping[str, Any]) -> list[Result]:
    """Requests at a server: medians where the file has them, else means."""
    completed = figure(data, "completed", zero=True)
    if not completed:
        raise FileFormatError("no request completed")
    failed = figure(data, "failed", zero=True) or 0.0
    notes = [f"{failed:.0f} of {failed + completed:.0f} requests failed"] if failed else []
    rate = data.get("request_rate")
    if rate not in (None, "inf") and not isinstance(rate, int | float):
        raise FileFormatError(f"request_rate must be a number or 'inf' (got {rate!r})")
    times = {name: _latency(data, name) for name in ("ttft", "tpot", "e2el")}
    detailed = _detailed(data)
    for name, seconds in detailed.items():
        if times.get(name, (None,))[0] is None:
            times[name] = (seconds, "median")
    statistic = next((how for seconds, how in times.values() if seconds is not None), "")
    inputs, outputs = figure(data, "total_input_tokens"), figure(data, "total_output_tokens")
    if inputs is None or outputs is None:
        raise FileFormatError("total_input_tokens and total_output_tokens must be given")
    text, new = (
        whole(inputs / completed, "input tokens a request"),
        whole(outputs / completed, "output tokens a request"),
    )
    notes += _uneven(data, "input_lens") + _uneven(data, "output_lens")
    ttft, tpot, e2e = (times[name][0] for name in ("ttft", "tpot", "e2el"))
    if e2e is None and ttft is not None and tpot is not None:
        # in flight: what a request takes, from its first token and its steps; not measured separately
        lasts = ttft + tpot * max(0, new - 1)
    else:
        lasts = e2e if e2e is not None else 0.0
    duration = figure(data, "duration")
    if duration is None or not lasts:
        raise FileFormatError("duration and the times to first and per output token must be given")
    concurrency = max(1.0, completed * lasts / duration)
    clocks, left_out = served(
        ttft_s=ttft, tpot_s=tpot if new > 1 else None, e2e_s=e2e, concurrency=concurrency, statistic=statistic
    )
    visual = any(stated(given, key) for key in ("images", "frames", "visual_tokens"))
    if visual and stated(given, "text_tokens") is None:
        notes.append(f"the file's {text} input tokens are taken to be text, in addition to the visual tokens")
    workload = {"text_tokens": text, "new_tokens": new, "batch": batch_of(concurrency)}
    model = data.get("model_id")
    return [
        Result(
            model=model if isinstance(model, str) else None,
            run={"workload": workload},
            clocks=clocks,
            notes=(*notes, *left_out),
        )
    ]


def _latency(data: Mapping[str, Any], name: str) -> tuple[float | None, str]:
    """Seconds of a metric, and which statistic they are."""
    for statistic in ("median", "mean"):
        value = figure(data, f"{statistic}_{name}_ms", zero=True)
        if value:
            return value * _MS, statistic
    return None, ""


def _detailed(data: Mapping[str, Any]) -> dict[str, float]:
    """Medians over the requests of ``--save-detailed``, where there are such lists; failed requests are left out."""
    ttfts = _numbers(data, "ttfts")
    if ttfts is None:
        return {}
    itls = data.get("itls")
    errors = data.get("errors") or [""] * len(ttfts)
    if not isinstance(itls, list) or not isinstance(errors, list) or not len(itls) == len(errors) == len(ttfts):
        raise FileFormatError("ttfts, itls and errors must be lists of one length")
    good = [not error for error in errors]
    steps = [_mean(each, "itls") for each in compress(itls, good) if each]
    first = [value for value in compress(ttfts, good) if value > 0]
    found = {"ttft": median(first)} if first else {}
    return {**found, "tpot": median(steps)} if steps else found


def _mean(values: Any, name: str) -> float:
    if not isinstance(values, list) or not all(isinstance(v, int | float) and v >= 0 for v in values):
        raise FileFormatError(f"{name} must hold lists of seconds")
    return sum(values) / len(values)


def _numbers(data: Mapping[str, Any], key: str) -> Sequence[float] | None:
    values = data.get(key)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(v, int | float) and v >= 0 for v in values):
        raise FileFormatError(f"{key} must be a list of numbers of at least zero")
    return values


def _uneven(data: Mapping[str, Any], key: str) -> list[str]:
    """A note where requests differ in length: the run uses their mean."""
    values = _numbers(data, key)
    if not values or max(values) <= 1.1 * min(values):
        return []
    return [f"{key} from {min(values):g} to {max(values):g}: the run uses their mean"]


def _batch_latency(data: Mapping[str, Any], given: Mapping[str, Any]) -> list[Result]:
    """A batch from prompt to last token. The file says neither batch nor lengths."""
    median_s = figure(data, "percentiles", "50")
    seconds, statistic = (median_s, "median") if median_s is not None else (figure(data, "avg_latency"), "mean")
    if seconds is None:
        raise FileFormatError("avg_latency must be given")
    for key in ("batch", "text_tokens", "new_tokens"):
        needed(given, key, "vllm bench latency does not record it")
    clock = Clock(quantity="e2e", seconds=seconds, stages=REQUEST, trust="high", notes=(f"{statistic} over batches",))
    return [Result(run={}, clocks=(clock,))]


def _throughput(data: Mapping[str, Any], given: Mapping[str, Any]) -> list[Result]:
    """All requests together, where they were one batch."""
    seconds, requests, tokens = (figure(data, key) for key in ("elapsed_time", "num_requests", "total_num_tokens"))
    if seconds is None or requests is None or tokens is None:
        raise FileFormatError("elapsed_time, num_requests and total_num_tokens must be given")
    count = whole(requests, "num_requests")
    batch = needed(given, "batch", f"{count} to take its {count} requests as one batch, if the engine ran them so")
    if batch != count:
        raise InvalidValueError(
            argument("batch"), f"{count}, the requests of the file: it has no clock of fewer", batch
        )
    new = needed(given, "new_tokens", "vllm bench throughput records only their sum")
    text = tokens / requests - new
    if text < 1:
        raise InvalidValueError(argument("new_tokens"), f"under the {tokens / requests:g} tokens a request", new)
    clock = Clock(quantity="e2e", seconds=seconds, stages=REQUEST, notes=("all requests as one batch",))
    return [Result(run={"workload": {"text_tokens": round(text)}}, clocks=(clock,))]


def _has(*keys: str) -> Any:
    return lambda data: all(key in data for key in keys)


TOOLS = (
    Tool(name="vllm bench serve", wrote=_has("completed", "request_throughput", "total_input_tokens"), read=_serve),
    Tool(name="vllm bench latency", wrote=_has("avg_latency", "latencies"), read=_batch_latency),
    Tool(
        name="vllm bench throughput", wrote=_has("elapsed_time", "num_requests", "tokens_per_second"), read=_throughput
    ),
)
