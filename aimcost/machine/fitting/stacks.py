"""Figures of a software stack from published times: which are fitted, what is known of them before, and the fit.

A stack's time is piecewise linear in its figures, so that a run is priced once for each figure and then evaluated
in microseconds (`aimcost.evidence.held_out`). Every source weighs the same; so do a row's trust and what is known
without the rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .robust import soft_l1

__all__ = ["FITTED", "Fitted", "figures_of", "fit_figures", "with_figures"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """One figure of a stack file that is fitted.

    Attributes
    ----------
    path
        Keys in the file, dotted.
    low, high
        Bounds.
    prior
        (value, standard deviation) reported apart from the rows, or held to where fewer than three sources show it.
    tied
        Another path that takes the same value.
    """

    path: str
    low: float
    high: float
    prior: tuple[float, float] | None = None
    tied: str | None = None


# By stack. Reported: what the project was told of all published timings of such code, with the spread it was told.
FITTED: Mapping[str, tuple[Fitted, ...]] = {
    "llava": (
        Fitted(path="request_ms.fixed", low=0, high=150, prior=(40, 40)),
        Fitted(path="request_ms.per_frame", low=0, high=20, prior=(5, 3)),
        Fitted(path="selection.attention_map_ms.value", low=0, high=80, prior=(19, 3)),
    ),
    "transformers": (Fitted(path="host_us_per_launch.value", low=4, high=30, prior=(13, 3)),),
    "vllm_v0": (
        Fitted(path="step_ms.fixed", low=0, high=6),
        Fitted(path="step_ms.per_sequence", low=0, high=0.5),
        Fitted(path="scale.attention_decode", low=0.7, high=3, prior=(1, 0.3)),
    ),
    "vllm_2023": (
        Fitted(path="host_us_per_launch.value", low=5, high=80),
        Fitted(path="architectures.hopper.host_us_per_launch.value", low=5, high=80),
        Fitted(path="step_ms.fixed", low=0, high=30),
        Fitted(path="step_ms.per_sequence", low=0, high=1),
        Fitted(
            path="architectures.hopper.scale.product_prefill",
            low=1,
            high=2,
            tied="architectures.hopper.scale.attention_prefill",
        ),
    ),
    "tensorrt_llm": (
        Fitted(path="step_ms.fixed", low=0, high=5),
        Fitted(path="step_ms.per_sequence", low=0, high=0.2, prior=(0, 0.01)),
        Fitted(path="request_ms.fixed", low=0, high=10, prior=(1.5, 2)),
    ),
}
# A residual counts linearly from a tenth of a typical row's weight: 10 % for most rows.
_KINK = 0.1
# A prior's standard deviation moves the sum as three typical rows at their kink do.
_PRIOR = 3.0


def fit_figures(
    figures: Sequence[Fitted],
    start: Floats,
    predict: Callable[[Floats], Floats],
    measured: Floats,
    sources: Sequence[str],
    trust: Floats,
) -> Floats:
    """The figures, in the units of the file, that explain the measured times best.

    Parameters
    ----------
    predict
        From figures to seconds of every row.
    sources, trust
        By row: its source (all sources weigh the same) and its weight within it.
    """
    names, count = np.unique(np.asarray(sources), return_counts=True)
    size = dict(zip(names.tolist(), count.tolist(), strict=True))
    weight = np.sqrt(trust / np.array([size[source] for source in sources]))
    scale = _KINK * float(np.median(weight))
    known = [(index, *figure.prior) for index, figure in enumerate(figures) if figure.prior is not None]

    def residuals(x: Floats) -> Floats:
        prior = [_PRIOR * scale * (x[index] - value) / deviation for index, value, deviation in known]
        return np.concatenate([weight * np.log(predict(x) / measured), prior])

    bounds = np.array([figure.low for figure in figures]), np.array([figure.high for figure in figures])
    return soft_l1(residuals, start, (bounds[0].astype(float), bounds[1].astype(float)), scale)


def figures_of(stack: str, data: Mapping[str, Any]) -> Floats:
    """The fitted figures as a stack file has them."""
    return np.array([_get(data, figure.path) for figure in FITTED.get(stack, ())], dtype=float)


def with_figures(stack: str, data: Mapping[str, Any], x: Sequence[float] | Floats) -> dict[str, Any]:
    """A copy of a stack file with other figures; the bounds of a figure's band keep their ratio to it."""
    changed = copy.deepcopy(dict(data))
    for figure, value in zip(FITTED.get(stack, ()), x, strict=True):
        _scale_band(changed, figure.path, float(value))
        _put(changed, figure.path, float(value))
        if figure.tied is not None:
            _put(changed, figure.tied, float(value))
    return changed


def _scale_band(data: dict[str, Any], path: str, value: float) -> None:
    """Of ``…: {value | fixed, low, high}``."""
    parent, _, key = path.rpartition(".")
    if key not in ("value", "fixed"):
        return
    band, old = data, _get(data, path)
    for part in parent.split("."):
        band = band.get(part, {})
    if isinstance(band, dict) and "low" in band and old:
        band["low"], band["high"] = band["low"] * value / old, band["high"] * value / old


def _get(data: Mapping[str, Any], path: str) -> float:
    found: Any = data
    for key in path.split("."):
        if not isinstance(found, Mapping):
            return float(found) if key == "value" else 0.0
        found = found.get(key, 0.0)
    return float(found)


def _put(data: dict[str, Any], path: str, value: float) -> None:
    *parents, last = path.split(".")
    for key in parents:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = data[key] = {} if inner is None else {"value": inner}
        data = inner
    data[last] = value
