"""What a run is and costs, as plain rounded values: the entry that a baseline keeps of it.

Everything is rounded to nine significant digits, so that the last bits in which machines differ do
not show. Facts are kept apart by what they describe (model, workload, schedule, hardware,
settings), each with a digest: which one changed tells why a figure moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..inputs.hardware import load_hardware
from ..inputs.run import Run
from ..machine.inheritance import parent_of
from ..pricing.result import Estimate
from ..types import HardwareSpec, ModelSpec, Schedule

__all__ = ["FIGURES", "canonical", "digest", "entry_of", "hardware_facts", "model_facts", "rounded", "run_facts"]

# Parts that only say what another part is called or comes from.
_EXPLAIN = ("method", "card")
FIGURES = ("flops", "kv_bytes", "peak_bytes", "tpot_s", "ttft_s")
DIGITS = 9
# Beyond this a list says nothing to a reader: its digest stands for it.
_LONG = 6
_SAID_ELSEWHERE = frozenset(
    {
        *("source", "sources", "notes", "hidden", "folder", "usable_memory_source"),
        *("date", "errors", "held_out_mape", "extrapolation_mape", "tdp_w", "price_per_hour"),
    }
)


def rounded(value: float) -> int | float:
    """`value` to nine significant digits; a whole number as an int."""
    number = float(f"{value:.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 1e300 else number


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def entry_of(estimate: Estimate) -> dict[str, Any]:
    """What a baseline keeps of a run: figures, facts with their digests, operations by layer."""
    facts = run_facts(estimate.run)
    operations = _operations(estimate)
    digests = {part: digest(values) for part, values in facts.items() if part not in _EXPLAIN}
    return {
        "figures": {
            "flops": rounded(estimate.totals.flops),
            "kv_bytes": rounded(estimate.memory.kv_bytes),
            "peak_bytes": rounded(estimate.memory.peak_bytes),
            "tpot_s": rounded(estimate.stages["decode"].tpot_s),
            "ttft_s": rounded(estimate.ttft_s),
        },
        "digests": {**digests, "operations": digest(operations)},
        "facts": facts,
        "operations": operations,
    }


def run_facts(run: Run) -> dict[str, dict[str, Any]]:
    """What the figures follow from, flat, by part; ``method`` explains ``schedule``, ``card`` names ``hardware``."""
    settings = {
        "estimator": run.estimator,
        "attention": run.attention,
        "implementation": run.implementation,
        "execution": run.execution,
        "include": list(run.include) if run.include is not None else None,
        "precision": asdict(run.precision),
        "parallel": asdict(run.parallel),
        **run.estimator_options,
    }
    return {
        "model": model_facts(run.model),
        "workload": _flat(asdict(run.workload)),
        "schedule": _schedule(run.schedule),
        "method": _flat({"name": run.schedule.method, **run.schedule.params}),
        "hardware": hardware_facts(run.hardware) if run.hardware is not None else {},
        "card": {"name": run.hardware.name} if run.hardware is not None else {},
        "settings": _flat(settings),
    }


def runs_of(values: Iterable[Any]) -> list[list[Any]]:
    """Equal neighbours as [value, how many]."""
    runs: list[list[Any]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return runs


def _schedule(schedule: Schedule) -> dict[str, Any]:
    events = [
        [e.action, e.scorer, e.after_layer, e.tower_layer, e.groups, e.tokens_in, e.tokens_out, e.priced]
        + [list(count) for count in e.counts]
        for e in schedule.events
    ]
    return {"tokens": runs_of(schedule.tokens), "events": events}


def model_facts(model: ModelSpec) -> dict[str, Any]:
    """The shape of a model, flat."""
    return _flat(asdict(model))


def hardware_facts(spec: HardwareSpec) -> dict[str, Any]:
    """The figures of a profile, flat, with the coefficients that apply to it and their tables."""
    values = asdict(spec)
    holder = spec if spec.calibration else load_hardware(parent_of(spec))
    block = {**(holder.calibration or {}), "of": holder.name}
    tables = block.get("tables")
    if isinstance(tables, str):
        # what the file holds, not what it is called
        block["tables"] = hashlib.sha256((Path(holder.folder) / tables).read_bytes()).hexdigest()[:16]
    return _flat({**values, "calibration": block})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys, without what is zero, off or absent, or only explains the figures."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in _SAID_ELSEWHERE:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{name}."))
        elif value:
            # a field that a later version adds, and that is off, changes no digest
            flat[name] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return rounded(value)
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items if len(items) <= _LONG else f"{len(items)} values, digest {digest(items)}"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


def _operations(estimate: Estimate) -> dict[str, list[list[Any]]]:
    """By ``stage/name``: runs of layers that cost the same, as [first, last, FLOPs, bytes, seconds].

    First and last are None for what stands outside the layers.
    """
    grouped: dict[str, list[list[Any]]] = {}
    for op in estimate.ops():
        figures = [rounded(op["flops"]), rounded(op["bytes"]), rounded(op["time_s"])]
        runs, layer = grouped.setdefault(f"{op['stage']}/{op['name']}", []), op["layer"]
        last = runs[-1] if runs else None
        if last is not None and layer is not None and last[1] == layer - 1 and last[2:] == figures:
            last[1] = layer
        else:
            runs.append([layer, layer, *figures])
    return grouped
