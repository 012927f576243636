"""What a campaign found, from its folder alone: no torch, no GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...api import estimate
from ...errors import AimcostError, FileFormatError
from ...inputs import discover
from ...inputs.files import read_mapping
from ...units import TERA
from ..records import Record, Sample, load_record
from .book import results_of
from .floors import Peaks, floor_s, measured_profile, peaks_of
from .predicting import errors_of, predictions
from .run import SUMMARY

__all__ = ["summarise"]

REDUCTION = ("merge", "score", "select", "gather")


def summarise(folder: str | Path) -> dict[str, Any]:
    """Tables of a campaign's records: steps, kernels, dense prefills, the paper's rows, and the rest.

    Returns
    -------
    dict
        ``steps``, ``checks``, ``kernels``, ``dense``, ``rows``, ``stages``, ``memory``, ``overhead``,
        ``predictions``, ``prediction_errors`` and the circumstances. Times are medians in seconds; what was
        not measured is absent or None.

    Raises
    ------
    FileFormatError
        The folder holds no campaign.
    """
    folder = Path(folder)
    state = _state(folder)
    records = {entry["name"]: _record(folder / f"{entry['name']}.json") for entry in state["steps"]}
    peaks = peaks_of(folder, state["dtype"])
    prefills = [*_samples(records, "dense"), *_samples(records, "seeds"), *_samples(records, "masked")]
    predicted = predictions(prefills, measured_profile(folder))
    rows = _rows(prefills, tiny=bool(state.get("tiny")))
    return {
        **{key: value for key, value in state.items() if key != "steps"},
        "steps": state["steps"],
        "peaks": None if peaks is None else {"flops_per_s": peaks.flops_per_s, "bytes_per_s": peaks.bytes_per_s},
        "checks": _results(records, "correctness"),
        "kernels": [_kernel(sample, peaks) for sample in _samples(records, "kernels")],
        "dense": _dense(_samples(records, "dense"), peaks),
        "rows": rows,
        "predictions": predicted,
        "prediction_errors": errors_of(predicted),
        "overhead": _overhead(_samples(records, "kernels"), rows, peaks),
        "stages": [
            *(_stage(s) for s in _samples(records, "dense") if "sdpa" in s.labels),
            *(_stage(s) for name in ("tower", "decode", "ttft") for s in _samples(records, name)),
        ],
        "memory": _results(records, "memory"),
    }


def _state(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FileFormatError(f"{folder}: holds no campaign: {SUMMARY} is missing or not JSON") from None
    if not isinstance(found, dict) or found.get("schema_version") != 1 or not isinstance(found.get("steps"), list):
        raise FileFormatError(f"{path}: is not the summary of a campaign")
    return found


def _record(path: Path) -> Record | None:
    try:
        return load_record(path)
    except AimcostError:
        return None


def _samples(records: Mapping[str, Record | None], name: str) -> list[Sample]:
    record = records.get(name)
    return [] if record is None else list(record.samples)


def _results(records: Mapping[str, Record | None], name: str) -> list[Mapping[str, Any]]:
    record = records.get(name)
    return [] if record is None else results_of(record)


def _kernel(sample: Sample, peaks: Peaks | None) -> dict[str, Any]:
    floor = None if peaks is None else floor_s(sample, peaks)
    return {
        "op": sample.op,
        "name": sample.name,
        "dims": dict(sample.dims),
        "dtype": sample.dtype,
        "median_s": sample.median_s,
        "spread": sample.spread,
        "floor_s": floor,
        "over_floor": sample.median_s / floor if floor else None,
    }


def _flops(sample: Sample) -> float:
    """Matrix FLOPs of what ran, causal; the head sees one token."""
    document = json.loads(sample.labels["run"])
    # any machine does: FLOPs are the same on all
    result = estimate({**document, "hardware": "nvidia_h200_sxm", "estimator": "roofline"})
    return float(result.matrix_flops(("prefill",)))


def _dense(samples: list[Sample], peaks: Peaks | None) -> list[dict[str, Any]]:
    rows: dict[float, dict[str, Any]] = {}
    for sample in samples:
        if "sdpa" in sample.labels:
            continue
        tokens = int(sample.dims["prompt"])
        row = rows.setdefault(tokens, {"tokens": tokens, "flops": _flops(sample), "eager_s": None, "graph_s": None})
        row[f"{sample.labels['path']}_s"] = sample.median_s
    for row in rows.values():
        best = _best(row)
        row["tflops_per_s"] = row["flops"] / best / TERA
        row["mfu"] = None if peaks is None else row["flops"] / best / peaks.flops_per_s
    return list(rows.values())


def _best(row: Mapping[str, Any]) -> float:
    return min(float(row[key]) for key in ("eager_s", "graph_s") if row[key] is not None)


def _rows(samples: list[Sample], *, tiny: bool) -> list[dict[str, Any]]:
    """The paper's rows with what was measured; speedups are over the dense prefill of the same prompt.

    What the paper prints stands beside its own model alone, not beside a dry run's.
    """
    printed = {} if tiny else _printed()
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    dense: dict[tuple[str, float], dict[str, float]] = {}
    for sample in samples:
        labels, path = sample.labels, sample.labels["path"]
        plain = labels["method"] == "none" and labels["implementation"] == "fused"
        if plain and not {"selection", "sdpa"} & labels.keys():
            home = dense.setdefault((_model_of(sample), sample.dims["prompt"]), {})
            home[path] = min(sample.median_s, home.get(path, sample.median_s))
        if "rows" not in labels:
            continue
        first = labels["rows"].split(",")[0]
        row = rows.setdefault(
            (labels["rows"], labels["implementation"]),
            {
                "rows": labels["rows"].split(","),
                "implementation": labels["implementation"],
                "tokens": labels["tokens"],
                "selection_left_out": "selection" in labels,
                "eager_s": None,
                "graph_s": None,
                **printed.get(first, {"printed_ms": None, "printed_speedup": None}),
                "_of": (_model_of(sample), _prompt_of(sample)),
            },
        )
        row[f"{path}_s"] = sample.median_s
    for row in rows.values():
        of = dense.get(row.pop("_of"), {})
        for path in ("eager", "graph"):
            mine = row[f"{path}_s"]
            row[f"{path}_speedup"] = of[path] / mine if mine and path in of else None
        best, dense_best = _best(row), min(of.values(), default=None)
        row["speedup"] = dense_best / best if dense_best is not None else None
    return list(rows.values())


def _printed() -> dict[str, dict[str, float | None]]:
    """Milliseconds that the paper prints, and its speedup over its own row of the same request, unreduced."""
    rows = read_mapping(discover.find("paper", "aim"))["rows"]
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        same = (other for other in rows if all(other["run"][key] == row["run"][key] for key in ("model", "workload")))
        dense = next((other for other in same if other["run"]["method"]["name"] == "none"), None)
        ms = float(row["printed"]["ms"])
        ratio = None if dense is None else float(dense["printed"]["ms"]) / ms
        found[row["id"]] = {"printed_ms": ms, "printed_speedup": ratio}
    return found


def _model_of(sample: Sample) -> str:
    """The decoder that ran: rows of other checkpoints may share the campaign model's."""
    return f"{sample.dims['layers']:.0f} x {sample.dims['hidden']:.0f}"


