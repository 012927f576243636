"""Writing records, and any other file, so that nobody ever reads half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from ...errors import FileFormatError
from .contents import Record, Sample

__all__ = ["RecordWriter", "now", "replacing", "write_atomically"]


class RecordWriter:
    """A record that grows on disk: each `add` leaves a whole, loadable file behind.

    Used as a context manager the record is marked finished on leaving without an exception.
    """

    def __init__(self, path: str | Path, record: Record) -> None:
        self.path = Path(path)
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

    def finish(self) -> Record:
        """Mark the record as complete, save, and return it."""
        self.record = replace(self.record, finished=now())
        self.save()
        return self.record

    def save(self) -> None:
        """Replace the file by the record as it is now."""
        write_atomically(self.path, self.record.to_json())

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self.record.complete:
            self.finish()


def now() -> str:
    """The time as records write it: ISO 8601, UTC, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_atomically(path: str | Path, text: str) -> None:
    """Write `text` to `path` at once: whoever reads it sees the old file or the new one.

    Raises
    ------
    FileFormatError
        The folder cannot be written to.
    """
    with replacing(Path(path)) as temporary:
        Path(temporary).write_bytes(text.encode())


@contextmanager
def replacing(target: Path) -> Iterator[str]:
    """A file beside `target` to write to, which takes its place at the end; of a failure nothing stays.

    Raises
    ------
    FileFormatError
        The folder cannot be written to.
    """
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The same folder: os.replace is atomic only within one file system.
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp keeps it to its owner
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise FileFormatError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
