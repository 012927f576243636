"""Files: YAML and JSON read strictly as mappings, and writes that never leave half a file."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import FileFormatError
from ..units import MEGA
from .strict_json import parse

__all__ = [
    "MAX_FILE_BYTES",
    "Stamp",
    "parse_value",
    "read_json",
    "read_mapping",
    "read_once",
    "read_text",
    "replacing",
    "stamp_of",
    "write_atomically",
    "write_bytes_atomically",
]

# Run files, profiles and config.json are kilobytes; this stops a weights file named by mistake.
MAX_FILE_BYTES = 8_000_000
MAX_DEPTH = 100

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _without_base_sixty(resolvers: dict[str, Any]) -> dict[str, Any]:
    """YAML 1.1 reads 12:30:45 as a number; here a number is a number."""
    plain: dict[str, Any] = {}
    for first, pairs in resolvers.items():
        plain[first] = [(tag, _plain(tag, pattern)) for tag, pattern in pairs]
    return plain


def _plain(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    if tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
        return pattern
    return re.compile(rf"(?!.*:)(?:{pattern.pattern})", pattern.flags)


class _StrictLoader(_BaseLoader):  # type: ignore[misc]
    """The C loader (six times faster than PyYAML's own), refusing keys that appear twice."""

    yaml_implicit_resolvers = _without_base_sixty(_BaseLoader.yaml_implicit_resolvers)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a scalar", key_node.start_mark)
            if key in keys:
                line = key_node.start_mark.line + 1
                raise FileFormatError(f"line {line}: duplicate key {key!r}")
            keys.add(key)
        result: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return result


def _check_depth(text: str) -> None:
    """Refuse what nests so deep that the C loader's recursion would end the process.

    Raises
    ------
    FileFormatError
        More than `MAX_DEPTH` levels.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise FileFormatError(f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def read_mapping(path: Path, *, limit: int = MAX_FILE_BYTES) -> dict[str, Any]:
    """The mapping that a YAML or JSON file holds.

    Raises
    ------
    FileFormatError
        Missing, unreadable, over `limit` bytes, binary, malformed, a key twice, or no mapping.
    """
    text = read_text(path, limit=limit)
    try:
        if path.suffix == ".json":
            data = parse(text, finite=False)  # config.json of some models hold Infinity
        else:
            _check_depth(text)
            data = yaml.load(text, Loader=_StrictLoader)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise FileFormatError(f"{path}: not YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise FileFormatError(f"{path}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # a date or a number that YAML cannot build
        raise FileFormatError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise FileFormatError(f"{path}: must hold a mapping of keys to values (got {found})")
    if any(not isinstance(key, str) for key in data):
        odd = next(key for key in data if not isinstance(key, str))
        raise FileFormatError(f"{path}: keys must be text (got {odd!r})")
    return data


def read_json(path: Path, *, limit: int = MAX_FILE_BYTES) -> dict[str, Any]:
    """The object that a JSON file of aimcost's own holds.

    Raises
    ------
    FileFormatError
        Missing, unreadable, over `limit` bytes, binary, malformed, a key twice, NaN or Infinity, or no object.
    """
    text = read_text(path, limit=limit)
    try:
        data = parse(text)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise FileFormatError(f"{path}: must hold one JSON object (got {type(data).__name__})")
    return data


Stamp = tuple[int, int]


def stamp_of(path: str | Path) -> Stamp:
    """When a file was last written, in ns, and its size: caches of its content keep to one stamp."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def read_once(path: Path) -> dict[str, Any]:
    """As `read_mapping`, but a file that has not changed is parsed once per process. Not to be modified."""
    try:
        stamp = stamp_of(path)
    except OSError:
        return read_mapping(path)  # which says what is wrong
    return _read_once(path, stamp)


@lru_cache(maxsize=256)
def _read_once(path: Path, _: Stamp) -> dict[str, Any]:
    return read_mapping(path)


def _refuse_cycles(value: Any, above: tuple[int, ...] = ()) -> None:
    """Raise where an alias stands inside what it names."""
    if isinstance(value, dict | list):
        if id(value) in above:
            raise FileFormatError("an alias inside what it names")
        for inner in value.values() if isinstance(value, dict) else value:
            _refuse_cycles(inner, (*above, id(value)))


def parse_value(text: str) -> Any:
    """The value that a piece of YAML holds, read as strictly as a file: a flag's, or that of ``--set``.

    Raises
    ------
    FileFormatError
        Malformed, a key twice, nested too deep, or a number or date that cannot be.
    """
    try:
        _check_depth(text)
        value = yaml.load(text, Loader=_StrictLoader)
        if "*" in text:
            _refuse_cycles(value)
        return value
    except yaml.YAMLError as error:
        raise FileFormatError(f"not YAML: {_yaml_problem(error)}") from None
    except (RecursionError, ValueError) as error:
        raise FileFormatError(f"no value: {str(error).partition(';')[0]}") from None


def read_text(path: Path, *, limit: int = MAX_FILE_BYTES) -> str:
    """A text file.

    Raises
    ------
    FileFormatError
        Missing, unreadable, over `limit` bytes, binary, or not UTF-8.
    """
    try:
        if path.is_dir():
            raise FileFormatError(f"{path}: is a folder, not a file")
        size = path.stat().st_size
        if size > limit:
            most = f"at most {limit / MEGA:.0f} MB"
            raise FileFormatError(f"{path}: {size / MEGA:.0f} MB is too large for a configuration ({most})")
        raw = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path}: {error.strerror or error}") from None
    if b"\0" in raw[:65536]:
        raise FileFormatError(f"{path}: is a binary file, not text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileFormatError(f"{path}: is not UTF-8 text") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or error).replace("\n", " ")
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem


def write_atomically(path: str | Path, text: str) -> None:
    """Write `text` to `path` at once: whoever reads it sees the old file or the new one.

    Raises
    ------
    FileFormatError
        The folder cannot be written to.
    """
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: str | Path, content: bytes) -> None:
    """As `write_atomically`, of bytes."""
    with replacing(Path(path)) as temporary:
        Path(temporary).write_bytes(content)


def _mode_for(target: Path) -> int:
    """The permissions of the file that is replaced, or those of a new file under the process's umask."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        # The umask can be read by setting it alone; for that moment no file is open to more than its owner.
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


@contextmanager
def replacing(target: Path) -> Iterator[str]:
    """A temporary file beside `target` that replaces it on success and is removed on failure.

    Raises
    ------
    FileFormatError
        The folder cannot be written to.
    """
    import tempfile  # loads the archive modules as well

    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The same folder: os.replace is atomic only within one file system.
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_for(target))  # mkstemp lets its owner alone read it
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise FileFormatError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
