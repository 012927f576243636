"""Times a run for real: a model with random weights from its configuration, dense and reduced interleaved.

`measure_run` is the whole; `time_prefills` and `time_decode` are its parts, on what `subject` builds. The
samples name what they are and on how many tokens; `aimcost.measure.validate` puts the prediction beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from ..inputs.stack import DEFAULT_STACK
from ..runtime import compat
from ..runtime.families import locate
from ..runtime.graph import Captured, capture, shallow
from ..runtime.timing import Stopwatch, interleaved, single_thread
from .probe import Key, Probe
from .records import RecordWriter, Sample
from .subject import Prompt, build, check_run, executing, prompt_of, sees_pixels

if TYPE_CHECKING:
    from ..inputs.run import Run

__all__ = ["measure_run", "time_decode", "time_graphs", "time_prefills", "variants_of"]

VARIANTS = ("dense", "reduced")
# Decode steps differ by one token of cache: this many tell the mean well enough.
MAX_STEPS = 16
REPLAYS_TO_WARM_UP = 2

Progress = Callable[[int, int, str], None]


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
        Timed passes of each variant, interleaved, after one that warms up; fewer, at least one, once
        they have taken `budget_s` seconds.
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
        unknown family, several devices, a stack that is not run here.
    torch.OutOfMemoryError
        Without a `writer`.
    """
    check_run(run, device)
    samples: list[Sample] = []

    def record(taken: list[Sample]) -> None:
        samples.extend(replace(s, labels={**s.labels, "run": label}) if label else s for s in taken)
        if writer is not None:
            writer.add(*samples[-len(taken) :])

    try:
        progress(0, repeats + 1, f"{label} building the model")
        model = build(run, device) if model is None else model
        given: dict[str, Any] = {"device": device, "repeats": repeats, "budget_s": budget_s, "progress": progress}
        if run.stack.name != DEFAULT_STACK:
            # replays change their inputs in place, which tensors made in inference mode do not allow
            with torch.no_grad():
                taken, notes = time_graphs(run, model, **given)
            record(taken)
            if writer is not None:
                writer.add(notes=[f"{label or run.model.name}: {note}" for note in notes])
            return tuple(samples)
        with single_thread(device), torch.inference_mode():
            prompt = prompt_of(run, model)
            record(time_prefills(run, model, prompt, **given))
            if run.workload.new_tokens > 1:
                record(time_decode(run, model, prompt, **given))
    except torch.OutOfMemoryError:
        if writer is None:
            raise
        writer.add(notes=[f"{label or run.model.name}: out of memory, {len(samples)} of its samples were taken"])
    finally:
        # the next prompt finds free memory in one piece
        if Stopwatch(device).cuda:
            torch.cuda.empty_cache()
    return tuple(samples)


def time_prefills(
    run: Run,
    model: PreTrainedModel,
    prompt: Prompt,
    *,
    device: str,
    repeats: int,
    budget_s: float,
    progress: Progress = lambda *_: None,
) -> list[Sample]:
    """Interleaved passes of both variants, and the time of every part.

    The parts of layers are marked in a separate pass: the many marks would slow down what else is timed
    (a percent of a short prefill on a CPU, more on CUDA).
    """
    watch, family, variants = Stopwatch(device), locate(model), variants_of(run)
    facts: dict[str, dict[str, float]] = {}
    for variant in variants:
        with executing(run, model, prompt, variant):
            facts[variant] = _warm_up(model, prompt, watch)

    def once(variant: str, groups: bool, _: int) -> dict[Key, float]:
        with executing(run, model, prompt, variant), Probe(family, watch, groups=groups) as probe:
            return probe.time(lambda: _forward(model, prompt.inputs))

    passes = interleaved(
        [partial(once, variant, False) for variant in variants],
        repeats=repeats,
        budget_s=budget_s / len(variants),
        seconds=lambda parts: parts["total", 0],
        on_repeat=lambda done: progress(done, repeats, f"{run.model.name}, pass {done} of {repeats}"),
    )
    samples: list[Sample] = []
    for variant, taken in zip(variants, passes, strict=True):
        groups = {key: s for key, s in once(variant, True, 0).items() if key[0].startswith("group ")}
        parts = {key: [one[key] for one in taken] for key in taken[0]} | {key: [s] for key, s in groups.items()}
        samples += _samples(run, variant, parts, facts[variant], watch)
    return samples


