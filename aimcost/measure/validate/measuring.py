"""The measuring half of `aimcost validate`: profile the machine, run the runs, and record both.

Profile and runs are interleaved, so that drift of the machine affects both equally.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CalibrationError, InvalidValueError, UnsupportedModelError
from ...extras import require_device, torch_module
from ...inputs import discover
from ...inputs.files import read_mapping
from ...inputs.hardware import load_hardware
from ...inputs.run import Run, load_run
from ...inputs.strict_json import canonical, parse, plain
from ...units import format_bytes
from ..profile.to_calibration import profile_mapping
from ..records import Record, RecordWriter, Sample, now

__all__ = [
    "PROFILE_NAME",
    "ModelCache",
    "load_runs",
    "measure_labelled",
    "measure_validation",
    "read_profile",
    "run_document",
    "settings_of",
    "too_large",
]

Progress = Callable[[int, int, str], None]
PROFILE_NAME = "measured_here"
ROUNDS = 2
# Models that together are smaller stay until the next round.
SMALL_BYTES = 2e9
SEED = 0
# Of the device's memory; the rest is for activations, and of a CPU's for other processes.
USABLE_SHARE = {"cpu": 0.6, "cuda": 0.95}


def measure_validation(
    runs: Mapping[str, Run],
    *,
    device: str = "cpu",
    profile: str | Path | None = None,
    repeats: int = 2,
    budget_s: float = 60.0,
    path: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Record:
    """Measure `runs` (by label), and without `profile` the machine too, by the quick plan.

    Parameters
    ----------
    profile
        Name or file of a profile of this machine. None: one is measured in the same process, half of it
        before and half between the two rounds of the runs.
    repeats, budget_s
        Passes of each variant in each round, and seconds of a run's round after which one must do.
    path
        Where the record grows; a killed run leaves there what it had finished.

    Raises
    ------
    MissingExtraError, InvalidValueError, UnsupportedModelError
        torch is not installed, no such device, or a run that cannot be executed or whose model does not fit into
        memory; before anything is measured.
    """
    require_device(device, "aimcost validate")
    subject = torch_module("aimcost.measure.subject", "aimcost validate")
    environment = importlib.import_module("aimcost.measure.profile.environment")
    for run in runs.values():
        subject.check_run(run, device)
        subject.rehearse(run)
    before = environment.describe(device)
    for label, run in runs.items():
        if (reason := too_large(run, device, before.memory_bytes)) is not None:
            raise UnsupportedModelError(f"{label}: {reason}")
    settings = settings_of(
        runs,
        repeats=repeats,
        rounds=ROUNDS,
        profile=None if profile is None else read_profile(profile),
        profile_from="measured in the same process" if profile is None else Path(profile).name,
    )
    record = Record(
        kind="validation", environment=before, seed=SEED, started=now(), settings=settings, notes=before.notes
    )
    writer = RecordWriter(path, record)
    began = time.perf_counter()
    models = ModelCache(device)
    for _ in range(ROUNDS):
        if profile is None:
            _profile_pass(writer, device, progress)
        for label, run in runs.items():
            progress(0, 1, f"{label}: building the model")
            measure_labelled(label, run, writer, models, repeats=repeats, budget_s=budget_s, progress=progress)
    after = environment.describe(device)
    moved = environment.changes(before, after)
    writer.add(notes=after.notes)
    writer.set(seconds=round(time.perf_counter() - began, 1), state_after=dict(moved))
    return writer.finish()


def too_large(run: Run, device: str, memory_bytes: float) -> str | None:
    """Why a device of that much memory cannot hold the model of a run; None where it can, or nobody knows.

    A GPU would raise when it is full; of a CPU the system would end the process instead.
    """
    if not memory_bytes:
        return None
    need = torch_module("aimcost.measure.subject").build(run, "meta").get_memory_footprint()
    if need <= USABLE_SHARE[device] * memory_bytes:
        return None
    return f"the model holds {format_bytes(need)} in {run.precision.weights}, this machine {format_bytes(memory_bytes)}"


def settings_of(
    runs: Mapping[str, Run], *, repeats: int, rounds: int, profile: Mapping[str, Any] | None, profile_from: str
) -> dict[str, Any]:
    """What a validation record says of itself: its runs by label, and the profile that they are compared with."""
    return {
        "repeats": repeats,
        "rounds": rounds,
        "runs": {label: run_document(run) for label, run in runs.items()},
        "profile": profile,
        "profile_from": profile_from,
    }


def measure_labelled(
    label: str,
    run: Run,
    writer: RecordWriter,
    models: ModelCache,
    *,
    repeats: int,
    budget_s: float,
    progress: Callable[..., None],
) -> None:
    """Time one run of a validation record into it."""
    torch_module("aimcost.measure.measure").measure_run(
        run,
        device=models.device,
        repeats=repeats,
        budget_s=budget_s,
        progress=progress,
        label=label,
        model=models.of(run),
        writer=writer,
    )


class ModelCache:
    """Models with random weights by configuration and format, for runs that share one.

    Parameters
    ----------
    check
        Called with a run before its model is built; raises where it must not be.
    """

    def __init__(self, device: str, check: Callable[[Run], None] = lambda _: None) -> None:
        self.device, self.check = device, check
        self._models: dict[str, Any] = {}

    def of(self, run: Run) -> Any:
        """The model of `run`: of large ones, one at a time fits any machine that runs it at all."""
        key = canonical([run.hf_config(), run.precision.weights])
        if key not in self._models:
            self.check(run)
            if sum(model.get_memory_footprint() for model in self._models.values()) > SMALL_BYTES:
                self._models.clear()
            self._models[key] = torch_module("aimcost.measure.subject").build(run, self.device)
        return self._models[key]

    def clear(self) -> None:
        """Let go of every model."""
        self._models.clear()


def _profile_pass(writer: RecordWriter, device: str, progress: Progress) -> None:
    """One pass of the quick profile; its samples join those of the pass before, and are on disk as they come."""
    before = [sample for sample in writer.record.samples if "run" not in sample.labels]

    def join(samples: Iterable[Sample], _: object = ()) -> list[Sample]:
        pooled = _pooled([*before, *samples])
        of_runs = (sample for sample in writer.record.samples if "run" in sample.labels)
        writer.record = replace(writer.record, samples=(*pooled, *of_runs))
        writer.save()
        return pooled

    profiling = importlib.import_module("aimcost.measure.profile")
    plan = importlib.import_module("aimcost.measure.profile.plan").plan_for(device, quick=True)
    taken: Record = profiling.profile(device, True, plan=replace(plan, passes=1), progress=progress, save=join)
    samples = join(taken.samples)
    own = replace(taken, samples=tuple(samples), notes=())
    try:
        mapping = profile_mapping(own, PROFILE_NAME)
    except CalibrationError as error:
        writer.add(notes=[str(error)])
        return
    writer.set(profile=plain(mapping))
    writer.add(notes=taken.notes)


def _pooled(samples: Iterable[Sample]) -> list[Sample]:
    """Samples of the same operation from several passes as one."""
    found: dict[str, Sample] = {}
    for sample in samples:
        parts = [sample.op, sample.name, dict(sample.dims), sample.dtype, dict(sample.labels)]
        key = canonical(parts)
        if key in found:
            sample = replace(sample, samples_s=(*found[key].samples_s, *sample.samples_s))
        found[key] = sample
    return list(found.values())


def run_document(run: Run) -> dict[str, Any]:
    """The run as a self-contained document: with the model's configuration, without hardware."""
    left_out = ("hardware", "estimator", "budgets")
    document = {key: value for key, value in run.document().items() if key not in left_out}
    config = {"name": run.model.name, **run.hf_config()}
    found: dict[str, Any] = plain({**document, "model": config})
    return found


