"""Killed after any of its writes, a measurement leaves a record that loads, with all that was measured before it.

Nothing is measured here: clock and stopwatch are stubs, and the kill is raised right after the file is replaced.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

from aimcost.errors import UnsupportedModelError
from aimcost.inputs.run import load_run
from aimcost.measure import measure, subject
from aimcost.measure.campaign.plan import load_plan
from aimcost.measure.campaign.run import run_campaign, steps_of
from aimcost.measure.profile import bench, environment
from aimcost.measure.profile import run as profiling
from aimcost.measure.profile.plan import plan_for
from aimcost.measure.records import Environment, Sample, load_record, writing
from aimcost.measure.validate import measuring

TOO_LARGE = measuring.too_large


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


class Writes:
    """Counts the writes of records; kills after one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.kill_after = 0, 0
        self.samples: list[int] = []
        write = writing.write_atomically

        def counted(path: Path, text: str) -> None:
            write(path, text)
            self.count += 1
            self.samples.append(text.count('"samples_s"'))
            if self.count == self.kill_after:
                raise Killed

        monkeypatch.setattr(writing, "write_atomically", counted)

    def killed(self, after: int, call: Callable[[], object]) -> int:
        """Samples that were on disk when `call` was killed after this many writes."""
        self.count, self.kill_after, self.samples = 0, after, []
        with pytest.raises(Killed):
            call()
        self.kill_after = 0
        return self.samples[-1]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    seconds = itertools.count()
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    described = Environment(device="cpu", device_name="stub", memory_bytes=8e9)
    for module in (environment,):
        monkeypatch.setattr(module, "describe", lambda _: described)
        monkeypatch.setattr(module, "changes", lambda *_: {})

    def time(_: Any, tasks: Any) -> list[Sample]:
        return [bench._sample(task, [1e-3], bench.Stopwatch("cpu")) for task in tasks]

    def measure_run(run: Any, *, writer: Any, label: str, **_: Any) -> None:
        for op in ("prefill", "layer"):
            labels = {"run": label, "variant": "dense"}
            dims = {"tokens": 20.0, "layer": 1.0}
            writer.add(Sample(op=op, dims=dims, dtype="fp32", samples_s=(1.0,), clock="wall", labels=labels))

    monkeypatch.setattr(bench.Bench, "time", time)
    monkeypatch.setattr(measure, "measure_run", measure_run)
    monkeypatch.setattr(subject, "rehearse", lambda _: None)
    monkeypatch.setattr(measuring.ModelCache, "of", lambda *_: None)
    monkeypatch.setattr(measuring, "too_large", lambda *_: None)
    return Writes(monkeypatch)


def test_a_model_larger_than_memory_is_refused_before_anything_is_measured(
    writes: Writes, tmp_path: Path, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "too_large", TOO_LARGE)
    small = Environment(device="cpu", device_name="stub", memory_bytes=1e5)
    monkeypatch.setattr(environment, "describe", lambda _: small)
    with pytest.raises(UnsupportedModelError, match=r"one: the model holds .* in fp32, this machine 100\.0 kB"):
        measuring.measure_validation({"one": load_run(document)}, device="cpu", path=tmp_path / "r.json")
    assert not writes.count


def moments(count: int) -> list[int]:
    """The first and the last writes, and some between."""
    return sorted({1, 2, 3, *range(1, count, max(1, count // 5)), count - 1})


@pytest.mark.check
def test_a_profile(writes: Writes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"

    def call() -> None:
        profiling.profile("cpu", path=path, plan=plan_for("cpu", quick=True))

    call()
    count, last = writes.count, 0
    assert count > 10
    for moment in moments(count):
        held = writes.killed(moment, call)
        record = load_record(path)
        assert not record.complete
        assert len(record.samples) == held >= last
        last = held
    assert last > 100


@pytest.mark.check_all
def test_a_validation_in_its_profile_and_in_its_runs(writes: Writes, tmp_path: Path, document: dict[str, Any]) -> None:
    path, runs = tmp_path / "r.json", {"one": load_run(document), "two": load_run(document)}

    def call() -> None:
        measuring.measure_validation(runs, device="cpu", path=path)

    call()
    whole, of_runs, in_profile = load_record(path), 0, 0
    for moment in moments(writes.count):
        held = writes.killed(moment, call)
        record = load_record(path)
        assert not record.complete
        assert len(record.samples) == held
        found = sum("run" in sample.labels for sample in record.samples)
        assert found >= of_runs
        of_runs = found
        in_profile += len(record.samples) > 0 and not found
    assert in_profile >= 2  # killed while the profile was measured, it has what was
    assert of_runs == sum("run" in sample.labels for sample in whole.samples) == 8


@pytest.mark.check_all
def test_a_campaign(writes: Writes, tmp_path: Path) -> None:
    steps = [step for step in steps_of(load_plan(tiny=True)) if step.name in ("profile", "rows")]

    def call(**options: Any) -> dict[str, Any]:
        return run_campaign(tmp_path, device="cpu", minutes=600.0, tiny=True, steps=steps, **options)

    assert [step["state"] for step in call()["steps"]] == ["done", "done"]
    count = writes.count
    whole = load_record(tmp_path / "rows.json")
    for moment in moments(count):
        for path in tmp_path.iterdir():
            path.unlink()
        writes.killed(moment, call)
        for name in ("profile", "rows"):
            if (tmp_path / f"{name}.json").exists():
                load_record(tmp_path / f"{name}.json")
        resumed = call(resume=True)
        assert {step["state"] for step in resumed["steps"]} <= {"done", "done before"}, resumed["steps"]
        again = load_record(tmp_path / "rows.json")
        assert again.complete
        assert again.settings["measured"] == whole.settings["measured"]
        assert len(again.samples) == len(whole.samples)
