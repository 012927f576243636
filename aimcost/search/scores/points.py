"""Published scores: one CSV a source in ``configs/accuracy/``, and what their names mean here.

Scores of different tables are not comparable, their ratios to the unreduced score of the same table are
(``relative``). Names stand as printed; `models_named`, `method_named` and `benchmark_named` give the project's own.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from yaml import safe_load

from ...errors import FileFormatError, InvalidValueError, UnknownNameError
from ...inputs import discover
from ...inputs.files import read_text

__all__ = [
    "COLUMNS",
    "FAMILIES",
    "Point",
    "benchmark_named",
    "benchmark_of_harness",
    "benchmarks_of",
    "family_of",
    "load_points",
    "method_named",
    "model_family",
    "models_named",
    "points_of",
    "settings_of",
]

# Models as the tables print them; a name that is ours already stands for itself.
_MODELS = {
    "llava-next-7b": "llava-next-vicuna-7b",
    "llava-onevision-7b": "llava-onevision-qwen2-7b",
    "llava-video-7b": "llava-video-7b-qwen2",
}
# Models whose vision side and training recipe resemble each other; the printed name's own start otherwise.
_SIBLINGS = {
    "llava-1.5": "llava",
    "llava-next": "llava",
    "llava-onevision": "llava video",
    "llava-video": "llava video",
    "llava-next-video": "llava video",
    "qwen2.5-vl": "qwen vl",
    "qwen3-vl": "qwen vl",
}
# What a task means: the benchmarks that are averaged for it, each in one family.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "general": (
        *("GQA", "VQAv2", "VizWiz", "OKVQA", "A-OKVQA", "MMB", "MMB-CN", "MME", "MME-P", "MME-C"),
        *("MMVet", "MMStar", "SEED"),
    ),
    "ocr": ("TextVQA", "OCRBench", "DocVQA"),
    "chart": ("ChartQA", "InfoVQA"),
    "hallucination": ("POPE", "HallBench"),
    "knowledge": ("SQA", "SQA-IMG", "AI2D", "MMMU"),
    "video": (
        *("VideoMME", "VideoMME (w/o sub)", "VideoMME (w/ sub)", "VideoMME short", "VideoMME medium", "VideoMME long"),
        *("MVBench", "LongVideoBench", "EgoSchema", "EgoSchema subset", "MLVU", "NExT-QA", "PerceptionTest"),
        *("SeedBench-video", "ActivityNet-acc"),
    ),
    "caption": ("Nocaps-CIDEr", "Flickr30K-CIDEr"),
}
# Benchmarks and what is part of them: averaged for a task, a part beside its whole would count twice.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "MME": ("MME-P", "MME-C"),
    "VideoMME": ("VideoMME (w/o sub)", "VideoMME (w/ sub)", "VideoMME short", "VideoMME medium", "VideoMME long"),
    "VideoMME (w/o sub)": ("VideoMME (w/ sub)", "VideoMME short", "VideoMME medium", "VideoMME long"),
    "EgoSchema": ("EgoSchema subset",),
    "SQA": ("SQA-IMG",),
}
# One benchmark under two names: OCRBench/10 is its score in per cent, and a share of vanilla is a share already.
_BENCHMARKS = {"OCRBench/10": "OCRBench", "TextVQA (share of vanilla)": "TextVQA"}
# Benchmarks as lmms-eval and VLMEvalKit name their tasks and data sets, in lower case; `TASK/METRIC` where a task has
# several.
_HARNESSES = {
    "textvqa_val": "TextVQA",
    "docvqa_val": "DocVQA",
    "infovqa_val": "InfoVQA",
    "chartqa_test": "ChartQA",
    "vqav2_val": "VQAv2",
    "vizwiz_vqa_val": "VizWiz",
    "ok_vqa": "OKVQA",
    "ok_vqa_val2014": "OKVQA",
    "gqa_testdev_balanced": "GQA",
    "ai2d_test": "AI2D",
    "mmmu_val": "MMMU",
    "mmmu_dev_val": "MMMU",
    "mmbench_en_dev": "MMB",
    "mmbench_dev_en": "MMB",
    "mmbench_cn_dev": "MMB-CN",
    "mmbench_dev_cn": "MMB-CN",
    "mme/mme_perception_score": "MME-P",
    "mme/mme_cognition_score": "MME-C",
    "seedbench_img": "SEED",
    "scienceqa": "SQA",
    "scienceqa_test": "SQA",
    "scienceqa_img": "SQA-IMG",
    "seedbench": "SEED",
    "hallusionbench": "HallBench",
    "hallusion_bench_image": "HallBench",
    "pope": "POPE",
    "videomme": "VideoMME (w/o sub)",
    "videomme_w_subtitle": "VideoMME (w/ sub)",
    "video-mme": "VideoMME (w/o sub)",
    "longvideobench_val_v": "LongVideoBench",
    "mlvu_dev": "MLVU",
    "egoschema_subset": "EgoSchema subset",
    "nextqa_mc_test": "NExT-QA",
    "perceptiontest_val_mc": "PerceptionTest",
}
# The checks of a row: digits that `relative` is printed with.
_DECIMALS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One published score of a reduced model; names as printed.

    Attributes
    ----------
    parameters, budget
        The method's own parameters where they are stated (``K=2 R=50%``, or as in a run file: ``{k: 2}``), and the
        budget as printed.
    share_kept
        Share of the visual tokens that the budget stands for; None where it is stated in other terms.
    where
        Where the method reduces.
    score, vanilla, relative
        The score, that of the unreduced model in the same table, and their ratio; None where it is not printed.
    source_id, source, table
        What was read, and the table in it.
    measured_by
        Own paper or third party, and whether baselines were run again.
    """

    model: str
    method: str
    parameters: str = ""
    budget: str = ""
    share_kept: float | None = None
    where: str = ""
    benchmark: str
    metric: str = ""
    score: float
    vanilla: float | None = None
    relative: float | None = None
    source_id: str
    source: str = ""
    table: str = ""
    measured_by: str = ""
    note: str = ""

    @property
    def cell(self) -> tuple[str, str, str]:
        """Model, method and budget: a row of a table."""
        return self.model, self.method, self.budget

    @property
    def copied_as(self) -> tuple[str, str, str, str, float]:
        """What two sources agree in when one repeats the other."""
        return self.model, self.method, self.budget, self.benchmark, self.score


