"""Running a campaign: step after step inside the time, each with a record that survives the next one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import AimcostError, InvalidValueError
from ...extras import torch_module
from ...inputs.files import write_atomically
from ..records import Environment, load_record, now
from .book import Book
from .deadline import Deadline, OutOfTime, alarm
from .sizes import FULL, TINY
from .steps import STEPS, Step
from .visit import Visit, profile_name

__all__ = ["SUMMARY", "check_minutes", "run_campaign"]

SUMMARY = "summary.json"
SCHEMA_VERSION = 1
# Kept back for the summary, and for what an alarm has to wait for.
RESERVE_SHARE, RESERVE_S = 0.05, 10.0
# A step that does not ask the time itself is stopped this much later.
GRACE = 1.1
MOST_MINUTES = 24 * 60
Say = Callable[[str], None]


def run_campaign(
    folder: str | Path,
    *,
    device: str = "cuda",
    minutes: float = 8.0,
    tiny: bool = False,
    resume: bool = False,
    say: Say = lambda _: None,
    steps: Sequence[Step] = STEPS,
) -> dict[str, Any]:
    """Measure everything that a visit to a machine is for, inside `minutes`.

    Parameters
    ----------
    folder
        Where each step keeps its record; `SUMMARY` says how the steps ended.
    device
        ``cuda`` or ``cpu``.
    tiny
        A dry run with a model of four layers.
    resume
        Leave out steps whose record in `folder` is complete and was made with the same settings.
    say
        Told what comes next.

    Returns
    -------
    dict
        What `SUMMARY` holds: circumstances, and for each step its state (done, kept, failed, out of
        time, no time), seconds, and message.

    Raises
    ------
    InvalidValueError
        No such device here, or no positive number of minutes.
    MissingExtraError
        torch or transformers is not installed.
    """
    check_minutes(minutes)
    total = minutes * 60.0
    reserve = min(RESERVE_S, RESERVE_SHARE * total)
    deadline = Deadline.after(total - reserve)
    folder = Path(folder)
    found = _environment(device)
    visit = Visit(
        sizes=TINY if tiny else FULL,
        device=device,
        folder=folder,
        seconds=total,
        deadline=deadline,
        environment=found,
        say=say,
    )
    settings = {"tiny": tiny, "device": device, "dtype": visit.dtype, "minutes": minutes}
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device_name": found.device_name,
        "profile": f"{profile_name(found)}.yaml",
        **settings,
        "started": now(),
        "finished": None,
        "notes": list(found.notes),
        "steps": [],
    }
    with _single_thread(device):
        _steps(visit, steps, deadline, settings, resume, summary)
    visit.release()
    summary["state_after"] = _moved(found)
    summary["finished"] = now()
    _save(folder, summary)
    return summary


def check_minutes(minutes: float) -> None:
    """Raise InvalidValueError unless a campaign can last that long."""
    if not 0 < minutes <= MOST_MINUTES:
        raise InvalidValueError("minutes", f"above 0 and at most {MOST_MINUTES}", minutes)


def _steps(
    visit: Visit,
    steps: Sequence[Step],
    deadline: Deadline,
    settings: Mapping[str, Any],
    resume: bool,
    summary: dict[str, Any],
) -> None:
    for number, step in enumerate(steps):
        entry = {"name": step.name, "state": "running", "seconds": 0.0, "message": ""}
        summary["steps"].append(entry)
        path = visit.folder / f"{step.name}.json"
        share = step.weight / sum(later.weight for later in steps[number:])
        began = deadline.clock()
        if resume and _complete(path, settings):
            entry["state"] = "kept"
        elif deadline.left <= 0.0:
            entry["state"] = "no time"
        else:
            _save(visit.folder, summary)
            visit.say(f"step {number + 1} of {len(steps)}: {step.name}")
            budget = deadline.left * share
            visit.deadline = Deadline(at=deadline.clock() + budget, clock=deadline.clock)
            entry["state"], entry["message"] = _one(visit, step, path, settings, min(deadline.left, GRACE * budget))
        entry["seconds"] = round(deadline.clock() - began, 2)
        _save(visit.folder, summary)


def _one(visit: Visit, step: Step, path: Path, settings: Mapping[str, Any], at_most: float) -> tuple[str, str]:
    """How the step ended, and with what message."""
    book: Book | None = None
    try:
        with alarm(at_most):
            if step.alone is not None:
                return "done", _remarks(visit, step.alone(visit, path))
            book = Book(path, visit.environment, {"step": step.name, **settings})
            if step.run is not None:
                step.run(visit, book)
            book.finish()
    except OutOfTime:
        message = f"stopped after {at_most:.0f} s at the latest; what was measured is kept"
        _note(book, f"{step.name}: {message}")
        return "out of time", message
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        _note(book, f"{step.name}: {message}")
        # memory that the failure holds must not fail the next step as well
        visit.release()
        return "failed", message
    return "done", _remarks(visit, book.record.notes)


def _remarks(visit: Visit, notes: Iterable[str]) -> str:
    """What a step has to say beside what every record says of the machine."""
    return "; ".join(text for text in notes if text not in visit.environment.notes)


def _note(book: Book | None, text: str) -> None:
    if book is not None:
        book.note(text)


def _complete(path: Path, settings: Mapping[str, Any]) -> bool:
    try:
        record = load_record(path)
    except AimcostError:
        return False
    if record.kind in ("profile", "validation"):
        return record.complete and record.environment.device == settings["device"]
    same = all(record.settings.get(key) == settings[key] for key in ("tiny", "device", "dtype"))
    return record.complete and same


def _environment(device: str) -> Environment:
    torch_module("transformers", "aimcost campaign")
    found: Environment = torch_module("aimcost.measure.profile.environment", "aimcost campaign").describe(device)
    return found


def _moved(before: Environment) -> dict[str, Any]:
    """What changed on the machine meanwhile: clocks, temperature, throttling, load."""
    module = importlib.import_module("aimcost.measure.profile.environment")
    return dict(module.changes(before, module.describe(before.device)))


def _single_thread(device: str) -> Any:
    return importlib.import_module("aimcost.measure.campaign.torch_rig").computing(device)


def _save(folder: Path, summary: Mapping[str, Any]) -> None:
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