def read_profile(given: str | Path) -> dict[str, Any]:
    """A hardware profile with everything it needs in it, by name or file.

    Raises
    ------
    UnknownNameError, FileFormatError, InvalidValueError, CalibrationError
        No such profile, or one that cannot be.
    """
    hardware = load_hardware(given)
    path = Path(hardware.folder) / f"{hardware.name}.yaml"
    path = Path(given) if discover.is_file(Path(given)) else path
    data = {"name": hardware.name, **read_mapping(path)}
    block = data.get("calibration")
    if not isinstance(block, Mapping):
        raise InvalidValueError(
            f"{path.name}: calibration", "given, to be validated (`aimcost profile` makes one)", None
        )
    if isinstance(block.get("tables"), str):
        tables = read_mapping(Path(hardware.folder) / block["tables"])
        data = {**data, "calibration": {**block, "tables": tables}}
    found: dict[str, Any] = parse(json.dumps(data, default=str))  # YAML has dates, JSON none
    return found


def load_runs(given: Iterable[str | Path]) -> dict[str, Run]:
    """Runs by label: the file name without extension, or the name.

    Raises
    ------
    InvalidValueError
        Two runs of one name.
    """
    runs: dict[str, Run] = {}
    for item in given:
        label = Path(item).stem
        if label in runs:
            raise InvalidValueError("RUN", "of distinct names", label)
        runs[label] = load_run(item)
    return runs