def _prompt_of(sample: Sample) -> float:
    """Tokens before any reduction: where the selection was left out, those of the run itself."""
    run = json.loads(sample.labels["run"])
    if "selection" not in sample.labels:
        return sample.dims["prompt"]
    from ...inputs.run import load_run

    return float(load_run(run).workload.prompt_tokens)


def _overhead(samples: list[Sample], rows: list[dict[str, Any]], peaks: Peaks | None) -> dict[str, Any] | None:
    """All reduction kernels of the 25 % schedule, timed alone, as a share of its measured prefill."""
    times = {op: sum(s.median_s for s in samples if s.op == op) for op in REDUCTION}
    row = next((r for r in rows if "video_aim_32f" in r["rows"] and r["implementation"] == "fused"), None)
    if not all(times.values()) or row is None:
        return None
    floors = [floor_s(s, peaks) or 0.0 for s in samples if s.op in REDUCTION] if peaks is not None else []
    total = sum(times.values())
    return {**times, "total_s": total, "floor_s": sum(floors) or None, "share": total / _best(row)}


def _stage(sample: Sample) -> dict[str, Any]:
    return {
        "op": sample.op,
        "name": sample.name,
        "path": " ".join((sample.labels["path"], sample.labels.get("sdpa", ""))).strip(),
        "tokens": sample.labels["tokens"],
        "median_s": sample.median_s,
        "repeats": len(sample.samples_s),
    }
