"""The measured gate's decision: pairs of samples, a ratio for each process, a figure for a run, and a limit.

Nothing here measures. Timings come from outside, so that the same decision can be tried on recorded and simulated ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidValueError
from ..inputs.run import Run, load_run
from ..pricing.pricing import estimate_run
from .bands import Band, Limit, figure_of, paired_limit

__all__ = ["Prediction", "Verdict", "judge", "judge_pairs", "median_ratio", "predict", "shape_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Outcome of a gate.

    Attributes
    ----------
    runs
        Ratios of each attempt, one a process; the last attempt passed, or all were above the limit.
    limit
        What they were compared with.
    """

    runs: tuple[tuple[float, ...], ...]
    limit: Limit

    @property
    def ratio(self) -> float:
        """The figure of the best attempt."""
        return min(map(figure_of, self.runs))

    @property
    def ok(self) -> bool:
        """Whether one attempt stayed within the limit."""
        return self.ratio <= self.limit.ratio

    @property
    def slowdown(self) -> float:
        """How much slower than normal the best attempt was, as a share."""
        return self.ratio / self.limit.center - 1.0


def median_ratio(prefill: Sequence[float], reference: Sequence[float]) -> float:
    """Median ratio of adjacent samples: a disturbance of both samples of a pair largely cancels in their ratio.

    Raises
    ------
    InvalidValueError
        Not the same number of samples, none, or a reference time of zero.
    """
    if len(prefill) != len(reference) or not prefill:
        raise InvalidValueError("samples", "of the same number for the reference kernel and the prefill", len(prefill))
    if min(reference) <= 0:
        raise InvalidValueError("reference", "long enough for the clock", min(reference))
    return statistics.median(a / b for a, b in zip(prefill, reference, strict=True))


def judge(
    measure: Callable[[], Sequence[float]], band: Band, *, slowdown: float, cpu: str = "", attempts: int = 1
) -> Verdict:
    """Measure until a run passes, `attempts` times at most; `measure` gives the ratio of each process of a run."""
    runs = list[tuple[float, ...]]()
    for _ in range(attempts):
        runs.append(tuple(measure()))
        limit = band.limit(slowdown, cpu=cpu, processes=len(runs[-1]))
        if figure_of(runs[-1]) <= limit.ratio:
            break
    return Verdict(runs=tuple(runs), limit=limit)


def judge_pairs(head: Sequence[float], base: Sequence[float], *, slowdown: float) -> Verdict:
    """Compare processes of two commits that alternated on one machine."""
    return Verdict(runs=(tuple(head),), limit=paired_limit(head, base, slowdown))


def shape_of(run: Run) -> dict[str, int]:
    """Shape of the reference kernel for a run: its decoder, on the mean of its layers' tokens."""
    decoder, tokens = run.model.decoder, run.computed.tokens
    return {
        "tokens": max(1, round(sum(tokens) / len(tokens))) * run.workload.batch,
        "layers": decoder.layers,
        "hidden": decoder.hidden,
        "intermediate": decoder.intermediate,
        "heads": decoder.heads,
        "kv_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the estimator expects: seconds of the prefill, and its ratio to the reference kernel."""

    seconds: float
    ratio: float

    def deviation(self, ratio: float) -> float:
        """Measured over predicted ratio, less one."""
        return ratio / self.ratio - 1.0


def predict(run: Run, shape: Mapping[str, int]) -> Prediction | None:
    """The run's prefill and the reference kernel, both priced on the run's hardware; None without hardware."""
    if run.hardware is None:
        return None
    seconds = estimate_run(run).stages["prefill"].time_s
    model = {
        "model_type": "llama",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"],
        "vocab_size": 1,
    }
    like: dict[str, Any] = {
        "model": model,
        "workload": {"text_tokens": shape["tokens"]},
        # the reference is a decoder alone: other parts have no weights in it
        "precision": {key: getattr(run.precision, key) for key in ("weights", "activations", "kv")},
        "hardware": run.document()["hardware"],
        "estimator": run.estimator,
    }
    return Prediction(seconds=seconds, ratio=seconds / estimate_run(load_run(like)).stages["prefill"].time_s)
