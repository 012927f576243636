"""Putting a calibration block into a profile, the rest of its file untouched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ...inputs.files import read_text, write_atomically
from ...inputs.strict_json import canonical, to_json

__all__ = ["block_text", "write_calibration", "write_tables"]

_BLOCK = re.compile(r"^calibration:.*?(?=^[^\s#]|\Z)", re.MULTILINE | re.DOTALL)


class _Dumper(yaml.SafeDumper):
    """Short lists and mappings on one line; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    return dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=all(not isinstance(v, dict) for v in data)
    )


def _represent_dict(dumper: yaml.SafeDumper, data: dict[Any, Any]) -> yaml.Node:
    flat = "rows" in data and "mape" in data  # a row of the error table
    return dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=flat)


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    # plain decimals: YAML 1.1 reads 1e-05 as text
    text = f"{value:.10f}".rstrip("0")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text + "0" if text.endswith(".") else text)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(dict, _represent_dict)
_Dumper.add_representer(float, _represent_float)


def block_text(block: dict[str, Any]) -> str:
    """The block as YAML."""
    return str(yaml.dump({"calibration": block}, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True))


def write_calibration(profile: Path, block: dict[str, Any]) -> None:
    """Replace or append the ``calibration:`` block of a profile, atomically.

    Raises
    ------
    FileFormatError
        The profile cannot be read.
    """
    rest = _BLOCK.sub("", read_text(profile)).rstrip("\n") + "\n"
    write_atomically(profile, rest + block_text(block))


def write_tables(path: Path, tables: dict[str, Any]) -> None:
    """Correction tables as JSON, one table a line."""
    lines = []
    for key, corrections in tables.items():
        inner = ",\n  ".join(f"{to_json(name)}: {canonical(rows)}" for name, rows in corrections.items())
        lines.append(f" {to_json(key)}: {{\n  {inner}\n }}")
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
