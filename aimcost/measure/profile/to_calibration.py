"""A profile record → a hardware profile: measured ceilings, and the grids that `calibrated` reads.

The time models are the grids themselves (`form: grid`). What the profile measured between their nodes
is never put into them: errors and bands come from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from ...errors import CalibrationError
from ...machine.timemodels.measured import FORM, AttentionGrid, GemmGrid
from ...machine.timemodels.tables import Floats
from ...ops.attention import single_pass, visible_pairs
from ...ops.gemm import product_flops
from ...types.formats import Widths, bytes_per_element
from ...units import GIGA, MEGA, TERA
from ..records import HELD_OUT, Record, Sample
from .curves import bandwidth_sections

__all__ = ["Ceilings", "calibration_block", "ceilings_of", "probe_ratios", "profile_mapping", "profile_yaml"]

KERNEL = "torch_sdpa"
# A band narrower than the clock's own repeatability would promise too much.
SMALLEST_BAND = (0.97, 1.03)
# What cuBLAS's fast kernels ask of rows (NVIDIA, Matrix Multiplication Background: Tensor Core Requirements).
ALIGNED_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine reached at best: FLOP/s by number format, bytes/s."""

    flops_per_s: Mapping[str, float]
    memory_bytes_per_s: float


def ceilings_of(record: Record) -> Ceilings:
    """The best medians of a profile, over all its products and over its copies.

    Raises
    ------
    CalibrationError
        The record is no profile, or was cut short before its ceilings.
    """
    if record.kind != "profile":
        raise CalibrationError(f"record: 'kind' must be profile to calibrate from (got {record.kind!r})")
    flops: dict[str, float] = {}
    streamed = []
    for sample in (*record.select("ceiling"), *record.select("gemm")):
        if sample.name == "copy":
            streamed.append(2.0 * bytes_per_element(sample.dtype) * sample.dims["elements"] / sample.median_s)
            continue
        m, n, k = (sample.dims[key] for key in ("m", "n", "k"))
        flops[sample.dtype] = max(flops.get(sample.dtype, 0.0), float(product_flops(m, n, k)) / sample.median_s)
    if not flops or not streamed:
        raise CalibrationError("record: holds no ceilings: the profile was cut short before measuring them")
    return Ceilings(flops_per_s=flops, memory_bytes_per_s=max(streamed))


def source_of(record: Record) -> str:
    """One sentence on where the figures come from."""
    environment = record.environment
    versions = ", ".join(
        f"{name} {environment.packages[name]}"
        for name in ("torch", "transformers", "aimcost")
        if name in environment.packages
    )
    threads = f"{environment.threads} thread" + ("s" if environment.threads > 1 else "")
    on = f"driver {environment.driver}" if environment.device == "cuda" else threads
    return f"measured {record.date} on {environment.device_name} by aimcost profile ({versions}; {on})"


def calibration_block(record: Record) -> dict[str, Any]:
    """The ``calibration`` block: products, attention and everything else, by grid.

    Raises
    ------
    CalibrationError
        Not a profile record, or one that ended before its products were measured.
    """
    source = {"source": source_of(record), "date": record.date}
    ceilings = ceilings_of(record)
    gemm = {
        dtype: _gemm(_comparable(record.select("gemm", dtype=dtype), record), peak, source)
        for dtype, peak in ceilings.flops_per_s.items()
        if record.select("gemm", dtype=dtype)
    }
    if not gemm:
        raise CalibrationError("record: holds no GEMMs: the profile was cut short before measuring them")
    block: dict[str, Any] = {"status": "measured", **source, "gemm": gemm}
    attention = record.select("attention")
    sections = {
        "attention": [s for s in attention if s.dims["causal"] and s.dims["q_len"] > 1],
        "encoder_attention": [s for s in attention if not s.dims["causal"] and s.dims["q_len"] > 1],
        "decode_attention": [s for s in attention if s.dims["causal"] and s.dims["q_len"] == 1],
    }
    for name, samples in sections.items():
        along = "kv_len" if name == "decode_attention" else "q_len"
        widths = sorted({int(s.dims["head_dim"]) for s in samples})
        kernels = {
            width: _attention([s for s in samples if s.dims["head_dim"] == width], along, source) for width in widths
        }
        if kernels:
            block[name] = {"default": KERNEL, KERNEL: kernels}
    block["bandwidth"] = bandwidth_sections(record, source)
    for name in ("host", "launch"):
        found = {s.name: _rounded(s.median_s * 1e6) for s in record.select(name)}
        if found:
            block[name] = {"us": found, **source}
    return block


