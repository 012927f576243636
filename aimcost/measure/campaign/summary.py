"""What a campaign found, from its folder alone: no torch, no GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ...api import estimate
from ...errors import AimcostError, FileFormatError, one_line
from ...inputs import discover
from ...inputs.files import read_mapping
from ...inputs.run import load_run
from ...inputs.schema import validate
from ...methods.aim.cost import bipartite_merge_flops
from ...ops.attention import single_pass
from ...ops.cost import Cost
from ...types import runs_of
from ...types.formats import Widths, bytes_per_element
from ...types.strict_model import StrictModel
from ..profile.curves import cost_of
from ..profile.to_calibration import Ceilings, ceilings_of
from ..records import Record, Sample, load_record
from ..validate import Comparison, Errors, compare_record
from .plan import SUMMARY, CampaignPlan, load_plan
from .run import SCHEMA_VERSION, readable

__all__ = ["floor_s", "summarise"]

REDUCTION = ("merge", "score", "select", "gather")
STAGES = ("merge", "vision", "projector", "features", "ttft", "decode")


class _StepFile(StrictModel):
    name: str
    state: str
    seconds: Annotated[float, Field(ge=0)]
    message: str


class _CheckFile(StrictModel):
    check: str
    dtype: str
    size: str
    value: float
    bar: float
    ok: bool
    path: str


class _SummaryFile(StrictModel):
    schema_version: int
    device_name: str
    profile: str
    tiny: bool
    device: Literal["cpu", "cuda"]
    dtype: Literal["fp32", "fp16", "bf16"]
    minutes: Annotated[float, Field(gt=0)]
    started: str
    finished: str | None
    notes: list[str]
    steps: list[_StepFile]
    state_after: dict[str, Any] = Field(default_factory=dict)


def summarise(folder: str | Path) -> dict[str, Any]:
    """Tables of a campaign's records.

    Returns
    -------
    dict
        The circumstances; ``steps``, ``ceilings``, ``checks``, ``kernels``, ``overhead``, ``runs``, ``stages``,
        ``memory``, ``predictions`` and ``errors``. Times are medians in seconds; what was not measured is absent
        or None.

    Raises
    ------
    FileFormatError
        The folder holds no campaign, or a damaged one.
    """
    folder = Path(folder)
    state = _state(folder)
    try:
        return _tables(folder, state)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a record whose samples or settings are not those that a campaign writes
        what = f"{type(error).__name__}: {one_line(error, 100)}"
        raise FileFormatError(f"{folder}: holds a damaged record, or one of another program ({what})") from None


def _tables(folder: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    plan, dtype = load_plan(tiny=state["tiny"]), state["dtype"]
    names = [step["name"] for step in state["steps"]]
    records = {name: found for name in names if (found := readable(load_record, folder / f"{name}.json"))}
    # of a profile that was not cut short
    ceilings = readable(ceilings_of, records["profile"]) if "profile" in records else None
    validations = [record for record in records.values() if record.kind == "validation"]
    runs = _runs(
        validations, plan, None if ceilings is None else ceilings.flops_per_s[dtype], printed=not state["tiny"]
    )
    # none where the profile or the record was cut too short
    compared = [readable(compare_record, record, where=str(folder)) for record in validations]
    comparisons = [comparison for comparison in compared if comparison is not None]
    timed = records["kernels"].samples if "kernels" in records else ()
    kernels = [_kernel(sample, ceilings, dtype) for sample in timed]
    return {
        **state,
        "ceilings": ceilings
        and {"flops_per_s": ceilings.flops_per_s[dtype], "bytes_per_s": ceilings.memory_bytes_per_s},
        "checks": _checks(records.get("correctness"), folder),
        "kernels": kernels,
        "overhead": _overhead(kernels, next((row for row in runs if row["run"] == plan.kernels), None)),
        "runs": runs,
        "stages": [_stage(s) for record in validations for s in record.samples if s.op in STAGES],
        "memory": [_memory(s) for record in validations for s in record.samples if "kv_bytes" in s.dims],
        "predictions": [p.to_dict() for comparison in comparisons for p in comparison.of("prefill")],
        "errors": _errors(comparisons),
    }


def _state(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        found = read_mapping(path)
    except FileFormatError:
        raise FileFormatError(f"{folder}: holds no campaign: {SUMMARY} is missing or not JSON") from None
    if found.get("schema_version") != SCHEMA_VERSION:
        raise FileFormatError(f"{path}: is not the summary of a campaign, or one of another version")
    try:
        validate(_SummaryFile, found, where=str(path))
    except AimcostError as error:
        raise FileFormatError(str(error)) from None
    return found


def _checks(record: Record | None, folder: Path) -> list[dict[str, Any]]:
    """The kernels that were held against their references."""
    found = [] if record is None else record.settings["results"]
    return [validate(_CheckFile, one, where=f"{folder}: correctness").model_dump() for one in found]


def floor_s(sample: Sample, ceilings: Ceilings, dtype: str) -> float:
    """The least seconds of a kernel: its FLOPs or its bytes at the device's ceiling, the slower of the two."""
    cost = _cost(sample)
    return max(
        float(np.sum(cost.flops)) / ceilings.flops_per_s[dtype],
        float(np.sum(cost.bytes)) / ceilings.memory_bytes_per_s,
    )


