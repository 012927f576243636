"""The measuring half of `aimcost demo`: one model with random weights, dense and reduced, interleaved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..kernels.importance import importance_scores
from ..kernels.select import gather_tokens, select_tokens
from ..runtime.build import build_model
from ..runtime.compat import video_features
from ..runtime.executor import apply
from ..runtime.masked import apply_masked, kept_overlap
from ..runtime.timing import Timing, single_thread, time_alternately, time_call
from ..types import Schedule

__all__ = ["Measured", "measure"]

_DTYPES = {"cpu": "fp32", "cuda": "bf16"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What ran, and how long it took.

    Attributes
    ----------
    tokens
        Tokens that each layer computed on, as recorded while running.
    dense, reduced, released
        Seconds of the language model's prefill, by repeat; the last with tokens masked and eager fp32
        attention, as the released code has it.
    overlap
        By layer that drops: share of the visual tokens kept that the released semantics keeps as well.
    selection_s
        Seconds that scoring, selecting and gathering take on these shapes, timed alone.
    """

    device: str
    dtype: str
    tokens: tuple[int, ...]
    dense: Timing
    reduced: Timing
    released: Timing
    overlap: Mapping[int, float]
    selection_s: float

    @property
    def speedup(self) -> float:
        """Measured: median dense over median reduced."""
        return self.dense.median / self.reduced.median


def measure(
    config: Mapping[str, Any],
    schedule: Schedule,
    *,
    frames: int,
    device: str = "cpu",
    repeats: int = 3,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Measured:
    """Time the prefill of `config` on a video of `frames` frames, dense and under `schedule`.

    Parameters
    ----------
    progress
        Called with steps done, steps in all, and what is being done.
    """
    steps, done = repeats + 4, itertools.count(1)
    dtype = _DTYPES[device]
    progress(next(done), steps, "building the model")
    model = build_model(config, device=device, dtype=dtype)
    inputs = _inputs(schedule, frames, model)
    with single_thread(device):
        with torch.inference_mode(), apply(model, schedule) as applied:
            model(**inputs, logits_to_keep=1)
        with torch.inference_mode(), apply_masked(model, schedule) as masked:
            model(**inputs, logits_to_keep=1)
        tokens, overlap = applied.record.tokens, kept_overlap(applied.record, masked.record)
        progress(next(done), steps, "timing")
        dense, reduced, released = _time_prefills(model, inputs, schedule, device, repeats, progress, done, steps)
        progress(next(done), steps, "timing selection alone")
        selection = _time_selection(schedule, model, device)
    return Measured(
        device=device,
        dtype=dtype,
        tokens=tokens,
        dense=dense,
        reduced=reduced,
        released=released,
        overlap=overlap,
        selection_s=selection,
    )


def _inputs(schedule: Schedule, frames: int, model: Any) -> dict[str, torch.Tensor]:
    # the prompt holds the visual tokens from before any merging
    visual = schedule.prompt_visual_tokens
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 900, (1, schedule.text_tokens + visual), generator=generator)
    before = schedule.text_before
    ids[:, before : before + visual] = model.config.video_token_id
    pixels = torch.randn(1, frames, 3, 384, 384, generator=generator)
    return {
        "input_ids": ids.to(model.device),
        "pixel_values_videos": pixels.to(model.device, model.dtype),
    }


def _time_prefills(
    model: Any,
    inputs: dict[str, torch.Tensor],
    schedule: Schedule,
    device: str,
    repeats: int,
    progress: Callable[[int, int, str], None],
    done: Iterator[int],
    steps: int,
) -> tuple[Timing, Timing, Timing]:
    """Prefill of the whole model less its tower: dense, reduced, and masked as released, interleaved.

    The tower runs in all; its own time, measured alone, is taken off.
    """

    def dense() -> None:
        model(**inputs, logits_to_keep=1)

    def reduced() -> None:
        with apply(model, schedule):
            model(**inputs, logits_to_keep=1)

    def released() -> None:
        with apply_masked(model, schedule):
            model(**inputs, logits_to_keep=1)

    def tower() -> None:
        video_features(model.model, inputs["pixel_values_videos"])

    timings = time_alternately(
        [dense, reduced, released, tower],
        device=device,
        repeats=repeats,
        on_repeat=lambda n: progress(next(done), steps, f"timing, {n} of {repeats}"),
    )
    before = timings[3].median
    return tuple(  # type: ignore[return-value]
        Timing(samples=tuple(s - before for s in timing.samples), clock=timing.clock) for timing in timings[:3]
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
