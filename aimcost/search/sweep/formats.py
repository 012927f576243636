"""Columns as CSV, JSON lines or Parquet: the bytes of one chunk, and chunks put together.

CSV and JSON lines carry nine significant digits, Parquet the 64-bit values.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidValueError, argument
from ...extras import load
from ...inputs.csv_cells import guarded
from ...inputs.files import replacing
from ...inputs.strict_json import to_json
from .pricing import Column

__all__ = ["assemble", "encode", "format_of"]

FORMATS = ("csv", "jsonl", "parquet")


def format_of(path: Path) -> str:
    """The format that a file's name asks for.

    Raises
    ------
    InvalidValueError
        Another ending than those of `FORMATS`.
    MissingExtraError
        Parquet without pyarrow.
    """
    name = path.suffix.removeprefix(".").lower()
    if name not in FORMATS:
        raise InvalidValueError(argument("output"), "a file name ending in .csv, .jsonl or .parquet", path.name)
    if name == "parquet":
        _arrow()
    return name


def _arrow() -> tuple[Any, Any]:
    modules = (load(name, extra="sweep", purpose="writing Parquet") for name in ("pyarrow", "pyarrow.parquet"))
    return next(modules), next(modules)


def encode(columns: Sequence[Column], kind: str) -> bytes:
    """The rows of one chunk in a format; CSV without its header."""
    if kind == "parquet":
        return _parquet(columns)
    return (_csv(columns) if kind == "csv" else _jsonl(columns)).encode()


def _rows(columns: Sequence[Column]) -> int:
    return next(len(column.values) for column in columns if not column.constant)


def _csv(columns: Sequence[Column]) -> str:
    return _lines(columns, _csv_text, ",".join, "", "")


def _jsonl(columns: Sequence[Column]) -> str:
    names = [to_json(column.name, indent=None).replace("%", "%%") for column in columns]

    def joined(cells: Iterable[str]) -> str:
        return "{" + ",".join(f"{name}:{cell}" for name, cell in zip(names, cells, strict=True)) + "}"

    return _lines(columns, _json_text, joined, "null", "null")


def _lines(
    columns: Sequence[Column],
    text: Callable[[Any], str],
    joined: Callable[[Iterable[str]], str],
    none: str,
    nan: str,
) -> str:
    """One template for all rows: constants stand in it, numbers are formatted by it."""
    cells, varying = [], []
    for column in columns:
        values = column.values
        if column.constant:
            cells.append(_one(values, column.kind, text, none).replace("%", "%%"))
        elif isinstance(values, np.ndarray) and (column.kind == "int" or not np.isnan(values).any()):
            cells.append("%d" if column.kind == "int" else "%.9g")
            varying.append(values.tolist())
        else:
            plain = values.tolist() if isinstance(values, np.ndarray) else values
            cells.append("%s")
            varying.append([nan if v != v else _one(v, column.kind, text, none) for v in plain])
    template = joined(cells) + "\n"
    return "".join([template % row for row in zip(*varying, strict=True)])


def _one(value: Any, kind: str, text: Callable[[Any], str], none: str) -> str:
    if value is None:
        return none
    if kind == "float":
        return f"{value:.9g}"
    return text(value)


def _csv_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([guarded(value) if isinstance(value, str) else value])
    return buffer.getvalue()


def _json_text(value: Any) -> str:
    return to_json(value, indent=None)


def _parquet(columns: Sequence[Column]) -> bytes:
    arrow, parquet = _arrow()
    types = {"int": arrow.int64(), "float": arrow.float64(), "bool": arrow.bool_(), "text": arrow.string()}
    rows, arrays = _rows(columns), []
    for column in columns:
        kind = types[column.kind]
        if column.constant:
            arrays.append(arrow.repeat(arrow.scalar(column.values, type=kind), rows))
        else:
            arrays.append(arrow.array(column.values, type=kind, from_pandas=True))
    made = arrow.Table.from_arrays(arrays, names=[column.name for column in columns])
    sink = arrow.BufferOutputStream()
    parquet.write_table(made, sink, compression="snappy", use_dictionary=False, write_statistics=False)
    return bytes(sink.getvalue().to_pybytes())


def assemble(parts: Sequence[Path], target: Path, kind: str, header: Sequence[str]) -> None:
    """Put the chunks together in order, and replace `target` at once.

    Raises
    ------
    FileFormatError
        The folder cannot be written to.
    """
    with replacing(target) as temporary:
        if kind == "parquet":
            _join_parquet(parts, temporary)
            return
        with open(temporary, "wb") as out:
            if kind == "csv":
                out.write(f"{','.join(_csv_text(name) for name in header)}\n".encode())
            for part in parts:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, out, 1 << 20)


def _join_parquet(parts: Sequence[Path], path: str) -> None:
    """One row group a chunk."""
    _, parquet = _arrow()
    writer = None
    for part in parts:
        table = parquet.read_table(part)
        if writer is None:
            writer = parquet.ParquetWriter(path, table.schema, compression="snappy", use_dictionary=False)
        writer.write_table(table, row_group_size=max(1, len(table)))
    if writer is not None:
        writer.close()
