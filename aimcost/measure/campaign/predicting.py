"""Predictions of a campaign's prefills, from the profile that the same campaign measured, beside the measured times."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from ...api import estimate
from ...errors import AimcostError
from ..records import Sample

__all__ = ["errors_of", "predictions"]

EXECUTION = {"graph": "cuda_graph", "eager": "eager"}


def predictions(samples: Iterable[Sample], profile: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """For each prefill: path, measured and predicted seconds, relative error; nothing without a profile.

    Left out: prefills of another attention backend than PyTorch's choice, and those whose selection
    was not run. A profile holds none of their shapes: all are held out.
    """
    if profile is None:
        return []
    found = []
    for sample in samples:
        if sample.op != "prefill" or {"sdpa", "selection"} & sample.labels.keys():
            continue
        predicted = _predicted(sample, profile)
        if predicted is None:
            continue
        found.append(
            {
                "name": sample.name,
                "path": sample.labels["path"],
                "implementation": sample.labels["implementation"],
                "prompt": int(sample.dims["prompt"]),
                "tokens": sample.labels["tokens"],
                "measured_s": sample.median_s,
                "predicted_s": predicted,
                "error": predicted / sample.median_s - 1.0,
            }
        )
    return found


def _predicted(sample: Sample, profile: Mapping[str, Any]) -> float | None:
    document = json.loads(sample.labels["run"])
    given = {"hardware": dict(profile), "estimator": "calibrated", "execution": EXECUTION[sample.labels["path"]]}
    try:
        return float(estimate({**document, **given}).totals.time_s)
    except AimcostError:
        return None


def errors_of(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean, worst and signed mean error by path and implementation."""
    groups: dict[tuple[str, str], list[float]] = {}
    for entry in found:
        groups.setdefault((entry["path"], entry["implementation"]), []).append(entry["error"])
    return [
        {
            "path": path,
            "implementation": implementation,
            "prefills": len(errors),
            "mape": statistics.fmean(abs(error) for error in errors),
            "worst": max(errors, key=abs),
            "bias": statistics.fmean(errors),
        }
        for (path, implementation), errors in groups.items()
    ]
