"""The ``aimcost campaign`` command: measure or read, then print."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InvalidValueError
from ..inputs.files import write_atomically
from ..measure.campaign.plan import SUMMARY
from ..measure.campaign.run import check_minutes, run_campaign
from ..measure.campaign.summary import summarise
from ..report.campaign import summary_text
from ..report.export import to_json
from .common import say

__all__ = ["campaign_command"]

TABLES = "tables.json"


def campaign_command(
    output: Path | None,
    source: Path | None,
    *,
    device: str,
    minutes: float,
    tiny: bool,
    resume: bool,
    as_json: bool,
) -> tuple[str, bool]:
    """What the command prints, and whether no step of what it measured failed.

    Raises
    ------
    InvalidValueError
        Neither or both of an output folder and a folder to read.
    """
    if (output is None) == (source is None):
        raise InvalidValueError("campaign", "given either -o DIR or --from DIR", None)
    if output is not None:
        check_minutes(minutes)
        if device == "cpu":
            importlib.import_module("aimcost.measure.profile").quiet_process()
        with _watchdog(minutes * 60.0):
            run_campaign(output, device=device, minutes=minutes, tiny=tiny, resume=resume, say=_clocked())
    folder = output if output is not None else source
    found = summarise(folder or "")
    if output is not None:
        write_atomically(output / TABLES, to_json(found) + "\n")
    bad = output is not None and any(step["state"] in ("failed", "partly done") for step in found["steps"])
    return to_json(found) if as_json else summary_text(found), not bad


def _clocked() -> Callable[[str], None]:
    began = time.monotonic()
    return lambda text: say(f"{time.monotonic() - began:6.1f} s  {text}", error=True)


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """End the process when the time is over and something still hangs; records on disk are whole."""

    def stop() -> None:
        say(
            f"aimcost: a measurement did not return within the time limit; {SUMMARY} lists the completed steps",
            error=True,
        )
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
