"""Noise bands of measured latencies: a test's normal ratio to the reference kernel, and its spread.

Per test, a band is a short list of ratios, each the median of one measurement, and the shape of the reference kernel.
It contains no seconds, so it holds on other machines of the same kind.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..errors import AimcostError, FileFormatError
from ..inputs.files import read_json, write_atomically
from ..inputs.schema import validate
from ..inputs.strict_json import to_json
from ..types.strict_model import StrictModel

__all__ = ["Band", "load_bands", "merged", "save_bands"]

SCHEMA_VERSION = 1
KEEP = 40
# Below this nobody can tell noise from a change with a few dozen samples.
LEAST_NOISE = 0.005
SIGMAS = 3.0
# Of normally distributed values, a standard deviation over the median absolute deviation.
_NORMAL = 1.4826

_Size = Annotated[int, Field(ge=1, le=10_000_000)]
_Ratio = Annotated[float, Field(gt=0, le=1e6)]


class _Shape(StrictModel):
    tokens: _Size
    layers: _Size
    hidden: _Size
    intermediate: _Size
    heads: _Size
    kv_heads: _Size
    head_dim: _Size


class _BandFile(StrictModel):
    yardstick: _Shape  # the file's key for the reference kernel
    ratios: Annotated[list[_Ratio], Field(min_length=1, max_length=KEEP)]


class _File(StrictModel):
    schema_version: int
    bands: dict[str, _BandFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What is normal for one test.

    Attributes
    ----------
    reference
        Shape of the reference kernel, fixed when the band was created.
    ratios
        Medians of earlier measurements, oldest first.
    """

    reference: Mapping[str, int]
    ratios: tuple[float, ...]

    @property
    def center(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """Relative spread of one measurement, as a standard deviation that outliers do not move."""
        center = self.center
        spread = statistics.median(abs(ratio - center) for ratio in self.ratios) * _NORMAL / center
        return max(LEAST_NOISE, spread)

    def limit(self, slowdown: float) -> float:
        """The highest ratio that passes: `slowdown` above normal, or three times the noise if that is more."""
        return self.center * (1.0 + max(slowdown, SIGMAS * self.noise))


def load_bands(path: str | Path) -> dict[str, Band]:
    """The bands of a file by test; none where there is no file.

    Raises
    ------
    FileFormatError
        Damaged: truncated, not JSON, unknown or missing keys, ratios that cannot be.
    """
    path = Path(path)
    if not path.exists():
        return {}
    data = read_json(path)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise FileFormatError(f"{path}: 'schema_version' must be {SCHEMA_VERSION} in a file of noise bands")
    try:
        file = validate(_File, data, where=str(path))
    except AimcostError as error:
        raise FileFormatError(str(error)) from None
    return {
        name: Band(reference=band.yardstick.model_dump(), ratios=tuple(band.ratios))
        for name, band in file.bands.items()
    }


def save_bands(path: str | Path, bands: Mapping[str, Band]) -> None:
    """Replace the file at once; sorted, so that it diffs well."""
    data = {name: {"ratios": list(band.ratios), "yardstick": dict(band.reference)} for name, band in bands.items()}
    lines = [f"  {to_json(name)}: {to_json(data[name], indent=None, sort_keys=True)}" for name in sorted(data)]
    body = ",\n".join(lines)
    write_atomically(path, f'{{\n "bands": {{\n{body}\n }},\n "schema_version": {SCHEMA_VERSION}\n}}\n')


def merged(band: Band | None, shape: Mapping[str, int], ratios: Sequence[float], slowdown: float) -> Band:
    """A band with new measurements: added where they agree with it, in place of it where they do not."""
    new = [float(f"{ratio:.6g}") for ratio in ratios]
    if band is None:
        return Band(reference=dict(shape), ratios=tuple(new[-KEEP:]))
    center = statistics.median(new)
    agrees = band.center * 2 - band.limit(slowdown) <= center <= band.limit(slowdown)
    return Band(reference=band.reference, ratios=tuple(([*band.ratios, *new] if agrees else new)[-KEEP:]))
