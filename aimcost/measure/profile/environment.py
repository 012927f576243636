"""What machine this is, and whether it is in a state to be measured. Nothing here changes a setting."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...extras import require_device
from ...units import GIGA
from ..records import Environment
from .process import is_quiet

__all__ = ["changes", "cpu_name", "describe"]

PACKAGES = ("aimcost", "torch", "transformers", "triton", "numpy")
# Above this share of the cores, other work competes for caches and memory.
BUSY_LOAD = 0.75
BUSY_GPU_PERCENT = 5
# NVML's clock event reasons (nvml.h) that mean "slower than it could be"; idle and user-set limits apart.
THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


def describe(device: str = "cpu") -> Environment:
    """The machine, the software, and what may disturb a measurement.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda`` (the current one).
    """
    require_device(device)
    common: dict[str, Any] = {
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": _versions(),
    }
    facts, notes = _machine_facts()
    if device == "cpu":
        if not is_quiet():
            notes.append("freed memory returns to the system between ops: times include page faults")
        return Environment(
            **common,
            device_name=cpu_name(),
            memory_bytes=_ram_bytes(),
            clocks_mhz=_cpu_clocks(),
            properties={**facts, **_cpu_properties()},
            notes=tuple(notes),
        )
    gpu = _gpu_facts()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Environment(
        **common,
        device_name=properties.name,
        driver=gpu["driver"],
        memory_bytes=float(properties.total_memory),
        clocks_mhz=gpu["clocks"],
        properties={**facts, "cpu": cpu_name(), **_gpu_properties(properties), **gpu["properties"]},
        notes=(*notes, *gpu["notes"]),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "aimcost" not in found:
        from ... import __version__

        found["aimcost"] = __version__
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def _machine_facts() -> tuple[dict[str, Any], list[str]]:
    cores = os.cpu_count() or 1
    facts: dict[str, Any] = {"system": platform.platform(), "cores": cores}
    notes = []
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()
        facts["load_average"] = [round(value, 2) for value in load]
        if load[0] > BUSY_LOAD * cores:
            notes.append(f"the machine is busy: load {load[0]:.1f} on {cores} cores")
    return facts, notes


def _proc(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpuinfo() -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in _proc("/proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            pairs.setdefault(key.strip(), value.strip())
    return pairs


def cpu_name() -> str:
    """The CPU model."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _cpu_clocks() -> dict[str, float]:
    clock = _cpuinfo().get("cpu MHz")
    return {"core": float(clock)} if clock else {}


def _cpu_properties() -> dict[str, Any]:
    info = _cpuinfo()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
    flags = set(info.get("flags", "").split())
    return {
        "instructions": [flag for flag in wanted if flag in flags],
        "last_level_cache_bytes": _last_level_cache(),
        "blas": "mkl" if torch.backends.mkl.is_available() else "other",
        "onednn": torch.backends.mkldnn.is_available(),
        "family_model_stepping": [info.get(key, "") for key in ("cpu family", "model", "stepping")],
    }


def _last_level_cache() -> float:
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = _proc(str(path)).strip()
        scale = {"K": 1024.0, "M": 1024.0**2}.get(text[-1:], 0.0)
        if scale and text[:-1].isdigit():
            sizes.append(float(text[:-1]) * scale)
    return max(sizes, default=0.0)


def _ram_bytes() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, AttributeError):
        return 0.0


def _gpu_properties(properties: Any) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info()
    facts: dict[str, Any] = {
        "sm_count": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "free_bytes": float(free),
        "total_bytes": float(total),
    }
    for name in ("L2_cache_size", "regs_per_multiprocessor"):
        value = getattr(properties, name, None)
        if value is not None:
            facts[name] = value
    return facts


def _gpu_facts() -> dict[str, Any]:
    """Driver, clocks, throttling and neighbours through NVML; says so where NVML is not there."""
    facts: dict[str, Any] = {"driver": "", "clocks": {}, "properties": {}, "notes": []}
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception as error:
        facts["notes"].append(f"driver, clocks and throttling not recorded: NVML is not usable ({error})")
        return facts
    try:
        handle = _nvml_handle(nvml)
        facts["driver"] = _text(nvml.nvmlSystemGetDriverVersion())
        facts["clocks"] = _nvml_clocks(nvml, handle)
        facts["properties"], facts["notes"] = _nvml_state(nvml, handle)
    except nvml.NVMLError as error:
        facts["notes"].append(f"NVML answered in part only: {error}")
    finally:
        nvml.nvmlShutdown()
    return facts


def _nvml_handle(nvml: Any) -> Any:
    """The GPU that torch computes on: indices differ under CUDA_VISIBLE_DEVICES, UUIDs do not."""
    uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
    if uuid is not None:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except (nvml.NVMLError, TypeError):
            pass
    return nvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _ask(nvml: Any, call: str, *arguments: Any) -> Any:
    """One NVML question; None where this GPU or this NVML does not answer it."""
    function = getattr(nvml, call, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _nvml_clocks(nvml: Any, handle: Any) -> dict[str, float]:
    clocks = {}
    for name, kind in (("sm", nvml.NVML_CLOCK_SM), ("memory", nvml.NVML_CLOCK_MEM)):
        for prefix, call in (("", "nvmlDeviceGetClockInfo"), ("max_", "nvmlDeviceGetMaxClockInfo")):
            value = _ask(nvml, call, handle, kind)
            if value is not None:
                clocks[prefix + name] = float(value)
    return clocks


def _nvml_state(nvml: Any, handle: Any) -> tuple[dict[str, Any], list[str]]:
    facts: dict[str, Any] = {}
    notes = []
    reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:
        reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    if reasons is not None:
        found = [text for bit, text in THROTTLE_REASONS.items() if reasons & bit]
        facts["throttle_reasons"] = found
        notes += [f"the GPU is throttled: {', '.join(found)}"] if found else []
    power, limit = (_ask(nvml, call, handle) for call in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit"))
    facts.update({k: v / 1e3 for k, v in (("power_w", power), ("power_limit_w", limit)) if v is not None})
    temperature = _ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU)
    if temperature is not None:
        facts["temperature_c"] = temperature
    notes += _neighbours(nvml, handle, facts)
    return facts, notes


def _neighbours(nvml: Any, handle: Any, facts: dict[str, Any]) -> list[str]:
    notes = []
    others = _ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle)
    if others is not None:
        foreign = [process for process in others if process.pid != os.getpid()]
        facts["other_processes"] = len(foreign)
        if foreign:
            used = sum(process.usedGpuMemory or 0 for process in foreign)
            notes.append(f"the GPU is shared: {len(foreign)} other processes hold {used / GIGA:.1f} GB")
    use = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
    if use is not None:
        facts["utilization_percent"] = use.gpu
        if use.gpu > BUSY_GPU_PERCENT:
            notes.append(f"the GPU is busy: {use.gpu} % before the measurement")
    return notes


def changes(before: Environment, after: Environment) -> Mapping[str, Any]:
    """What moved between two looks: clocks, temperature, throttling, load."""
    moved: dict[str, Any] = {}
    for name in ("throttle_reasons", "temperature_c", "power_w", "load_average"):
        if name in after.properties and after.properties[name] != before.properties.get(name):
            moved[name] = after.properties[name]
    if dict(after.clocks_mhz) != dict(before.clocks_mhz):
        moved["clocks_mhz"] = dict(after.clocks_mhz)
    return moved