def variants_of(run: Run) -> tuple[str, ...]:
    """``dense``, and ``reduced`` where the run reduces anything.

    The dense pass runs fused attention: beside a masked run with eager attention there is none.
    """
    if not run.schedule.events:
        return VARIANTS[:1]
    return VARIANTS if run.attention == "flash" else VARIANTS[1:]


def _samples(
    run: Run, variant: str, parts: dict[Key, list[float]], facts: dict[str, float], watch: Stopwatch
) -> Iterator[Sample]:
    for (what, index), seconds in parts.items():
        named = _named(run, variant, what, index)
        if named is None:
            continue
        op, name, dims = named
        yield _sample(run, variant, op, seconds, watch, name=name, **dims, **(facts if op == "prefill" else {}))


def _sample(
    run: Run, variant: str, op: str, seconds: Iterable[float], watch: Stopwatch, *, name: str = "", **dims: float
) -> Sample:
    return Sample(
        op=op,
        name=name,
        dims=dims,
        dtype=run.precision.activations,
        samples_s=tuple(max(value, 0.0) for value in seconds),
        clock=watch.clock,
        labels={"variant": variant},
    )


def _named(run: Run, variant: str, what: str, index: int) -> tuple[str, str, dict[str, float]] | None:
    """Operation, name and sizes of what a probe timed; None for a merge, tower or selection that a run lacks."""
    reduced, schedule = variant == "reduced", run.schedule
    tokens = _tokens(run, variant)
    if what == "prefill":
        return "prefill", "", {"tokens": float(tokens[0])}
    if what == "total":
        return ("ttft", "", {"tokens": float(tokens[0])}) if sees_pixels(run) else None
    if what == "layer":
        return "layer", "", {"layer": float(index), "tokens": float(tokens[index])}
    if what == "selection":
        left = [float(event.tokens_out) for event in schedule.layer_events if event.after_layer == index]
        if not reduced or not left:
            return None
        return "selection", "", {"layer": float(index), "tokens": float(tokens[index]), "tokens_out": left[0]}
    if what.startswith("group "):
        return "group", what.removeprefix("group "), {}
    if what == "merge" and not (reduced and schedule.pre_llm_events):
        return None
    return what, "", {}


def _tokens(run: Run, variant: str) -> tuple[int, ...]:
    """Tokens that each layer computes on."""
    layers = len(run.schedule.tokens)
    return run.computed.tokens if variant == "reduced" else (run.workload.prompt_tokens,) * layers


def time_decode(
    run: Run,
    model: PreTrainedModel,
    prompt: Prompt,
    *,
    device: str,
    repeats: int,
    budget_s: float,
    progress: Progress = lambda *_: None,
) -> list[Sample]:
    """Mean seconds a decode step after each variant's prefill: a sample is the mean of all its steps."""
    watch, variants = Stopwatch(device), variants_of(run)
    steps = min(run.workload.new_tokens - 1, MAX_STEPS)
    token, name = _one_token(prompt), compat.cache_argument(model)

    def once(variant: str, _: int) -> tuple[float, float]:
        """Seconds of prefill and steps together, and of a step."""
        with executing(run, model, prompt, variant):
            watch.drain()
            begun = watch.mark()
            cache = compat.cache_of(_forward(model, prompt.inputs))
            watch.drain()
            start = watch.mark()
            for _ in range(steps):
                _forward(model, token, **{name: cache})
            end = watch.mark()
            watch.drain()
            return watch.seconds(begun, end), watch.seconds(start, end) / steps

    passes = interleaved(
        [partial(once, variant) for variant in variants],
        # the first step after a prefill of new lengths chooses kernels and takes memory
        warmup=1 if watch.cuda else 0,
        repeats=repeats,
        budget_s=budget_s / len(variants),
        seconds=lambda taken: taken[0],
        on_repeat=lambda done: progress(done, repeats, f"{run.model.name}, decode {done} of {repeats}"),
    )
    return [
        _sample(run, variant, "decode", [step for _, step in taken], watch, steps=float(steps))
        for variant, taken in zip(variants, passes, strict=True)
    ]


