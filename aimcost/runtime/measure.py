"""Times a run for real: a model with random weights from its configuration, dense and reduced in turns.

`measure_run` is the whole; `build`, `prompt_of`, `time_prefills` and `time_decode` are its parts. The
samples name what they are and on how many tokens; `aimcost.validation` puts the prediction beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from ..errors import InvalidValueError, UnsupportedModelError
from ..loading.model import model_config
from ..records import RecordWriter, Sample
from .build import build_model
from .executor import apply
from .families import locate
from .layout import Boundaries
from .masked import apply_masked
from .probe import Probe, Stopwatch

if TYPE_CHECKING:
    from ..run import Run

__all__ = [
    "VARIANTS",
    "Prompt",
    "build",
    "check_run",
    "measure_run",
    "prompt_of",
    "rehearse",
    "time_decode",
    "time_prefills",
]

VARIANTS = ("dense", "reduced")
# Decode steps differ by one token of cache: this many tell the mean well enough.
MAX_STEPS = 16
_DTYPES = ("fp32", "bf16", "fp16")
_IMAGE_MODELS, _VIDEO_MODELS = ("llava",), ("llava_onevision",)

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model is called with, and which of it is visual (None: the placeholders tell)."""

    inputs: Mapping[str, torch.Tensor]
    boundaries: Boundaries | None


def measure_run(
    run: Run,
    *,
    device: str = "cpu",
    repeats: int = 3,
    budget_s: float = 60.0,
    progress: Progress = lambda *_: None,
    writer: RecordWriter | None = None,
    label: str = "",
    model: PreTrainedModel | None = None,
) -> tuple[Sample, ...]:
    """Time a run's prefill and its parts, dense and under its schedule, and its decode steps.

    Parameters
    ----------
    repeats
        Timed passes of each variant, in turns, after one that warms up; fewer, at least one, once
        `budget_s` seconds have gone by.
    progress
        Called with (done, total, what comes next).
    writer
        Takes the samples, and a note where memory runs out; without it that is raised.
    label
        Goes into the label ``run`` of every sample.
    model
        One built before (`build`), for runs that share it.

    Raises
    ------
    UnsupportedModelError, InvalidValueError, ScheduleError
        The run cannot be executed here: no such device, formats that torch does not compute in, an
        unknown family, several devices.
    torch.OutOfMemoryError
        Without a `writer`.
    """
    check_run(run, device)
    samples: list[Sample] = []

    def kept(taken: list[Sample]) -> None:
        samples.extend(replace(s, labels={**s.labels, "run": label}) if label else s for s in taken)
        if writer is not None:
            writer.add(*samples[-len(taken) :])

    try:
        with _single_thread(device), torch.inference_mode():
            progress(0, repeats + 1, f"{label} building the model")
            model = build(run, device) if model is None else model
            prompt = prompt_of(run, model)
            ends = time.perf_counter() + budget_s
            kept(time_prefills(run, model, prompt, device=device, repeats=repeats, ends=ends, progress=progress))
            if run.workload.new_tokens > 1:
                kept(time_decode(run, model, prompt, device=device, repeats=repeats, ends=ends))
    except torch.OutOfMemoryError:
        if writer is None:
            raise
        torch.cuda.empty_cache()
        writer.add(notes=[f"{label or run.model.name}: out of memory, {len(samples)} of its samples were taken"])
    return tuple(samples)


def check_run(run: Run, device: str) -> None:
    """Refuse what cannot be executed, before anything is built.

    Raises
    ------
    InvalidValueError, UnsupportedModelError
        Naming the key and what is possible.
    """
    if device not in ("cpu", "cuda"):
        raise InvalidValueError("device", "'cpu' or 'cuda'", device)
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidValueError("device", "'cpu' here, since no GPU is usable", device)
    formats = {run.precision.weights, run.precision.activations, run.precision.kv}
    if len(formats) > 1 or not formats <= set(_DTYPES):
        raise InvalidValueError("precision", f"one of {', '.join(_DTYPES)} throughout, to be run", sorted(formats))
    if run.parallel.devices > 1:
        raise InvalidValueError("parallel", "one device, to be run", run.parallel.devices)
    if run.attention != "flash" or run.implementation == "eager":
        raise InvalidValueError("attention", "flash, with implementation fused or masked, to be run", run.attention)
    if run.file.execution != "eager":
        raise InvalidValueError("execution", "eager, to be run", run.file.execution)
    if run.schedule.tower_events:
        raise UnsupportedModelError(
            f"method {run.schedule.method!r} merges inside the vision tower: it is priced, but cannot be run yet"
        )


