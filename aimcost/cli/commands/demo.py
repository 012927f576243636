"""``aimcost demo``: time a small model on this machine, dense and reduced."""

from __future__ import annotations

from typing import Annotated

from ..common import app, progress_bar, say
from ..options import Option


@app.command(times_machine=True)
def demo(
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    frames: Annotated[int, Option(min=1, max=64, help="Video frames.")] = 6,
    layers: Annotated[int, Option(min=2, max=64, help="Decoder layers.")] = 8,
) -> None:
    """Time a small model on this machine, dense and reduced.

    Random weights; prints the measured gain beside the predicted one.
    """
    from ...measure.demo import demonstrate
    from ...report.demo import demo_text

    with progress_bar() as step:
        result = demonstrate(device, frames=frames, layers=layers, progress=step)
    say(demo_text(result), prose=True)
