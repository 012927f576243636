"""Software stacks: a name, a path or an inline mapping → Stack, on one architecture."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InvalidValueError, UnknownNameError, nearest
from ..types import Figure, Stack
from ..units import MEGA
from . import discover
from .files import Stamp, read_mapping, stamp_of
from .schema import FigureFile, RequestFile, StackFile, StepFile, validate

__all__ = ["ARCHITECTURES", "DEFAULT_STACK", "EXECUTIONS", "load_stack"]

DEFAULT_STACK = "transformers"
# Names of `execution:`, from before there were stacks.
EXECUTIONS: Mapping[str, str] = {"eager": "transformers", "compiled": "torch_compile", "cuda_graph": "aimcost_graph"}
_MS, _US = 1e-3, 1e-6
# Kinds of operation that a stack may state launches, traffic or a scale for.
KINDS = frozenset(
    (
        *("gemm", "bmm", "attention", "rms_norm", "layer_norm", "rope", "softmax", "pointwise", "gated_act", "embed"),
        *("interpolate", "score", "select", "gather", "merge", "dequant", "collective"),
    )
)
# Architectures of the profiles that ship; a user's own profile may have another one.
ARCHITECTURES = (
    *("volta", "turing", "ampere", "ada", "hopper", "blackwell"),
    *("cdna2", "cdna3", "xe2", "apple7", "apple8", "apple9", "davinci", "cpu"),
)
_STAGES = ("vision", "projector", "merge", "prefill", "decode")
# Keys that hold figures: each needs a source unless it is empty or zero.
_FIGURES = (
    *("host_us_per_launch", "kernels", "traffic", "products", "scale", "request_ms", "step_ms", "selection", "spread"),
    "collectives",
)


def load_stack(given: str | Path | Mapping[str, Any], architecture: str = "") -> Stack:
    """A stack by name, path or inline mapping, with what it says of `architecture` laid over it.

    Raises
    ------
    UnknownNameError, FileFormatError, InvalidValueError
        No such stack, an unreadable file, or figures that cannot be or name no source.
    """
    if isinstance(given, Mapping):
        return _from_mapping(given, "stack", architecture)
    if not isinstance(given, str | Path):
        raise InvalidValueError("stack", "a name, a path or a mapping", given)
    if isinstance(given, Path) or given.endswith((".yaml", ".yml")) or "/" in given:
        path = discover.at_home(given)
        if not discover.is_file(path):
            raise FileFormatError(f"stack: no such stack file: {str(given)[:200]}")
    else:
        path = discover.find("stack", given)
    return _load_file(path, stamp_of(path), architecture)


@lru_cache(maxsize=128)
def _load_file(path: Path, _: Stamp, architecture: str) -> Stack:
    return _from_mapping({"name": path.stem, **read_mapping(path)}, str(path), architecture)


def _from_mapping(data: Mapping[str, Any], where: str, architecture: str) -> Stack:
    whole = validate(StackFile, data, where=where)
    _check_architectures(whole, where)
    _check_sources(whole, data, where)
    for name in whole.architectures:  # each must stand on its own, whatever card is asked for
        _stack(validate(StackFile, _laid_over(data, name), where=f"{where}: architectures.{name}"), data, name, where)
    file = validate(StackFile, _laid_over(data, architecture), where=where)
    return _stack(file, data, architecture, where)


def _laid_over(data: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """A file's mapping with its section of one architecture laid over it; mappings merge."""
    result = {key: value for key, value in data.items() if key != "architectures"}
    over = (data.get("architectures") or {}).get(architecture) or {}
    for key, value in over.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping) and key != "host_us_per_launch":
            value = {**inner, **value}
        result[key] = value
    return result


