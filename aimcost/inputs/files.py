"""Files: YAML and JSON read strictly as mappings, and writes that never leave half a file."""

from __future__ import annotations

import glob
import os
import re
import stat
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ..errors import FileFormatError
from ..units import MEGA
from .strict_json import parse, parse_object

__all__ = [
    "MAX_FILE_BYTES",
    "STALE_S",
    "Stamp",
    "parse_value",
    "read_bytes",
    "read_json",
    "read_mapping",
    "read_once",
    "read_text",
    "replacing",
    "require_nameable",
    "stamp_of",
    "without_waiting",
    "write_atomically",
    "write_bytes_atomically",
]

# Run files, profiles and config.json are kilobytes; this stops a weights file named by mistake.
MAX_FILE_BYTES = 8_000_000
MAX_DEPTH = 100
# No write takes an hour: a temporary file that old is of a process that was killed.
STALE_S = 3600.0
# Scalars, lists and mappings of one YAML text, aliases spelled out: the largest file that aimcost ships holds 4,300.
# The C loader makes about 1 kB of each.
MAX_NODES = 200_000

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_TAG = "tag:yaml.org,2002:"
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


def _json_resolvers(resolvers: dict[str, Any]) -> dict[str, Any]:
    """Without dates, which JSON has none of; and YAML 1.1 reads 12:30:45 as a number: here a number is a number."""
    plain: dict[str, Any] = {}
    for first, pairs in resolvers.items():
        plain[first] = [(tag, _plain(tag, pattern)) for tag, pattern in pairs if tag != f"{_TAG}timestamp"]
    return plain


