"""What `aimcost calibrate` and `calibrate-stack` do."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from ..errors import FileFormatError, InvalidValueError, UnknownNameError
from ..evidence.calibrate_stack import calibrate_stack
from ..evidence.timings import load_timings
from ..inputs.files import read_mapping, write_atomically
from ..inputs.hardware import load_hardware
from ..machine.calibration import calibration_of
from ..machine.fitting.aiconfigurator import systems
from ..machine.fitting.derive import STEPS, derive
from ..machine.fitting.transfer import inherited_bands, write_inherited_bands
from ..machine.fitting.write import block_text, write_calibration, write_tables
from ..measure.clock import read_timings, scale_from, with_scale
from ..report.calibration import errors_text, inherited_text
from ..report.export import to_json
from ..report.table import table
from ..units import format_seconds
from .common import progress_bar

__all__ = ["derive_command", "inherited_command", "scale_command", "stack_command"]


def derive_command(source: str, system: str | None, output: Path | None, *, as_json: bool) -> str:
    """Fit coefficients to a system's tables; with `output`, write them into that profile."""
    if source != "aiconfigurator":
        raise UnknownNameError("table source", source, ["aiconfigurator"], where="--from")
    if system is None:
        raise InvalidValueError("--system", f"given: {', '.join(systems())}", None)
    with progress_bar() as step:
        done = itertools.count()
        derived = derive(
            system,
            date=datetime.date.today().isoformat(),
            progress=lambda text: step(next(done), STEPS, text),
        )
    if output is not None:
        write_tables(output.parent / str(derived.block["tables"]), derived.tables)
        write_calibration(output, derived.block)
    if as_json:
        return to_json({"system": system, "profile": derived.profile, "errors": derived.errors})
    saved = f"\n\nwritten: {output}" if output is not None else "\n\nnothing written (-o PROFILE writes it)"
    return errors_text(derived.errors) + saved


def inherited_command(output: Path | None, *, as_json: bool) -> str:
    """Compare each card's GEMMs with other cards' coefficients; with `output`, write the bands."""
    with progress_bar() as step:
        bands = inherited_bands(step) if output is None else write_inherited_bands(output, step)
    return to_json(bands) if as_json else inherited_text(bands, output)


def stack_command(
    timings: Sequence[Path], base: str | None, output: Path | None, *, quantity: str | None, as_json: bool
) -> str:
    """Fit a stack to timings; with `output`, write its file."""
    rows = load_timings(list(timings)).requests
    found = calibrate_stack(rows, base, name=output.stem if output is not None else "my_stack", quantity=quantity)
    text = yaml.safe_dump(found.file, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    if output is not None:
        write_atomically(output, text)
    if as_json:
        return to_json(asdict(found))
    each = "per decode step" if found.key == "step_ms" else "per request"
    lines = [
        f"offset {format_seconds(found.offset_s)} {each}{_within(found.offset_error_s, format_seconds)}, "
        f"scale {found.scale:.3f} on kernel times{_within(found.scale_error, '{:.3f}'.format)}",
        *(f"note: {note}" for note in found.notes),
        table([[name, f"{error:+.1%}"] for name, error in found.residuals.items()], ["timing", "error"]),
        text if output is None else f"written: {output} (--stack {output})",
    ]
    return "\n".join(lines)


def _within(error: float | None, form: Callable[[float], str]) -> str:
    return "" if error is None else f" ± {form(error)}"


def scale_command(timing: Path, hardware: str | None, output: Path | None, *, as_json: bool) -> str:
    """Scale a profile to measured points and tabulate the errors before and after."""
    if hardware is None:
        raise InvalidValueError("--hardware", "given: the profile to scale", None)
    timings, spec = read_timings(timing), load_hardware(hardware)
    result = scale_from(timings, spec)
    if output is not None:
        _write_scaled(output, hardware, result["scale"], timings.source)
    if as_json:
        return to_json(result)
    rows = [
        [
            str(row["point"]),
            format_seconds(row["measured_s"]),
            format_seconds(row["predicted_before_s"]),
            f"{row['error_before']:+.1%}",
            format_seconds(row["predicted_after_s"]),
            f"{row['error_after']:+.1%}",
        ]
        for row in result["rows"]
    ]
    headers = ["point", "measured", "predicted", "error", "scaled", "error"]
    return f"{table(rows, headers)}\nscale {result['scale']:.4f} on all device times of {spec.name}"


def _write_scaled(output: Path, hardware: str, scale: float, source: str) -> None:
    """Write a copy of the profile with its scale set and its tables inlined, so that it is self-contained."""
    spec = load_hardware(hardware)
    if not spec.calibration:
        raise FileFormatError(f"{hardware}: has no calibration to scale (it inherits another card's)")
    kinds = ["gemm", "attention", *calibration_of(spec).memory_bound]
    block = with_scale(spec.calibration, scale, source, kinds)
    if isinstance(block.get("tables"), str):
        block = {**block, "tables": read_mapping(Path(spec.folder) / str(block["tables"]))}
    original = Path(spec.folder) / f"{Path(hardware).stem}.yaml"
    head = original.read_text(encoding="utf-8").split("\ncalibration:", 1)[0]
    write_atomically(output, head.rstrip("\n") + "\n" + block_text(block))
