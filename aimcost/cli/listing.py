"""What `aimcost list`, `show` and `schema` print."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from ..errors import AimcostError, UnknownNameError
from ..inputs import discover
from ..inputs.hardware import load_hardware
from ..inputs.model import load_model
from ..inputs.schema import HardwareFile, RunFile, StackFile
from ..inputs.stack import DEFAULT_STACK, load_stack
from ..machine.inheritance import calibration_status
from ..methods.registry import plan_module
from ..pricing.estimator import estimator_of, options_schema
from ..report.format import format_names, format_of
from ..search.scores.points import load_points
from ..types.strict import pydantic_model
from ..units import GIGA, KILO, MEGA, TERA

__all__ = ["LISTINGS", "describe", "in_words", "json_schema", "listing"]

LISTINGS = ("models", "hardware", "stacks", "methods", "estimators", "runs", "accuracy", "formats")


def listing(what: str, *, hidden: bool = False, problems: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of one listing.

    Parameters
    ----------
    problems
        Collects one line per unreadable file; if None, the first one raises.

    Raises
    ------
    UnknownNameError
        `what` is not one of `LISTINGS`.
    """
    if what not in LISTINGS:
        raise UnknownNameError("listing", what, LISTINGS)
    if what == "models":
        return _rows("model", _model_row, problems)
    if what == "hardware":
        rows = _rows("hardware", _hardware_row, problems)
        return [row for row in rows if not row.pop("hidden") or hidden]
    if what == "stacks":
        return _rows("stack", _stack_row, problems)
    if what == "methods":
        return [{"name": name, "summary": plan_module(name).SUMMARY} for name in discover.method_names()]
    if what == "estimators":
        return [{"name": name, "summary": estimator_of(name).summary} for name in discover.estimator_names()]
    if what == "formats":
        found = map(format_of, format_names())
        return [{"name": each.name, "suffix": each.suffix, "summary": each.summary} for each in found]
    if what == "accuracy":
        return _rows("accuracy", _scores_row, problems)
    return [{"name": name, "file": str(path)} for name, path in discover.names("run").items()]


def _rows(kind: str, row: Callable[[str, Path], dict[str, Any]], problems: list[str] | None) -> list[dict[str, Any]]:
    rows = []
    for name, path in discover.names(kind).items():
        try:
            rows.append(row(name, path))
        except AimcostError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return rows


def _model_row(name: str, path: Path) -> dict[str, Any]:
    spec = load_model(path)
    decoder, projector = spec.decoder, spec.projector
    return {
        "name": name,
        "family": spec.family,
        "layers": decoder.layers,
        "hidden": decoder.hidden,
        "heads": f"{decoder.heads}/{decoder.kv_heads}",
        "tokens an image": _tokens(projector.tokens_per_image) if projector else None,
        "tokens a frame": _tokens(projector.tokens_per_frame) if projector else None,
    }


def _tokens(fixed: int) -> int | str:
    """Tokens per input, or "by size" where they depend on its size."""
    return fixed or "by size"


def _hardware_row(name: str, path: Path) -> dict[str, Any]:
    spec = load_hardware(path)
    peaks = spec.dense_flops_per_s
    sixteen = peaks.get("bf16", peaks.get("fp16", 0.0)) / TERA
    return {
        "name": name,
        "architecture": spec.architecture,
        "calibration": calibration_status(spec),
        "16-bit TFLOP/s": f"{sixteen:g}",
        "GB/s": f"{spec.memory_bytes_per_s / GIGA:g}",
        "GB": f"{spec.memory_bytes / GIGA:g}" if spec.memory_bytes else None,
        "hidden": spec.hidden,
    }


def _stack_row(name: str, path: Path) -> dict[str, Any]:
    stack = load_stack(path)
    return {
        "name": name + (" (default)" if name == DEFAULT_STACK else ""),
        "summary": stack.summary,
        "graph": stack.graph,
        "host us a launch": f"{stack.host_s.value * MEGA:g}",
        "ms a request": f"{stack.request_s.value * KILO:g}",
        "ms a step": f"{stack.step_s.value * KILO:g}",
    }


def _scores_row(name: str, path: Path) -> dict[str, Any]:
    points = load_points([path])
    return {
        "name": name,
        "source": points[0].source if points else "",
        "models": ", ".join(dict.fromkeys(point.model for point in points)),
        "scores": len(points),
        "methods": len({point.method for point in points}),
        "benchmarks": len({point.benchmark for point in points}),
    }


def describe(name: str) -> str:
    """The file of a model, profile, stack or run, or what a method or estimator takes.

    Raises
    ------
    UnknownNameError
        Nothing has that name.
    """
    for kind in discover.KINDS:
        files = discover.names(kind)
        # a paper, its timings or its scores may share their name with a method; the method wins
        if name in files and not (kind in ("paper", "timings", "accuracy") and name in discover.method_names()):
            return f"# {kind} {name}: {files[name]}\n{files[name].read_text(encoding='utf-8')}"
    if name in discover.method_names():
        module = plan_module(name)
        properties = pydantic_model(module.Params).model_json_schema()["properties"]
        fields = "".join(
            f"  {key}: {in_words(properties[key])}; {_default(field)}\n"
            for key, field in pydantic_model(module.Params).model_fields.items()
            if key != "name"
        )
        released = getattr(module, "RELEASED", None)
        told = "" if released is None else f"{released}\n".replace("; ", "\n  ")
        return f"# method {name}\n{module.__doc__.strip()}\n\n{told}parameters:\n{fields}"
    if name in discover.estimator_names():
        doc = importlib.import_module(f"aimcost.pricing.estimators.{name}").__doc__ or estimator_of(name).summary
        return f"# estimator {name}\n{doc.strip()}\n"
    if name in format_names():
        found = format_of(name)
        return f"# format {name} (-o FILE{found.suffix})\n{found.summary}\n"
    known = [key for kind in discover.KINDS for key in discover.names(kind) if not key.startswith("llm_viewer_")]
    raise UnknownNameError("name", name, [*known, *discover.method_names(), *discover.estimator_names()])


def in_words(schema: Mapping[str, Any]) -> str:
    """What a key takes, e.g. ``integer at least 1``."""
    if "anyOf" in schema:
        options = [in_words(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return ", or ".join(dict.fromkeys(options))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        items = [in_words(item) for item in schema.get("prefixItems", [schema.get("items", {})])]
        kind = f"list of {items[0]}" if "prefixItems" not in schema else f"[{', '.join(items)}]"
    limits = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "under"}
    # pydantic before 2.11 writes a bound of 0 on a float as 0.0
    bounds = [f"{limit} {_whole(schema[key]):,}" for key, limit in limits.items() if key in schema]
    return kind + (" " + " and ".join(bounds) if bounds else "")


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "optional" if value is None else f"default {value}"


def json_schema() -> dict[str, Any]:
    """JSON Schemas of a run file, each method's parameters, a hardware profile, a stack, and a sweep's grid."""
    from ..search.sweep.grid import GridFile

    run = pydantic_model(RunFile).model_json_schema()
    run["properties"]["estimator"]["anyOf"][0]["enum"] = discover.estimator_names()
    run["properties"]["estimator_options"] = options_schema().model_json_schema()
    return {
        "run": run,
        "methods": {
            name: pydantic_model(plan_module(name).Params).model_json_schema() for name in discover.method_names()
        },
        "hardware": pydantic_model(HardwareFile).model_json_schema(),
        "stack": pydantic_model(StackFile).model_json_schema(),
        "sweep": GridFile.model_json_schema(),
    }
