"""A user's stack from a few timings: an offset and, where they can be separated, a scale.

    measured = scale · kernels + others + offset

Kernels are what the base stack predicts of them, waiting for the host included; others is the overhead of the base
that is not fitted. The offset is what a request (or, of decode steps, a step) costs beside its kernels. One
timing fixes the offset alone; two of nearly the same length do not tell an offset from a scale.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidValueError, argument
from ..inputs.stack import load_stack
from ..types.stages import STAGES
from .joining import Joined, join
from .timings import TPOT, Timing, of_quantity

__all__ = ["CalibratedStack", "calibrate_stack"]

Floats = NDArray[np.float64]

# Below this ratio of the longest to the shortest prediction a scale is not told from an offset.
APART = 1.5
# Timings repeat to NOISE, and a scale is expected within PRIOR of 1, so that two timings do not bend it far.
NOISE, PRIOR = 0.05, 0.2
# An 80 % band, in standard errors; an offset and a spread that nothing tests are taken to be known to these shares.
BAND, UNTESTED_OFFSET, UNTESTED_SPREAD = 1.28, 0.5, 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedStack:
    """What timings say of a stack.

    Attributes
    ----------
    file
        The stack's file, as a mapping.
    offset_s, scale
        Seconds a request or a step, and time over the base's kernels.
    offset_error_s, scale_error
        One standard error; None where as many figures were fitted as there are timings, or none was.
    residuals
        Predicted over measured, less one, by the id of the timing.
    notes
        How well determined the figures are.
    """

    file: dict[str, Any]
    key: str
    offset_s: float
    scale: float
    offset_error_s: float | None
    scale_error: float | None
    residuals: Mapping[str, float]
    notes: tuple[str, ...]


def calibrate_stack(
    timings: Sequence[Timing], base: str | None = None, *, name: str = "my_stack", quantity: str | None = None
) -> CalibratedStack:
    """A stack file from timings of requests, or of decode steps.

    Parameters
    ----------
    base
        The stack that it starts from; by default the one that all timings name.
    quantity
        The one clock to fit (``ttft``, ``tpot``, ``e2e`` …); all of them without it.

    Raises
    ------
    InvalidValueError, UnknownNameError
        No timing, both kinds of timing, a quantity that none has, or timings of several stacks and no base.
    """
    if not timings:
        raise InvalidValueError("timings", "at least one request", 0)
    if quantity is not None:
        timings = of_quantity(timings, quantity)
    kinds = {timing.stages == TPOT for timing in timings}
    if len(kinds) > 1:
        found = ", ".join(sorted({timing.quantity for timing in timings}))
        what = f"one of {found}: steps and requests do not fit one stack's offset"
        raise InvalidValueError(argument("quantity"), what, None)
    named = sorted({timing.stack for timing in timings})
    if base is None and len(named) > 1:
        raise InvalidValueError("stack", "given: the timings name several", ", ".join(named))
    key = "step_ms" if kinds == {True} else "request_ms"
    original = dict(load_stack(base or named[0]).data)
    bare = copy.deepcopy(original)
    given = {k: v for k, v in (bare.get(key) or {}).items() if k != "source"}
    # the fit names the timings as its source in place of this one
    bare[key] = {**given, "fixed": 0.0, "low": 0.0, "high": 0.0, "source": "left to the fit"}
    rows = join(timings, {timing.id: bare for timing in timings})
    kernels, others = (np.array(column) for column in zip(*map(_parts, rows), strict=True))
    measured = np.array([timing.value_s for timing in timings])
    fit = _fitted(kernels, others, measured)
    residuals = (fit.scale * kernels + others + fit.offset) / measured - 1.0
    spare = len(timings) - fit.figures
    offset_error, scale_error = _errors(kernels, measured, residuals, fit, spare)
    notes = [*fit.notes]
    if spare <= 0:
        count = "1 timing" if len(timings) == 1 else f"{len(timings)} timings"
        notes.append(f"{count} for as many coefficients: no timing is left to test them")
    at = "vision" if all(map(_has_tower, rows)) else "prefill"
    rest = BAND * (math.sqrt(float(residuals @ residuals) / spare) if spare > 0 else UNTESTED_SPREAD)
    file = _file(original, name, key, fit, offset_error, rest, at, f"fit: {', '.join(t.id for t in timings)}")
    load_stack(file)  # as strict as any other
    return CalibratedStack(
        file=file,
        key=key,
        offset_s=fit.offset,
        scale=fit.scale,
        offset_error_s=offset_error,
        scale_error=scale_error,
        residuals={timing.id: float(r) for timing, r in zip(timings, residuals, strict=True)},
        notes=tuple(notes),
    )


def _has_tower(row: Joined) -> bool:
    """Whether the interval holds an image path: a run of text alone has none, whatever its stages say."""
    return "vision" in row.timing.stages and bool(row.estimate.rows(["vision"]).any())


def _parts(row: Joined) -> tuple[float, float]:
    """Seconds of the interval's operations, and of what the stack adds to it."""
    estimate = row.estimate
    seconds = estimate.shares(row.timing.stages) * estimate.seconds
    beside = float(seconds[estimate.priced.overhead(STAGES)].sum())
    return float(seconds.sum()) - beside, beside


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    offset: float
    scale: float
    scaled: bool
    placed: bool
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> int:
        return int(self.scaled) + int(self.placed)