def time_graphs(
    run: Run,
    model: PreTrainedModel,
    *,
    device: str,
    repeats: int,
    budget_s: float,
    progress: Progress = lambda *_: None,
) -> tuple[list[Sample], list[str]]:
    """Prefill, the first decode step, and tower with projector, each replayed as one CUDA graph.

    Every replay runs on fresh random inputs.

    Returns
    -------
    tuple
        Samples, and for what could not be captured the reason.
    """
    watch, variants = Stopwatch(device), variants_of(run)
    prompt = prompt_of(run, model, embedded=True)
    samples: list[Sample] = []
    notes: list[str] = []

    def time_replays(op: str, calls: Mapping[str, Captured], **dims: Mapping[str, float]) -> None:
        notes.extend(f"{op}, {variant}: {call.reason}" for variant, call in calls.items() if not call.captured)
        ready = {variant: call for variant, call in calls.items() if call.captured}
        passes = interleaved(
            [partial(_replay, watch, call) for call in ready.values()],
            warmup=REPLAYS_TO_WARM_UP,
            repeats=repeats,
            budget_s=budget_s / len(calls),
            on_repeat=lambda done: progress(done, repeats, f"{run.model.name}, {op} {done} of {repeats}"),
        )
        for (variant, call), seconds in zip(ready.items(), passes, strict=True):
            samples.append(_sample(run, variant, op, seconds, watch, **dims.get(variant, {})))
            call.free()

    def prefill(variant: str) -> Captured:
        around = partial(executing, run, model, prompt, variant)
        return capture(lambda **given: _forward(model, given), prompt.inputs, around=around)

    lengths = {variant: {"tokens": float(_tokens(run, variant)[0])} for variant in variants}
    time_replays("prefill", {variant: prefill(variant) for variant in variants}, **lengths)
    if run.workload.new_tokens > 1:
        decodes = {variant: _decode_graph(run, model, prompt, variant) for variant in variants}
        time_replays("decode", decodes, **{variant: {"steps": 1.0} for variant in variants})
    if run.workload.frames and sees_pixels(run):
        features = partial(compat.video_features, model.model)
        pixels = prompt_of(run, model).inputs["pixel_values_videos"]
        time_replays("features", {"dense": capture(lambda pixels: features(pixels), {"pixels": pixels})})
    return samples, notes


def _decode_graph(run: Run, model: PreTrainedModel, prompt: Prompt, variant: str) -> Captured:
    """The first decode step on the cache that the variant's prefill leaves."""
    name = compat.cache_argument(model)
    with executing(run, model, prompt, variant):
        cache = compat.cache_of(_forward(model, prompt.inputs))

    def step(**token: torch.Tensor) -> Any:
        # a block of its own: what could not be captured runs when it is timed, and a reduced cache needs one
        with executing(run, model, prompt, variant):
            return _forward(model, token, **{name: shallow(cache)})

    return capture(step, _one_token(prompt))


def _replay(watch: Stopwatch, call: Captured, _: int) -> float:
    for tensor in call.buffers.values():
        tensor.normal_()
    return watch.time(call)


def _one_token(prompt: Prompt) -> dict[str, torch.Tensor]:
    """The prompt's first token, as a decode step takes it."""
    return {name: given[:, :1] for name, given in prompt.inputs.items() if name in ("input_ids", "inputs_embeds")}


def _forward(model: PreTrainedModel, inputs: Mapping[str, Any], **more: Any) -> Any:
    """Logits of the last token alone, as in generation."""
    return model(**inputs, **more, use_cache=True, logits_to_keep=1)


def _warm_up(model: PreTrainedModel, prompt: Prompt, watch: Stopwatch) -> dict[str, float]:
    """One pass that is not timed, and the memory it takes: of its KV cache, and on CUDA of all."""
    if watch.cuda:
        watch.drain()
        torch.cuda.reset_peak_memory_stats()
        held = float(torch.cuda.memory_allocated())
    layers = compat.cache_of(_forward(model, prompt.inputs)).layers
    facts = {"kv_bytes": float(sum(part.nbytes for layer in layers for part in (layer.keys, layer.values)))}
    if watch.cuda:
        watch.drain()
        facts |= {"held_bytes": held, "peak_bytes": float(torch.cuda.max_memory_allocated())}
    return facts
