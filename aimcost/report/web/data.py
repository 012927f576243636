"""The data of a page: settings, schedules and tables as plain values, number columns in one pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AimcostError
from ...evidence.joining import join
from ...evidence.timings import load_timings
from ...inputs import discover
from ...inputs.files import read_mapping
from ...inputs.run import Run, load_run
from ...inputs.strict_json import canonical
from ...machine.inheritance import calibration_status
from ...machine.peaks import compute_dtypes, peak_flops_per_s, require_hardware
from ...pricing.estimator import estimator_of
from ...pricing.pricing import estimate_run
from ...search.explorer.settings import Schedules, Settings, schedules_of, settings_of
from ...search.explorer.tables import Context, Op, OpCurves, Row, Rows, Tables, context_of
from ...search.scores.points import Point, load_points, models_named
from ...search.scores.points import settings_of as settings_of_point
from ...types.stages import STAGES
from .formulas import formula_of, module_formula
from .packing import Pool

__all__ = ["Choice", "run_data", "varied"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A machine under a stack that the page offers; None: the run's own."""

    hardware: str | None = None
    stack: str | None = None


@dataclass(slots=True)
class _Ops:
    """Operations of a page, each once."""

    found: dict[Op, int] = field(default_factory=dict)

    def number(self, op: Op) -> int:
        return self.found.setdefault(op, len(self.found))

    def to_list(self, scorer: str, before: str) -> list[dict[str, Any]]:
        return [
            {
                "stage": op.stage,
                "name": op.name,
                "kind": op.kind,
                "group": op.group,
                "term": op.term,
                "formula": formula_of(op.name, op.kind, _scorer_of(op, scorer, before)),
            }
            for op in self.found
        ]


def _scorer_of(op: Op, inside: str, before: str) -> str:
    """The scorer that an operation serves: inside the language model, or before it; empty for all others."""
    if op.group != "selection":
        return ""
    return inside if op.stage == "prefill" else before


def run_data(
    run: Run, choices: Sequence[Choice], pool: Pool, progress: Progress, *, argument: str = "run.yaml"
) -> dict[str, Any]:
    """One run with every machine and stack that the page offers for it.

    Parameters
    ----------
    argument
        How a command line names the run's file; empty for a run that flags alone describe.

    Raises
    ------
    AimcostError
        A run that the explorer cannot vary; the message says why.
    """
    settings = settings_of(run)
    rows, tables = _paper_rows(settings)
    runs = [varied(run, choice) for choice in choices]
    if rows:
        runs.append(run.with_({**_AS_PAPERS, **_options_of(rows), "method.convention": "paper"}))
    total = 2 * len(runs) + 2
    progress(0, total, "planning schedules")
    conventions = dict.fromkeys(_convention(each) for each in runs)
    schedules = {name: schedules_of(settings, name, rows if name == "paper" else (), tables) for name in conventions}
    most = _most_tokens(settings)
    ops, contexts = _Ops(), []
    for number, each in enumerate(runs):
        progress(2 * number + 2, total, f"pricing {each.hardware.name if each.hardware else ''}, {each.stack.name}")
        contexts.append(_context(context_of(settings, each, schedules[_convention(each)], most), pool, ops))
    planned = next(iter(schedules.values()))
    before = next((e.scorer for found in planned.reductions for s in found for e in s.pre_llm_events), "")
    progress(total, total, "writing")
    return {
        "name": run.source.rpartition("/")[2].removesuffix(".yaml") or run.model.name,
        "document": run.document(),
        "given": _given(run, argument),
        "model": run.model.name,
        "layers": run.model.decoder.layers,
        "settings": _settings(settings),
        "schedules": {name: _schedules(each, pool) for name, each in schedules.items()},
        "contexts": contexts,
        "ops": ops.to_list(planned.scorer, before),
        "most_tokens": most,
        "argument": argument,
        "budget_ms": run.budgets.get("max_ttft_ms"),
        **_scores(run),
        **_timings(run),
    }


