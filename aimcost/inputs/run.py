"""A run: everything one estimate needs, resolved from a run file, a mapping or flags."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AimcostError, FileFormatError, InvalidValueError, UnknownNameError
from ..frozen import dataclass
from ..methods.implementation import cached_by_layer, computed_schedule, implementation_notes
from ..methods.registry import find_scorer, plan_module
from ..models.parallel import check_parallel, parallel_notes
from ..models.visual_tokens import tower_load
from ..types import HardwareSpec, ModelSpec, Parallel, Precision, Schedule, Serving, Stack, Workload
from ..types.traced import TracedDecoder
from . import discover
from .files import read_once
from .hardware import load_hardware
from .model import load_model, model_config
from .plain import MAX_DEPTH, plain
from .precision import resolve_precision
from .schema import RunFile, WorkloadFile, validate
from .stack import DEFAULT_STACK, EXECUTIONS, load_stack
from .workload import InputSize, input_sizes, resolve_workload

if TYPE_CHECKING:
    from ..methods.base import Released

__all__ = ["SHORT_KEYS", "Run", "load_run", "merge_overrides", "method_params", "plan_schedule", "shown", "varied"]

DEFAULT_ESTIMATOR = "calibrated"
# Keys that need no section in `Run.with_` and on the command line.
SHORT_KEYS: Mapping[str, str] = {
    **{name: f"workload.{name}" for name in WorkloadFile.names()},
    **{name: f"parallel.{name}" for name in ("tp", "pp", "dp")},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything one estimate needs, resolved once. `with_` varies it, `document` writes it down.

    Both start from the keys that were given. What `dataclasses.replace` changed is in neither: it is for a part
    that no key can express (a schedule that was searched for), on a run that is then priced as it is.

    Attributes
    ----------
    schedule
        Which tokens remain; `computed` has the counts that layers compute on.
    method
        The ``method:`` mapping that `schedule` was planned from.
    attention, tower_attention
        Attention of the language model, and of the vision tower: ``flash`` or ``eager``.
    tower_layers
        Layers of the vision tower that run; zero without a tower, or where a trace says what it runs.
    routes_experts
        A trace runs all experts on every token, and the stack those that a token is routed to.
    hardware
        None where only a schedule is asked for.
    stack, stack_given
        The software that runs it, and whether the run names one.
    include
        Stages that count in the totals; None: all but ``preprocess``.
    implementation
        How reduction runs: ``fused`` kernels, ``eager`` as released code drops, or ``masked`` as it hides.
    serving
        How an engine divides the card's memory among requests.
    budgets
        Limits by the keys of ``budgets:``, in the units of those keys; only those given.
    price_per_hour
        Of one device, in any currency.
    confidence
        Validated and kept for the run's own document; bands are of 80 %, and the planner is asked for its own.
    host_time
        False leaves out the time a device waits for launches.
    source
        Path of the run file; empty for a mapping.
    """

    model: ModelSpec
    workload: Workload
    schedule: Schedule
    method: Mapping[str, Any]
    precision: Precision
    attention: str
    tower_attention: str = "flash"
    tower_layers: int = 0
    routes_experts: bool = False
    hardware: HardwareSpec | None
    estimator: str
    estimator_options: Mapping[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] | None = None
    stack: Stack
    stack_given: bool = False
    implementation: str = "fused"
    parallel: Parallel = field(default_factory=Parallel)
    serving: Serving = field(default_factory=Serving)
    budgets: Mapping[str, float] = field(default_factory=dict)
    price_per_hour: float | None = None
    confidence: float = 0.8
    host_time: bool = True
    source: str = ""
    notes: tuple[str, ...] = ()
    _file: RunFile = field(repr=False)
    _workload_notes: tuple[str, ...] = field(default=(), repr=False)
    _own_files: tuple[tuple[str, Path, bool], ...] = field(default=(), repr=False)

    @property
    def input_sizes(self) -> list[InputSize]:
        """Images and frames of a request by size in pixels."""
        return input_sizes(self._file.workload, self.workload.frames)

    @property
    def computed(self) -> Schedule:
        """The schedule with the token counts that layers compute on; ``masked`` hides tokens but removes none."""
        return computed_schedule(self.schedule, self.implementation)

    def with_(self, overrides: Mapping[str, Any] | None = None, /, **changes: Any) -> Run:
        """The run with some keys changed; everything that does not follow from them is reused.

        Parameters
        ----------
        overrides, changes
            What `load_run` takes as overrides: nested mappings and dotted keys
            (``{"method.l1": 14}``). Keys of the workload and ``tp``, ``pp``, ``dp`` need no section:
            ``run.with_(batch=4)``. None removes a key.

        Raises
        ------
        AimcostError
            As `load_run`.
        """
        given = {SHORT_KEYS.get(key, key): value for key, value in {**(overrides or {}), **changes}.items()}
        return _resolve(varied(self.document(), plain(given)), self.source, before=self)

    def with_method(self, method: Mapping[str, Any]) -> Run:
        """The run with another ``method:`` mapping; `with_` would merge two mappings of one name."""
        return _resolve({**self.document(), "method": plain(method)}, self.source, before=self)

    def document(self) -> dict[str, Any]:
        """The run as the mapping that a run file holds: keys that were given, without None.

        Changes made by `dataclasses.replace` are not in it.
        """
        document: dict[str, Any] = self._file.dump(given=True, exclude_none=True)
        return document

    def shadowing_files(self) -> dict[str, str]:
        """Key of the run (``model``, ``hardware``, ``stack``) → path of the user's file that its name stands for.

        Only those that take the place of a file that aimcost ships under the same name.
        """
        return {key: shown(path) for key, path, hides in self._own_files if hides}

    def hf_config(self) -> dict[str, Any]:
        """The HF-style configuration of the model, for building it."""
        return model_config(self._file.model)

    @property
    def file(self) -> RunFile:
        """Deprecated: the fields of `Run`, or `document`."""
        warnings.warn(
            "Run.file will be removed in 0.3; use the fields of Run, or document()", DeprecationWarning, stacklevel=2
        )
        return self._file

    @property
    def execution(self) -> str:
        """Deprecated: `stack`; the name of ``execution:`` that stands for it, or its own."""
        warnings.warn("Run.execution will be removed in 0.3; use Run.stack", DeprecationWarning, stacklevel=2)
        return next((old for old, new in EXECUTIONS.items() if new == self.stack.name), self.stack.name)

    @property
    def skip_mlp_add(self) -> bool:
        """Deprecated: `estimator_options`."""
        warnings.warn(
            "Run.skip_mlp_add will be removed in 0.3; use estimator_options", DeprecationWarning, stacklevel=2
        )
        return bool(self.estimator_options.get("skip_mlp_add", False))


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
        data, source = plain(given), ""
    else:
        path = _run_path(given)
        data, source = plain(read_once(path)), str(path)
    data = varied(data, plain(overrides or {}))
    try:
        return _resolve(data, source)
    except AimcostError as error:
        # errors of the model, the workload or the method do not know which file they stand in
        if source and source not in str(error):
            error.prefix(source)
        raise