def _comparable(samples: Sequence[Sample], record: Record) -> list[Sample]:
    """Without probes that no model resembles: on a GPU, rows that do not begin on ALIGNED_BYTES.

    Profiles measured before 2026-11-26 hold two of ten. cuBLAS takes kernels without Hopper's tensor memory
    accelerator for them: 3.4 to 4.7 times the predicted time on an H100 and an H200, the other eight 1.05 to 1.6.
    """
    if record.environment.device != "cuda":
        return list(samples)
    return [s for s in samples if s.labels.get("role") != HELD_OUT or _aligned(s)]


def _aligned(sample: Sample) -> bool:
    return all(sample.dims[key] * bytes_per_element(sample.dtype) % ALIGNED_BYTES == 0 for key in ("n", "k"))


def _gemm(samples: Sequence[Sample], peak: float, source: Mapping[str, str]) -> dict[str, Any]:
    fitted, held_out = _split(samples)
    sizes = {key: sorted({s.dims[key] for s in fitted}) for key in ("m", "n", "k")}
    m, n, k = sizes.values()
    times = {(s.dims["m"], s.dims["n"], s.dims["k"]): s.median_s for s in fitted}
    cells = [(a, b, c) for a in m for b in n for c in k]
    missing = [cell for cell in cells if cell not in times]
    if missing or min(len(m), len(n), len(k)) < 2:
        raise CalibrationError(
            f"record: the grid of products lacks {len(missing)} of {len(cells)} shapes: the profile was cut short"
        )
    per_weight = [_rounded(times[cell] / (cell[1] * cell[2]) * 1e12) for cell in cells]
    columns = len(n) * len(k)
    entry = {
        "form": FORM,
        **sizes,
        "ns_per_1000_weights": [per_weight[i : i + columns] for i in range(0, len(per_weight), columns)],
        "range": {key: [values[0], values[-1]] for key, values in sizes.items()},
        **source,
    }
    return {**entry, **_evidence(held_out, _multiplied(entry, held_out, peak))}


def _multiplied(entry: Mapping[str, Any], samples: Sequence[Sample], peak: float) -> Floats:
    """Seconds that a grid of products predicts."""
    grid = GemmGrid.of({**entry, "band": [1.0, 1.0]}, where="gemm")
    shapes = [_column(samples, key) for key in ("m", "n", "k")]
    return np.asarray(grid.seconds(*shapes, bytes_moved=np.zeros(len(samples)), peak=peak, bandwidth=1.0))


def probe_ratios(record: Record, dtype: str) -> Floats:
    """Measured over predicted seconds of the products between the nodes of a profile's grid."""
    _, held_out = _split(_comparable(record.select("gemm", dtype=dtype), record))
    entry, peak = calibration_block(record)["gemm"][dtype], ceilings_of(record).flops_per_s[dtype]
    return np.array([sample.median_s for sample in held_out]) / _multiplied(entry, held_out, peak)


def _attention(samples: Sequence[Sample], along: str, source: Mapping[str, str]) -> dict[str, Any]:
    """One head width: a curve for each width of the number format and count of query heads a key head."""
    curves: list[dict[str, Any]] = []
    measured: list[tuple[str, float]] = []
    several = len({_sharing(s) for s in samples}) > 1
    for dtype, sharing in dict.fromkeys((s.dtype, _sharing(s)) for s in samples):
        fitted, _ = _split(s for s in samples if (s.dtype, _sharing(s)) == (dtype, sharing))
        points = sorted((s.dims[along], s.median_s / _pairs(s)) for s in fitted)
        width = bytes_per_element(dtype)
        known = {(curve["element_bytes"], curve.get("heads_per_kv_head", sharing)) for curve in curves}
        if len(points) < 2 or (width, sharing) in known:
            continue
        lengths, times = zip(*points, strict=True)
        curves.append(
            {
                "element_bytes": width,
                **({"heads_per_kv_head": sharing} if several else {}),
                along: list(lengths),
                "ns_per_pair": [_rounded(t * 1e9) for t in times],
            }
        )
        measured.append((dtype, sharing))
    entry = {"form": FORM, "along": along, "curves": curves, **source}
    grid = AttentionGrid.of({**entry, "band": [1.0, 1.0]}, where="attention")
    held_out = [s for s in _split(samples)[1] if (s.dtype, _sharing(s)) in measured]
    predicted = [float(_attend(grid, sample)) for sample in held_out]
    return {**entry, **_evidence(held_out, np.array(predicted))}


