"""Operation latency tables of the PyPI package aiconfigurator-core (Apache-2.0), as clean arrays.

Measured by its authors, on NVIDIA's cards and one of Intel's; latencies in ms. TensorRT-LLM's products stay in L2 for
small shapes, so that stack is never fitted and serves as an unseen check.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CalibrationError, MissingExtraError, UnknownNameError
from ...extras import load
from ..timemodels.tables import Floats

__all__ = [
    "FITTED_STACKS",
    "SYSTEM_PROFILES",
    "UNSEEN_STACK",
    "Timings",
    "package_version",
    "read_attention",
    "read_collectives",
    "read_gemm",
    "read_one_shot",
    "systems",
]

FITTED_STACKS = ("vllm", "sglang")
UNSEEN_STACK = "trtllm"
# Their systems and our profiles of the same SKU.
SYSTEM_PROFILES: Mapping[str, str] = {
    "a100_sxm": "nvidia_a100_sxm_80gb",
    "a100_pcie": "nvidia_a100_pcie_80gb",
    "a30": "nvidia_a30",
    "l4": "nvidia_l4",
    "l40s": "nvidia_l40s",
    "h100_sxm": "nvidia_h100_sxm",
    "h100_pcie": "nvidia_h100_pcie",
    "h200_sxm": "nvidia_h200_sxm",
    "b200_sxm": "nvidia_b200_sxm",
    "b300_sxm": "nvidia_b300_sxm",
    "gb200": "nvidia_gb200",
    "gb300": "nvidia_gb300",
    "rtx_pro_6000_server": "nvidia_rtx_pro_6000_blackwell_server",
    "b60": "intel_arc_pro_b60",
}
_GEMM_DIMS = ("m", "n", "k")
_ATTENTION_DIMS = ("batch_size", "num_heads", "num_key_value_heads", "head_dim", "isl", "step")


@dataclass(frozen=True, slots=True)
class Timings:
    """Latencies of one operation kind: dimensions and seconds, one entry a measurement."""

    dims: Mapping[str, Floats]
    seconds: Floats
    origin: str

    def where(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Timings:
        """The measurements that `mask` selects."""
        return Timings({key: values[mask] for key, values in self.dims.items()}, self.seconds[mask], self.origin)

    def __len__(self) -> int:
        return len(self.seconds)


def package_version() -> str:
    """Version of the installed tables."""
    return importlib.metadata.version("aiconfigurator-core")


def _data_folder() -> Path:
    spec = importlib.util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("aiconfigurator-core", "silicon", "calibrating from silicon tables")
    return Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"


def systems() -> list[str]:
    """Systems with product tables of a stack that is fitted, and a profile here."""
    folder = _data_folder()
    return [s for s in SYSTEM_PROFILES if any((folder / s / "gemm" / stack).is_dir() for stack in FITTED_STACKS)]


def _newest(system: str, operation: str, stack: str, table: str, *, before: int = 0) -> Path | None:
    """The table of a stack's newest version, or of the one `before` it; those are another software era."""
    if system not in SYSTEM_PROFILES:
        raise UnknownNameError("system", system, SYSTEM_PROFILES)
    found = sorted((_data_folder() / system / operation / stack).glob(f"*/{table}.parquet"), key=_version)
    return found[-1 - before] if len(found) > before else None


def _version(path: Path) -> tuple[int, ...]:
    digits = "".join(c if c.isdigit() else " " for c in path.parent.name).split()
    return tuple(int(part) for part in digits)


def _read(path: Path, columns: tuple[str, ...]) -> Any:
    """A parquet table with numbers that can be true.

    Raises
    ------
    CalibrationError
        Columns missing, or latencies that are not positive and finite.
    """
    pandas = load("pandas", extra="silicon", purpose="reading silicon tables")
    frame = pandas.read_parquet(path)
    return check_table(frame, columns, str(path))


def check_table(frame: Any, columns: tuple[str, ...], where: str) -> Any:
    """The frame itself if it has the columns, numbers in them, and latencies above zero."""
    missing = [name for name in (*columns, "latency") if name not in frame]
    if missing:
        raise CalibrationError(f"{where}: has no column {', '.join(missing)}")
    if not len(frame):
        raise CalibrationError(f"{where}: is empty")
    for name in (*columns, "latency"):
        values = np.asarray(frame[name], dtype=float) if frame[name].dtype.kind in "iuf" else None
        if values is None or not np.isfinite(values).all():
            raise CalibrationError(f"{where}: column {name} must hold finite numbers")
        low = 0.0 if name == "step" else 1.0
        if name != "latency" and values.min() < low:
            raise CalibrationError(f"{where}: column {name} has {values.min():g}, must be at least {low:g}")
    if float(frame["latency"].min()) <= 0:
        raise CalibrationError(f"{where}: latencies must be above zero (got {frame['latency'].min():g})")
    return frame