def _cost(sample: Sample) -> Cost:
    dims, size = sample.dims, bytes_per_element(sample.dtype)
    if sample.op == "attention":
        return single_pass(dims, causal=True, widths=Widths(weights=size, activations=size, kv=size))
    if sample.op == "merge":
        # as one kernel: every token read once, every result written once
        rows = dims["groups"] * dims["tokens"]
        return Cost(
            kind="merge",
            flops=dims["groups"] * bipartite_merge_flops(dims["tokens"], dims["width"]),
            read_activations=rows * dims["width"] * size,
            write_activations=dims["groups"] * dims["kept"] * dims["width"] * size,
        )
    # the floor of what ran; estimates, and so curves, price the steps on every card
    if sample.name == "pagerank" and sample.labels.get("path") == "wavefront":
        return cost_of(replace(sample, name="pagerank_wavefront"))
    return cost_of(sample)


def _kernel(sample: Sample, ceilings: Ceilings | None, dtype: str) -> dict[str, Any]:
    floor = None if ceilings is None else floor_s(sample, ceilings, dtype)
    return {
        "op": sample.op,
        "name": sample.name,
        "dims": dict(sample.dims),
        "dtype": sample.dtype,
        "median_s": sample.median_s,
        "spread": sample.spread,
        "floor_s": floor,
        "over_floor": sample.median_s / floor if floor else None,
    }