_RENAMED = {"vanilla": "vanilla_same_table"}
COLUMNS = tuple(_RENAMED.get(field.name, field.name) for field in fields(Point))
_REQUIRED = ("model", "method", "benchmark", "score", "source_id")


def load_points(paths: Sequence[Path] | None = None) -> tuple[Point, ...]:
    """All points of some files, by default of every file in ``configs/accuracy/``; a user's file wins by its name.

    Raises
    ------
    FileFormatError, InvalidValueError, UnknownNameError
        A file that is no such table, with the line and the column.
    """
    files = tuple(paths) if paths is not None else tuple(discover.names("accuracy").values())
    return tuple(point for path in files for point in _read(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=256)
def _read(path: Path, _modified: int) -> tuple[Point, ...]:
    reader = csv.reader(read_text(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    for name in header:
        if name not in COLUMNS:
            raise UnknownNameError("column", name, COLUMNS, where=str(path))
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise FileFormatError(f"{path}: needs the column {missing[0]} (found {', '.join(header) or 'no columns'})")
    points = []
    for row in reader:
        if not row:
            continue
        where = f"{path}: line {reader.line_num}"
        if len(row) != len(header):
            raise FileFormatError(f"{where}: {len(row)} fields under {len(header)} columns")
        points.append(_point(dict(zip(header, (cell.strip() for cell in row), strict=True)), where))
    return tuple(points)


def _point(row: Mapping[str, str], where: str) -> Point:
    for name in _REQUIRED:
        if not row[name]:
            raise FileFormatError(f"{where}: {name} is empty")
    values: dict[str, Any] = {name: row.get(_RENAMED.get(name, name), "") for name in _texts()}
    for name in ("score", "vanilla", "relative", "share_kept"):
        values[name] = _number(_RENAMED.get(name, name), row.get(_RENAMED.get(name, name), ""), where)
    share, vanilla, relative = values["share_kept"], values["vanilla"], values["relative"]
    if share is not None and not 0 <= share <= 1:
        raise InvalidValueError("share_kept", "from 0 to 1", share, where=where)
    if vanilla is not None and vanilla <= 0:
        raise InvalidValueError("vanilla_same_table", "above 0", vanilla, where=where)
    if vanilla is not None:
        quotient = values["score"] / vanilla
        if relative is None:
            values["relative"] = quotient
        elif abs(quotient - relative) > 0.6 * 10**-_DECIMALS:
            expected = f"{quotient:.{_DECIMALS}f}, score over vanilla_same_table"
            raise InvalidValueError("relative", expected, relative, where=where)
    return Point(**values)


@lru_cache(maxsize=1)
def _texts() -> tuple[str, ...]:
    numbers = {"score", "vanilla", "relative", "share_kept"}
    return tuple(field.name for field in fields(Point) if field.name not in numbers)


def _number(name: str, text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidValueError(name, "a number", text, where=where)
    return value


def models_named(points: Iterable[Point]) -> dict[str, str]:
    """The project's names of the points' models, by printed name; models without one are left out."""
    shipped = discover.names("model")  # reads the folders: once for all points
    printed = dict.fromkeys(point.model for point in points)
    return {model: name for model in printed if (name := _MODELS.get(model, model)) in shipped}


def points_of(model: str) -> tuple[Point, ...]:
    """The published points of a model, by the project's name or as printed.

    Raises
    ------
    UnknownNameError
        Nobody published scores of it.
    """
    every = load_points()
    named = models_named(every)
    found = tuple(point for point in every if model in (point.model, named.get(point.model)))
    if not found:
        known = dict.fromkeys(named.get(point.model, point.model) for point in every)
        raise UnknownNameError("model with published scores", model, known)
    return found


def model_family(printed: str) -> str:
    """Models that a model's scores resemble most."""
    start = max((known for known in _SIBLINGS if printed.startswith(known)), key=len, default=None)
    return re.sub(r"-\d+b.*$", "", printed) if start is None else _SIBLINGS[start]


def method_named(printed: str) -> str | None:
    """The project's name of a method; None where it has none, and for variants of one ("+ ours", "(trained)")."""
    name = "random" if printed == "Random" else printed.lower().replace("+", "_plus")
    return name if name in discover.method_names() else None


def benchmark_named(printed: str) -> str:
    """A benchmark, without what only says how its score is printed."""
    return _BENCHMARKS.get(printed, printed)


def benchmark_of_harness(name: str) -> str:
    """A published benchmark from its name in a harness, or in another case; the name itself where it is none."""
    folded = {known.casefold(): known for names in FAMILIES.values() for known in names} | _HARNESSES
    return folded.get(name.casefold(), name)


@lru_cache(maxsize=1)
def _family_by_benchmark() -> dict[str, str]:
    return {name: family for family, names in FAMILIES.items() for name in names}


def family_of(benchmark: str) -> str:
    """The task family of a benchmark; its own name where none is known."""
    name = benchmark_named(benchmark)
    return _family_by_benchmark().get(name, name)


def benchmarks_of(tasks: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """The benchmarks among `known` that tasks and benchmarks name, in the order of the families.

    A task takes no part of a benchmark that it has whole; by name, a part can be asked for.

    Raises
    ------
    UnknownNameError
        Neither a task nor a benchmark with scores.
    """
    names = {benchmark_named(name) for name in known}
    folded = {name.casefold(): name for name in names}
    found: dict[str, None] = {}
    for task in tasks:
        if task in FAMILIES:
            here = [name for name in FAMILIES[task] if name in names]
            inside = {part for whole in here for part in _PARTS.get(whole, ())}
            found.update(dict.fromkeys(name for name in here if name not in inside))
        elif task.casefold() in folded:
            found[folded[task.casefold()]] = None
        else:
            remedy = f"tasks: {', '.join(FAMILIES)}; or benchmarks by name"
            raise UnknownNameError("task", task, [*FAMILIES, *sorted(names)], remedy=remedy)
    return tuple(found)


def settings_of(point: Point) -> dict[str, Any] | None:
    """The ``method:`` mapping of a point whose parameters are stated; None where they are not, or not understood."""
    name, text = method_named(point.method), point.parameters
    if name is None or not text:
        return None
    if text.startswith("{"):  # as a run file's `method:` has it
        given = safe_load(text)
        return {"name": name, **given} if isinstance(given, dict) else None
    cut = re.match(r"K=(\d+)(?: R=(\d+(?:\.\d+)?)%)?", text)
    if cut and name == "vtw":
        return {"name": name, "k": int(cut[1])}
    if cut and cut[2] and name in ("fastv", "dart"):
        return {"name": name, "k": int(cut[1]), "ratio": float(cut[2]) / 100}
    merged = re.fullmatch(r"merge (\d+(?:\.\d+)?)%, l1=(\d+), l2=(\d+)", text)
    if merged and name == "aim":
        return {"name": name, "merge_ratio": float(merged[1]) / 100, "l1": int(merged[2]), "l2": int(merged[3])}
    return None
