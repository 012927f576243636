"""Finished chunks on disk: each written at once, with a digest in its name, so that a kill loses one.

The digest stands for the sweep, the number of the chunk and its content: a chunk that was copied to another number, or
from another sweep, is computed again. One process at a time holds the folder.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, InvalidValueError, argument
from ...inputs.files import read_json, write_atomically, write_bytes_atomically
from ...inputs.strict_json import digest_bytes, to_json

try:
    import fcntl
except ImportError:  # Windows: nothing tells of another process
    fcntl: Any = None  # type: ignore[no-redef]

__all__ = ["Parts"]

_MANIFEST, _LOCK = "manifest.json", "lock"
_NAME = re.compile(r"^(\d{9})\.(\d+)\.([0-9a-f]{16})\.part$")


class Parts:
    """The folder ``OUT.parts`` beside the output, while a sweep is under way.

    Parameters
    ----------
    digest
        Of the grid and all that its output follows from: parts of another are not continued.
    total
        How many chunks there are.
    """

    def __init__(self, output: Path, digest: str, total: int) -> None:
        self.output, self.folder = output, output.with_name(output.name + ".parts")
        self.digest, self.total = digest, total
        self.done: dict[int, tuple[Path, int]] = {}
        self._lock: int | None = None

    def open(self, *, resume: bool) -> None:
        """Begin, or continue what is there.

        Raises
        ------
        InvalidValueError
            Parts are there and `resume` is not asked for, or they are of another sweep.
        """
        manifest = self.folder / _MANIFEST
        self._hold()
        try:
            if not manifest.exists():
                # a sweep that was killed before it began leaves an empty folder
                self._collect()
                write_atomically(manifest, to_json({"digest": self.digest}, indent=None) + "\n")
                return
            if not resume:
                what = f"given: {self.folder} holds an unfinished sweep (or delete it)"
                raise InvalidValueError(argument("resume"), what, None)
            if self._found(manifest) != self.digest:
                raise FileFormatError(
                    f"{self.folder}: belongs to another grid, model, profile or version of "
                    "aimcost; delete it to start over"
                )
            self._collect()
        except BaseException:
            self.release()
            raise

    def _hold(self) -> None:
        """Make the folder, and keep other processes out of it for as long as this one lives.

        Raises
        ------
        FileFormatError
            Another process writes this output, or the folder cannot be made.
        """
        try:
            while True:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    if fcntl is not None:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    raise FileFormatError(f"{self.output}: another process is writing it") from None
                if os.fstat(lock).st_nlink:  # else the process that held it has finished, and removed the folder
                    self._lock = lock
                    return
                os.close(lock)
        except OSError as error:
            raise FileFormatError(f"{self.folder}: cannot be written: {error.strerror or error}") from None

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _found(self, manifest: Path) -> str | None:
        try:
            return read_json(manifest).get("digest")
        except FileFormatError:
            return None

    def _collect(self) -> None:
        """Chunks that are whole; one whose content is not what its name says is computed again, and what a kill
        left half written goes."""
        for path in sorted(self.folder.iterdir()):
            match = _NAME.match(path.name)
            if match and int(match[1]) < self.total:
                number, errors = int(match[1]), int(match[2])
                if self._digest(number, errors, path.read_bytes()) == match[3]:
                    self.done[number] = (path, errors)
                    continue
            if path.name not in (_MANIFEST, _LOCK) and path.is_file():
                path.unlink()

    def _digest(self, number: int, errors: int, content: bytes) -> str:
        return digest_bytes(f"{self.digest}.{number}.{errors}.".encode() + content)

    def add(self, number: int, content: bytes, errors: int) -> None:
        """Keep a chunk: it is there as a whole or not at all.

        Raises
        ------
        FileFormatError
            It cannot be written (the disk is full).
        """
        path = self.folder / f"{number:09d}.{errors}.{self._digest(number, errors, content)}.part"
        write_bytes_atomically(path, content)
        self.done[number] = (path, errors)

    def paths(self) -> list[Path]:
        """All chunks in order.

        Raises
        ------
        FileFormatError
            Some are missing.
        """
        if len(self.done) != self.total:
            raise FileFormatError(f"{self.folder}: holds {len(self.done)} of {self.total} parts")
        return [self.done[number][0] for number in sorted(self.done)]

    @property
    def errors(self) -> int:
        """Points that could not be priced."""
        return sum(errors for _, errors in self.done.values())

    def close(self) -> None:
        """The output is written: the parts go."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()
