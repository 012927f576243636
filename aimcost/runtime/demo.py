"""`aimcost demo`: a small LLaVA-OneVision-shaped model, dense and reduced, timed on this machine.

Random weights: times do not need trained ones. The decoder has Qwen2-0.5B's layer; the tower is a
small SigLIP on the real 384 x 384 grid, so that a frame is 196 tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..api import estimate
from ..errors import InvalidValueError, UnsupportedModelError
from ..kernels.importance import importance_scores
from ..kernels.select import gather_tokens, select_tokens
from ..run import load_run
from ..types import Schedule
from .build import build_model
from .executor import apply
from .timing import Timing, time_alternately, time_call

__all__ = ["DemoResult", "demo", "demo_run"]

_VIDEO_TOKEN = 990
_BEFORE, _AFTER = 20, 40
_DTYPES = {"cpu": "fp32", "cuda": "bf16"}


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What ran, and how long it took.

    Attributes
    ----------
    tokens
        Tokens that each layer computed on, as recorded while running.
    dense, reduced
        Seconds of the language model's prefill, by repeat.
    selection_s
        Seconds that scoring, selecting and gathering take on these shapes, timed alone.
    flop_ratio
        FLOPs of the dense prefill over the reduced one: matrix products of the layers, with the
        full square of attention where the kernel computes it all (CPU) or its causal half (CUDA).
    """

    device: str
    dtype: str
    frames: int
    schedule: Schedule
    tokens: tuple[int, ...]
    dense: Timing
    reduced: Timing
    selection_s: float
    flop_ratio: float

    @property
    def speedup(self) -> float:
        """Measured: median dense over median reduced."""
        return self.dense.median / self.reduced.median


def demo_run(frames: int, layers: int) -> dict[str, Any]:
    """The run that the demonstration prices and executes."""
    text = {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": layers,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    model = {
        "model_type": "llava_onevision",
        "text_config": text,
        "vision_config": vision,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": [[384, 384]],
        "image_token_index": 991,
        "video_token_index": _VIDEO_TOKEN,
        "image_token_id": 991,
        "video_token_id": _VIDEO_TOKEN,
        "tie_word_embeddings": False,
    }
    workload = {"frames": frames, "text_tokens": {"system": _BEFORE, "question": _AFTER}}
    return {"model": model, "workload": workload, "method": {"name": "aim", "merge_ratio": 0.5}}


def demo(
    device: str = "cpu",
    *,
    frames: int = 6,
    layers: int = 8,
    repeats: int = 3,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> DemoResult:
    """Run the demonstration.

    Parameters
    ----------
    progress
        Called with what is being done, steps done and steps in all.

    Raises
    ------
    UnsupportedModelError
        CUDA is asked for and not there.
    InvalidValueError
        Fewer than one frame, or than two layers.
    """
    if frames < 1 or layers < 2 or repeats < 1:
        raise InvalidValueError("frames, layers, repeats", "at least 1, 2 and 1", (frames, layers, repeats))
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedModelError("no CUDA device is there: run the demonstration with --device cpu")
    steps, done = repeats + 4, itertools.count(1)
    run = load_run(demo_run(frames, layers))
    dtype = _DTYPES[device]
    progress("building the model", next(done), steps)
    model = build_model(run.file.model, device=device, dtype=dtype)  # type: ignore[arg-type]
    inputs = _inputs(run.workload.visual_tokens, frames, model)
    threads = torch.get_num_threads()
    if device == "cpu":
        # thread time counts one thread: all the work must be on it
        torch.set_num_threads(1)
    try:
        with torch.inference_mode(), apply(model, run.schedule) as applied:
            model(**inputs, logits_to_keep=1)
        tokens = applied.record.tokens
        progress("timing", next(done), steps)
        dense, reduced = _time_prefills(model, inputs, run.schedule, device, repeats, progress, done, steps)
        progress("timing selection alone", next(done), steps)
        selection = _time_selection(run.schedule, model, device)
    finally:
        torch.set_num_threads(threads)
    return DemoResult(
        device=device,
        dtype=dtype,
        frames=frames,
        schedule=run.schedule,
        tokens=tokens,
        dense=dense,
        reduced=reduced,
        selection_s=selection,
        flop_ratio=_flop_ratio(run.file.model, frames, layers, full_square=device == "cpu"),
    )


def _inputs(visual: int, frames: int, model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 900, (1, _BEFORE + visual + _AFTER), generator=generator)
    ids[:, _BEFORE : _BEFORE + visual] = _VIDEO_TOKEN
    pixels = torch.randn(1, frames, 3, 384, 384, generator=generator)
    return {
        "input_ids": ids.to(model.device),
        "pixel_values_videos": pixels.to(model.device, model.dtype),
    }


@contextmanager
def _captured(model: Any) -> Iterator[dict[str, Any]]:
    """What the language model is called with, once: its prefill can then be timed alone."""
    held: dict[str, Any] = {}

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        held.update(kwargs)

    hook = model.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield held
    finally:
        hook.remove()


def _time_prefills(
    model: Any,
    inputs: dict[str, torch.Tensor],
    schedule: Schedule,
    device: str,
    repeats: int,
    progress: Callable[[str, int, int], None],
    done: Iterator[int],
    steps: int,
) -> tuple[Timing, Timing]:
    """Prefill of the whole model less its tower, dense and reduced in turns.

    The tower runs in both; its own time, measured alone, is taken off.
    """

    def dense() -> None:
        model(**inputs, logits_to_keep=1)

    def reduced() -> None:
        with apply(model, schedule):
            model(**inputs, logits_to_keep=1)

    def tower() -> None:
        model.model.get_video_features(inputs["pixel_values_videos"])

    timings = time_alternately(
        [dense, reduced, tower],
        device=device,
        repeats=repeats,
        on_repeat=lambda n: progress(f"timing, {n} of {repeats}", next(done), steps),
    )
    before = timings[2].median
    return tuple(  # type: ignore[return-value]
        Timing(samples=tuple(s - before for s in timing.samples), clock=timing.clock) for timing in timings[:2]
    )


def _time_selection(schedule: Schedule, model: Any, device: str) -> float:
    """Score, select and gather of every cut, on random queries and keys of the same shapes."""
    text = model.config.text_config
    width = text.hidden_size // text.num_attention_heads
    total = 0.0
    for event in schedule.layer_events:
        n, keep = event.tokens_in, event.tokens_out
        q = torch.randn(1, text.num_attention_heads, n, width, device=device, dtype=model.dtype)
        k = torch.randn(1, text.num_key_value_heads, n, width, device=device, dtype=model.dtype)
        hidden = torch.randn(1, n, text.hidden_size, device=device, dtype=model.dtype)
        protected = torch.zeros(1, n, dtype=torch.bool, device=device)

        def once(q=q, k=k, hidden=hidden, protected=protected, keep=keep) -> None:  # type: ignore[no-untyped-def]
            kept = select_tokens(importance_scores(q, k), keep, protected=protected)
            gather_tokens(hidden, kept)

        total += time_call(once, device=device, repeats=3).median
    return total


def _flop_ratio(model: Any, frames: int, layers: int, *, full_square: bool) -> float:
    run = {**demo_run(frames, layers), "hardware": "nvidia_a100_sxm_80gb", "estimator": "roofline"}
    reduced = estimate(run).matrix_flops(("prefill",), full_square=full_square)
    return estimate(run, method="none").matrix_flops(("prefill",), full_square=full_square) / reduced
