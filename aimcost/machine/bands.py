"""The 80 % band of a row, and the terms that the rows of a run share.

A row's band is that of its kind of op: inside the measured range, outside it, and on another card. A run's total
has more terms: host time per launch, what the stack adds to a request and a step, and one scale common to all rows, by
which sources differ that run one stack on one card. Terms are independent.
"""

from __future__ import annotations

from ..frozen import dataclass
from .calibration import Calibration
from .timemodels.tables import Provenance

__all__ = ["OWN", "OWN_FROM", "SPREAD_DECODE", "SPREAD_PROMPT", "WIDTH", "BandFactors", "factors_of"]

Factors = tuple[float, float]

# One rule for all stacks and every total: a term moves it by this share of its band (errors over many shapes partly
# cancel), and the prompt's and the decode steps' time have a scale each. Chosen so that, with the width picked on the
# other sources, 79 % of the published timings lie inside their band: 15 sources, each left out once, and prefill,
# TTFT, TPOT and end-to-end timings between 70 and 88 % each. See docs/adr/0013-software-stacks.md.
WIDTH = 0.7
SPREAD_PROMPT: Factors = (0.895, 1.175)
SPREAD_DECODE: Factors = (0.965, 1.042)
# What two runs of one stack on one card do not share, as a relative half-width of their ratio: wide, since published
# pairs leave the schedule of a method partly open. In full where the reduction changes this share of the time, below
# it in proportion, so that a run has no uncertain gain over itself. Not held out.
OWN, OWN_FROM = 0.20, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BandFactors:
    """Factors on a time at the two edges of its 80 % band.

    Attributes
    ----------
    inside, beyond
        (low, high) inside and outside the measured range.
    """

    inside: Factors
    beyond: Factors


def factors_of(
    band: Provenance | Factors, calibration: Calibration | None = None, *, borrowed: bool = False
) -> BandFactors:
    """Band factors of a kind of op.

    Outside the measured range they are those that the profile measured there; without such a measurement the squares
    are assumed: twice as far, on a logarithmic scale.

    Parameters
    ----------
    band
        Provenance of the coefficients, or an assumed band.
    calibration
        Of the machine: inherited coefficients widen every band.
    borrowed
        Whether the coefficients are another format's, width's or stage's, which doubles the distance too.
    """
    widen = calibration.widen if calibration is not None else (1.0, 1.0)
    power = 2.0 if borrowed else 1.0

    def wider(factors: Factors) -> Factors:
        return factors[0] ** power * widen[0], factors[1] ** power * widen[1]

    measured = band.extrapolated if isinstance(band, Provenance) else None
    low, high = wider((band.low, band.high) if isinstance(band, Provenance) else band)
    return BandFactors(inside=(low, high), beyond=(low**2, high**2) if measured is None else wider(measured))
