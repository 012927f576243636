"""The measuring half of the latency gate: a run's prefill and a fixed kernel, interleaved.

The reference kernel never changes with the model, so a regression of the model moves the
ratio of the two, and a slower runner moves both and leaves the ratio alone.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from ..errors import UnsupportedModelError
from ..methods.registry import reads_tower, require_runnable
from ..runtime.build import build_model
from ..runtime.executor import apply
from ..runtime.timing import Stopwatch, interleaved, single_thread
from ..types import Schedule

__all__ = ["Stopwatch", "keep_freed_memory", "prefill_of", "reference_kernel", "single_thread", "time_pairs"]

# What stands before the language model, which is what the gate times.
_TEXT_KEYS = ("text_config", "llm_config")


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, as `aimcost.measure.profile.process` does from a process' start.

    Fresh pages cost 7 to 11 % of a layer, more or less by chance. It stays so for the process.

    Returns
    -------
    bool
        Whether the C library took the settings (mallopt(3): M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD).
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(key, value) == 1 for key, value in ((-4, 0), (-1, 2**31 - 1), (-2, 1 << 28)))


def reference_kernel(shape: Mapping[str, int], seed: int = 0) -> Callable[[], object]:
    """The reference kernel: a plain decoder of `shape` in fp32, made of torch functions only.

    It shares no code with the models and the runtime that the gate watches, and is as sensitive as
    they are to what a busy machine does to caches and clocks.

    Parameters
    ----------
    shape
        tokens, layers, hidden, intermediate, heads, kv_heads, head_dim.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden, width, inner = shape["hidden"], shape["head_dim"], shape["intermediate"]
    queries, keys = shape["heads"] * width, shape["kv_heads"] * width
    sizes = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    sizes += [(inner, hidden), (inner, hidden), (hidden, inner)]
    blocks = [
        [torch.randn(out, fan_in, generator=generator) / fan_in**0.5 for out, fan_in in sizes]
        for _ in range(shape["layers"])
    ]
    start = torch.randn(1, shape["tokens"], hidden, generator=generator)
    grouped = shape["kv_heads"] != shape["heads"]

    def heads_of(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, width)).transpose(1, 2)

    @torch.inference_mode()
    def once() -> torch.Tensor:
        x = start
        for q, k, v, o, gate, up, down in blocks:
            h = functional.rms_norm(x, (hidden,))
            a = functional.scaled_dot_product_attention(
                *(heads_of(functional.linear(h, w)) for w in (q, k, v)), is_causal=True, enable_gqa=grouped
            )
            x = x + functional.linear(a.transpose(1, 2).flatten(2), o)
            h = functional.rms_norm(x, (hidden,))
            x = x + functional.linear(functional.silu(functional.linear(h, gate)) * functional.linear(h, up), down)
        return x

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
    require_runnable(schedule)
    if reads_tower(schedule):
        raise UnsupportedModelError(f"method {schedule.method!r} reads the vision tower, which the gate does not run")
    model = build_model(text)
    top = model.config.get_text_config().vocab_size
    ids = torch.randint(0, top, (batch, schedule.prompt_tokens), generator=torch.Generator().manual_seed(0))

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


def time_pairs(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[list[float], ...]:
    """Seconds of two calls in each of `rounds` rounds, one right after the other."""
    watch = Stopwatch("cpu")
    return tuple(interleaved([lambda _: watch.time(first), lambda _: watch.time(second)], repeats=rounds))