def rehearse(run: Run) -> None:
    """Refuse what the model itself shows to be impossible, on one without weights.

    Raises
    ------
    UnsupportedModelError, ScheduleError, InvalidValueError, UnknownNameError
        A family, a scorer or a prompt that cannot be run.
    """
    model = build(run, "meta")
    _variant(run, model, prompt_of(run, model), "reduced" if run.schedule.events else "dense")


def build(run: Run, device: str) -> PreTrainedModel:
    """The run's model with random weights, in its number format."""
    config = {key: value for key, value in model_config(run.file.model).items() if key != "name"}
    return build_model(config, device=device, dtype=run.precision.weights)


def prompt_of(run: Run, model: PreTrainedModel) -> Prompt:
    """A prompt of random tokens, and random pixels where the run's tower sees any.

    Raises
    ------
    UnsupportedModelError
        Pixels for a family whose input form is not known here; ``visual_tokens`` runs the decoder alone.
    """
    workload, schedule = run.workload, run.schedule
    text, visual = workload.text_tokens, workload.visual_tokens
    generator = torch.Generator().manual_seed(0)
    kind = model.config.model_type
    vocabulary = model.config.get_text_config().vocab_size
    special = [getattr(model.config, f"{name}_token_id", None) for name in ("image", "video")]
    known = [token for token in special if token is not None]
    highest = min([vocabulary, *known])
    ids = torch.randint(1, max(2, highest), (workload.batch, text + visual), generator=generator)
    if not workload.frames and not workload.images:
        # no placeholders: say what is visual
        triple = (schedule.text_before, visual, schedule.text_after)
        return Prompt(inputs={"input_ids": ids.to(model.device)}, boundaries=triple)
    before = schedule.text_before
    count: tuple[int, ...]
    if workload.frames and kind in _VIDEO_MODELS:
        key, token, count = "pixel_values_videos", special[1], (workload.batch, workload.frames)
    elif workload.images and kind in _IMAGE_MODELS:
        key, token, count = "pixel_values", special[0], (workload.batch * workload.images,)
    else:
        raise UnsupportedModelError(
            f"validate feeds frames to {', '.join(_VIDEO_MODELS)} and images to {', '.join(_IMAGE_MODELS)} "
            f"(got {kind}): with workload.visual_tokens its decoder alone is measured"
        )
    ids[:, before : before + visual] = token
    side = model.config.vision_config.image_size
    pixels = torch.randn((*count, 3, side, side), generator=generator).to(model.device, model.dtype)
    return Prompt(inputs={"input_ids": ids.to(model.device), key: pixels}, boundaries=None)


def time_prefills(
    run: Run,
    model: PreTrainedModel,
    prompt: Prompt,
    *,
    device: str,
    repeats: int,
    ends: float,
    progress: Progress = lambda *_: None,
) -> list[Sample]:
    """Passes of both variants in turns, and the time of every part.

    The parts of layers are marked in a pass of their own: the many marks would slow down what else is
    timed (a percent of a short prefill on a CPU, more on CUDA).
    """
    watch, family = Stopwatch(device), locate(model)
    taken: dict[tuple[str, str, int], list[float]] = {}
    facts: dict[str, dict[str, float]] = {}

    def once(variant: str, *, groups: bool = False) -> None:
        with _variant(run, model, prompt, variant), Probe(family, watch, groups=groups) as probe:
            for (what, index), seconds in probe.time(lambda: _forward(model, prompt)).items():
                if what.startswith("group ") == groups:
                    taken.setdefault((variant, what, index), []).append(seconds)

    variants = VARIANTS if run.schedule.events else VARIANTS[:1]
    for variant in variants:
        with _variant(run, model, prompt, variant):
            facts[variant] = _warm_up(model, prompt, device)
    for turn in range(repeats):
        progress(turn + 1, repeats + 1, f"{run.model.name}, pass {turn + 1} of {repeats}")
        for variant in variants:
            once(variant)
        if time.perf_counter() > ends:
            break
    for variant in variants:
        once(variant, groups=True)
    return list(_samples(run, taken, facts, watch))


