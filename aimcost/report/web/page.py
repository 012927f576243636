"""Writes the page: template, style and modules in one file, with a policy that lets it load nothing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from ... import __version__
from ...inputs.strict_json import to_json
from .packing import Pool

__all__ = ["page_of"]

_FOLDER = Path(__file__).resolve().parent
# In the order in which one builds on the other; together they are one module.
_MODULES = ("unpack", "price", "format", "state", "svg", "layers", "charts", "detail", "app")
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const))", re.MULTILINE)


def page_of(title: str, data: Mapping[str, Any], pool: Pool) -> str:
    """The whole page as text.

    Scripts and styles are named by their digest in its Content-Security-Policy, and nothing else may run or be loaded:
    names with markup in them stay text, and the page reaches no network.
    """
    style, script = _read("style.css"), linked()
    licence = _read("vendor/d3.LICENSE").replace("*/", "")
    vendor = f"/* d3\n{licence}*/\n{_read('vendor/d3.min.js')}"
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_digest(vendor)} {_digest(script)}",
            f"style-src {_digest(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    columns = pool.to_dict()
    content = columns.pop("content")
    values = {
        "policy": policy,
        "version": __version__,
        "title": html.escape(title),
        "style": style,
        "vendor": vendor,
        "script": script,
        "data": _packed(to_json({**data, "version": __version__, "columns": columns}, indent=None)),
        "columns": content,
    }
    return Template(_read("page.html")).substitute(values)


def linked() -> str:
    """All modules as one: their imports and exports name each other alone."""
    parts = [_EXPORT.sub("", _IMPORT.sub("", _read(f"{name}.js"))) for name in _MODULES]
    return "\n".join(parts)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), 9, mtime=0)).decode()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
