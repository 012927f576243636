"""A paper's rows as runs that can be executed, one for each distinct schedule.

The paper counts without the newline token and charges a cut at the layer itself. Run for real, a
cut after layer l takes effect at l + 1 (the executed convention); the newline stays left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import AimcostError
from ...inputs import discover
from ...inputs.files import read_mapping
from ...inputs.run import Run, load_run, merge_overrides
from ...methods.registry import reads_tower
from ...types import Schedule
from .sizes import Sizes

__all__ = ["Row", "precision", "run_document", "scaled_method", "seed_rows"]

# Longer prompts come last: one of their prefills takes as long as twenty others.
LAST_PROMPT = 10_000
_DEPTH = 28


@dataclass(frozen=True, kw_only=True)
class Row:
    """Rows of the paper that are one and the same prefill.

    Attributes
    ----------
    ids
        The paper's rows.
    document
        The run, as a mapping without a machine.
    model
        The model it names.
    schedule
        None where the run is not possible; `problem` says why.
    counts_only
        Tokens were chosen by what the tower sees; without it, a prompt of the schedule's length runs.
    """

    ids: tuple[str, ...]
    document: Mapping[str, Any]
    model: str | Mapping[str, Any]
    schedule: Schedule | None
    problem: str = ""
    counts_only: bool = False


def run_document(sizes: Sizes, **given: Any) -> dict[str, Any]:
    """A run of the campaign's model, without a machine: what `load_run` takes."""
    base = {"model": sizes.model, "attention": "flash", "precision": precision(sizes.dtype)}
    return merge_overrides(base, given)


def precision(dtype: str) -> dict[str, str]:
    """One number format for everything."""
    return {"weights": dtype, "activations": dtype, "kv": dtype}


def seed_rows(sizes: Sizes, paper: str = "aim") -> list[Row]:
    """The rows of a paper's tables, equal prefills joined, long prompts and other models last."""
    data = read_mapping(discover.find("paper", paper))
    found: dict[Any, Row] = {}
    for entry in data["rows"]:
        if sizes.rows is not None and entry["id"] not in sizes.rows:
            continue
        row, key = _row(entry, sizes)
        if key in found:
            row = Row(**{**_fields(found[key]), "ids": (*found[key].ids, *row.ids)})
        found[key] = row
    first = next(iter(found.values())).model if sizes.overrides else sizes.model
    return sorted(found.values(), key=lambda row: (row.model != first, _prompt(row) > LAST_PROMPT))


def _row(entry: Mapping[str, Any], sizes: Sizes) -> tuple[Row, Any]:
    given = entry["run"]
    workload = dict(given["workload"])
    if workload.get("frames"):
        workload["newline"] = False
    method = {key: value for key, value in given["method"].items() if key != "convention"}
    document = {
        "model": given["model"],
        "workload": workload,
        "method": scaled_method(method, sizes),
        "attention": "flash",
        "precision": precision(sizes.dtype),
        "include": ["merge", "prefill"],
    }
    document = merge_overrides(document, sizes.overrides)
    model = document["model"]
    try:
        run = load_run(document)
    except AimcostError as error:
        row = Row(ids=(entry["id"],), document=document, model=_named(model), schedule=None, problem=str(error))
        return row, entry["id"]
    schedule = run.schedule
    row = Row(
        ids=(entry["id"],),
        document=document,
        model=_home(run, model, sizes),
        schedule=schedule,
        counts_only=reads_tower(schedule),
    )
    return row, (str(row.model), schedule.tokens, schedule.events)


def _home(run: Run, model: str | Mapping[str, Any], sizes: Sizes) -> str | Mapping[str, Any]:
    """The campaign's own model where its decoder is the row's: LongVA's is LLaVA-OneVision's."""
    ours = load_run({"model": sizes.model}).model.decoder
    return sizes.model if run.model.decoder == ours or _shape(run.model.decoder) == _shape(ours) else _named(model)


def _shape(decoder: Any) -> tuple[int, ...]:
    names = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab")
    return tuple(getattr(decoder, name, 0) for name in names)


def _named(model: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    return model


def _prompt(row: Row) -> int:
    return 0 if row.schedule is None else row.schedule.prompt_tokens


def scaled_method(method: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """A method of the 28-layer model on a dry run's few layers and frames."""
    if sizes.depth is None:
        return dict(method)
    scaled = dict(method)
    for key in ("l1", "l2", "k"):
        if key in method:
            scaled[key] = max(1, round(method[key] * sizes.depth / _DEPTH))
    if "l2" in scaled and scaled["l2"] <= scaled["l1"]:
        scaled["l2"] = scaled["l1"] + 1
    if "layers" in method:
        scaled["layers"] = [1 + number for number in range(len(method["layers"]))]
    if "keep_tokens" in method:
        scaled["keep_tokens"] = method["keep_tokens"] * sizes.frames // 32
    return scaled


def _fields(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
