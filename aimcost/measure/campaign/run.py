"""Running a campaign: step after step inside the time, each with a record that survives the next one."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from ...errors import AimcostError, InvalidValueError, UnsupportedModelError, argument, one_line
from ...extras import require_device, torch_module
from ...inputs.files import write_atomically
from ...inputs.run import Run
from ...inputs.strict_json import plain, to_json
from ..profile.plan import plan_for
from ..profile.to_calibration import profile_mapping, profile_yaml
from ..records import Environment, Record, RecordWriter, load_record, now
from ..validate.measuring import PROFILE_NAME, ModelCache, measure_labelled, settings_of, too_large
from .plan import SUMMARY, CampaignPlan, RunsStep, load_plan

__all__ = [
    "Campaign",
    "Deadline",
    "OutOfTime",
    "Step",
    "check_minutes",
    "measure_runs",
    "readable",
    "run_campaign",
    "steps_of",
]

SCHEMA_VERSION = 2
# Held back for the summary, and for what an alarm has to wait for.
RESERVE_SHARE, RESERVE_S = 0.05, 10.0
# A step that does not look at the clock is stopped this much later.
GRACE = 1.1
MOST_MINUTES = 24 * 60
# On a GPU with less time than this, the profile's smaller grid: the whole one took 11 s on an H200.
QUICK_BELOW_S = 120.0
DTYPES = {"cuda": "bf16", "cpu": "fp32"}


class PartlyDone(Exception):
    """Some runs of a step failed; the others are recorded."""


P = ParamSpec("P")
Found = TypeVar("Found")


class OutOfTime(BaseException):
    """The time of a step, or of the campaign, is used up."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(at=time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - self.clock())


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside the block after `seconds`, even where nothing looks at the deadline.

    Works in the main thread of systems with interval timers; elsewhere the block is left alone. A call
    into C is interrupted when it returns.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_: int, __: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@dataclass(kw_only=True)
class Campaign:
    """What the steps share: the plan, the device, the clock, and one model at a time."""

    plan: CampaignPlan
    device: str
    folder: Path
    seconds: float
    deadline: Deadline
    environment: Environment
    tiny: bool
    resume: bool = False
    say: Callable[[str], None] = lambda _: None
    writer: RecordWriter | None = None
    models: ModelCache = field(init=False)

    def __post_init__(self) -> None:
        self.models = ModelCache(self.device, check=self._check_memory)

    @property
    def dtype(self) -> str:
        """Number format of the models: a CPU is fast in fp32 alone."""
        return DTYPES[self.device]

    @property
    def settings(self) -> dict[str, Any]:
        """What every record says of the campaign; a record of other settings is not reused."""
        return {"tiny": self.tiny, "device": self.device, "dtype": self.dtype}

    def tick(self, *_: object) -> None:
        """Raise `OutOfTime` once the step's time is used up."""
        if self.deadline.left <= 0.0:
            raise OutOfTime

    def open(self, path: Path, kind: Any = "campaign", **settings: Any) -> RecordWriter:
        """The step's record: with `resume` the one that was cut short before, less what it had not finished."""
        record = Record(
            kind=kind,
            environment=self.environment,
            seed=0,
            started=now(),
            settings={**self.settings, **settings, "measured": []},
            notes=self.environment.notes,
        )
        before = self.earlier(path) if self.resume and kind == "validation" else None
        if before is not None:
            measured = before.settings["measured"]
            samples = tuple(sample for sample in before.samples if sample.labels["run"] in measured)
            record = replace(before, settings={**record.settings, "measured": measured}, samples=samples)
        self.writer = RecordWriter(path, record)
        return self.writer

    def earlier(self, path: Path) -> Record | None:
        """The record that `path` holds, if it was made with the same settings."""
        record = readable(load_record, path)
        same = record is not None and all(record.settings.get(key) == value for key, value in self.settings.items())
        return record if same else None

    def bench(self) -> Any:
        """What times single operations."""
        bench = torch_module("aimcost.measure.profile.bench").Bench
        return bench(self.device, repeats=self.plan.repeats, budget_s=self.plan.budget_s)

    def _check_memory(self, run: Run) -> None:
        self.say("building the model")
        if self.tiny:
            return
        reason = too_large(run, self.device, self.environment.memory_bytes)
        if reason is not None:
            dry = f": a campaign on a CPU is a dry run, with {argument('tiny')}" if self.device == "cpu" else ""
            raise UnsupportedModelError(reason + dry)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step: its share of the time relative to those after it, and what writes its record to a path."""

    name: str
    weight: float
    run: Callable[[Campaign, Path], object]


def steps_of(plan: CampaignPlan) -> list[Step]:
    """The steps of a plan: three that measure the machine and the kernels, all others by their runs."""
    known = {"profile": profile, "correctness": correctness, "kernels": kernels}
    return [
        Step(name=step.name, weight=step.weight, run=known.get(step.name, partial(measure_runs, step)))
        for step in plan.steps
    ]


def profile(campaign: Campaign, path: Path) -> None:
    """The device's profile: record and YAML."""
    sizes = plan_for(campaign.device, quick=campaign.seconds < QUICK_BELOW_S)
    given = {key: _tuples(value) for key, value in campaign.plan.profile.items()}
    sizes = replace(sizes, **{**given, "dtypes": (campaign.dtype,)})

    def progress(done: int, total: int, text: str) -> None:
        campaign.tick()
        if done % 50 == 0:
            campaign.say(f"profile: {done} of {total}, {text}")

    measure = torch_module("aimcost.measure.profile.run").profile
    record = measure(campaign.device, path=path, plan=sizes, progress=progress, settings=campaign.settings)
    name = _profile_name(campaign.environment)
    write_atomically(path.parent / f"{name}.yaml", profile_yaml(record, name))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _profile_name(environment: Environment) -> str:
    """A profile's name from the device's: ``NVIDIA H200`` is nvidia_h200."""
    return re.sub(r"[^a-z0-9]+", "_", environment.device_name.lower()).strip("_")[:60] or environment.device


