"""``aimcost schema``: print the JSON Schema of the input files."""

from __future__ import annotations

from ..common import app


@app.command()
def schema() -> None:
    """Print the JSON Schema of the input files.

    Run files, method parameters, hardware profiles, software stacks and sweep grids.
    """
    from ...report.export import to_json
    from ..listing import json_schema

    print(to_json(json_schema()))
