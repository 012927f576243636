"""Ending in time: a deadline that is asked between measurements, and an alarm for what does not ask."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["Deadline", "OutOfTime", "alarm"]


class OutOfTime(BaseException):
    """The time of a step, or of the campaign, is used up."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment on the monotonic clock.

    Attributes
    ----------
    at
        Seconds of `clock`.
    """

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(at=clock() + seconds, clock=clock)

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - self.clock())

    def check(self) -> None:
        """Raise `OutOfTime` once the deadline has passed."""
        if self.left <= 0.0:
            raise OutOfTime


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` inside the block after `seconds`, even where nobody asks the deadline.

    Works in the main thread of systems with interval timers; elsewhere the block is left alone. A call
    into C is interrupted when it returns.
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not usable:
        yield
        return

    def ring(_: int, __: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
