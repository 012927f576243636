"""How far a row's time may be off: its 80 % band, in the measured range, beyond it, and on another card."""

from __future__ import annotations

from dataclasses import dataclass

from .calibration import Calibration
from .timemodels.bandwidth import Execution
from .timemodels.tables import Provenance

__all__ = ["Ends", "ends_of", "host_ends"]

Factors = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Factors on a time at the two ends of its band.

    Attributes
    ----------
    inside, beyond
        (low, high) in the measured range, and outside of it.
    """

    inside: Factors
    beyond: Factors


def ends_of(band: Provenance | Factors, calibration: Calibration | None = None, *, borrowed: bool = False) -> Ends:
    """The ends of a kind of operation.

    Beyond the measured range they are those that the profile measured there; where it measured none, the
    squares are assumed: twice as far, on a logarithmic scale.

    Parameters
    ----------
    band
        What backs the coefficients, or an assumed band.
    calibration
        Of the machine: a relative's coefficients widen every band.
    borrowed
        Whether the coefficients are another format's, width's or stage's, which doubles the distance too.
    """
    widen = calibration.widen if calibration is not None else (1.0, 1.0)
    power = 2.0 if borrowed else 1.0

    def wider(factors: Factors) -> Factors:
        return factors[0] ** power * widen[0], factors[1] ** power * widen[1]

    measured = band.extrapolated if isinstance(band, Provenance) else None
    low, high = wider((band.low, band.high) if isinstance(band, Provenance) else band)
    return Ends(inside=(low, high), beyond=(low**2, high**2) if measured is None else wider(measured))


def host_ends(execution: Execution, calibration: Calibration) -> Ends:
    """The ends of a row that waits for the host; beyond the range, what it waits instead of is less known too."""
    return ends_of(execution.host_band, calibration)