def _resolve(data: Mapping[str, Any], source: str, before: Run | None = None) -> Run:
    """A run from the mapping of a file; parts of `before` are reused where their keys are the same."""
    where = source if source and before is None else "run"
    file = validate(RunFile, data, where=where)
    if file.estimator is not None and file.estimator not in discover.estimator_names():
        names = discover.estimator_names()
        raise UnknownNameError("estimator", file.estimator, names, where=where)
    request = _request(file, where, before)
    model, workload, schedule = request.model, request.workload, request.schedule
    precision, stored = resolve_precision(file, model)
    serving = Serving(**file.serving.dump())
    parallel = Parallel(**file.parallel.dump())
    check_parallel(model, parallel)
    hardware = _hardware(file, before)
    stack = _stack(file, hardware, where)
    own_files = _own_files(file, before)
    estimator = file.estimator or DEFAULT_ESTIMATOR
    # what a run says wins; what it leaves open is the stack's, where the estimator prices one
    acting = stack if discover.estimator(estimator).uses_stack else None
    if acting is not None and hardware is not None:
        _check_graphs(acting, hardware, where)
    attention = file.attention or (acting.attention if acting else "flash")
    tower_attention = file.attention or (acting.tower_attention if acting else "flash")
    implementation = file.implementation or (acting.implementation if acting else "fused")
    return Run(
        model=model,
        workload=workload,
        schedule=schedule,
        method=file.method,
        precision=precision,
        attention=attention,
        tower_attention=tower_attention,
        tower_layers=_tower_layers(model, acting),
        routes_experts=_routes_experts(model, acting),
        hardware=hardware,
        estimator=estimator,
        estimator_options=file.estimator_options,
        include=tuple(file.include) if file.include is not None else None,
        stack=stack,
        stack_given=file.stack is not None or file.execution is not None,
        implementation=implementation,
        parallel=parallel,
        serving=serving,
        budgets=file.budgets.dump(exclude_none=True),
        price_per_hour=file.price_per_hour,
        confidence=file.confidence,
        host_time=before.host_time if before is not None else True,
        source=source,
        notes=(
            *_file_notes(own_files),
            *model.notes,
            *request.workload_notes,
            *stored,
            *_context_note(model, schedule, workload, serving),
            *_tower_note(model, workload, acting),
            *_experts_note(model, acting),
            *schedule.notes,
            *implementation_notes(schedule, implementation, attention, tower_attention),
            *parallel_notes(model, parallel, workload.batch),
        ),
        _file=file,
        _workload_notes=request.workload_notes,
        _own_files=own_files,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is asked of a model, whatever executes it."""

    model: ModelSpec
    workload: Workload
    workload_notes: tuple[str, ...]
    schedule: Schedule


def _request(file: RunFile, where: str, before: Run | None) -> _Request:
    """Model, workload and schedule: each is that of `before` as far as its keys, and what it rests on, are the same."""
    # `same` is the run whose model is taken over, then whose workload, then whose schedule; None once a key differs
    same = before if before is not None and before._file.model == file.model else None
    model = load_model(file.model) if same is None else same.model
    paper = _is_paper(file.method)
    if same is not None and (same._file.workload != file.workload or _is_paper(same._file.method) != paper):
        same = None
    if same is None:
        workload, notes = resolve_workload(file.workload, model, without_newline=paper)
    else:
        workload, notes = same.workload, same._workload_notes
    if same is None or same._file.method != file.method:
        schedule = plan_schedule(model, workload, file.method, where=where)
    else:
        schedule = same.schedule
    return _Request(model=model, workload=workload, workload_notes=notes, schedule=schedule)


def _hardware(file: RunFile, before: Run | None) -> HardwareSpec | None:
    if before is not None and before._file.hardware == file.hardware:
        return before.hardware
    return load_hardware(file.hardware) if file.hardware is not None else None


def _own_files(file: RunFile, before: Run | None) -> tuple[tuple[str, Path, bool], ...]:
    """Key, path, and whether it hides a shipped file, of each name that the user's own folders answer."""
    named = {"model": file.model, "hardware": file.hardware, "stack": file.stack}
    if before is not None and all(getattr(before._file, key) == given for key, given in named.items()):
        return before._own_files
    found = ((key, discover.not_shipped(key, given)) for key, given in named.items())
    return tuple((key, *file_and_hides) for key, file_and_hides in found if file_and_hides is not None)


def _file_notes(own_files: tuple[tuple[str, Path, bool], ...]) -> list[str]:
    return [
        f"{key} {path.stem} is read from {shown(path)}"
        + (", in place of the file that aimcost ships under that name" if hides else "")
        for key, path, hides in own_files
    ]


def shown(path: Path) -> str:
    """A path as the folder it is used in sees it."""
    folder = Path.cwd()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _context_note(model: ModelSpec, schedule: Schedule, workload: Workload, serving: Serving) -> tuple[str, ...]:
    """Warnings where the language model is given more tokens than it was made for, or than a server takes."""
    tokens = schedule.tokens[0] + workload.new_tokens
    assumed = " by its class's default, since its config states none" if model.decoder.context_assumed else ""
    limits = (
        (model.decoder.context_limit, f"the context limit of {model.name}{assumed}"),
        (serving.max_model_len, "serving.max_model_len"),
    )
    return tuple(
        f"warning: {tokens:,} tokens exceed {what}, {limit:,}"
        for limit, what in limits
        if limit is not None and tokens > limit
    )


def _stack(file: RunFile, hardware: HardwareSpec | None, where: str) -> Stack:
    if file.stack is not None and file.execution is not None:
        raise InvalidValueError("execution", "omitted with 'stack', which it also selects", file.execution, where=where)
    given = file.stack if file.stack is not None else EXECUTIONS[file.execution] if file.execution else DEFAULT_STACK
    return load_stack(given, hardware.architecture if hardware is not None else "")


# Vendors whose GPUs no engine captures graphs on: Metal replays none, and PyTorch's are CUDA's and HIP's.
_WITHOUT_GRAPHS = ("apple",)


def _check_graphs(stack: Stack, hardware: HardwareSpec, where: str) -> None:
    if stack.graph != "none" and hardware.vendor in _WITHOUT_GRAPHS:
        what = f"one without captured graphs, which {hardware.name} does not run (transformers)"
        raise InvalidValueError("stack", what, stack.name, where=where)


def _tower_layers(model: ModelSpec, stack: Stack | None) -> int:
    """Layers of the tower that run: a stack may run those behind the one whose features are taken."""
    vision = model.vision
    if vision is None or vision.traced is not None:
        return 0
    return vision.stored_layers if stack is not None and stack.tower_layers == "all" else vision.layers


def _tower_note(model: ModelSpec, workload: Workload, stack: Stack | None) -> tuple[str, ...]:
    """Which layers of a tower run whose features are taken before its last one."""
    vision = model.vision
    if vision is None or vision.layers == vision.stored_layers or tower_load(model, workload) is None:
        return ()
    what = f"features are taken after layer {vision.layers} of the tower's {vision.stored_layers}"
    by = "" if stack is None else f" by stack {stack.name}"
    run = "all of them are run" if _tower_layers(model, stack) == vision.stored_layers else "no others are run"
    return (f"{what}: {run}{by}",)


def _routes_experts(model: ModelSpec, stack: Stack | None) -> bool:
    traced = model.decoder.traced
    return traced is not None and traced.routed != (0, 0) and stack is not None and stack.experts == "routed"


def _experts_note(model: ModelSpec, stack: Stack | None) -> tuple[str, ...]:
    """Whether all experts run of a model whose trace runs them all."""
    traced = model.decoder.traced
    if traced is None or traced.routed == (0, 0):
        return ()
    experts, active = traced.routed
    if _routes_experts(model, stack):
        assert stack is not None
        return (
            f"{active} of {experts} experts run on a token, as stack {stack.name} routes it: transformers runs all",
        )
    return (f"all {experts} experts run on every token, which is routed to {active}: so transformers computes them",)


def _is_paper(method: Mapping[str, Any]) -> bool:
    """Whether tokens are counted by the paper's convention."""
    return method.get("convention") == "paper"


def _run_path(given: str | Path) -> Path:
    path = discover.at_home(given)
    if discover.is_file(path):
        return path
    if isinstance(given, str) and "/" not in given and path.suffix not in (".yaml", ".yml", ".json"):
        return discover.find("run", given)
    raise FileFormatError(f"run: no such file: {str(given)[:200]}")


def varied(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a run with `overrides` laid over it; a stack replaces an ``execution:``, and the reverse."""
    data = dict(data)
    given = {key.partition(".")[0] for key, value in overrides.items() if value is not None}
    for one, other in (("stack", "execution"), ("execution", "stack")):
        if one in given and other not in given:
            data.pop(other, None)
    return merge_overrides(data, overrides)


def merge_overrides(data: Mapping[str, Any], overrides: Mapping[str, Any], *, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """`data` with `overrides` laid over it; dotted keys and nested mappings reach inside, by at most `depth` levels."""
    if not depth:
        raise InvalidValueError("run", f"nested at most {MAX_DEPTH} levels", overrides)
    merged = dict(data)
    for key, value in overrides.items():
        if not isinstance(key, str):
            raise InvalidValueError("key", "text", key)
        head, _, rest = key.partition(".")
        if rest:
            value = {rest: value}
        inner = merged.get(head)
        if head == "method":
            value, inner = ({"name": each} if isinstance(each, str) else each for each in (value, inner))
        # a model or a machine given whole replaces the one before; a dotted key changes an inline one
        if isinstance(value, Mapping) and (
            head not in ("model", "hardware", "stack") or (rest and isinstance(inner, Mapping))
        ):
            if (
                head == "method"
                and isinstance(inner, Mapping)
                and "name" in value
                and value["name"] != inner.get("name")
            ):
                inner = {}  # another method's parameters do not carry over
            if inner is not None and not isinstance(inner, Mapping):
                raise InvalidValueError(head, "a mapping, to set a key inside it", inner)
            value = merge_overrides(inner or {}, value, depth=depth - 1)
        elif rest:
            raise InvalidValueError(key, f"a key of an inline {head}; this run names one", inner)
        merged[head] = value
    return merged


def method_params(method: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """The module that plans a ``method:`` mapping, and its parameters.

    Raises
    ------
    InvalidValueError, UnknownNameError
        The mapping names no method, or holds what are no parameters of it.
    """
    name = method.get("name")
    if not isinstance(name, str):
        raise InvalidValueError("method.name", "given (text)", name, where=where)
    if name not in discover.method_names():
        raise UnknownNameError("method", name, discover.method_names(), where=where)
    module = plan_module(name)
    return module, validate(module.Params, method, where=f"{where}: method")


def plan_schedule(model: ModelSpec, workload: Workload, method: Mapping[str, Any], *, where: str = "run") -> Schedule:
    """The schedule that a ``method:`` mapping plans."""
    module, params = method_params(method, where)
    if model.decoder.cross_layers and (name := method["name"]) not in ("none", "explicit"):
        raise InvalidValueError(
            "method.name", f"none: the visual tokens of {model.name} do not enter its sequence", name, where=where
        )
    schedule: Schedule = module.plan(model, workload, params)
    if model.decoder.traced is not None:
        _check_scored_layers(model, model.decoder.traced, schedule, where)
    schedule = _with_cached_prefix(workload, schedule, where)
    if not schedule.events:
        return schedule if method["name"] == "none" else replace(schedule, notes=(*schedule.notes, _dense(schedule)))
    released: Released | None = getattr(module, "RELEASED", None)
    if released is not None and released.differs:
        return replace(schedule, notes=(*schedule.notes, str(released.under(params))))
    return schedule


# `Scorer.reads` on which the question has no influence: whatever was asked when the cache was filled, the same tokens
# were chosen.
_WITHOUT_QUESTION = ("positions", "embeddings", "tower", "inside_tower")


def _with_cached_prefix(workload: Workload, schedule: Schedule, where: str) -> Schedule:
    """The schedule where a prefix of the prompt is in the cache: visual tokens there were reduced when it was filled.

    Raises
    ------
    InvalidValueError
        The prefix ends among visual tokens that are reduced, or another question chose what it holds of them.
    """
    cached, method = workload.cached_tokens, schedule.method
    if cached and schedule.events and workload.caches_visuals:
        before = workload.text_before
        behind = before + workload.visual_tokens + workload.template_tokens
        if any(find_scorer(event.scorer).reads not in _WITHOUT_QUESTION for event in schedule.events):
            what = f"at most {before}, the text before the visual tokens: {method} chooses them anew for each question"
            raise InvalidValueError("workload.cached_tokens", what, cached, where=where)
        if cached < behind:
            what = f"at most {before} or at least {behind}: {method} reduces the visual tokens between"
            raise InvalidValueError("workload.cached_tokens", what, cached, where=where)
        note = f"what {method} leaves of the visual tokens is in the cache: nothing is selected again"
        events = tuple(replace(event, selects=False) for event in schedule.events)
        schedule = replace(schedule, events=events, notes=(*schedule.notes, note))
    short = next((i for i, left in enumerate(cached_by_layer(workload, schedule)) if schedule.tokens[i] <= left), None)
    if cached and short is not None:
        what = f"less than the {schedule.tokens[short]} tokens of layer {short}"
        raise InvalidValueError("workload.cached_tokens", what, cached, where=where)
    return schedule


def _dense(schedule: Schedule) -> str:
    """The note on a method that reduces nothing: what released code does is then beside the point."""
    why = "with these parameters it drops and merges none" if schedule.visual_tokens else "none is visual"
    return f"method {schedule.method!r} leaves all tokens: {why}"


def _check_scored_layers(model: ModelSpec, traced: TracedDecoder, schedule: Schedule, where: str) -> None:
    """Raise where tokens are ranked by the attention of a layer that has none: a recurrent one, a convolution."""
    for event in schedule.layer_events:
        reads = find_scorer(event.scorer).reads
        if event.after_layer is None or reads not in ("layer", "next_layer"):
            continue
        layer = min(event.after_layer + (reads == "next_layer"), model.decoder.layers - 1)
        if all(op.kind != "attention" for op in traced.kinds[traced.kind_of(layer)].ops):
            what = f"one that ranks at layers with attention: layer {layer} of {model.name} has none"
            raise InvalidValueError("method", what, schedule.method, where=where)
