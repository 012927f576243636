"""What the dispatchers share: which path a call takes, and the checks made before any work."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterable
from typing import Literal

import torch

from ..errors import InvalidValueError, MissingExtraError

__all__ = [
    "Path",
    "choose",
    "interpreting",
    "on_hopper",
    "path_name",
    "pick",
    "require_dtype",
    "require_finite",
    "require_int",
    "require_same_device",
    "require_shape",
    "should_check",
    "triton_refusal",
]

Path = Literal["auto", "torch", "triton"]
PATHS = ("auto", "torch", "triton")
HOPPER = 9
"""Major compute capability of H100 and H200."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
TRITON_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def _triton_found() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _ampere_or_later(index: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(index) >= (8, 0)


def on_hopper(device: torch.device) -> bool:
    """Whether a device is a GPU of compute capability 9, where some tiles and paths were timed that others lack."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == HOPPER


def interpreting() -> bool:
    """Whether Triton runs its kernels on the CPU, in its interpreter (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def triton_refusal(*tensors: torch.Tensor) -> str | None:
    """Why these tensors cannot go to Triton, or None when they can.

    The kernels have no backward pass, take fp32, fp16 and bf16, and are compiled for NVIDIA GPUs of
    compute capability 8.0 and later. In the interpreter, CPU tensors are taken as well.
    """
    if not _triton_found():
        return "triton is not installed"
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype not in TRITON_FLOATS:
            return f"dtype {tensor.dtype} has no Triton path"
        if tensor.requires_grad and torch.is_grad_enabled():
            return "the kernels have no backward pass"
        if tensor.device.type == "cuda":
            if not _ampere_or_later(tensor.device.index):
                return "the GPU is older than compute capability 8.0, or not from NVIDIA"
        elif not (tensor.device.type == "cpu" and interpreting()):
            return f"device {tensor.device} is not CUDA"
    return None


def pick(tensors: tuple[torch.Tensor, ...], refusal: str | None) -> Literal["torch", "triton"]:
    """What "auto" means for `tensors`: Triton on CUDA, where nothing speaks against it.

    The interpreter is a test instrument, thousands of times slower: never taken by itself.
    """
    return "triton" if tensors[0].is_cuda and refusal is None else "torch"


def path_name(device: torch.device) -> Literal["torch", "triton"]:
    """What "auto" means on `device`, for tensors that nothing speaks against."""
    probe = torch.empty(0, device=device, dtype=torch.float32)
    return pick((probe,), triton_refusal(probe))


def choose(
    path: str, tensors: tuple[torch.Tensor, ...], refusal: str | None, where: str, *, paths: tuple[str, ...] = PATHS
) -> str:
    """Resolve the caller's `path`; asking for a Triton that cannot run is an error, not a fallback."""
    if path not in paths:
        raise InvalidValueError("path", "one of " + ", ".join(paths), path, where=where)
    if path == "auto":
        return pick(tensors, refusal)
    if path != "torch" and refusal is not None:
        if not _triton_found():
            raise MissingExtraError("triton", "cuda", f"{where} with path='{path}'")
        raise InvalidValueError("path", f"'auto' or 'torch' here, since {refusal}", path, where=where)
    return path


def require_shape(name: str, tensor: torch.Tensor, shape: tuple[int | None, ...], where: str) -> None:
    """Raise unless `tensor` has `shape`; None stands for any size of at least 1."""
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(
        size == wanted if wanted is not None else size >= 1 for size, wanted in zip(found, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("≥1" if size is None else str(size) for size in shape)
        raise InvalidValueError(name, f"of shape ({wanted})", found, where=where)


def require_dtype(name: str, tensor: torch.Tensor, allowed: Iterable[torch.dtype], where: str) -> None:
    """Raise unless the dtype of `tensor` is among `allowed`."""
    allowed = tuple(allowed)
    if tensor.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise InvalidValueError(name, f"of dtype {names}", tensor.dtype, where=where)


def require_same_device(name: str, tensor: torch.Tensor, device: torch.device, where: str) -> None:
    """Raise unless `tensor` lies on `device`."""
    if tensor.device != device:
        raise InvalidValueError(name, f"on {device}", str(tensor.device), where=where)


def require_int(name: str, value: object, low: int, high: int | None, where: str) -> None:
    """Raise unless `value` is an int with low ≤ value (≤ high)."""
    inside = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not inside or (high is not None and value > high):  # type: ignore[operator]
        span = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
        raise InvalidValueError(name, span, value, where=where)


def should_check(check: bool | None, tensor: torch.Tensor) -> bool:
    """Whether to look at values: by default on the CPU only, where that costs no synchronisation.

    Reading one flag back from a GPU stalls its queue and is forbidden while a CUDA graph records.
    """
    return tensor.device.type == "cpu" if check is None else check


def require_finite(name: str, tensor: torch.Tensor, where: str) -> None:
    """Raise when `tensor` holds NaN or infinity. Synchronises with the device."""
    # The extremes carry NaN along and are had in one pass; counting waits until something is wrong.
    if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
        bad = int((~torch.isfinite(tensor)).sum())
        raise InvalidValueError(name, "finite", f"{bad} NaN or infinite values", where=where)
