"""The measured gate's decision: samples in pairs, a ratio, a limit, and a repeat before an alarm.

Nothing here measures. Timings come from outside, so that the same decision can be tried on recorded ones.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidValueError
from ..inputs.run import Run, load_run
from ..pricing.pricing import estimate_run
from .bands import Band

__all__ = ["Prediction", "Verdict", "judge", "median_ratio", "predict", "shape_of"]

# A measurement over the limit is repeated; only one that stays over it every time is an alarm.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Outcome of a gate.

    Attributes
    ----------
    ratios
        The median ratio of each attempt; the last one passed, or all were above `limit`.
    """

    ratios: tuple[float, ...]
    limit: float
    center: float

    @property
    def ok(self) -> bool:
        """Whether one attempt stayed within the limit."""
        return min(self.ratios) <= self.limit

    @property
    def slowdown(self) -> float:
        """How much slower than normal the best attempt was, as a share."""
        return min(self.ratios) / self.center - 1.0


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


def judge(measure: Callable[[], float], band: Band, *, slowdown: float, attempts: int = ATTEMPTS) -> Verdict:
    """Measure until a ratio passes, `attempts` times at most.

    A change of the code is there every time; a neighbour on the same machine comes and goes.
    """
    limit, ratios = band.limit(slowdown), list[float]()
    for _ in range(attempts):
        ratios.append(measure())
        if ratios[-1] <= limit:
            break
    return Verdict(ratios=tuple(ratios), limit=limit, center=band.center)


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