def _fitted(kernels: Floats, others: Floats, measured: Floats) -> _Fit:
    """Relative least squares of offset and scale, as far as the timings tell them apart."""
    weights, left = 1.0 / measured, measured - others
    apart = float(kernels.max() / kernels.min())
    if len(kernels) >= 2 and apart >= APART:
        design = np.stack([kernels, np.ones_like(kernels)], axis=1) * weights[:, None]
        prior = NOISE / PRIOR
        matrix = np.concatenate([design, [[prior, 0.0]]])
        (scale, offset), *_ = np.linalg.lstsq(matrix, np.append(left * weights, prior), rcond=None)
        if offset >= 0 and scale > 0:
            return _Fit(offset=float(offset), scale=float(scale), scaled=True, placed=True)
        return _scale_alone(kernels, left, "the best offset is negative: fitted a scale only")
    offset = float(np.average(left - kernels, weights=weights**2))
    if offset < 0:
        return _scale_alone(
            kernels, left, "faster than the base stack's kernels alone: fitted a scale in place of an offset"
        )
    told = f"predictions lie within {apart:.2f}x of each other, too close to separate a scale from an offset"
    notes = (f"{told}: fitted the offset only",) if len(kernels) >= 2 else ()
    return _Fit(offset=offset, scale=1.0, scaled=False, placed=True, notes=notes)


def _scale_alone(kernels: Floats, left: Floats, note: str) -> _Fit:
    if (left <= 0).any():
        raise InvalidValueError("timings", "longer than what the base stack adds to a request", float(left.min()))
    scale = float(np.exp(np.mean(np.log(left / kernels))))
    return _Fit(offset=0.0, scale=scale, scaled=True, placed=False, notes=(note,))


def _errors(
    kernels: Floats, measured: Floats, residuals: Floats, fit: _Fit, spare: int
) -> tuple[float | None, float | None]:
    """Standard errors of offset and scale, from what the fit leaves over."""
    if spare <= 0:
        return None, None
    columns = [*([kernels] if fit.scaled else []), *([np.ones_like(kernels)] if fit.placed else [])]
    design = np.stack(columns, axis=1) / measured[:, None]
    covariance = np.linalg.inv(design.T @ design) * float(residuals @ residuals) / spare
    errors = [float(error) for error in np.sqrt(np.diag(covariance))]
    return (errors[-1] if fit.placed else None), (errors[0] if fit.scaled else None)


def _file(
    original: Mapping[str, Any],
    name: str,
    key: str,
    fit: _Fit,
    error: float | None,
    rest: float,
    at: str,
    source: str,
) -> dict[str, Any]:
    """The base's file with the fitted figures and their bands."""
    file = copy.deepcopy(dict(original))
    wide = BAND * (error if error is not None else UNTESTED_OFFSET * fit.offset)
    low, high = (round(1e3 * max(0.0, fit.offset + sign * wide), 3) for sign in (-1.0, 1.0))
    fixed = {"fixed": round(1e3 * fit.offset, 3), "low": low, "high": high}
    given = {k: v for k, v in (file.get(key) or {}).items() if k != "source"}
    file[key] = {**given, **fixed, **({"at": at} if key == "request_ms" else {})}
    sources = file.get("sources") or {}
    sources = dict(sources) if isinstance(sources, Mapping) else {"all": "; ".join(sources)}
    source = f"{source} on {original['name']}"
    if fit.scaled:
        scale = dict(file.get("scale") or {})
        file["scale"] = {**scale, "all": round(scale.get("all", 1.0) * fit.scale, 4)}
        sources["scale"] = "; ".join(filter(None, (sources.get("scale"), source)))
    file["spread"] = [round(math.exp(-rest), 3), round(math.exp(rest), 3)]
    return {
        **file,
        "name": name,
        "summary": f"{original['name']}, calibrated",
        "sources": {**sources, key: source, "spread": source},
    }
