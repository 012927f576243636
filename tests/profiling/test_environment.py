"""What may disturb a measurement is said plainly: a busy machine, a throttled or shared GPU."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from aimcost.measure.profile import environment


class NVMLError(Exception):
    pass


def driver(**answers: Any) -> Any:
    """An NVML that knows `answers` and nothing else, as older drivers do not."""

    def ask(value: Any) -> Any:
        def call(*_: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return call

    constants = {"NVML_TEMPERATURE_GPU": 0, "NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVMLError": NVMLError}
    return SimpleNamespace(**constants, **{name: ask(value) for name, value in answers.items()})


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = os.cpu_count() or 1
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0 * cores, 0.0, 0.0))
    assert any("busy: load" in note for note in environment.describe("cpu").notes)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert not any("busy" in note for note in environment.describe("cpu").notes)


def test_page_faults_are_said_where_the_process_is_not_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "is_quiet", lambda: False)
    assert any("page faults" in note for note in environment.describe("cpu").notes)


def test_throttling_is_named() -> None:
    nvml = driver(nvmlDeviceGetCurrentClocksEventReasons=0x20 | 0x4 | 0x1, nvmlDeviceGetTemperature=88)
    facts, notes = environment._nvml_state(nvml, None)
    assert facts["throttle_reasons"] == ["software power cap", "software thermal slowdown"]
    assert facts["temperature_c"] == 88
    assert notes == ["the GPU is throttled: software power cap, software thermal slowdown"]


def test_an_idle_gpu_is_no_complaint() -> None:
    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=5e9)
    nvml = driver(
        nvmlDeviceGetCurrentClocksThrottleReasons=0x1,
        nvmlDeviceGetComputeRunningProcesses=[mine],
        nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=0),
        nvmlDeviceGetPowerUsage=90_000,
    )
    facts, notes = environment._nvml_state(nvml, None)
    assert notes == []
    assert facts["power_w"] == 90
    assert facts["other_processes"] == 0


def test_neighbours_and_use_are_said() -> None:
    others = [SimpleNamespace(pid=-1, usedGpuMemory=5e9), SimpleNamespace(pid=-2, usedGpuMemory=None)]
    nvml = driver(
        nvmlDeviceGetComputeRunningProcesses=others,
        nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=97),
    )
    _, notes = environment._nvml_state(nvml, None)
    assert notes == [
        "the GPU is shared: 2 other processes hold 5.0 GB",
        "the GPU is busy: 97 % before the measurement",
    ]


def test_what_a_driver_does_not_answer_is_left_out() -> None:
    nvml = driver(nvmlDeviceGetClockInfo=NVMLError("not supported"), nvmlDeviceGetMaxClockInfo=1980)
    assert environment._nvml_clocks(nvml, None) == {"max_sm": 1980.0, "max_memory": 1980.0}
    assert environment._nvml_state(nvml, None) == ({}, [])


def test_no_nvml_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(environment.importlib, "import_module", missing)
    assert "NVML is not usable" in environment._gpu_facts()["notes"][0]


def test_changes_between_two_looks() -> None:
    before = environment.describe("cpu")
    after = replace(before, clocks_mhz={"core": 1.0}, properties={"temperature_c": 70})
    assert environment.changes(before, after) == {"temperature_c": 70, "clocks_mhz": {"core": 1.0}}