def _samples(
    run: Run, taken: dict[tuple[str, str, int], list[float]], facts: dict[str, dict[str, float]], watch: Stopwatch
) -> Iterator[Sample]:
    """Samples of what a run has: no merge, tower or selection where there is none."""
    cuts = {event.after_layer: event for event in run.schedule.layer_events}
    seen = bool(run.workload.frames or run.workload.images)
    for (variant, what, index), seconds in taken.items():
        tokens = run.computed.tokens if variant == "reduced" else (_prompt_tokens(run),) * len(run.schedule.tokens)
        dims: dict[str, float] = {}
        name = ""
        if what in ("prefill", "total"):
            if what == "total" and not seen:
                continue
            op = "ttft" if what == "total" else what
            dims = {"tokens": float(tokens[0]), **(facts[variant] if what == "prefill" else {})}
        elif what in ("layer", "selection"):
            cut = cuts.get(index) if variant == "reduced" else None
            if what == "selection" and cut is None:
                continue
            op, dims = what, {"layer": float(index), "tokens": float(tokens[index])}
            if what == "selection" and cut is not None:
                dims["tokens_out"] = float(cut.tokens_out)
        elif what.startswith("group "):
            op, name = "group", what.removeprefix("group ")
        elif what in ("vision", "projector") or (variant == "reduced" and run.schedule.pre_llm_events):
            op = what
        else:
            continue
        yield Sample(
            op=op,
            name=name,
            dims=dims,
            dtype=run.precision.activations,
            samples_s=tuple(max(value, 0.0) for value in seconds),
            clock=watch.clock,
            labels={"variant": variant},
        )


def time_decode(
    run: Run, model: PreTrainedModel, prompt: Prompt, *, device: str, repeats: int, ends: float
) -> list[Sample]:
    """Mean seconds a decode step after each variant's prefill: a sample is the mean of all its steps."""
    watch = Stopwatch(device)
    steps = min(run.workload.new_tokens - 1, MAX_STEPS)
    taken: dict[str, list[float]] = {}
    token = prompt.inputs["input_ids"][:, :1]
    for _ in range(repeats):
        for variant in VARIANTS if run.schedule.events else VARIANTS[:1]:
            with _variant(run, model, prompt, variant):
                cache = _forward(model, prompt).past_key_values
                watch.drain()
                start = watch.mark()
                for _ in range(steps):
                    model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
                end = watch.mark()
                watch.drain()
                taken.setdefault(variant, []).append(watch.seconds(start, end) / steps)
        if time.perf_counter() > ends:
            break
    return [
        Sample(
            op="decode",
            dims={"steps": float(steps)},
            dtype=run.precision.activations,
            samples_s=tuple(seconds),
            clock=watch.clock,
            labels={"variant": variant},
        )
        for variant, seconds in taken.items()
    ]


def _forward(model: PreTrainedModel, prompt: Prompt) -> Any:
    return model(**prompt.inputs, use_cache=True, logits_to_keep=1)


def _warm_up(model: PreTrainedModel, prompt: Prompt, device: str) -> dict[str, float]:
    """One pass that is not timed; on CUDA, the memory that it takes."""
    if device != "cuda":
        _forward(model, prompt)
        return {}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _forward(model, prompt)
    torch.cuda.synchronize()
    return {"held_bytes": float(before), "peak_bytes": float(torch.cuda.max_memory_allocated())}


def _variant(run: Run, model: PreTrainedModel, prompt: Prompt, variant: str) -> AbstractContextManager[Any]:
    if variant == "dense":
        return nullcontext()
    execute = apply_masked if run.implementation == "masked" else apply
    return execute(model, run.schedule, boundaries=prompt.boundaries)


def _prompt_tokens(run: Run) -> int:
    return run.workload.visual_tokens + run.workload.text_tokens


@contextmanager
def _single_thread(device: str) -> Iterator[None]:
    """On a CPU one thread: its own CPU time is the clock."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
