"""What a run is, as plain rounded values by part: model, workload, schedule, hardware, settings.

Everything is rounded to nine significant digits, so that machines which differ in the last bits
agree. Parts are separate because which one changed tells why a figure moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from ..inputs.hardware import load_hardware
from ..inputs.run import Run
from ..inputs.strict_json import digest, digest_bytes
from ..machine.inheritance import parent_of
from ..types import HardwareSpec, ModelSpec, Schedule, Stack, runs_of
from .estimator import estimator_of

__all__ = ["hardware_facts", "model_facts", "rounded", "run_facts", "stack_facts"]

DIGITS = 9
# Longer lists are shown by their digest.
_LONG = 6
# Keys that do not affect a figure, or that another key already carries.
_NO_FIGURE = frozenset(
    {
        *("source", "sources", "notes", "hidden", "folder", "usable_memory_source"),
        *("date", "errors", "held_out_mape", "extrapolation_mape", "tdp_w", "price_per_hour"),
    }
)


def rounded(value: float) -> int | float:
    """`value` to nine significant digits; a whole number as an int."""
    number = float(f"{value:.{DIGITS}g}")
    return int(number) if number.is_integer() and abs(number) < 1e300 else number


def run_facts(run: Run) -> dict[str, dict[str, Any]]:
    """What the figures follow from, flat, by part; ``method`` explains ``schedule``, ``card`` names ``hardware``."""
    settings = {
        "estimator": run.estimator,
        "attention": run.attention,
        "tower_attention": run.tower_attention if run.tower_attention != run.attention else None,
        "implementation": run.implementation,
        "stack": stack_facts(run.stack) if estimator_of(run.estimator).uses_stack else {},
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


def stack_facts(stack: Stack) -> dict[str, Any]:
    """The figures of a stack."""
    values = asdict(stack)
    del values["data"], values["summary"]
    values["elementwise"] = sorted(stack.elementwise)
    if not isfinite(stack.large_bytes):
        del values["large_bytes"]
    return values


def _schedule(schedule: Schedule) -> dict[str, Any]:
    events = [
        [e.action, e.scorer, e.after_layer, e.tower_layer, e.groups, e.tokens_in, e.tokens_out, e.selects]
        + [list(count) for count in e.counts]
        + ([{"untouched": e.untouched}] if e.untouched else [])
        for e in schedule.events
    ]
    return {"tokens": [list(run) for run in runs_of(schedule.tokens)], "events": events}


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
        # the content of the file, not its name
        block["tables"] = digest_bytes((Path(holder.folder) / tables).read_bytes())
    return _flat({**values, "calibration": block})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys, without what is zero, off or absent, or only explains the figures."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in _NO_FIGURE:
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
