"""Hardware profiles: a name, a path or an inline mapping → HardwareSpec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InvalidValueError
from ..types import HardwareSpec
from ..types.formats import BITS
from ..units import GIGA, KILO, MEGA, TERA
from . import discover
from .files import Stamp, read_mapping, stamp_of
from .schema import HardwareFile, validate

__all__ = ["load_hardware"]

# What a CUDA process can allocate of the nominal size where nobody measured it: the driver, the
# context and ECC take the rest. 139 of 141 GB on one H200, 39.4 of 40 on an A100: 0.94 is careful.
INHERITED_USABLE_SHARE = 0.94
_NOT_DTYPES = {"fp64", "tf32", "fp6"}


def load_hardware(given: str | Path | Mapping[str, Any]) -> HardwareSpec:
    """A profile by name, path or inline mapping.

    Raises
    ------
    UnknownNameError, FileFormatError, InvalidValueError
        No such profile, an unreadable file, or figures that cannot be.
    """
    if isinstance(given, Mapping):
        return _from_mapping(given, "hardware")
    if not isinstance(given, str | Path):
        raise InvalidValueError("hardware", "a name, a path or a mapping", given)
    if isinstance(given, Path) or given.endswith((".yaml", ".yml")) or "/" in given:
        path = discover.at_home(given)
        if not discover.is_file(path):
            raise FileFormatError(f"hardware: no such profile file: {str(given)[:200]}")
    else:
        path = discover.find("hardware", given)
    return _load_file(path, stamp_of(path))


@lru_cache(maxsize=256)
def _load_file(path: Path, _: Stamp) -> HardwareSpec:
    data = read_mapping(path)
    return replace(_from_mapping({"name": path.stem, **data}, str(path)), folder=str(path.parent))


def _from_mapping(data: Mapping[str, Any], where: str) -> HardwareSpec:
    file = validate(HardwareFile, data, where=where)
    for dtype in file.dense_tflops:
        if dtype not in BITS and dtype not in _NOT_DTYPES:
            allowed = "one of " + ", ".join(sorted({*BITS, *_NOT_DTYPES}))
            raise InvalidValueError(f"dense_tflops.{dtype}", allowed, dtype, where=where)
    nominal = (file.memory_gb or 0.0) * GIGA
    usable: float | None = nominal * INHERITED_USABLE_SHARE or None
    source = f"inherited: {INHERITED_USABLE_SHARE:.0%} of the nominal size" if nominal else ""
    if file.usable_memory_bytes is not None or file.usable_memory_gb is not None:
        usable = file.usable_memory_bytes or (file.usable_memory_gb or 0.0) * GIGA
        source = file.sources.get("usable_memory_bytes", file.sources.get("usable_memory_gb", "given"))
    if nominal and usable and usable > nominal * 1.1:
        raise InvalidValueError("usable_memory_bytes", f"at most the card's {nominal:.0f}", usable, where=where)
    return HardwareSpec(
        name=file.name,
        vendor=file.vendor,
        architecture=file.architecture,
        memory_bytes_per_s=file.memory_gb_per_s * GIGA,
        dense_flops_per_s={dtype: peak * TERA for dtype, peak in file.dense_tflops.items()},
        memory_bytes=nominal,
        usable_memory_bytes=usable,
        usable_memory_source=source,
        onchip_bytes=(file.onchip_buffer_kb or 0.0) * KILO,
        l2_bytes=(file.l2_mb or 0.0) * MEGA,
        sm_count=file.sm_count or 0,
        boost_clock_hz=(file.boost_clock_mhz or 0.0) * MEGA,
        compute_capability=file.compute_capability or "",
        interconnect=file.interconnect or "",
        interconnect_bytes_per_s=(file.interconnect_gb_per_s or 0.0) * GIGA,
        tdp_w=file.tdp_w or 0.0,
        price_per_hour=file.price_per_hour,
        calibration=file.calibration,
        attained=file.attained,
        sources=dict(file.sources),
        notes=tuple(file.notes),
        hidden=file.hidden,
    )