def _overhead(kernels: list[dict[str, Any]], row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """All reduction kernels of one schedule, timed alone, as a share of its measured prefill.

    The kernel for AIM's importance that does not run here is timed beside the one that does, and not added.
    """
    mine = [k for k in kernels if k["op"] in REDUCTION and not k["name"].startswith("pagerank_")]
    times = {op: sum(kernel["median_s"] for kernel in mine if kernel["op"] == op) for op in REDUCTION}
    if not all(times.values()) or row is None or row["best_s"] is None:
        return None
    total = sum(times.values())
    floor = sum(kernel["floor_s"] or 0.0 for kernel in mine) or None
    return {**times, "total_s": total, "floor_s": floor, "share": total / row["best_s"]}


def _split(label: str) -> tuple[str, str]:
    name, _, stack = label.partition("@")
    return name, stack


def _runs(records: Iterable[Record], plan: CampaignPlan, peak: float | None, *, printed: bool) -> list[dict[str, Any]]:
    """A row for each run: its prefill dense and reduced under each stack, and the speedup of the faster ones.

    What the paper prints stands beside its own model alone, not beside a dry run's.
    """
    rows: dict[str, dict[str, Any]] = {}
    paper = _printed() if printed else {}
    for record in records:
        for sample in record.select("prefill"):
            name, stack = _split(sample.labels["run"])
            if name not in rows:
                rows[name] = _row(name, record.settings["runs"][sample.labels["run"]], plan, paper)
            rows[name]["seconds"].setdefault(stack, {})[sample.labels["variant"]] = sample.median_s
    dense = {row["run"]: _best(row, "dense") for row in rows.values()}
    by_prompt: dict[tuple[str, int], float] = {}
    for name, seconds in dense.items():
        if seconds is not None:
            key = rows[name]["model"], rows[name]["prompt"]
            by_prompt[key] = min(seconds, by_prompt.get(key, seconds))
    for row in rows.values():
        row["best_s"] = _best(row, "reduced") or dense[row["run"]]
        of = dense.get(row["compared_with"]) if row["compared_with"] else dense[row["run"]]
        of = of if of is not None else by_prompt.get((row["model"], row["prompt"]))
        row["speedup"] = None if of is None or row["best_s"] is None else of / row["best_s"]
        whole = dense[row["run"]]
        row["flops_per_s"] = None if whole is None else row["flops"] / whole
        row["mfu"] = row["flops_per_s"] / peak if peak and row["flops_per_s"] else None
    return list(rows.values())


def _row(name: str, document: Mapping[str, Any], plan: CampaignPlan, paper: Mapping[str, Any]) -> dict[str, Any]:
    run = load_run(document)
    tokens = ", ".join(
        f"{count} x {layers}" if layers > 1 else str(count) for count, layers in runs_of(run.computed.tokens)
    )
    # any machine does: FLOPs are the same on all
    priced = {**document, "method": "none", "implementation": "fused", "attention": "flash"}
    whole = estimate(priced, hardware="nvidia_h200_sxm", estimator="roofline").matrix_flops(("prefill",))
    printed = next(
        (paper[row] for row in plan.rows_of(name) if row in paper), {"printed_ms": None, "printed_speedup": None}
    )
    return {
        "run": name,
        "rows": plan.rows_of(name),
        "model": run.model.name,
        "implementation": run.implementation,
        "prompt": run.workload.prompt_tokens,
        "tokens": tokens,
        "flops": float(whole),
        "seconds": {},
        "compared_with": plan.reduced_prompts.get(name, ""),
        **printed,
    }


def _best(row: Mapping[str, Any], variant: str) -> float | None:
    return min((seconds[variant] for seconds in row["seconds"].values() if variant in seconds), default=None)


def _printed() -> dict[str, dict[str, float | None]]:
    """Milliseconds that the paper prints, and its speedup over its own row of the same request, unreduced."""
    rows = read_mapping(discover.find("paper", "aim"))["rows"]
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        same = (other for other in rows if all(other["run"][key] == row["run"][key] for key in ("model", "workload")))
        dense = next((other for other in same if other["run"]["method"]["name"] == "none"), None)
        ms = float(row["printed"]["ms"])
        ratio = None if dense is None else float(dense["printed"]["ms"]) / ms
        found[row["id"]] = {"printed_ms": ms, "printed_speedup": ratio}
    return found


def _which(sample: Sample) -> dict[str, Any]:
    name, stack = _split(sample.labels["run"])
    return {"run": name, "stack": stack, "variant": sample.labels["variant"]}


def _stage(sample: Sample) -> dict[str, Any]:
    return {"op": sample.op, **_which(sample), "median_s": sample.median_s, "repeats": len(sample.samples_s)}


def _memory(sample: Sample) -> dict[str, Any]:
    return {**_which(sample), **{key: sample.dims.get(key) for key in ("held_bytes", "kv_bytes", "peak_bytes")}}


def _errors(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Errors of the predictions by stack, implementation and part."""
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for comparison in comparisons:
        runs = comparison.record.settings["runs"]
        for point in comparison.points:
            part = f"{point.part} {point.name}".strip()
            implementation = runs[point.run].get("implementation", "fused")
            groups.setdefault((_split(point.run)[1], implementation, part), []).append(point)
    found = ((key, Errors.of(points)) for key, points in groups.items())
    return [
        {"stack": stack, "implementation": implementation, "part": part, **errors.to_dict()}
        for (stack, implementation, part), errors in found
        if errors is not None
    ]
