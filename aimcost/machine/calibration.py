"""A profile's ``calibration`` block → time models; a card without one inherits a relative's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CalibrationError, FileFormatError
from ..inputs.files import MAX_FILE_BYTES, Stamp, stamp_of
from ..inputs.hardware import load_hardware
from ..types import HardwareSpec
from .inheritance import BUS_PARENT, kinship_of, parent_of, widening
from .timemodels.attention import AttentionModel
from .timemodels.bandwidth import BandwidthModel
from .timemodels.collective import CollectiveModel
from .timemodels.gemm import GemmModel
from .timemodels.measured import FORM, AttentionGrid, CurveSet, GemmGrid

__all__ = ["Calibration", "calibration_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Time models of a machine.

    Attributes
    ----------
    gemm
        By number format.
    attention, encoder_attention, decode_attention
        By head width, of the kernel that the profile names as its default.
    bandwidth
        By kind of operation.
    collective, collective_link
        What ranks exchange, or None where it was not measured; bytes/s of the link of its curves.
    inherited_from
        The card whose coefficients these are, if not its own.
    widen
        (low, high) factors on the band where inherited, 1 otherwise.
    """

    gemm: Mapping[str, GemmModel | GemmGrid]
    attention: Mapping[int, AttentionModel | AttentionGrid]
    encoder_attention: Mapping[int, AttentionModel | AttentionGrid]
    decode_attention: Mapping[int, AttentionModel | AttentionGrid]
    bandwidth: Mapping[str, BandwidthModel | CurveSet]
    scale: Mapping[str, float]
    source: str
    collective: CollectiveModel | None = None
    collective_link: float = 0.0
    inherited_from: str | None = None
    widen: tuple[float, float] = (1.0, 1.0)


# By identity of the profile's block: the block, the stamp of its tables file, and what they hold.
_parsed: dict[int, tuple[Mapping[str, Any], Stamp | None, Calibration]] = {}


def calibration_of(hardware: HardwareSpec) -> Calibration:
    """The time models of a machine, its own or inherited.

    Raises
    ------
    CalibrationError
        Coefficients that cannot be true, or that name no source.
    """
    if not hardware.calibration:
        parent = load_hardware(parent_of(hardware))
        own = calibration_of(parent)
        # a switchless bus is no slow NVLink: its curves come from a card on such a bus
        alike = hardware.interconnect.startswith("pcie") == parent.interconnect.startswith("pcie")
        links = own if alike or not hardware.interconnect else calibration_of(load_hardware(BUS_PARENT))
        return replace(
            own,
            inherited_from=parent.name,
            widen=widening(parent, kinship_of(hardware, parent)),
            collective=links.collective,
            collective_link=links.collective_link,
        )
    held, stamp = _parsed.get(id(hardware.calibration)), _tables_stamp(hardware)
    if held is None or held[0] is not hardware.calibration or held[1] != stamp:
        held = (hardware.calibration, stamp, _parse(hardware))
        _parsed[id(hardware.calibration)] = held
    return held[2]


def _tables_stamp(hardware: HardwareSpec) -> Stamp | None:
    """Of the file of correction tables beside the profile; None where there is none."""
    given = (hardware.calibration or {}).get("tables")
    try:
        return stamp_of(f"{hardware.folder}/{given}") if isinstance(given, str) else None
    except OSError:
        return None  # reading it says what is wrong


def _parse(hardware: HardwareSpec) -> Calibration:
    block, where = hardware.calibration or {}, f"{hardware.name}: calibration"
    if not str(block.get("source", "")).strip():
        raise CalibrationError(f"{where}: names no 'source'")
    tables = _tables(hardware, block, where)

    def section(name: str) -> Mapping[str, Any]:
        value = block.get(name, {})
        if not isinstance(value, Mapping):
            raise CalibrationError(f"{where}.{name}: must be a mapping")
        return value

    def attention(name: str) -> dict[int, AttentionModel | AttentionGrid]:
        kernels = section(name)
        chosen = kernels.get("default")
        widths = kernels.get(chosen, {}) if chosen is not None else {}
        if chosen is not None and not isinstance(widths, Mapping):
            raise CalibrationError(f"{where}.{name}: default {chosen!r} is not among its kernels")
        return {
            int(width): _form(values, AttentionGrid, AttentionModel).of(
                values, tables.get(f"{name}/{chosen}/{width}", {}), where=f"{where}.{name}.{chosen}.{width}"
            )
            for width, values in widths.items()
        }

    exchanges = section("collective")
    return Calibration(
        gemm={
            dtype: _form(values, GemmGrid, GemmModel).of(
                values, tables.get(f"gemm/{dtype}", {}), where=f"{where}.gemm.{dtype}"
            )
            for dtype, values in section("gemm").items()
        },
        attention=attention("attention"),
        encoder_attention=attention("encoder_attention"),
        decode_attention=attention("decode_attention"),
        bandwidth={
            kind: _form(values, CurveSet, BandwidthModel).of(values, where=f"{where}.bandwidth.{kind}")
            for kind, values in section("bandwidth").items()
        },
        scale={str(kind): float(value) for kind, value in section("scale").items()},
        source=str(block["source"]),
        collective=CollectiveModel.of(exchanges, where=f"{where}.collective") if exchanges else None,
        collective_link=hardware.interconnect_bytes_per_s,
    )


def _form(values: Any, grid: Any, formula: Any) -> Any:
    """The class that reads an entry: a measured grid, or the formula with its corrections."""
    return grid if isinstance(values, Mapping) and values.get("form") == FORM else formula


def _tables(hardware: HardwareSpec, block: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Correction tables, inline or in a JSON file beside the profile."""
    given = block.get("tables", {})
    if isinstance(given, Mapping):
        return given
    path = Path(hardware.folder) / str(given)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CalibrationError(f"{where}: {path} is too big for correction tables")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileFormatError(f"{where}: {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise FileFormatError(f"{where}: {path}: not JSON: {error}") from None
    return data if isinstance(data, Mapping) else {}
