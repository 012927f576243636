"""Cards that were not measured: whose coefficients they take, and how much wider their bands are."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from ..errors import FileFormatError
from ..inputs.files import Stamp, read_json, stamp_of
from ..inputs.hardware import load_hardware
from ..types import HardwareSpec

__all__ = [
    "BUS_PARENT",
    "DESIGNS",
    "INHERITED_FILE",
    "KINSHIPS",
    "PARENTS",
    "Kinship",
    "calibration_status",
    "inheritance_note",
    "kinship_of",
    "parent_of",
    "widening",
]

Kinship = Literal["sibling", "architecture", "vendor"]
KINSHIPS: tuple[Kinship, ...] = ("sibling", "architecture", "vendor")
# The measured card whose coefficients a relative takes, by architecture.
PARENTS = {
    "volta": "nvidia_a100_sxm_80gb",
    "turing": "nvidia_a100_sxm_80gb",
    "ampere": "nvidia_a100_sxm_80gb",
    "ada": "nvidia_l40s",
    "hopper": "nvidia_h100_sxm",
    "blackwell": "nvidia_b200_sxm",
    "xe2": "intel_arc_pro_b60",
}
# Blackwell is two designs: 10.x for data centres, 12.x (GDDR memory, smaller matrix units) for the rest.
_PARENT_12 = "nvidia_rtx_pro_6000_blackwell_server"
BUS_PARENT = "nvidia_l40s"
# Of a card whose architecture is not known, the one of these with the nearest FLOPs per byte is the parent.
_BY_BALANCE = tuple(dict.fromkeys(card for card in PARENTS.values() if card.startswith("nvidia_")))
DESIGNS = (*_BY_BALANCE, _PARENT_12)  # one card of each NVIDIA design that was measured
INHERITED_FILE = "tables/inherited.json"


def parent_of(hardware: HardwareSpec) -> str:
    """The measured card nearest to one that is not: by architecture, else by FLOPs per byte."""
    if hardware.architecture == "blackwell" and hardware.compute_capability.startswith("12."):
        return _PARENT_12
    if hardware.architecture in PARENTS:
        return PARENTS[hardware.architecture]

    def balance(spec: HardwareSpec) -> float:
        peaks = spec.dense_flops_per_s
        return peaks.get("bf16", peaks.get("fp16", max(peaks.values()))) / spec.memory_bytes_per_s

    mine = balance(hardware)
    parents = {name: balance(load_hardware(name)) for name in _BY_BALANCE}
    return min(parents, key=lambda name: max(parents[name] / mine, mine / parents[name]))


def kinship_of(hardware: HardwareSpec, parent: HardwareSpec) -> Kinship:
    """How near two cards are: of one design, of another design of the same maker, or of another maker.

    A design is an architecture and, where both give one, its compute capability: a card of Ampere 8.6 has
    half the matrix rate a multiprocessor and GDDR memory, one of 8.0 has not. A card whose maker is not
    given and whose architecture is not known is a stranger.
    """
    if hardware.architecture not in PARENTS and hardware.vendor != parent.vendor:
        return "vendor"
    revisions = {hardware.compute_capability, parent.compute_capability} - {""}
    alike = hardware.architecture == parent.architecture and len(revisions) <= 1
    return "sibling" if alike else "architecture"


def calibration_status(hardware: HardwareSpec) -> str:
    """``measured``, or ``inherited from <profile>``."""
    return "measured" if hardware.calibration else f"inherited from {parent_of(hardware)}"


def inheritance_note(hardware: HardwareSpec, parent: HardwareSpec) -> str:
    """What the reader of an inherited time must know."""
    kinship = kinship_of(hardware, parent)
    if kinship == "sibling":
        return f"calibration inherited from {parent.name}: wider band"
    if kinship == "architecture":
        design = f"{hardware.architecture or 'an unknown architecture'} {hardware.compute_capability}".rstrip()
        return (
            f"calibration inherited from {parent.name}: no card of its design ({design}) was measured, "
            "band as across architectures"
        )
    maker = hardware.vendor or "an unknown vendor"
    return (
        f"calibration inherited from {parent.name}: no such card of {maker} was measured, band "
        "assumed to be that of NVIDIA coefficients on an Intel Arc Pro B60"
    )


def widening(parent: HardwareSpec, kinship: Kinship) -> tuple[float, float]:
    """(low, high) factors on the band of a card that takes the coefficients of `parent`.

    Raises
    ------
    FileFormatError
        The file beside the parent's profile holds no such band.
    """
    path = str(Path(parent.folder) / INHERITED_FILE)
    try:
        return _bands(path, stamp_of(path))[kinship]
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror or error}") from None


@lru_cache(maxsize=8)
def _bands(path: str, _: Stamp) -> dict[Kinship, tuple[float, float]]:
    """How far the time of one card is from what another's coefficients say (80 % band), by kinship."""
    try:
        data = read_json(Path(path))
        found = {kinship: data[kinship]["band"] for kinship in KINSHIPS}
        return {kinship: (float(low), float(high)) for kinship, (low, high) in found.items()}
    except (FileFormatError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: not a band for inherited coefficients: {error}") from None