def _given(run: Run, argument: str) -> Mapping[str, Any]:
    """What `argument` alone stands for: the keys of the run's file, without those that flags changed."""
    if not run.source:
        return run.document() if argument else {}
    try:
        return load_run(run.source).document()
    except AimcostError:  # a file that is no run without its flags
        return read_mapping(Path(run.source))


_CONTEXT_KEYS = ("hardware", "stack", "execution", "estimator", "attention", "estimator_options")


def _scores(run: Run) -> dict[str, Any]:
    """Published scores of the model with the time predicted for each method, one point a method and setting."""
    found: dict[str, tuple[dict[str, Any], list[Point]]] = {}
    every = load_points()
    here = models_named(every)
    for point in every:
        method = settings_of_point(point)
        if here.get(point.model) == run.model.name and method is not None and point.relative is not None:
            found.setdefault(canonical([method, point.source_id]), (method, []))[1].append(point)
    points = []
    for method, same in found.values():
        try:
            seconds = estimate_run(run.with_method(method)).ttft_s
        except AimcostError:
            continue  # a setting that this number of tokens does not have
        points.append(
            {
                "method": method["name"],
                "label": " ".join([same[0].method, same[0].parameters.strip("{}")]),
                "relative": sum(point.relative or 0.0 for point in same) / len(same),
                "benchmarks": len(same),
                "ttft_s": seconds,
                "source": same[0].source,
            }
        )
    load = run.workload
    shape = f"{load.frames} frames" if load.frames else f"{load.images} images" if load.images else ""
    hardware = run.hardware.name if run.hardware else ""
    at = ", ".join(filter(None, [shape, f"{load.text_tokens} text tokens", f"batch {load.batch}", hardware]))
    return {"scores": points, "scores_at": at}


def _timings(run: Run) -> dict[str, Any]:
    """Published timings of the model, else of the card, with what is predicted for them."""
    hardware = run.hardware.name if run.hardware else None
    every = load_timings().requests
    of_model = [timing for timing in every if timing.run.get("model") == run.model.name]
    some = of_model or [timing for timing in every if timing.run.get("hardware") == hardware]
    what = f"of {run.model.name}" if of_model else f"on {hardware}, of other models"
    points = [
        {
            "kind": "published",
            "label": " ".join(filter(None, [row.timing.id, row.timing.quantity])),
            "predicted_s": row.predicted,
            "low_s": row.low,
            "high_s": row.high if math.isfinite(row.high) else None,
            "measured_s": row.published,
            "source": row.timing.source,
        }
        for row in join(some)
    ]
    return {"timings": points, "timings_are": f"Published timings {what}, each priced as its source states it."}


# How the seed tables of papers were computed: LLM-Viewer's arithmetic on one A100.
_AS_PAPERS: Mapping[str, Any] = {"estimator": "llm_viewer", "attention": "eager"}


def varied(run: Run, choice: Choice) -> Run:
    given = {"hardware": choice.hardware, "stack": choice.stack}
    changes = {key: value for key, value in given.items() if value is not None}
    return run.with_(changes) if changes else run


def _paper_rows(settings: Settings) -> tuple[list[Mapping[str, Any]], Mapping[str, str]]:
    """Rows of papers' tables on this model, with its text length and a load that the page has."""
    run, found, tables = settings.run, list[Mapping[str, Any]](), dict[str, str]()
    if run.workload.cached_tokens or run.parallel.devices > 1:
        return [], {}  # papers' rows compute whole prompts, on one device
    for name in discover.names("paper"):
        paper = read_mapping(discover.find("paper", name))
        tables.update(paper["tables"])
        for row in paper["rows"]:
            load = row["run"]["workload"]
            same = row["run"]["model"] == run.model.name and load.get("text_tokens") in settings.texts
            if same and load.get(settings.loads_key) in [each.count for each in settings.loads]:
                found.append(row)
    return found, tables