def correctness(campaign: Campaign, path: Path) -> None:
    """Every kernel against its reference in higher precision, at full size."""
    writer = campaign.open(path, results=[])
    check = torch_module("aimcost.measure.campaign.kernels").check_kernels
    for result in check(campaign.plan.kernel_run(campaign.dtype), device=campaign.device, tick=campaign.tick):
        writer.set(results=[*writer.record.settings["results"], result])
        if not result["ok"]:
            what = " ".join(result[key] for key in ("check", "dtype", "size"))
            writer.add(notes=[f"{what}: {result['value']:.2e} exceeds {result['bar']:.0e}"])
    writer.finish()


def kernels(campaign: Campaign, path: Path) -> None:
    """Every kernel of the drop events alone on the device, and on a GPU attention by backend."""
    writer = campaign.open(path)
    module = torch_module("aimcost.measure.campaign.kernels")
    run, bench = campaign.plan.kernel_run(campaign.dtype), campaign.bench()
    for sample in module.time_kernels(run, bench, tick=campaign.tick):
        writer.add(sample)
    for text, sample in module.time_attention(run, bench, tick=campaign.tick) if bench.cuda else ():
        writer.add(*([sample] if sample else []), notes=[] if sample else [text])
    writer.finish()


def measure_runs(step: RunsStep, campaign: Campaign, path: Path) -> None:
    """The step's runs, as `aimcost validate` measures them; where one fails, the next one runs.

    Raises
    ------
    PartlyDone
        Some failed.
    """
    plan, stacks = campaign.plan, torch_module("aimcost.measure.subject").runnable_stacks(campaign.device)
    runs = {one.label: one.run for one in plan.runs_of(step, campaign.dtype, stacks)}
    profile_record = campaign.earlier(path.parent / "profile.json")
    settings = settings_of(
        runs,
        repeats=plan.repeats,
        rounds=1,
        profile=None if profile_record is None else measured_profile(profile_record),
        profile_from="measured in the same campaign",
    )
    writer = campaign.open(path, "validation", **settings)
    failed = []
    for label, run in runs.items():
        if label in writer.record.settings["measured"]:
            continue
        campaign.tick()
        campaign.say(label)
        budget_s = min(step.budget_s or plan.budget_s, campaign.deadline.left)
        try:
            measure_labelled(
                label, run, writer, campaign.models, repeats=plan.repeats, budget_s=budget_s, progress=campaign.tick
            )
        except (AimcostError, RuntimeError, ValueError, TypeError) as error:
            failed.append(f"{label}: {type(error).__name__}: {one_line(error)}")
            continue
        writer.set(measured=[*writer.record.settings["measured"], label])
    if failed:
        # not finished: with `resume` those runs are measured again
        raise PartlyDone("; ".join(failed))
    writer.finish()


def measured_profile(record: Record) -> dict[str, Any] | None:
    """The hardware profile of a campaign's profile record; None where it was cut too short."""
    found = readable(profile_mapping, record, PROFILE_NAME)
    return None if found is None else dict(plain(found))


def readable(read: Callable[P, Found], *args: P.args, **kwargs: P.kwargs) -> Found | None:
    """What `read` gives; None where a record is missing, of another kind, or was cut too short for it."""
    try:
        return read(*args, **kwargs)
    except AimcostError:
        return None


