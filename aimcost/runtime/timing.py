"""The stopwatch and the timing loop that everything measured goes through.

On a CPU the clock is this thread's CPU time, which other load on the machine does not stretch; it counts
one thread, so run inside `single_thread`. On CUDA it is a pair of events around the call.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..errors import InvalidValueError

__all__ = ["Stopwatch", "Timing", "interleaved", "single_thread", "time_alternately", "time_call"]

Mark = Any
T = TypeVar("T")


class Stopwatch:
    """The clock of one device.

    Parameters
    ----------
    host
        Time what the host spends, queueing included, in place of the device.
    """

    def __init__(self, device: str | torch.device, *, host: bool = False) -> None:
        self.device = torch.device(device)
        self.host = host

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def clock(self) -> str:
        """``thread_cpu``, ``cuda_event`` or, for the host beside a GPU, ``wall``."""
        if not self.cuda:
            return "thread_cpu"
        return "wall" if self.host else "cuda_event"

    def mark(self) -> Mark:
        """Now, on the device; on CUDA an event, so that nothing waits."""
        if not self.cuda:
            return time.thread_time()
        if self.host:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def drain(self) -> None:
        """Wait until the device has nothing left to do."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, start: Mark, end: Mark) -> float:
        """Between two marks; events must have been reached (`drain`)."""
        return start.elapsed_time(end) / 1e3 if self.clock == "cuda_event" else end - start

    def time(self, call: Callable[[], object]) -> float:
        """Seconds of one call on an idle device."""
        self.drain()
        start = self.mark()
        call()
        end = self.mark()
        self.drain()
        return self.seconds(start, end)


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


def interleaved(
    measurements: Sequence[Callable[[int], T]],
    *,
    repeats: int,
    warmup: int = 0,
    budget_s: float = math.inf,
    least: int = 1,
    seconds: Callable[[T], float] = float,  # type: ignore[assignment]
    shuffled: bool = False,
    on_repeat: Callable[[int], None] | None = None,
) -> list[list[T]]:
    """Take several measurements round by round, so that a drift of the machine meets all of them alike.

    Parameters
    ----------
    measurements
        Each is called with the number of the round and returns what it measured.
    repeats, warmup
        Rounds that count, and rounds before them that do not.
    budget_s, least
        A measurement stops after `least` repeats once those have taken `budget_s` seconds.
    seconds
        Seconds that a measurement says it took.
    shuffled
        Another order in each round (the same ones in every process), so that each finds the caches as a
        different operation left them.
    on_repeat
        Called with the number of rounds done, after each that counts.

    Returns
    -------
    list
        What each measurement returned, in the order of `measurements`.

    Raises
    ------
    InvalidValueError
        Fewer than one repeat, or a negative warm-up.
    """
    if repeats < 1 or warmup < 0:
        raise InvalidValueError("repeats", "at least 1, with warmup at least 0", (repeats, warmup))
    for number in range(warmup):
        for measure in measurements:
            measure(number)
    taken: list[list[T]] = [[] for _ in measurements]
    spent = [0.0] * len(taken)
    order, shuffler = list(range(len(taken))), random.Random(0)
    for number in range(warmup, warmup + repeats):
        if shuffled:
            shuffler.shuffle(order)
        for index in order:
            if len(taken[index]) >= least and spent[index] > budget_s:
                continue
            result = measurements[index](number)
            taken[index].append(result)
            spent[index] += seconds(result)
        if on_repeat is not None:
            on_repeat(number - warmup + 1)
    return taken


def time_alternately(
    functions: list[Callable[[], object]],
    *,
    device: str | torch.device = "cpu",
    warmup: int = 1,
    repeats: int = 5,
    budget_s: float = math.inf,
    on_repeat: Callable[[int], None] | None = None,
) -> list[Timing]:
    """Time several functions, called without arguments and outside autograd, as `interleaved` does."""
    watch = Stopwatch(device)

    def timed(function: Callable[[], object]) -> Callable[[int], float]:
        return lambda _: watch.time(function)

    with torch.inference_mode():
        taken = interleaved(
            [timed(function) for function in functions],
            warmup=warmup,
            repeats=repeats,
            budget_s=budget_s,
            on_repeat=on_repeat,
        )
    return [Timing(samples=tuple(samples), clock=watch.clock) for samples in taken]


def time_call(function: Callable[[], object], **options: Any) -> Timing:
    """Time one function; options as for `time_alternately`."""
    return time_alternately([function], **options)[0]


@contextmanager
def single_thread(device: str | torch.device = "cpu") -> Iterator[None]:
    """On a CPU compute with one thread, whose own CPU time is the clock; undone on leaving."""
    threads = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
