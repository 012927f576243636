"""The entry of a run in a baseline: figures, facts with their digests, operations by layer."""

from __future__ import annotations

from typing import Any

from ..inputs.run import shown
from ..inputs.strict_json import digest
from ..machine.calibration import calibration_of
from ..pricing.estimator import estimator_of
from ..pricing.facts import rounded, run_facts
from ..pricing.result import Estimate

__all__ = ["FIGURES", "entry_of"]

# Parts that only explain another part, and have no digest.
_EXPLAIN = ("method", "card", "files")
FIGURES = ("flops", "kv_bytes", "peak_bytes", "tpot_s", "ttft_s")


def entry_of(estimate: Estimate) -> dict[str, Any]:
    """What a baseline holds of a run."""
    facts = run_facts(estimate.run)
    run, files = estimate.run, estimate.run.shadowing_files()
    if run.hardware is not None and estimator_of(run.estimator).has_band:
        lenders = calibration_of(run.hardware).shadowing_lenders().items()
        files |= {f"hardware.inherits.{name}": shown(path) for name, path in lenders}
    if files:
        facts["files"] = files
    operations = _operations(estimate)
    digests = {part: digest(values) for part, values in facts.items() if part not in _EXPLAIN}
    return {
        "figures": {
            "flops": rounded(estimate.totals.flops),
            "kv_bytes": rounded(estimate.memory.kv_bytes),
            "peak_bytes": rounded(estimate.memory.peak_bytes),
            "tpot_s": rounded(estimate.stages["decode"].tpot_s),
            "ttft_s": rounded(estimate.ttft_s),
        },
        "digests": {**digests, "operations": digest(operations)},
        "facts": facts,
        "operations": operations,
    }


def _operations(estimate: Estimate) -> dict[str, list[list[Any]]]:
    """By ``stage/name``: runs of layers that cost the same, as [first, last, FLOPs, bytes, seconds].

    First and last are None for what stands outside the layers.
    """
    grouped: dict[str, list[list[Any]]] = {}
    for op in estimate.ops():
        figures = [rounded(op["flops"]), rounded(op["bytes"]), rounded(op["time_s"])]
        runs, layer = grouped.setdefault(f"{op['stage']}/{op['name']}", []), op["layer"]
        last = runs[-1] if runs else None
        if last is not None and layer is not None and last[1] == layer - 1 and last[2:] == figures:
            last[1] = layer
        else:
            runs.append([layer, layer, *figures])
    return grouped
