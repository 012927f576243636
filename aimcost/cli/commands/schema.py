"""``aimcost schema``: print the JSON Schema of the input files."""

from __future__ import annotations

from ..common import app, say


@app.command()
def schema() -> None:
    """Print the JSON Schema of the input files.

    Run files, method parameters, hardware profiles, software stacks and sweep grids.
    """
    from ...report.export import to_json
    from ..listing import json_schema

    say(to_json(json_schema()))
