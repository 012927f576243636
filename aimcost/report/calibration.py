"""Error tables of calibrations, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..machine.inheritance import KINSHIPS
from .table import Style, table

__all__ = ["errors_text", "external_text", "inherited_text"]

_KINSHIPS = {"sibling": "the same architecture", "architecture": "another architecture", "vendor": "another vendor"}


def errors_text(errors: Iterable[Mapping[str, Any]], *, tablefmt: Style = "simple") -> str:
    """One row per check: what was fitted, what it was checked on, and the error."""
    rows = [
        [
            e["what"],
            e["tables"],
            e["check"],
            f"{e['rows']:,}",
            f"{e['mape']:.1%}",
            f"{e['bias']:+.1%}",
            f"{e['p90']:.1%}",
            f"{e['coverage']:.0%}",
        ]
        for e in errors
    ]
    headers = ["model", "tables", "checked on", "rows", "MAPE", "bias", "90 % within", "in band"]
    return table(rows, headers, left=3, style=tablefmt)


def external_text(rows: Iterable[Mapping[str, Any]], *, tablefmt: Style = "simple") -> str:
    """One row per source and GPU: calibrated against roofline, and after fitting one scale."""
    cells = [
        [
            row["source"],
            row["gpu"],
            str(row["rows"]),
            f"{row['calibrated_mape']:.1%}",
            f"{row['bias']:+.1%}",
            f"{row['in_band']:.0%}",
            f"{row['roofline_mape']:.1%}",
            f"{row['scale']:.3f}",
            f"{row['scaled_mape']:.1%}",
        ]
        for row in rows
    ]
    headers = [
        "source",
        "GPU",
        "rows",
        "calibrated MAPE",
        "bias",
        "in band",
        "roofline MAPE",
        "scale",
        "after scale",
    ]
    return table(cells, headers, left=2, style=tablefmt)


def inherited_text(bands: Mapping[str, Any], output: Path | None = None, *, tablefmt: Style = "simple") -> str:
    """One row per kinship: error of a card's GEMMs under another card's coefficients."""
    rows = [
        [
            _KINSHIPS[kinship],
            str(len(bands[kinship]["pairs"])),
            f"{bands[kinship]['mape']:.1%}",
            "{:.3f} – {:.3f}".format(*bands[kinship]["band"]),
        ]
        for kinship in KINSHIPS
    ]
    headers = ["coefficients from a card of", "pairs", "MAPE", "measured / predicted, 80 % interval"]
    text = table(rows, headers, style=tablefmt)
    written = f"\n\nwritten: {output}" if output is not None else ""
    return f"{text}\n{bands['source']}{written}"