def run_campaign(
    folder: str | Path,
    *,
    device: str = "cuda",
    minutes: float = 8.0,
    tiny: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    steps: Sequence[Step] | None = None,
) -> dict[str, Any]:
    """Measure everything that a GPU is rented for, inside `minutes`.

    Parameters
    ----------
    folder
        Where each step's record goes; `SUMMARY` says how the steps ended.
    device
        ``cuda`` or ``cpu``.
    tiny
        A dry run with a model of four layers.
    resume
        Skip what records in `folder` hold already, made with the same settings: whole steps, and single runs of
        a step that was cut short.
    say
        Told what comes next.
    steps
        In place of the plan's.

    Returns
    -------
    dict
        What `SUMMARY` holds: circumstances, and for each step its state (done, done before, partly done, failed,
        out of time, no time), seconds, and message.

    Raises
    ------
    InvalidValueError
        No such device here, or no positive number of minutes.
    MissingExtraError
        torch or transformers is not installed.
    """
    check_minutes(minutes)
    require_device(device, "aimcost campaign")
    environment = torch_module("aimcost.measure.profile.environment")
    timing = torch_module("aimcost.runtime.timing")
    plan = load_plan(tiny=tiny)
    total = minutes * 60.0
    campaign = Campaign(
        plan=plan,
        device=device,
        folder=Path(folder),
        seconds=total,
        deadline=Deadline.after(total - min(RESERVE_S, RESERVE_SHARE * total)),
        environment=environment.describe(device),
        tiny=tiny,
        resume=resume,
        say=say,
    )
    before = campaign.environment
    summary: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "device_name": before.device_name,
        "profile": f"{_profile_name(before)}.yaml",
        **campaign.settings,
        "minutes": minutes,
        "started": now(),
        "finished": None,
        "notes": list(before.notes),
        "steps": [],
    }
    with timing.single_thread(device):
        _run_steps(campaign, steps_of(plan) if steps is None else steps, summary)
    campaign.models.clear()
    summary["state_after"] = dict(environment.changes(before, environment.describe(device)))
    summary["finished"] = now()
    _save(campaign.folder, summary)
    return summary


def check_minutes(minutes: float) -> None:
    """Raise InvalidValueError unless a campaign can last that long."""
    if not 0 < minutes <= MOST_MINUTES:
        raise InvalidValueError("minutes", f"above 0 and at most {MOST_MINUTES}", minutes)


def _run_steps(campaign: Campaign, steps: Sequence[Step], summary: dict[str, Any]) -> None:
    whole = campaign.deadline
    for number, step in enumerate(steps):
        entry = {"name": step.name, "state": "running", "seconds": 0.0, "message": ""}
        summary["steps"].append(entry)
        path = campaign.folder / f"{step.name}.json"
        earlier = campaign.earlier(path) if campaign.resume else None
        began = whole.clock()
        if earlier is not None and earlier.complete:
            entry["state"] = "done before"
        elif whole.left <= 0.0:
            entry["state"] = "no time"
        else:
            _save(campaign.folder, summary)
            campaign.say(f"step {number + 1} of {len(steps)}: {step.name}")
            budget = whole.left * step.weight / sum(later.weight for later in steps[number:])
            campaign.deadline = replace(whole, at=whole.clock() + budget)
            entry["state"], entry["message"] = _run_step(campaign, step, path, min(whole.left, GRACE * budget))
        entry["seconds"] = round(whole.clock() - began, 2)
        _save(campaign.folder, summary)


def _run_step(campaign: Campaign, step: Step, path: Path, at_most: float) -> tuple[str, str]:
    """How the step ended, and with what message."""
    campaign.writer = None
    try:
        with alarm(at_most):
            step.run(campaign, path)
    except OutOfTime:
        state, message = (
            "out of time",
            f"stopped after {at_most:.0f} s at the latest; finished measurements are recorded",
        )
    except PartlyDone as error:
        state, message = "partly done", str(error)
    except Exception as error:
        state, message = "failed", f"{type(error).__name__}: {one_line(error)}"
        # memory that the failure holds must not fail the next step as well
        campaign.models.clear()
    else:
        # beside what every record says of the machine
        notes: tuple[str, ...] = () if campaign.writer is None else campaign.writer.record.notes
        return "done", "; ".join(text for text in notes if text not in campaign.environment.notes)
    if campaign.writer is not None:
        campaign.writer.add(notes=[f"{step.name}: {message}"])
    return state, message


def _save(folder: Path, summary: Mapping[str, Any]) -> None:
    write_atomically(folder / SUMMARY, to_json(summary) + "\n")