def _sharing(sample: Sample) -> float:
    """Query heads that share a key head."""
    return sample.dims["heads"] / sample.dims["kv_heads"]


def _pairs(sample: Sample) -> float:
    """(query, key) pairs that the mask lets through, over all sequences and heads."""
    dims = sample.dims
    visible = float(visible_pairs(dims["q_len"], dims["kv_len"], bool(dims["causal"])))
    return dims["batch"] * dims["heads"] * visible


def _attend(grid: AttentionGrid, sample: Sample) -> Any:
    dims = {key: np.array([value]) for key, value in sample.dims.items()}
    width = bytes_per_element(sample.dtype)
    widths = Widths(weights=width, activations=width, kv=width)
    cost = single_pass(dims, causal=bool(sample.dims["causal"]), widths=widths)
    return grid.seconds(dims, bytes_moved=np.asarray(cost.bytes), flops=np.asarray(cost.flops))[0]


def _split(samples: Iterable[Sample]) -> tuple[list[Sample], list[Sample]]:
    """What the grid holds, and what was measured between its nodes."""
    both: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        both[sample.labels.get("role") == HELD_OUT].append(sample)
    return both


def _column(samples: Sequence[Sample], key: str) -> Floats:
    return np.array([sample.dims[key] for sample in samples], dtype=np.float64)


def _evidence(held_out: Sequence[Sample], predicted: Floats) -> dict[str, Any]:
    """Held-out error, and the band that holds 80 % of the held-out measurements."""
    if not held_out:
        return {"band": [0.8, 1.25]}
    ratio = np.array([sample.median_s for sample in held_out]) / predicted
    low, high = np.quantile(ratio, [0.1, 0.9])
    return {
        "held_out_mape": round(float(np.mean(np.abs(1.0 / ratio - 1.0))), 4),
        "band": [
            round(min(float(low), SMALLEST_BAND[0]), 4),
            round(max(float(high), SMALLEST_BAND[1]), 4),
        ],
    }


def _rounded(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def profile_mapping(record: Record, name: str) -> dict[str, Any]:
    """The whole profile, as `aimcost.inputs.hardware` reads it.

    Raises
    ------
    CalibrationError
        Not a profile record, or not enough of one.
    """
    ceilings, environment = ceilings_of(record), record.environment
    source, properties = source_of(record), environment.properties
    data: dict[str, Any] = {
        "name": name,
        "vendor": environment.device_name.split()[0].lower() if environment.device_name else "",
        "architecture": str(properties.get("architecture", environment.device)),
        # on a CPU one thread was measured
        "sm_count": int(properties.get("sm_count", 1)),
        "memory_gb": _rounded(environment.memory_bytes / GIGA),
        "memory_gb_per_s": _rounded(ceilings.memory_bytes_per_s / GIGA),
        "dense_tflops": {key: _rounded(value / TERA) for key, value in ceilings.flops_per_s.items()},
    }
    sources = {
        "memory_gb": f"as the system reports it; {source}",
        "memory_gb_per_s": f"copy of a large block; {source}",
        "dense_tflops": f"fastest product; {source}",
    }
    cache = float(properties.get("last_level_cache_bytes", properties.get("L2_cache_size", 0.0)))
    if cache:
        data["l2_mb"] = _rounded(cache / MEGA)
        sources["l2_mb"] = f"last-level cache, as the system reports it; {source}"
    free = float(properties.get("free_bytes", 0.0))
    if free:
        data["usable_memory_bytes"] = free
        sources["usable_memory_bytes"] = f"free before the measurement; {source}"
    notes = ["Measured on one thread: figures are those of one core."] if environment.device == "cpu" else []
    notes.append("Ops run eager PyTorch: times include all their kernels.")
    notes += record.notes
    if not record.complete:
        notes.append("The profile was cut short: ops it did not reach are missing.")
    return {**data, "sources": sources, "notes": notes, "calibration": calibration_block(record)}


def profile_yaml(record: Record, name: str) -> str:
    """The text of the profile's file, `name`.yaml in a folder of hardware profiles.

    Raises
    ------
    CalibrationError
        Not a profile record, or not enough of one.
    """
    data = profile_mapping(record, name)
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, no anchors, plain decimals (YAML 1.1 reads 1e-05 as text)."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    plain = not any(isinstance(value, list | dict | str) for value in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = np.format_float_positional(value, trim="0")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(float, _represent_float)
