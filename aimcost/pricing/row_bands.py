"""Band of each row: of its kind of operation, of the host where the row waits for it, or of what a stack adds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..machine.bands import SPREAD_DECODE, SPREAD_PROMPT, WIDTH, BandFactors
from ..machine.coefficients import Coefficients
from ..types import Figure
from .overhead import Overhead
from .priced import Band
from .table import OpTable

__all__ = ["row_bands"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Edges = tuple[Floats, Floats]


def row_bands(
    table: OpTable,
    coefficients: Coefficients,
    seconds: Floats,
    *,
    device: Floats,
    extrapolated: Flags,
    waiting: Flags,
    host: Figure,
    added: Sequence[Overhead],
    spread: tuple[float, float] | None,
) -> Band:
    """One term a kind of operation (attention: a stage), one for rows that wait for the host, one an overhead.

    Parameters
    ----------
    seconds, device
        By row of the table: its time, and the device's alone.
    waiting
        By row: whether it waits for the host.
    host
        Host seconds per launch.
    added
        Overheads, whose rows follow those of the table.
    spread
        Factors on a total that the stack states in place of all stacks'.
    """
    terms, group = _operation_terms(table, coefficients)
    below, above = _operation_edges(list(terms.values()), group, seconds, extrapolated)
    if host.value:
        host_below, host_above = _host_edges(seconds, device, host)
        below, above = np.where(waiting, host_below, below), np.where(waiting, host_above, above)
    names = list(dict.fromkeys((*terms, "host", *(each.name for each in added))))
    number = {name: index for index, name in enumerate(names)}
    group[waiting] = number["host"]
    value = np.array([each.seconds.value for each in added])
    low, high = np.array([each.seconds.low for each in added]), np.array([each.seconds.high for each in added])
    return Band(
        names=tuple(names),
        group=np.concatenate((group, np.array([number[each.name] for each in added], dtype=group.dtype))),
        seconds=np.concatenate((seconds, value)),
        below=np.concatenate((below, value - low)),
        above=np.concatenate((above, high - value)),
        decode=np.concatenate((table.decode, np.array([each.beside == "decode" for each in added], dtype=bool))),
        width=WIDTH,
        prompt_scale=spread or SPREAD_PROMPT,
        decode_scale=spread or SPREAD_DECODE,
    )


def _operation_terms(table: OpTable, coefficients: Coefficients) -> tuple[dict[str, BandFactors], NDArray[np.int64]]:
    """Band factors by term, and the number of each row's term."""
    terms: dict[str, BandFactors] = {}
    names = [f"{kind} {stage}" if stage else kind for kind, stage, _ in table.classes]
    for name, (kind, stage, width) in zip(names, table.classes, strict=True):
        if name not in terms:
            terms[name] = coefficients.band_factors(kind, stage, width)
    number = {name: index for index, name in enumerate(terms)}
    return terms, np.array([number[name] for name in names]).take(table.class_rows)


def _operation_edges(
    factors: list[BandFactors], group: NDArray[np.int64], seconds: Floats, extrapolated: Flags
) -> Edges:
    """Seconds below and above each row's time, inside the measured range or outside it."""
    inside = np.array([each.inside for each in factors]).T
    beyond = np.array([each.beyond for each in factors]).T
    low, high = np.where(extrapolated, beyond.take(group, axis=1), inside.take(group, axis=1))
    return seconds * (1.0 - low), seconds * (high - 1.0)


def _host_edges(seconds: Floats, device: Floats, host: Figure) -> Edges:
    """Seconds below and above the time of a row that waits for the host: a faster host is held up by the device."""
    fastest = np.maximum(device, seconds * (host.low / host.value))
    return np.maximum(0.0, seconds - fastest), seconds * (host.high / host.value - 1.0)
