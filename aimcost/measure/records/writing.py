"""Records on disk: whole and loadable after every sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...inputs.files import write_atomically
from .contents import Record, Sample

__all__ = ["RecordWriter", "now"]


class RecordWriter:
    """A record that grows on disk: each `add` leaves a whole, loadable file behind.

    Used as a context manager the record is marked finished on leaving without an exception. Without a
    path it grows in memory alone.
    """

    def __init__(self, path: str | Path | None, record: Record) -> None:
        self.path = None if path is None else Path(path)
        self.record = record
        self.save()

    def add(self, *samples: Sample, notes: Iterable[str] = ()) -> None:
        """Append samples and notes, and save."""
        self.record = replace(
            self.record,
            samples=(*self.record.samples, *samples),
            notes=tuple(dict.fromkeys((*self.record.notes, *notes))),
        )
        self.save()

    def set(self, **settings: Any) -> None:
        """Replace settings, and save."""
        self.record = replace(self.record, settings={**self.record.settings, **settings})
        self.save()

    def finish(self) -> Record:
        """Mark the record as complete, save, and return it."""
        self.record = replace(self.record, finished=now())
        self.save()
        return self.record

    def save(self) -> None:
        """Replace the file by the record as it is now."""
        if self.path is not None:
            write_atomically(self.path, self.record.to_json())

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self.record.complete:
            self.finish()


def now() -> str:
    """The time as records write it: ISO 8601, UTC, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
