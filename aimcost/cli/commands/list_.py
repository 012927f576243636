"""``aimcost list``: list models, hardware, stacks, methods, …"""

from __future__ import annotations

from typing import Annotated

from ..common import JsonOption, app, say
from ..options import Argument, Option

# Headers of the printed listings; the keys of the JSON stay as they are.
_HEADERS = {
    "tokens an image": "tokens per image",
    "tokens a frame": "tokens per frame",
    "host us a launch": "host µs per launch",
    "ms a request": "ms per request",
    "ms a step": "ms per step",
}


@app.command()
def list_(
    what: Annotated[
        str | None,
        Argument(
            metavar="KIND",
            help="models, hardware, stacks, methods, estimators, runs, accuracy or formats. Default: all.",
            show_default=False,
        ),
    ] = None,
    show_all: Annotated[bool, Option("--all", help="Include hidden profiles.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List models, hardware, stacks, methods, …"""
    from ...report.export import to_json
    from ...report.table import table
    from ..listing import LISTINGS, listing

    chosen = LISTINGS if what is None else (what,)
    problems: list[str] = []
    result = {name: listing(name, hidden=show_all, problems=problems) for name in chosen}
    for problem in problems:
        say(f"aimcost: left out: {problem}", error=True)
    if as_json:
        say(to_json(result))
        return
    for name, rows in result.items():
        headers = list(rows[0]) if rows else ["name"]
        left = sum(1 for key in headers if not isinstance(rows[0][key], int | float)) if rows else 1
        cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
        shown = [_HEADERS.get(header, header) for header in headers]
        say(f"{name} ({len(rows)})\n{table(cells, shown, left=left)}\n", prose=True)
