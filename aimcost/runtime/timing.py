"""Timing a call: warm-up, repeats, median and spread.

On a CPU the clock is this thread's CPU time, which other load on the machine does not stretch: run
single-threaded (``torch.set_num_threads(1)``), or work done by other threads is not counted. On CUDA
it is a pair of events around the call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import InvalidValueError

__all__ = ["Timing", "time_alternately", "time_call"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Repeated timings of one call, in seconds.

    Attributes
    ----------
    samples
        Every timed repeat, in order.
    clock
        ``thread_cpu`` or ``cuda_event``.
    """

    samples: tuple[float, ...]
    clock: str

    @property
    def median(self) -> float:
        """Median of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """(max − min) / median of the samples."""
        return (max(self.samples) - min(self.samples)) / self.median if self.median else 0.0


def time_call(
    function: Callable[[], object],
    *,
    device: str | torch.device = "cpu",
    warmup: int = 1,
    repeats: int = 5,
    on_repeat: Callable[[int], None] | None = None,
) -> Timing:
    """Time `function`, called without arguments and outside autograd.

    Parameters
    ----------
    on_repeat
        Called with the number of repeats done, after each; for progress bars.

    Raises
    ------
    InvalidValueError
        Fewer than one repeat, or a negative warm-up.
    """
    return time_alternately([function], device=device, warmup=warmup, repeats=repeats, on_repeat=on_repeat)[0]


def time_alternately(
    functions: list[Callable[[], object]],
    *,
    device: str | torch.device = "cpu",
    warmup: int = 1,
    repeats: int = 5,
    on_repeat: Callable[[int], None] | None = None,
) -> list[Timing]:
    """Time several functions in turns, so that a drift of the machine meets all of them alike."""
    if repeats < 1 or warmup < 0:
        raise InvalidValueError("repeats", "at least 1, with warmup at least 0", (repeats, warmup))
    cuda = torch.device(device).type == "cuda"
    once = _cuda_seconds if cuda else _thread_seconds
    samples: list[list[float]] = [[] for _ in functions]
    with torch.inference_mode():
        for turn in range(warmup + repeats):
            for function, taken in zip(functions, samples, strict=True):
                seconds = once(function)
                if turn >= warmup:
                    taken.append(seconds)
            if on_repeat is not None and turn >= warmup:
                on_repeat(turn - warmup + 1)
    clock = "cuda_event" if cuda else "thread_cpu"
    return [Timing(samples=tuple(taken), clock=clock) for taken in samples]


def _thread_seconds(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def _cuda_seconds(function: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
