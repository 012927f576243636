"""`scale` from the user's own clock: a profile adjusted to one or a few measured points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ..errors import CalibrationError
from ..inputs.files import read_mapping
from ..inputs.run import load_run
from ..inputs.schema import Positive, validate
from ..pricing.pricing import estimate_run
from ..types import HardwareSpec
from ..types.strict_model import StrictModel

__all__ = ["TimingFile", "read_timings", "scale_from"]

# A clock that disagrees by more than this measures something else than what is predicted.
MAX_SCALE = 5.0


class TimingPoint(StrictModel):
    """One measured run: what ran, which stage was timed, and the seconds."""

    run: dict[str, Any] | str
    stage: Annotated[str, Field(pattern="^(vision|projector|merge|prefill|decode|ttft)$")] = "prefill"
    measured_ms: Positive


class TimingFile(StrictModel):
    """Measured points, and where they are from."""

    source: Annotated[str, Field(min_length=1)]
    points: Annotated[list[TimingPoint], Field(min_length=1)]


def read_timings(path: Path) -> TimingFile:
    """A file of measured points; raises FileFormatError or InvalidValueError with the reason."""
    return validate(TimingFile, read_mapping(path), where=str(path))


def scale_from(timings: TimingFile, hardware: HardwareSpec) -> dict[str, Any]:
    """The factor on every device time that the points ask for, and the errors before and after.

    Returns
    -------
    dict
        ``scale`` (geometric mean of measured / predicted) and a row a point.

    Raises
    ------
    CalibrationError
        A point is off by more than a factor of five: the run is not what was measured.
    """
    measured, predicted = [], []
    for point in timings.points:
        run = replace(load_run(point.run, {"estimator": "calibrated"}), hardware=hardware)
        result = estimate_run(run)
        predicted.append(result.ttft_s if point.stage == "ttft" else result.stages[point.stage].time_s)
        measured.append(point.measured_ms / 1e3)
    if min(predicted) <= 0:
        raise CalibrationError("a timed stage costs nothing in its run: check the point's 'stage'")
    ratio = np.array(measured) / np.array(predicted)
    if ratio.max() > MAX_SCALE or ratio.min() < 1 / MAX_SCALE:
        worst = float(ratio[np.argmax(np.abs(np.log(ratio)))])
        raise CalibrationError(f"a point is {worst:.2g} times its prediction: check that its run is the one measured")
    scale = float(np.exp(np.mean(np.log(ratio))))
    rows = [
        {
            "point": index,
            "measured_s": float(seconds),
            "predicted_before_s": float(before),
            "predicted_after_s": float(before) * scale,
            "error_before": float(before / seconds - 1),
            "error_after": float(before * scale / seconds - 1),
        }
        for index, (seconds, before) in enumerate(zip(measured, predicted, strict=True))
    ]
    return {"scale": scale, "rows": rows}


def with_scale(block: Mapping[str, Any], scale: float, source: str, kinds: Sequence[str]) -> dict[str, Any]:
    """A calibration block whose device times are multiplied by `scale`, for every kind."""
    before = block.get("scale", {})
    scales = {kind: round(float(before.get(kind, 1.0)) * scale, 5) for kind in kinds}
    return {**block, "scale": scales, "scale_source": source}
