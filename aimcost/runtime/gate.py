"""The measuring half of the latency gate: a run's prefill and a fixed kernel, timed in turns.

The kernel is the yardstick: it never changes with the model, so a regression of the model moves the
ratio of the two, and a slower runner moves both and leaves the ratio alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import UnsupportedModelError
from ..types import Schedule
from .build import build_model
from .executor import apply

__all__ = ["YARDSTICK", "prefill_of", "single_thread", "yardstick"]

# Part of the stored ratios' meaning: a kernel of other sizes needs another name.
YARDSTICK = "mlp-fp32-256x512x1024x6"
_ROWS, _WIDTH, _INNER, _BLOCKS = 256, 512, 1024, 6
# What stands before the language model, which is what the gate times.
_TEXT_KEYS = ("text_config", "llm_config")


def single_thread() -> Callable[[], None]:
    """Compute with one thread from now on; what is returned takes that back.

    Thread CPU time counts one thread: all the work must be on it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return lambda: torch.set_num_threads(threads)


def yardstick(seed: int = 0) -> Callable[[], object]:
    """The calibration kernel: six MLP blocks in fp32 with weights of their own, some 3.2 GFLOP."""
    generator = torch.Generator().manual_seed(seed)
    scale = 1.0 / _WIDTH**0.5
    blocks = [
        (
            torch.randn(_WIDTH, _INNER, generator=generator) * scale,
            torch.randn(_INNER, _WIDTH, generator=generator) * scale,
        )
        for _ in range(_BLOCKS)
    ]
    start = torch.randn(_ROWS, _WIDTH, generator=generator)

    @torch.inference_mode()
    def once() -> torch.Tensor:
        hidden = start
        for up, down in blocks:
            inner = torch.nn.functional.silu(hidden @ up)
            hidden = torch.nn.functional.layer_norm(hidden + inner @ down, (_WIDTH,))
        return hidden

    return once


def prefill_of(config: Mapping[str, Any], schedule: Schedule, *, batch: int = 1) -> Callable[[], object]:
    """The prefill of a model with random weights under `schedule`, ready to be called again and again.

    Of a model with a vision tower the language model alone is built and run: it gets as many random
    tokens as it would get visual ones.

    Raises
    ------
    UnsupportedModelError, ScheduleError
        A configuration that makes no supported model, or a schedule that it cannot run.
    """
    text = next((config[key] for key in _TEXT_KEYS if isinstance(config.get(key), Mapping)), config)
    if schedule.tower_events or any(event.scorer.startswith("cls_attention") for event in schedule.pre_llm_events):
        raise UnsupportedModelError(f"method {schedule.method!r} reads the vision tower, which the gate does not run")
    model = build_model(text)
    merges = schedule.pre_llm_events
    grouped = merges[0].groups * merges[0].tokens_in if merges else schedule.visual_tokens - schedule.newline_tokens
    prompt = schedule.text_tokens + grouped + schedule.newline_tokens
    top = model.config.get_text_config().vocab_size
    ids = torch.randint(0, top, (batch, prompt), generator=torch.Generator().manual_seed(0))

    if not schedule.events:

        @torch.inference_mode()
        def dense() -> object:
            return model(input_ids=ids, logits_to_keep=1)

        return dense

    @torch.inference_mode()
    def reduced() -> object:
        with apply(model, schedule):
            return model(input_ids=ids, logits_to_keep=1)

    return reduced