def read_gemm(system: str, stack: str, dtype: str) -> Timings | None:
    """Products of one stack and number format (their name: bfloat16, fp8, …), or None."""
    path = _newest(system, "gemm", stack, "gemm_perf")
    if path is None:
        return None
    frame = _read(path, _GEMM_DIMS)
    frame = frame[frame["gemm_dtype"] == dtype]
    if not len(frame):
        return None
    dims = {key: frame[key].to_numpy(float) for key in _GEMM_DIMS}
    return Timings(dims, frame["latency"].to_numpy(float) / 1e3, f"{stack} {path.parent.name}")


def read_attention(system: str, stack: str, table: str) -> dict[tuple[str, int], Timings]:
    """Bfloat16 attention by (kernel, head width). `table`: context, generation or encoder."""
    operation = "encoder_attention" if table == "encoder" else "attention"
    path = _newest(system, operation, stack, f"{table}_attention_perf")
    if path is None:
        return {}
    columns = tuple(c for c in _ATTENTION_DIMS if table != "encoder" or c not in ("num_key_value_heads", "step"))
    frame = _read(path, columns)
    frame = frame[frame["attn_dtype"] == "bfloat16"]
    if "kv_cache_dtype" in frame:
        frame = frame[frame["kv_cache_dtype"] == "bfloat16"]
    if "window_size" in frame:
        frame = frame[frame["window_size"] == 0]
    result = {}
    for (kernel, width), part in frame.groupby(["kernel_source", "head_dim"]):
        q_len = part["isl"].to_numpy(float)
        heads = part["num_heads"].to_numpy(float)
        cached = part["step"].to_numpy(float) if "step" in part else np.zeros(len(part))
        dims = {
            "batch": part["batch_size"].to_numpy(float),
            "heads": heads,
            "kv_heads": part["num_key_value_heads"].to_numpy(float) if "num_key_value_heads" in part else heads,
            "head_dim": np.full(len(part), float(width)),
            "q_len": q_len,
            "kv_len": q_len + cached,
        }
        origin = f"{stack} {path.parent.name}, kernel {kernel}"
        result[str(kernel), int(width)] = Timings(dims, part["latency"].to_numpy(float) / 1e3, origin)
    return result


# A stack's own all-reduce, captured in a graph; each stack's newest table.
ONE_SHOT = {"vllm": "vllm_graph", "sglang": "sglang_graph"}


def read_one_shot(system: str) -> dict[int, Timings]:
    """All-reduces of one kernel (peers read each other's memory), by ranks; bytes as in `read_collectives`."""
    for stack, backend in ONE_SHOT.items():
        path = _newest(system, "comm", stack, "custom_allreduce_perf")
        if path is None:
            continue
        frame = _read(path, ("num_gpus", "message_size"))
        if "backend" not in frame:
            continue
        frame = frame[frame["backend"] == backend]
        result = {}
        for ranks, part in frame.groupby("num_gpus"):
            ordered = part.sort_values("message_size")
            dims = {"bytes": 2.0 * ordered["message_size"].to_numpy(float)}
            seconds = ordered["latency"].to_numpy(float) / 1e3
            result[int(ranks)] = Timings(dims, seconds, f"{stack} {path.parent.name}, captured")
        if result:
            return result
    return {}


def read_collectives(system: str, *, before: int = 0) -> dict[tuple[str, int], Timings]:
    """NCCL's collectives of 16-bit elements, by (operation, ranks); sizes in bytes.

    Their message sizes count elements: as bytes, an all-reduce would reach half of the link at most.
    """
    path = _newest(system, "comm", "nccl", "nccl_perf", before=before)
    if path is None:
        return {}
    frame = _read(path, ("num_gpus", "message_size"))
    frame = frame[frame["nccl_dtype"] == "half"]
    result = {}
    for (operation, ranks), part in frame.groupby(["op_name", "num_gpus"]):
        ordered = part.sort_values("message_size")
        dims = {"bytes": 2.0 * ordered["message_size"].to_numpy(float)}
        seconds = ordered["latency"].to_numpy(float) / 1e3
        result[str(operation), int(ranks)] = Timings(dims, seconds, f"NCCL {path.parent.name}")
    return result
