"""A run: everything one estimate needs, resolved from a run file, a mapping or flags."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError
from ..methods.implementation import computed_schedule, implementation_notes
from ..models.parallel import check_parallel, parallel_notes
from ..types import HardwareSpec, ModelSpec, Parallel, Precision, Schedule, Workload
from . import discover
from .files import read_mapping
from .hardware import load_hardware
from .model import load_model
from .plain import plain
from .schema import RunFile, validate
from .workload import resolve_workload

__all__ = ["Run", "load_run", "merge_overrides", "plan_schedule"]

DEFAULT_ESTIMATOR = "calibrated"
# Decode is priced by layer and step: more rows than this do not fit a laptop.
MAX_DECODE_ROWS = 10_000_000
_BY_BITS = {32: "fp32", 16: "bf16", 8: "int8", 4: "int4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A resolved run. `hardware` is None where only a schedule is asked for.

    `schedule` says which tokens stay; `computed` what the layers compute on, which differs where
    the implementation masks tokens instead of removing them.
    `host_time` false leaves out the time in which a device waits for launches.
    """

    model: ModelSpec
    workload: Workload
    schedule: Schedule
    precision: Precision
    attention: str
    hardware: HardwareSpec | None
    estimator: str
    skip_mlp_add: bool
    include: tuple[str, ...] | None
    file: RunFile
    implementation: str = "fused"
    parallel: Parallel = field(default_factory=Parallel)
    host_time: bool = True
    notes: tuple[str, ...] = ()

    @property
    def computed(self) -> Schedule:
        """The schedule with the counts that layers really compute on."""
        return computed_schedule(self.schedule, self.implementation)


def load_run(given: Mapping[str, Any] | str | Path, overrides: Mapping[str, Any] | None = None) -> Run:
    """Resolve a run, given as a mapping, a file, or the name of a file in configs/runs.

    Parameters
    ----------
    overrides
        Values that replace those of the run; nested mappings and dotted keys
        (``{"method.l1": 14}``) reach inside.

    Raises
    ------
    AimcostError
        With one line that names the file, the key, what was found and what is allowed.
    """
    if not isinstance(given, Mapping | str | Path):
        raise InvalidValueError("run", "a mapping, a path, or the name of a run", given)
    if isinstance(given, Mapping):
        data, where = plain(given), "run"
    else:
        path = _run_path(given)
        data, where = read_mapping(path), str(path)
    data = merge_overrides(data, plain(overrides or {}))
    try:
        return _resolve(data, where)
    except AimcostError as error:
        if where == "run" or where in str(error):
            raise
        # errors of the model, the workload or the method do not know which file they stand in
        error.args = (f"{where}: {error}",)
        raise


def _resolve(data: Mapping[str, Any], where: str) -> Run:
    file = validate(RunFile, data, where=where)
    if file.estimator is not None and file.estimator not in discover.estimator_names():
        names = discover.estimator_names()
        raise UnknownNameError("estimator", file.estimator, names, where=where)
    model = load_model(file.model)
    if model.decoder.layers * file.workload.new_tokens > MAX_DECODE_ROWS:
        most = MAX_DECODE_ROWS // model.decoder.layers
        what = f"at most {most} with {model.decoder.layers} layers"
        raise InvalidValueError("workload.new_tokens", what, file.workload.new_tokens)
    paper = file.method.get("convention") == "paper"
    workload, notes = resolve_workload(file.workload, model, without_newline=paper)
    schedule = plan_schedule(model, workload, file.method, where=where)
    parallel = Parallel(**file.parallel.model_dump())
    check_parallel(model, parallel)
    estimator = file.estimator or DEFAULT_ESTIMATOR
    if estimator == "llm_viewer" and parallel.devices > 1:
        raise InvalidValueError("parallel", "absent: llm_viewer prices one device", file.parallel.model_dump())
    if estimator != "llm_viewer" and "estimator_options" in data and data["estimator_options"]:
        ignored = ", ".join(data["estimator_options"])
        notes = (*notes, f"estimator_options ignored by {estimator}: {ignored}")
    return Run(
        model=model,
        workload=workload,
        schedule=schedule,
        precision=Precision(
            weights=_dtype(file.precision.weights),
            activations=_dtype(file.precision.activations),
            kv=_dtype(file.precision.kv),
        ),
        attention=file.attention,
        hardware=load_hardware(file.hardware) if file.hardware is not None else None,
        estimator=estimator,
        skip_mlp_add=file.estimator_options.skip_mlp_add,
        include=tuple(file.include) if file.include is not None else None,
        file=file,
        implementation=file.implementation,
        parallel=parallel,
        notes=(
            *model.notes,
            *notes,
            *schedule.notes,
            *implementation_notes(schedule, file.implementation, file.attention),
            *parallel_notes(model, parallel, workload.batch),
        ),
    )


def _run_path(given: str | Path) -> Path:
    path = Path(given).expanduser()
    if discover.is_file(path):
        return path
    if isinstance(given, str) and "/" not in given and path.suffix not in (".yaml", ".yml", ".json"):
        return discover.find("run", given)
    raise FileFormatError(f"run: no such file: {str(given)[:200]}")


def merge_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with `overrides` laid over it; dotted keys and nested mappings reach inside."""
    merged = dict(data)
    for key, value in overrides.items():
        head, _, rest = key.partition(".")
        if rest:
            value = {rest: value}
        inner = merged.get(head)
        if head == "method":
            value, inner = ({"name": each} if isinstance(each, str) else each for each in (value, inner))
        # a model or a machine given whole replaces the one before; a dotted key changes an inline one
        if isinstance(value, Mapping) and (head not in ("model", "hardware") or (rest and isinstance(inner, Mapping))):
            if (
                head == "method"
                and isinstance(inner, Mapping)
                and "name" in value
                and value["name"] != inner.get("name")
            ):
                inner = {}  # another method's parameters do not carry over
            if inner is not None and not isinstance(inner, Mapping):
                raise InvalidValueError(head, "a mapping, to set a key inside it", inner)
            value = merge_overrides(inner or {}, value)
        elif rest:
            raise InvalidValueError(key, f"a key of an inline {head}; this run names one", inner)
        merged[head] = value
    return merged


def _dtype(given: int | str) -> str:
    return given if isinstance(given, str) else _BY_BITS[given]


def plan_schedule(model: ModelSpec, workload: Workload, method: Mapping[str, Any], *, where: str = "run") -> Schedule:
    """The schedule that a ``method:`` mapping plans."""
    name = method.get("name")
    if not isinstance(name, str):
        raise InvalidValueError("method.name", "given (text)", name, where=where)
    if name not in discover.method_names():
        raise UnknownNameError("method", name, discover.method_names(), where=where)
    if model.decoder.cross_layers and name not in ("none", "explicit"):
        raise InvalidValueError(
            "method.name", f"none: visual tokens of {model.name} do not enter its sequence", name, where=where
        )
    module = importlib.import_module(f"aimcost.methods.{name}.plan")
    params = validate(module.Params, method, where=f"{where}: method")
    schedule: Schedule = module.plan(model, workload, params)
    return schedule
