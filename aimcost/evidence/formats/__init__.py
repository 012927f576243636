"""Result files of other benchmarks as timings: which tool wrote a file, and what its clocks cover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FileFormatError, InvalidValueError, argument
from ...inputs.discover import names
from ...inputs.files import read_mapping
from ...inputs.plain import plain
from ...inputs.run import merge_overrides
from ...units import MEGA
from ..timings import TPOT, Timing, of_quantity
from . import aiperf, guidellm, optimum, vllm
from .accuracy import SCORED
from .result import Result

__all__ = ["Imported", "import_file"]

# Saved prompts and generated texts make these files larger than any configuration.
_MAX_BYTES = int(512 * MEGA)
_TOOLS = (*vllm.TOOLS, guidellm.TOOL, aiperf.TOOL, optimum.TOOL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """Timings of one file, and what was left out of it or taken for granted."""

    tool: str
    timings: tuple[Timing, ...]
    notes: tuple[str, ...]


def import_file(path: Path, given: Mapping[str, Any], *, quantity: str | None = None) -> Imported:
    """Timings of a result file.

    Parameters
    ----------
    given
        What the file does not say, as keys of a run (``model``, ``hardware``, ``stack``, ``workload`` …); wins over
        what it says.
    quantity
        The one clock to take (``ttft``, ``tpot`` or ``e2e``); all of them without it.

    Raises
    ------
    FileFormatError, InvalidValueError
        A file of no known tool, one without a finished request, a figure that is missing or no number, or a key
        of the run that neither the file nor `given` states.
    """
    data = read_mapping(path, limit=_MAX_BYTES)
    tool = next((tool for tool in _TOOLS if tool.wrote(data)), None)
    if tool is None:
        known = ", ".join((*(tool.name for tool in _TOOLS), *SCORED))
        raise FileFormatError(f"{path}: not a result file that aimcost reads ({known})")
    try:
        results = tool.read(data, plain(given))
        if not any(result.clocks for result in results):
            raise FileFormatError(
                "; ".join(n for r in results for n in r.notes) or "holds no timing that can be compared"
            )
        timings = [timing for result in results for timing in _timings(path, tool.name, result, given)]
    except (FileFormatError, InvalidValueError) as error:
        error.prefix(f"{path}: {tool.name}")
        raise
    if quantity is not None:
        timings = of_quantity(timings, quantity, where=str(path))
    notes = dict.fromkeys(note for result in results for note in result.notes)
    return Imported(tool=tool.name, timings=tuple(timings), notes=tuple(notes))


def _timings(path: Path, tool: str, result: Result, given: Mapping[str, Any]) -> list[Timing]:
    if not result.clocks:
        return []
    run = merge_overrides(dict(result.run), plain(given))
    if "model" not in run:
        if result.model is None or result.model not in names("model"):
            named = "" if result.model is None else f" (the file says {result.model!r})"
            raise InvalidValueError(argument("model"), f"given: a model's name, config.json or folder{named}", None)
        run["model"] = result.model
    for key, what in (("hardware", "the file does not name the GPU"), ("stack", "the file does not name the software")):
        if key not in run:
            raise InvalidValueError(argument(key), f"given: {what}", None)
    workload = run.get("workload", {})
    if "text_tokens" not in workload:
        raise InvalidValueError(argument("text_tokens"), "given: the file does not record the prompt length", None)
    decodes = any("decode" in clock.stages or clock.stages == TPOT for clock in result.clocks)
    if decodes and int(workload.get("new_tokens", 0)) < 2:
        raise InvalidValueError(argument("new_tokens"), "at least 2: these timings include decode steps", None)
    run.setdefault("method", {"name": "none"})
    # a run of text alone, or from visual tokens on, has no tower: its clocks do not cover one
    absent = () if any(workload.get(key) for key in ("images", "frames", "seconds")) else ("vision", "projector")
    stack = run["stack"]
    return [
        Timing(
            id=f"{path.stem}/{result.label}{clock.quantity}",
            group=path.stem,
            source=f"{tool}: {path.name}",
            quantity=clock.quantity,
            value_s=clock.seconds,
            stages=clock.stages if isinstance(clock.stages, str) else tuple(s for s in clock.stages if s not in absent),
            run=run,
            stack=stack if isinstance(stack, str) else str(stack.get("name", "inline")),
            trust=clock.trust,
            notes="; ".join((*clock.notes, *result.notes)),
            framework=tool,
        )
        for clock in result.clocks
    ]
