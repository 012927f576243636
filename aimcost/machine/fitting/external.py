"""Predictions against other people's clocks: GEMM timings that nothing here was fitted to."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import FileFormatError
from ...inputs.hardware import load_hardware
from ...ops.gemm import linear
from ...types.formats import Widths
from ...units import MEGA
from ..calibration import calibration_of
from ..peaks import peak_flops_per_s

__all__ = ["compare_external", "read_external"]

# their name of a GPU → our profile
_PROFILES = {
    "a100_sxm_80gb": "nvidia_a100_sxm_80gb",
    "h100_sxm": "nvidia_h100_sxm",
    "h200_sxm": "nvidia_h200_sxm",
    "l40s": "nvidia_l40s",
}
_COLUMNS = ("source", "gpu", "model", "op", "m", "n", "k", "dtype", "time_us")


def read_external(path: Path) -> list[dict[str, Any]]:
    """Rows of a timings file (CSV: source, gpu, model, op, m, n, k, dtype, time_us).

    Raises
    ------
    FileFormatError
        Unreadable, columns missing, or numbers that are none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: {error}") from None
    if not rows or any(name not in rows[0] for name in _COLUMNS):
        raise FileFormatError(f"{path}: must have columns {', '.join(_COLUMNS)}")
    try:
        return [{**row, **{key: float(row[key]) for key in ("m", "n", "k", "time_us")}} for row in rows]
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None


def compare_external(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By source and GPU: error of the calibrated and of the roofline prediction, as fractions."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["gpu"] in _PROFILES:
            groups.setdefault((row["source"], row["gpu"]), []).append(row)
    return [_compare(source, gpu, group) for (source, gpu), group in groups.items()]


def _compare(source: str, gpu: str, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    hardware = load_hardware(_PROFILES[gpu])
    m, n, k = (np.array([row[key] for row in rows]) for key in ("m", "n", "k"))
    measured = np.array([row["time_us"] for row in rows]) / MEGA
    product = linear(m, k, n, Widths(weights=2.0, activations=2.0, kv=2.0))
    moved = np.asarray(product.bytes)
    peak, _ = peak_flops_per_s(hardware, "bf16")
    bandwidth = hardware.memory_bytes_per_s
    model = calibration_of(hardware).gemm["bf16"]
    predicted = model.seconds(
        m,
        n,
        k,
        bytes_moved=moved,
        weight_bytes=np.asarray(product.read_weights),
        peak=peak,
        bandwidth=bandwidth,
        sm_count=hardware.sm_count,
    )
    floor = np.maximum(product.flops / peak, moved / bandwidth)
    ratio = measured / predicted
    scale = float(np.exp(np.mean(np.log(ratio))))
    inside = (ratio >= model.provenance.low) & (ratio <= model.provenance.high)
    return {
        "source": source,
        "gpu": gpu,
        "rows": len(rows),
        "calibrated_mape": float(np.mean(np.abs(predicted / measured - 1))),
        "bias": float(np.mean(predicted / measured - 1)),
        "roofline_mape": float(np.mean(np.abs(floor / measured - 1))),
        "scale": scale,
        "scaled_mape": float(np.mean(np.abs(predicted * scale / measured - 1))),
        "in_band": float(inside.mean()),
    }
