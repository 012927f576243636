"""CPU work on images before the tower: a row of stage ``preprocess``, left out of totals unless asked for."""

from __future__ import annotations

from ..inputs.preprocessing import processor_of
from ..inputs.run import Run
from ..models.visual_tokens import DEFAULT_SIZE, whole_load
from ..types import Figure
from ..units import format_seconds
from .overhead import Overhead

__all__ = ["preprocessing"]


def preprocessing(run: Run) -> tuple[list[Overhead], list[str]]:
    """The image processor's seconds on one thread for all inputs of the batch, and the note that names them.

    Inputs in a cached prefix are among them: their tokens are counted, and compared, after the processor.

    Nothing where the run has no images and frames; a note alone where the family's processor was not timed.
    """
    inputs, vision, tower = run.input_sizes, run.model.vision, whole_load(run.model, run.workload)
    if not inputs or vision is None or tower is None:
        return [], []
    kinds = {each.frames for each in inputs}
    what = " and ".join("frames" if frames else "images" for frames in sorted(kinds))
    processor = processor_of(run.model.family, frames=kinds == {True}) if len(kinds) == 1 else None
    if processor is None:
        return [], [f"preprocess: not priced (no processor of {run.model.family} {what} was timed)"]
    pixels = sum(each.count * (each.size or DEFAULT_SIZE)[0] * (each.size or DEFAULT_SIZE)[1] for each in inputs)
    received = tower.inputs * tower.patches * vision.patch_size**2
    count = sum(each.count for each in inputs)
    value = run.workload.batch * processor.seconds(count, pixels, received)
    seconds = Figure(value=value, low=value * processor.low, high=value * processor.high)
    unknown = any(each.size is None for each in inputs)
    assumed = f", {what} of {DEFAULT_SIZE[0]} x {DEFAULT_SIZE[1]} assumed" if unknown else ""
    counted = "included" if run.include is not None and "preprocess" in run.include else "not included"
    note = (
        f"preprocess ({counted}): {format_seconds(value)} of CPU time, {format_seconds(seconds.low)} to "
        f"{format_seconds(seconds.high)} on another machine's CPU; timed on one thread of {processor.machine}{assumed}"
    )
    return [Overhead(stage="preprocess", beside="", name="image_processor", seconds=seconds)], [note]
