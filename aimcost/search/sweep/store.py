"""Finished chunks on disk: each written at once, with a digest in its name, so that a kill loses one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ...errors import FileFormatError, InvalidValueError, argument
from ...inputs.files import read_json, write_atomically, write_bytes_atomically
from ...inputs.strict_json import digest_bytes, to_json

__all__ = ["Parts"]

_NAME = re.compile(r"^(\d{9})\.(\d+)\.([0-9a-f]{16})\.part$")


class Parts:
    """The folder ``OUT.parts`` beside the output, while a sweep is under way.

    Parameters
    ----------
    digest
        Of the grid and all that its output follows from: parts of another are not continued.
    """

    def __init__(self, output: Path, digest: str) -> None:
        self.folder = output.with_name(output.name + ".parts")
        self.digest = digest
        self.done: dict[int, tuple[Path, int]] = {}

    def open(self, *, resume: bool) -> None:
        """Begin, or continue what is there.

        Raises
        ------
        InvalidValueError
            Parts are there and `resume` is not asked for, or they are of another sweep.
        """
        manifest = self.folder / "manifest.json"
        if self.folder.exists():
            if not resume:
                what = f"given: {self.folder} holds an unfinished sweep (or delete it)"
                raise InvalidValueError(argument("resume"), what, None)
            if self._found(manifest) != self.digest:
                raise FileFormatError(
                    f"{self.folder}: belongs to another grid, model, profile or version of "
                    "aimcost; delete it to start over"
                )
            self._collect()
            return
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise FileFormatError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        write_atomically(manifest, to_json({"digest": self.digest}, indent=None) + "\n")

    def _found(self, manifest: Path) -> str | None:
        try:
            return read_json(manifest).get("digest")
        except FileFormatError:
            return None

    def _collect(self) -> None:
        """Chunks that are whole; one whose content is not what its name says is computed again."""
        for path in sorted(self.folder.iterdir()):
            match = _NAME.match(path.name)
            if match and digest_bytes(path.read_bytes()) == match[3]:
                self.done[int(match[1])] = (path, int(match[2]))
            elif path.name != "manifest.json":
                path.unlink()

    def add(self, number: int, content: bytes, errors: int) -> None:
        """Keep a chunk: it is there as a whole or not at all.

        Raises
        ------
        FileFormatError
            It cannot be written (the disk is full).
        """
        path = self.folder / f"{number:09d}.{errors}.{digest_bytes(content)}.part"
        write_bytes_atomically(path, content)
        self.done[number] = (path, errors)

    def paths(self) -> list[Path]:
        """All chunks in order."""
        return [self.done[number][0] for number in sorted(self.done)]

    @property
    def errors(self) -> int:
        """Points that could not be priced."""
        return sum(errors for _, errors in self.done.values())

    def close(self) -> None:
        """The output is written: the parts go."""
        shutil.rmtree(self.folder, ignore_errors=True)
