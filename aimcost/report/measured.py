"""What was measured on a machine, for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..units import format_seconds
from .table import table

if TYPE_CHECKING:
    from ..measure.records import Record

__all__ = ["profile_text"]


def profile_text(record: Record, profile: Path, samples: Path | None) -> str:
    """The samples of a profile by op, and the files written."""
    groups: dict[tuple[str, str], list[float]] = {}
    for sample in record.samples:
        groups.setdefault((sample.op, sample.dtype), []).append(sample.spread)
    rows = [
        [op, dtype, str(len(spreads)), f"{sorted(spreads)[len(spreads) // 2]:.1%}"]
        for (op, dtype), spreads in groups.items()
    ]
    lines = [
        f"{record.environment.device_name}, {len(record.samples)} ops timed in "
        f"{format_seconds(record.settings['seconds'])}",
        table(rows, ["operation", "format", "sizes", "median spread"], left=2),
        *(f"note: {note}" for note in record.notes),
        f"profile: {profile}",
    ]
    return "\n".join(lines + ([f"raw samples: {samples}"] if samples is not None else []))