def _plain(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    if tag not in (f"{_TAG}int", f"{_TAG}float"):
        return pattern
    return re.compile(rf"(?!.*:)(?:{pattern.pattern})", pattern.flags)


class _StrictLoader(_BaseLoader):  # type: ignore[misc]
    """The C loader (six times faster than PyYAML's own), refusing keys that appear twice.

    It builds what JSON can hold: a date is text, and binary data, sets and ordered mappings are refused.
    """

    yaml_implicit_resolvers = _json_resolvers(_BaseLoader.yaml_implicit_resolvers)
    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: construct
        for tag, construct in _BaseLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number; YAML 1.1 reads 0100 as 64, which nobody means."""
        if _LEADING_ZERO.fullmatch(node.value):
            line = node.start_mark.line + 1
            raise FileFormatError(f"line {line}: a number with a leading zero: {node.value[:80]}")
        number: int = self.construct_yaml_int(node)
        return number

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":
                line = key_node.start_mark.line + 1
                raise FileFormatError(
                    f"line {line}: merge keys (<<) are not read: write out the keys that it stands for"
                )
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a scalar", key_node.start_mark)
            if key in keys:
                line = key_node.start_mark.line + 1
                raise FileFormatError(f"line {line}: duplicate key {key!r}")
            keys.add(key)
        result: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return result


_StrictLoader.yaml_constructors[f"{_TAG}int"] = _StrictLoader.construct_whole


def _check_size(text: str) -> None:
    """Refuse what would end the process or fill its memory, before anything is built of it.

    Aliases count as what they stand for: a kilobyte of them can spell out more than any memory holds.

    Raises
    ------
    FileFormatError
        More than `MAX_DEPTH` levels, more than `MAX_NODES` nodes, or an alias inside what it names.
    """
    sizes: dict[str | None, int] = {}
    # anchor and size, so far, of every collection that is open
    above: list[tuple[str | None, int]] = []
    nodes = 0
    for event in yaml.parse(text, Loader=_BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in above):
                raise FileFormatError("an alias inside what it names")
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor is not None:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            above.append((event.anchor, nodes))
            size = 1
            if len(above) > MAX_DEPTH:
                raise FileFormatError(f"nested deeper than {MAX_DEPTH} levels")
        else:
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, before = above.pop()
                if anchor is not None:
                    sizes[anchor] = nodes - before
            continue
        nodes += size
        if nodes > MAX_NODES:
            raise FileFormatError(f"more than {MAX_NODES:,} values, aliases spelled out")


def _from_yaml(text: str) -> Any:
    """The value of one YAML document.

    Raises
    ------
    FileFormatError
        Malformed, a key twice, too deep, too large, or a number that cannot be.
    """
    try:
        return _plain_value(text)
    except (_Doubt, ValueError, yaml.YAMLError):
        pass  # the loader reads it, or says what is wrong with it
    try:
        _check_size(text)
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise FileFormatError(f"not YAML: {_yaml_problem(error)}") from None
    except RecursionError:
        raise FileFormatError(f"nested deeper than {MAX_DEPTH} levels") from None
    except (ValueError, OverflowError) as error:  # a number that YAML cannot build
        raise FileFormatError(f"no value: {str(error).partition(';')[0]}") from None


class _Doubt(Exception):
    """Not plain: an alias, a tag, a key twice, several documents, too deep, too large."""


def _plain_value(text: str) -> Any:
    """One document of mappings, lists, text, numbers, booleans and null, built from the C parser's events.

    A third of the time of the loader, which makes nodes first, by callbacks; what it would refuse is left to it.

    Raises
    ------
    _Doubt, yaml.YAMLError
        The text needs the loader, if only for its message.
    """
    next_event = _BaseLoader(text).get_event
    next_event(), next_event()  # the starts of stream and document
    root: list[Any] = []
    # the collection that is being filled, and the key that waits for its value; outer ones on the stack
    into: Any = root
    key: Any = None
    outer: list[tuple[Any, Any]] = []
    for _ in range(MAX_NODES):
        event = next_event()
        kind = type(event)
        if kind is yaml.ScalarEvent:
            if event.anchor is not None or event.tag is not None:
                raise _Doubt
            value = _scalar(event.value) if event.implicit[0] else event.value
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            if event.anchor is not None or event.tag is not None or len(outer) == MAX_DEPTH:
                raise _Doubt
            outer.append((into, key))
            into, key = ({}, _NO_KEY) if kind is yaml.MappingStartEvent else ([], None)
            continue
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            value = into
            into, key = outer.pop()
        elif kind is yaml.DocumentEndEvent and type(next_event()) is yaml.StreamEndEvent:
            return root[0]
        else:
            raise _Doubt
        if type(into) is list:
            into.append(value)
        elif key is _NO_KEY:
            if type(value) in (dict, list) or value in into:
                raise _Doubt
            key = value
        else:
            into[key] = value
            key = _NO_KEY
    raise _Doubt


_NO_KEY = object()
# Decimal forms, which Python reads as YAML does; octal and binary ones, underscores and infinity are for the loader.
_WHOLE, _DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)"), re.compile(r"[-+]?[0-9]*\.?[0-9]*(?:[eE][-+]?[0-9]+)?")


@lru_cache(maxsize=4096)
def _scalar(text: str) -> Any:
    """The value of an unquoted scalar, resolved as the loader does.

    Raises
    ------
    _Doubt
        A number in another form than the decimal one, or what only the loader knows.
    """
    resolvers = _StrictLoader.yaml_implicit_resolvers.get(text[:1], ())
    tag = next((tag for tag, pattern in resolvers if pattern.match(text)), None)
    if tag is None:
        return text
    if tag.endswith(":null"):
        return None
    if tag.endswith(":bool"):
        return _StrictLoader.bool_values[text.lower()]
    if tag.endswith(":int") and _WHOLE.fullmatch(text):
        return int(text)
    if tag.endswith(":float") and _DECIMAL.fullmatch(text):
        return float(text)
    raise _Doubt


def read_mapping(path: Path, *, limit: int = MAX_FILE_BYTES) -> dict[str, Any]:
    """The mapping that a YAML or JSON file holds.

    Raises
    ------
    FileFormatError
        Missing, unreadable, over `limit` bytes, binary, malformed, a key twice, or no mapping.
    """
    text = read_text(path, limit=limit)
    try:
        # config.json of some models hold Infinity
        data = parse(text, finite=False) if path.suffix == ".json" else _from_yaml(text)
    except FileFormatError as error:
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
    return parse_object(read_text(path, limit=limit), str(path))


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


def parse_value(text: str) -> Any:
    """The value that a piece of YAML holds, read as strictly as a file: a flag's, or that of ``--set``.

    Raises
    ------
    FileFormatError
        Malformed, a key twice, too deep, too large, or a number that cannot be.
    """
    return _from_yaml(text)


def read_bytes(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """The content of a regular file: a pipe or a device may have no end.

    Raises
    ------
    FileFormatError
        Missing, unreadable, no regular file, or over `limit` bytes.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FileFormatError(f"{path}: is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(f"{path}: is a device or a pipe, not a file")
        size = status.st_size
        if size <= limit:
            with open(path, "rb", opener=without_waiting) as file:
                content: bytes | None = file.read(limit + 1)
            if content is None:  # a log of the kernel, say, which calls itself a file
                raise FileFormatError(f"{path}: is a device or a pipe, not a file")
            if len(content) <= limit:
                return content
            size = len(content)  # it grew, or its file system does not say how large it is
    except (OSError, ValueError) as error:
        raise FileFormatError(f"{str(path)[:200]}: {getattr(error, 'strerror', None) or error}") from None
    most = f"at most {limit / MEGA:.0f} MB"
    raise FileFormatError(f"{path}: {size / MEGA:.0f} MB is too large for a file of this kind ({most})")


def without_waiting(path: str, flags: int) -> int:
    """Open a file, and never wait for what a device or a pipe may hold later."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path, *, limit: int = MAX_FILE_BYTES) -> str:
    """A text file.

    Raises
    ------
    FileFormatError
        Missing, unreadable, over `limit` bytes, binary, or not UTF-8.
    """
    raw = read_bytes(path, limit=limit)
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
    try:
        content = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise FileFormatError(f"{path}: cannot be written: holds the name of a file that is not UTF-8") from None
    write_bytes_atomically(path, content)


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


@lru_cache(maxsize=256)
def _sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left of writing a file: once for each process and file, and only what is old."""
    now = time.time()
    for left in folder.glob(f".{glob.escape(name)}.*.tmp"):
        with suppress(OSError):  # another process may do the same
            if now - left.stat().st_mtime > STALE_S:
                left.unlink()


def require_nameable(target: Path) -> None:
    """Raise FileFormatError for a name that no file can have: a null character, or half of a surrogate pair."""
    try:
        possible = b"\0" not in os.fsencode(target)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        name = str(target).encode("ascii", "backslashreplace").decode().replace("\0", "\\x00")
        raise FileFormatError(f"{name}: no file can have this name")


@contextmanager
def replacing(target: Path) -> Iterator[str]:
    """A temporary file beside `target` that replaces it on success and is removed on failure.

    Raises
    ------
    FileFormatError
        The folder cannot be written to.
    """
    import tempfile  # loads the archive modules as well

    require_nameable(target)
    if os.path.abspath(target.parent) == "/dev" or (target.exists() and not target.is_file() and not target.is_dir()):
        # a device, a pipe or /dev/stdout would be replaced by a file
        raise FileFormatError(f"{target}: cannot be written: not a regular file")
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent, target.name)
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
