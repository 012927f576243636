"""Write docs/run-files.md: every key of a run file and of each method, from the schema. ``make docs`` calls it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aimcost.cli.listing import in_words, json_schema

# A float that is whole is written out.
_MOST = f"{1e30:,.0f}"
PAGE = Path(__file__).resolve().parent / "run-files.md"
HEAD = """# Run files

Every key that a run file takes, as `aimcost schema` states it for editors. `--set 'workload.frames=8'` and
`aimcost.estimate(run, **{"workload.frames": 8})` set any of them; keys of the workload and `tp`, `pp`, `dp` need no
section in Python. docs/run_files.py writes this page.

"""


def page() -> str:
    """The page as text."""
    schema = json_schema()
    run = schema["run"]
    parts = [HEAD + "## Run\n\n" + _table(_rows(run, run.get("$defs", {}), ""))]
    parts.append("## Methods\n\nBeside `name` and `convention`, which all have.\n")
    for name, method in schema["methods"].items():
        rows = [row for row in _rows(method, method.get("$defs", {}), "") if row[0] not in ("`name`", "`convention`")]
        if rows:
            parts.append(f"### {name}\n\n{_table(iter(rows))}")
    return "\n".join(parts)


def _rows(schema: Mapping[str, Any], shapes: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for key, field in schema["properties"].items():
        inner = _shape(field, shapes)
        default = field.get("default")
        required = key in schema.get("required", ())
        shown = "required" if required else "" if default in (None, [], {}) else f"`{_plain(default)}`"
        kind = (
            "mapping"
            if inner is not None and "anyOf" not in field
            else in_words(_bare(field, shapes)).replace(_MOST, "1e30").replace(" and at most 1e30", "")
        )
        yield f"`{prefix}{key}`", kind.replace("|", "\\|"), shown, field.get("description", "")
        if inner is not None:
            yield from _rows(inner, shapes, f"{prefix}{key}.")


def _takes(field: Mapping[str, Any], shapes: Mapping[str, Any]) -> str:
    return in_words(_bare(field, shapes)).replace(f" and at most {_MOST}", "")


def _shape(field: Mapping[str, Any], shapes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for each in (field, *field.get("anyOf", ())):
        if "$ref" in each:
            found: Mapping[str, Any] = shapes[each["$ref"].rpartition("/")[2]]
            return found
    return None


def _bare(field: Mapping[str, Any], shapes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The field with mappings in place of references."""
    options = [{"type": "object"} if "$ref" in each else each for each in field.get("anyOf", ())]
    return {**field, "anyOf": options} if options else field


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| key | takes | default | |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
