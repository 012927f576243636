"""``aimcost reproduce``: recompute AIM's published tables."""

from __future__ import annotations

from ..common import (
    JsonOption,
    app,
)


@app.command()
def reproduce(as_json: JsonOption = False) -> None:
    """Recompute AIM's published tables.

    Slips in the paper are listed with the corrected figures.
    """
    from ...pricing.reproduce import reproduce as recompute
    from ...report.export import to_json
    from ...report.reproduce import reproduce_text

    result = recompute()
    print(to_json(result) if as_json else reproduce_text(result))
