"""What a family's image processor costs on the CPU: ``configs/preprocess/``, measured figures with their machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from ..frozen import dataclass
from ..types.strict import Bounds
from . import discover
from .files import Stamp, read_mapping, stamp_of
from .schema import Strict, validate

__all__ = ["Processor", "processor_of"]

# The only machine that processors were timed on.
MEASURED = "amd_epyc"
Milliseconds = Annotated[float, Bounds(ge=0)]
Range = Annotated[list[Annotated[float, Bounds(gt=0)]], Bounds(min_length=2, max_length=2)]


class ProcessorFile(Strict):
    """Milliseconds of an input, of a megapixel of it, and of a megapixel that the tower gets."""

    each: Milliseconds
    per_megapixel: Milliseconds
    per_tower_megapixel: Milliseconds
    band: Range


class FamilyFile(Strict):
    """Processors of a family's images and of the frames of its videos; null where none was timed."""

    images: ProcessorFile | None
    frames: ProcessorFile | None


class PreprocessFile(Strict):
    """A machine, what ran on it, and the families that were timed.

    `other_machine`: how many times faster and slower another machine's CPU is taken to be.
    """

    name: str = ""
    machine: str
    date: str
    versions: str
    source: str
    other_machine: Range
    families: dict[str, FamilyFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """CPU seconds of one image processor, and where they are from.

    Attributes
    ----------
    each_s, per_pixel_s, per_tower_pixel_s
        Of an image or frame, of a pixel of it, and of a pixel that the tower gets.
    low, high
        Ends of the band over the value: the fit's, times another machine's.
    machine
        Where it was timed.
    """

    each_s: float
    per_pixel_s: float
    per_tower_pixel_s: float
    low: float
    high: float
    machine: str

    def seconds(self, count: float, pixels: float, tower_pixels: float) -> float:
        """CPU seconds of `count` inputs of `pixels` in all, which the tower gets as `tower_pixels`."""
        return count * self.each_s + pixels * self.per_pixel_s + tower_pixels * self.per_tower_pixel_s


def processor_of(family: str, *, frames: bool) -> Processor | None:
    """The processor of a family's images, or of frames; None where it was not timed."""
    path = discover.find("preprocess", MEASURED)
    return _processors(path, stamp_of(path)).get((family, frames))


@lru_cache(maxsize=4)
def _processors(path: Path, _: Stamp) -> Mapping[tuple[str, bool], Processor]:
    file = validate(PreprocessFile, read_mapping(path), where=str(path))
    found = {}
    for family, both in file.families.items():
        for frames, one in ((False, both.images), (True, both.frames)):
            if one is not None:
                found[family, frames] = Processor(
                    each_s=one.each * 1e-3,
                    per_pixel_s=one.per_megapixel * 1e-9,
                    per_tower_pixel_s=one.per_tower_megapixel * 1e-9,
                    low=one.band[0] * file.other_machine[0],
                    high=one.band[1] * file.other_machine[1],
                    machine=file.machine,
                )
    return found
