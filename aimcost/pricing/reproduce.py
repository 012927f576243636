"""Recompute a paper's tables from its constructions, beside what it printed.

Rows, printed digits, slips and the runs that correct them are data (configs/papers); every figure
in the result is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from ..inputs import discover
from ..inputs.files import read_mapping
from ..inputs.run import load_run
from ..methods.aim.cost import bipartite_merge_flops, pagerank_eager_flops
from ..units import GIGA, KILO, TERA
from .pricing import estimate_run

__all__ = ["as_printed", "reproduce"]

LLM_STAGES = ("prefill",)
TTFT_STAGES = ("vision", "projector", "prefill")


def reproduce(paper: str = "aim") -> dict[str, Any]:
    """Every row of a paper's tables, its slips with corrected figures, and the overhead table.

    Returns
    -------
    dict
        ``rows`` (id, table, tokens, computed, printed, match, corrected), ``slips``, ``overhead``,
        ``end_to_end`` and ``summary``. Computed figures are not rounded.
    """
    data = _Paper(read_mapping(discover.find("paper", paper)))
    corrections = {slip["id"]: _corrections(slip, data) for slip in data["slips"]}
    rows = [_row(row, data, corrections) for row in data["rows"]]
    unmatched = [row for row in rows if not all(row["match"].values())]
    return {
        "paper": data["name"],
        "title": data["title"],
        "source": data["source"],
        "tables": dict(data["tables"]),
        "rows": rows,
        "slips": [_slip(slip, corrections[slip["id"]]) for slip in data["slips"]],
        "overhead": [_overhead(entry, data) for entry in data["overhead"]],
        "end_to_end": [_end_to_end(slip) for slip in data["slips"] if slip["kind"] == "tower"],
        "summary": {
            "rows": len(rows),
            "equal_to_the_printed_digits": len(rows) - len(unmatched),
            "unequal": [{"id": row["id"], "reason": _reason(row, data)} for row in unmatched],
        },
    }


class _Paper(dict[str, Any]):
    """A paper's data, with runs that name one of its models resolved."""

    def compute(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """TFLOP, ms and tokens by layer of the language model's prefill."""
        model = run["model"]
        if isinstance(model, str) and model in self.get("models", {}):
            run = {**run, "model": self["models"][model]}
        result = estimate_run(load_run(run))
        prefill = result.stages["prefill"]
        return {
            "tflops": prefill.flops / TERA,
            "ms": prefill.time_s * KILO,
            "tokens": list(result.run.schedule.tokens),
        }


def as_printed(value: float, digits: int = 2) -> str:
    """Rounded as the tables were: to four decimals by the program, then half up."""
    step = Decimal(1).scaleb(-digits)
    return str(Decimal(str(round(value, 4))).quantize(step, rounding=ROUND_HALF_UP))


def _row(row: Mapping[str, Any], data: _Paper, corrections: Mapping[str, Any]) -> dict[str, Any]:
    computed = data.compute(row["run"])
    printed = row["printed"]
    corrected = None
    for slip in row.get("slips", []):
        found = corrections[slip].get(row["id"])
        if found is not None:
            corrected = {"slip": slip, "tflops": found["tflops"], "ms": found["ms"]}
            break
    return {
        "id": row["id"],
        "table": row["table"],
        "construction": row["construction"],
        "tokens": computed["tokens"],
        "computed": {"tflops": computed["tflops"], "ms": computed["ms"]},
        "printed": {key: float(printed[key]) for key in ("tflops", "ms")},
        "match": {key: as_printed(computed[key]) == printed[key] for key in ("tflops", "ms")},
        "corrected": corrected,
        "slips": list(row.get("slips", [])),
        "note": row.get("note", ""),
    }


def _reason(row: Mapping[str, Any], data: _Paper) -> str:
    """Why a printed figure cannot be reproduced, in the paper data's words."""
    named = (slip for slip in data["slips"] if slip["id"] in row["slips"] and slip["kind"] == "print")
    return "; ".join(f"{slip['what_was_done']}, but {slip['what_is_true']}" for slip in named) or row["note"]


def _corrections(slip: Mapping[str, Any], data: _Paper) -> dict[str, dict[str, Any]]:
    """By row: what its corrected run computes."""
    return {entry["row"]: data.compute(entry["run"]) for entry in slip.get("corrected", [])}


def _slip(slip: Mapping[str, Any], corrected: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": slip["id"],
        "rows": list(slip["rows"]),
        "what_was_done": slip["what_was_done"],
        "what_is_true": slip["what_is_true"],
        "corrected": {row: {"tflops": v["tflops"], "ms": v["ms"]} for row, v in corrected.items()},
    }


def _overhead(entry: Mapping[str, Any], data: _Paper) -> dict[str, Any]:
    """One line of the overhead table, and the figure that it should have been."""
    computed, corrected = _overhead_gflops(entry, data), None
    if "corrected" in entry:
        corrected = _overhead_gflops({**entry, **entry["corrected"]}, data)
    printed = entry["printed"]["gflops"]
    digits = len(printed.partition(".")[2])
    return {
        "id": entry["id"],
        "construction": entry["construction"],
        "computed_gflops": computed,
        "printed_gflops": float(printed),
        "match": as_printed(computed, digits) == printed,
        "corrected_gflops": corrected,
    }


def _overhead_gflops(entry: Mapping[str, Any], data: _Paper) -> float:
    kind = entry["id"]
    if kind == "token_merging":
        steps = (float(bipartite_merge_flops(n, entry["hidden"])) for n in entry["n"])
        return float(entry["groups"] * sum(steps) / GIGA)
    if kind == "token_pruning":
        calls = (float(pagerank_eager_flops(entry["heads"], n)) for n in entry["n"])
        return float(entry.get("calls", 1) * sum(calls) / GIGA)
    if kind == "llm_inference":
        row = next(row for row in data["rows"] if row["id"] == entry["row"])
        return float(data.compute(row["run"])["tflops"]) * TERA / GIGA
    parts = (part for part in data["overhead"] if part["id"] in ("token_merging", "token_pruning"))
    return sum(_overhead_gflops(part, data) for part in parts)


def _end_to_end(slip: Mapping[str, Any]) -> dict[str, Any]:
    """What the language model's ratio becomes once the vision tower is counted."""
    before, after = (estimate_run(load_run(slip[key])) for key in ("baseline_run", "reduced_run"))

    def ratio(stages: tuple[str, ...], *, full_square: bool) -> float:
        return before.matrix_flops(stages, full_square=full_square) / after.matrix_flops(
            stages, full_square=full_square
        )

    return {
        "slip": slip["id"],
        "tower_tflops": before.matrix_flops(("vision",)) / TERA,
        "llm_tflops_before": before.matrix_flops(LLM_STAGES) / TERA,
        "llm_tflops_after": after.matrix_flops(LLM_STAGES) / TERA,
        "printed_ratio": slip["printed_ratio"],
        "llm_ratio_causal": ratio(LLM_STAGES, full_square=False),
        "ratio_full_square": ratio(TTFT_STAGES, full_square=True),
        "ratio_causal": ratio(TTFT_STAGES, full_square=False),
    }