def _stack(file: StackFile, data: Mapping[str, Any], architecture: str, where: str) -> Stack:
    for key in ("kernels", "traffic"):
        _check_kinds(getattr(file, key), KINDS, key, where)
    _check_kinds(dict.fromkeys(file.elementwise, 1.0), KINDS, "elementwise", where)
    scalable = {"product", *KINDS - {"gemm"}}
    _check_kinds(file.scale, {"all", *scalable, *(f"{k}_{s}" for k in scalable for s in _STAGES)}, "scale", where)
    if file.products not in ("", "2023"):
        raise UnknownNameError("products", file.products, ["2023"], where=where)
    if file.spread is not None and not file.spread[0] <= 1.0 <= file.spread[1]:
        raise InvalidValueError("spread", "[low, high] around 1", file.spread, where=where)
    attention = file.attention
    if isinstance(attention, dict):
        attention = attention.get(architecture, attention.get("default", "flash"))
    request, step, tower, selection = file.request_ms, file.step_ms, file.tower, file.selection
    large = None if isinstance(file.collectives, str) else file.collectives
    host = _figure(file.host_us_per_launch, _US, "host_us_per_launch", where)
    return Stack(
        name=file.name,
        summary=file.summary,
        implementation=file.implementation,
        attention=attention,
        host_s=host,
        kernels=dict(file.kernels),
        traffic=dict(file.traffic),
        elementwise=frozenset(file.elementwise),
        products=file.products,
        fused=tuple(file.fused),
        graph="decode" if isinstance(file.graph, str) else "all" if file.graph else "none",
        scale=dict(file.scale),
        request_s=_fixed(request, "request_ms", where),
        per_image_s=request.per_image * _MS,
        per_frame_s=request.per_frame * _MS,
        request_at=request.at,
        step_s=_fixed(step, "step_ms", where),
        per_sequence_s=step.per_sequence * _MS,
        tower_attention=tower.attention or attention,
        tower_loop=tower.loop,
        tower_layers=tower.layers,
        experts=file.experts,
        collectives=file.collectives if large is None else large.kind,  # type: ignore[arg-type]
        large_bytes=float("inf") if large is None or large.large_mb is None else large.large_mb * MEGA,
        large_ranks=2 if large is None else large.large_ranks,
        large_factor=1.0 if large is None else large.large_factor,
        sync_s=selection.sync_us * _US,
        attention_map_s=_figure(selection.attention_map_ms, _MS, "selection.attention_map_ms", where),
        spread=None if file.spread is None else (file.spread[0], file.spread[1]),
        notes=tuple(file.notes),
        data=data,
    )


def _figure(given: float | FigureFile, unit: float, key: str, where: str) -> Figure:
    if not isinstance(given, FigureFile):
        return Figure(value=given * unit, low=given * unit, high=given * unit)
    return _banded(given.value, given.low, given.high, unit, key, where)


def _fixed(given: RequestFile | StepFile, key: str, where: str) -> Figure:
    return _banded(given.fixed, given.low, given.high, _MS, key, where)


def _banded(value: float, low: float | None, high: float | None, unit: float, key: str, where: str) -> Figure:
    low, high = value if low is None else low, value if high is None else high
    if not low <= value <= high:
        raise InvalidValueError(key, "low ≤ value ≤ high", [low, value, high], where=where)
    return Figure(value=value * unit, low=low * unit, high=high * unit)


def _check_architectures(file: StackFile, where: str) -> None:
    """A slip in the name of an architecture would leave its section out unnoticed."""
    named = [("architectures", name) for name in file.architectures]
    if isinstance(file.attention, dict):
        named += [("attention", name) for name in file.attention if name != "default"]
    for key, name in named:
        if name not in ARCHITECTURES and nearest(name, ARCHITECTURES, cutoff=0.7):
            raise UnknownNameError("key", f"{key}.{name}", [f"{key}.{known}" for known in ARCHITECTURES], where=where)


def _check_kinds(given: Mapping[str, float], allowed: Any, key: str, where: str) -> None:
    for name in given:
        if name not in allowed:
            raise UnknownNameError(f"kind in {key!r}", name, allowed, where=where)


def _check_sources(file: StackFile, data: Mapping[str, Any], where: str) -> None:
    """Every figure has a source: its own, one in `sources` by key, or one for all."""
    if isinstance(file.sources, list):
        if any(text.strip() for text in file.sources):
            return
        known: Mapping[str, str] = {}
    else:
        known = file.sources
        unknown = [key for key in known if key != "all" and key not in StackFile.names()]
        if unknown:
            raise UnknownNameError("key", f"sources.{unknown[0]}", StackFile.names(), where=where)
    if known.get("all", "").strip():
        return
    empty = StackFile(name="x", host_us_per_launch=0.0)
    sections = [(key, getattr(file, key), getattr(empty, key)) for key in _FIGURES]
    for section in file.architectures.values():
        sections += [(key, getattr(section, key), None) for key in _FIGURES if key in section.given]
    for key, value, default in sections:
        own = getattr(value, "source", None)
        if value != default and not (own or "").strip() and not known.get(key, "").strip():
            raise InvalidValueError(f"sources.{key}", "given: the sources of its figures", None, where=where)
