"""Results of accuracy benchmarks (lmms-eval, VLMEvalKit) as the scores that ``aimcost plan --accuracy`` takes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, InvalidValueError, argument
from ...inputs.files import read_mapping
from ...inputs.method_arguments import method_in
from ...inputs.plain import plain
from ...inputs.strict_json import to_json
from ...units import MEGA
from .result import is_number

__all__ = ["COLUMNS", "SCORED", "BenchmarkScore", "ImportedScores", "import_scores", "score_lines"]

_MAX_BYTES = int(512 * MEGA)
COLUMNS = ("schedule", "benchmark", "score", "vanilla")
_UNREDUCED = {"name": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkScore:
    """One score of one benchmark.

    Attributes
    ----------
    method
        A ``method:`` mapping, ``{"name": "none"}`` for the unreduced model.
    benchmark
        As the tool names it; ``benchmark/metric`` where it reports several.
    vanilla
        The unreduced model's score among the files read together, None where there is none.
    """

    method: Mapping[str, Any]
    benchmark: str
    score: float
    vanilla: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedScores:
    """Scores of some result files, and what was left out of them or taken for granted."""

    tools: tuple[str, ...]
    scores: tuple[BenchmarkScore, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """One result file: benchmark -> metric -> score, and the text that may name a method."""

    metrics: Mapping[str, Mapping[str, float]]
    method_text: str | Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    name: str
    wrote: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], _Result]


def import_scores(
    paths: Sequence[Path], given: Mapping[str, Any], *, metric: str | None = None
) -> ImportedScores | None:
    """Scores of result files; None where the first is of no accuracy benchmark.

    Parameters
    ----------
    given
        ``method``, where the files do not say it; wins over what they say.
    metric
        The one metric to take of each benchmark; all of lmms-eval's, the overall one of VLMEvalKit's without it.

    Raises
    ------
    FileFormatError, InvalidValueError
        A file of another kind among them, one without a score, or a method that does not name itself.
    """
    tools: list[str] = []
    notes: list[str] = []
    scores: list[BenchmarkScore] = []
    for path in paths:
        data = read_mapping(path, limit=_MAX_BYTES)
        tool = next((tool for tool in _TOOLS if tool.wrote(data)), None)
        if tool is None and not tools:
            return None
        if tool is None:
            known = " or ".join(SCORED)
            raise FileFormatError(f"{path}: not a result file of {known}, as {paths[0]} is")
        try:
            result = tool.read(data)
            method, assumed = _method(result.method_text, plain(given).get("method"))
            rows = [
                BenchmarkScore(method=method, benchmark=name, score=score)
                for benchmark, metrics in result.metrics.items()
                for name, score in _chosen(benchmark, metrics, metric, tool).items()
            ]
            if not rows:
                missing = "holds no score" if metric is None else f"holds no score under {metric!r}"
                raise FileFormatError("; ".join((*result.notes, missing)))
        except (FileFormatError, InvalidValueError) as error:
            error.prefix(f"{path}: {tool.name}")
            raise
        tools.append(tool.name)
        notes += [f"{path}: {note}" for note in (*result.notes, *assumed)]
        scores += rows
    return ImportedScores(tools=tuple(dict.fromkeys(tools)), scores=_with_vanilla(scores), notes=tuple(notes))


def score_lines(scores: Sequence[BenchmarkScore]) -> str:
    """The scores as ``aimcost plan --accuracy`` reads them: one row a schedule and benchmark."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in scores:
        vanilla = "" if row.vanilla is None else f"{row.vanilla:.6g}"
        writer.writerow([to_json(dict(row.method), indent=None), row.benchmark, f"{row.score:.6g}", vanilla])
    return text.getvalue()


def _with_vanilla(scores: Sequence[BenchmarkScore]) -> tuple[BenchmarkScore, ...]:
    unreduced = {row.benchmark: row.score for row in scores if row.method["name"] == "none"}
    return tuple(replace(row, vanilla=unreduced.get(row.benchmark)) for row in scores)


def _method(text: str | Mapping[str, Any], given: Any) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The method of a result, and a note where none is named."""
    named = {"name": given} if isinstance(given, str) else given
    found = method_in(text) if named is None else named
    if found is None:
        return _UNREDUCED, ("names no method: taken as the unreduced model",)
    if not isinstance(found.get("name"), str):
        raise InvalidValueError(argument("method"), "given with its name", dict(found))
    return found, ()


def _chosen(benchmark: str, metrics: Mapping[str, float], metric: str | None, tool: _Tool) -> dict[str, float]:
    """Scores of a benchmark by the name that each is imported under."""
    if metric is not None:
        return {benchmark: metrics[metric]} if metric in metrics else {}
    if len(metrics) == 1 or tool is LMMS_EVAL:
        return {benchmark if len(metrics) == 1 else f"{benchmark}/{name}": score for name, score in metrics.items()}
    overall = [name for name in metrics if name in _OVERALL]
    if len(overall) != 1:
        raise InvalidValueError(
            argument("metric"), f"given: {benchmark} has several ({', '.join(list(metrics)[:12])})", None
        )
    return {benchmark: metrics[overall[0]]}


# lmms-eval: results{task{alias, "metric,filter", "metric_stderr,filter"}}, config{model, model_args}.


def _lmms_eval(data: Mapping[str, Any]) -> _Result:
    metrics: dict[str, dict[str, float]] = {}
    for task, found in data["results"].items():
        if not isinstance(found, Mapping):
            raise FileFormatError(f"results.{task} must be a mapping of metrics")
        named = {key.partition(",")[0]: value for key, value in found.items() if "," in key and "_stderr" not in key}
        numbers = {key: float(value) for key, value in named.items() if is_number(value)}
        if numbers:
            metrics[str(task)] = numbers
    config = data.get("config")
    arguments = config.get("model_args") if isinstance(config, Mapping) else None
    return _Result(metrics=metrics, method_text=arguments if isinstance(arguments, str | Mapping) else "")


# VLMEvalKit: status.json of a run, model_name, datasets{name{status, primary_metric, metrics{name: number}}}. Tables
# are flattened: a row of split "Overall" or "none" prefixes its columns.
_OVERALL = ("Overall", "split=none|Overall", "split=Overall|Overall", "Final Score Norm", "Avg ACC")


def _vlmevalkit(data: Mapping[str, Any]) -> _Result:
    metrics: dict[str, dict[str, float]] = {}
    notes = []
    for name, found in data["datasets"].items():
        if not isinstance(found, Mapping) or not isinstance(found.get("metrics", {}), Mapping):
            raise FileFormatError(f"datasets.{name} must be a mapping with 'metrics'")
        numbers = {key: float(value) for key, value in found.get("metrics", {}).items() if is_number(value)}
        if not numbers:
            notes.append(f"{name}: no metrics (status {found.get('status')})")
            continue
        primary = found.get("primary_metric")
        metrics[str(name)] = {str(primary): numbers[primary]} if primary in numbers else numbers
    return _Result(metrics=metrics, method_text=str(data.get("model_name", "")), notes=tuple(notes))


LMMS_EVAL = _Tool(
    name="lmms-eval",
    wrote=lambda data: isinstance(data.get("results"), Mapping) and "configs" in data,
    read=_lmms_eval,
)
_TOOLS = (
    LMMS_EVAL,
    _Tool(
        name="VLMEvalKit",
        wrote=lambda data: isinstance(data.get("datasets"), Mapping) and "eval_id" in data,
        read=_vlmevalkit,
    ),
)
# Names of the tools whose scores are read.
SCORED = tuple(tool.name for tool in _TOOLS)