def _options_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Machine and options, which all rows of a paper on one model share."""
    first = rows[0]["run"]
    return {"hardware": first["hardware"], "estimator_options": first.get("estimator_options", {})}


def _convention(run: Run) -> str:
    return str(run.method.get("convention", "executed"))


def _most_tokens(settings: Settings) -> int:
    prompts = [workload.visual_tokens for load in settings.loads for workload in load.workloads.values()]
    return max(prompts) + max(settings.text_lengths) + settings.most_new_tokens


def _settings(settings: Settings) -> dict[str, Any]:
    load = settings.run.workload
    return {
        "loads_key": settings.loads_key,
        "loads": [each.count for each in settings.loads],
        "load": settings.load_start,
        "batches": list(settings.batches),
        "batch": settings.batches.index(load.batch),
        "texts": list(settings.texts),
        "text": settings.texts.index(settings.text),
        "text_before": load.text_before,
        "templates": [each.template_tokens for each in settings.loads],
        "most_new_tokens": settings.most_new_tokens,
        "new_tokens": load.new_tokens,
        "method": settings.fixed.get("name"),
        "fixed": dict(settings.fixed),
        "dials": [{"key": dial.key, "values": list(dial.values), "start": dial.start} for dial in settings.dials],
        "visual": [each.workloads["executed"].visual_tokens for each in settings.loads],
        "cached": {
            "tokens": load.cached_tokens,
            "text": load.cached_text,
            # what is computed of the prompt, where that is the same in every layer
            "queries": load.prompt_tokens - load.cached_tokens if load.caches_visuals else None,
        },
    }


def _schedules(schedules: Schedules, pool: Pool) -> dict[str, Any]:
    return {
        # a layer's count less that of the layer before: mostly zeros
        "tokens": pool.whole(np.diff(schedules.tokens, axis=1, prepend=0)),
        "distinct": len(schedules.tokens),
        "counts": pool.whole(schedules.counts),
        "before": pool.whole(schedules.before),
        "by_text": {text: [list(found), list(found.values())] for text, found in schedules.by_text.items()},
        "dense": list(schedules.dense),
        "presets": [
            {
                "id": preset.id,
                "table": preset.table,
                "load": preset.load,
                "text": preset.text,
                "tokens": preset.tokens,
                "before": preset.before,
                "position": preset.position,
                "method": dict(preset.method),
                "printed": {key: preset.printed[key] for key in ("tflops", "ms")},
            }
            for preset in schedules.presets
        ],
    }


def _context(context: Context, pool: Pool, ops: _Ops) -> dict[str, Any]:
    run, hardware = context.run, require_hardware(context.run.hardware)
    estimator = estimator_of(run.estimator)
    peak, _ = peak_flops_per_s(hardware, compute_dtypes(run.precision)[0])
    rows = _RowPool(ops)
    return {
        "document": {key: value for key, value in run.document().items() if key in _CONTEXT_KEYS},
        "hardware": hardware.name,
        "stack": run.stack.name if estimator.uses_stack else None,
        "estimator": run.estimator,
        "time_means": estimator.time_means,
        "status": calibration_status(hardware),
        # rows that are not those of every other estimator have other formulas
        "formula": module_formula(estimator.price) if estimator.stages != STAGES else None,
        "attention": run.attention,
        "convention": context.schedules.convention,
        "kinds": list(context.kinds),
        "exposes": context.exposes,
        "maps": list(context.maps),
        "decode_extra": context.decode_extra,
        "included": list(context.included),
        "notes": list(estimate_run(run).notes),
        "band": _band(context) if context.has_band else None,
        "weights_bytes": list(context.weights_bytes),
        "stages": list(context.stages),
        "ranks_square": context.ranks_square,
        "feature_layers": context.feature_layers,
        "usable_bytes": hardware.usable_memory_bytes or None,
        "peak_flops_per_s": peak,
        "bytes_per_s": hardware.memory_bytes_per_s,
        "tables": [_tables(each, pool, ops, rows) for each in context.tables],
        "rows": rows.to_dict(),
    }


def _band(context: Context) -> dict[str, Any]:
    host = context.run.stack.host_s
    return {
        "terms": {term.name: [*term.inside, *term.beyond] for term in context.terms},
        "host": [host.value, host.low, host.high],
        "prompt": list(context.prompt_scale),
        "decode": list(context.decode_scale),
        "width": context.width,
    }


def _tables(tables: Tables, pool: Pool, ops: _Ops, rows: _RowPool) -> dict[str, Any]:
    return {
        "batch": tables.batch,
        "layers": [_by_kernel(each, pool, ops) for each in tables.layers],
        "decode": [_by_kernel(each, pool, ops) for each in tables.decode],
        "cut": [_op_rows(each, pool, ops) for each in tables.cut],
        "before": [[rows.add(each) for each in found] for found in tables.before],
        "embed": {str(text): rows.add(each) for text, each in tables.embed.items()},
        "head": rows.add(tables.head),
        "first": [_op_rows(each, pool, ops) for each in tables.first],
        "last": [_op_rows(each, pool, ops) for each in tables.last],
        "step_before": rows.add(tables.step_before),
        "step_after": rows.add(tables.step_after),
        "kv": [pool.costs(each) for each in tables.kv],
        "peaks": [{kernel: pool.costs(each) for kernel, each in found.items()} for found in tables.peaks],
        "step_peaks": [{kernel: pool.costs(each) for kernel, each in found.items()} for found in tables.step_peaks],
        "ahead_bytes": [list(each) for each in tables.ahead_bytes],
        "embedded_bytes": tables.embedded_bytes,
        "features_bytes": list(tables.features_bytes),
        "head_bytes": tables.head_bytes,
        "added": [
            [
                [each.stage, each.beside, each.name, each.seconds.value, each.seconds.low, each.seconds.high]
                for each in found
            ]
            for found in tables.added
        ],
    }


def _by_kernel(rows: Mapping[str, Sequence[OpCurves]], pool: Pool, ops: _Ops) -> dict[str, Any]:
    return {kernel: [_op_rows(each, pool, ops) for each in found] for kernel, found in rows.items()}


def _op_rows(rows: OpCurves, pool: Pool, ops: _Ops) -> dict[str, Any]:
    return {
        "op": ops.number(rows.op),
        "device": pool.seconds(rows.device),
        "flops": pool.costs(rows.flops),
        "bytes": pool.costs(rows.bytes),
        "code": pool.whole(rows.code),
        "host": rows.host if isinstance(rows.host, float) else None,
        "hosts": None if isinstance(rows.host, float) else pool.seconds(rows.host),
        "after": rows.after if isinstance(rows.after, float) else None,
        "afters": None if isinstance(rows.after, float) else pool.seconds(rows.after * rows.device),
        "waits": rows.waits,
        "each_step": rows.each_step,
        "sends": rows.sends,
        "needed": None if rows.needed is None else pool.whole(rows.needed),
        "counts": rows.counts,
        "key": list(rows.key),
        "shape": {name: list(value) for name, value in rows.shape.items()},
    }


@dataclass(slots=True)
class _RowPool:
    """Rows outside the layers of one machine and stack, each once."""

    ops: _Ops
    found: dict[Row, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)

    def add(self, rows: Rows) -> list[list[Any]]:
        """Groups as (repeats, row numbers)."""
        return [[count, [self.found.setdefault(row, len(self.found)) for row in group]] for count, group in rows]

    def to_dict(self) -> dict[str, Any]:
        rows = list(self.found)
        return {
            "op": [self.ops.number(row.op) for row in rows],
            "device": [row.device for row in rows],
            "host": [row.host for row in rows],
            "flops": [row.flops for row in rows],
            "bytes": [row.bytes for row in rows],
            "code": [row.code for row in rows],
            "after": [row.after for row in rows],
            "waits": [int(row.waits) for row in rows],
            "shape": [self.shapes.setdefault(row.shape, len(self.shapes)) for row in rows],
            "shapes": list(self.shapes),
        }
