"""``aimcost show``: show one item of a listing, with its sources."""

from __future__ import annotations

from typing import Annotated

from ..common import app, say
from ..options import Argument, Option


@app.command()
def show(
    name: Annotated[
        str,
        Argument(
            help="Model, hardware profile, stack, method, estimator or run.",
            complete=("model", "hardware", "stack", "method", "estimator", "run"),
        ),
    ],
    accuracy: Annotated[bool, Option("--accuracy", help="Published scores of a model.")] = False,
) -> None:
    """Show one item of a listing, with its sources."""
    from ..listing import describe

    if accuracy:
        from ...report.scores import scores_text
        from ...search.scores.points import points_of

        say(scores_text(name, points_of(name)), prose=True)
        return
    say(describe(name), end="", prose=True)
