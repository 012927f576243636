"""How one operation is timed, on either device.

A `Task` names an operation and makes a function of the repeat's number, which picks another set of
weights each time: in a model a layer's weights are cold, and a benchmark that reuses them is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...runtime.timing import Stopwatch, interleaved
from ..records import Sample

__all__ = ["DTYPES", "Bench", "Prepared", "Step", "Task", "Tasks", "WeightPool", "rotating"]

DTYPES: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
Step = Callable[[int], object]

# One sample of a GPU operation spans at least this long, many runs of a short one: an event resolves
# half a microsecond.
CUDA_SPAN_S = 200e-6
CUDA_MAX_RUNS = 64
MAX_WEIGHTS = 64
LEAST = 2


@dataclass(frozen=True)
class Prepared:
    """A function to time, and the operands that the operation before it would have just written."""

    step: Step
    fresh: Sequence[torch.Tensor] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to time.

    Attributes
    ----------
    op, name, dims, dtype, labels
        As in `aimcost.measure.records.Sample`.
    make
        Allocates the operands and returns the function to time.
    rows
        Tokens that it computes on: on a CPU, ops with the same token count are interleaved.
    runs
        Runs within one CPU sample, for operations near the clock's own cost.
    host
        Time what the host spends, queueing included, in place of the device.
    """

    op: str
    name: str = ""
    dims: Mapping[str, float]
    dtype: str
    make: Callable[[], Prepared]
    rows: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    runs: int = 1
    host: bool = False


Tasks = Iterator[Task]


class Bench:
    """Times tasks on one device.

    Parameters
    ----------
    repeats
        Samples of a task; fewer, at least `LEAST`, where they would exceed `budget_s`.
    """

    def __init__(self, device: str, *, repeats: int = 5, budget_s: float = 0.25) -> None:
        self.device = torch.device(device)
        self.watch = Stopwatch(device)
        self.repeats = repeats
        self.budget_s = budget_s

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.watch.cuda

    @property
    def sets(self) -> int:
        """Sets of operands to rotate through; interleaved on a CPU, other ops run between two uses."""
        return 3 if self.cuda else 1

    def time(self, tasks: Sequence[Task]) -> list[Sample]:
        """Warm up, repeat, and keep every sample.

        On a CPU the tasks take turns, in another order each round, so that each finds the caches as a
        different op left them: alone in a loop a small op looks up to twice as fast
        as inside a model. What the operation before it in a model would have written is written anew.
        """
        with torch.inference_mode():
            if not self.cuda and not any(task.host for task in tasks):
                return self._interleaved(tasks)
            return [self._alone(task) for task in tasks]

    def _alone(self, task: Task) -> Sample:
        step = task.make().step
        return self._host(task, step) if task.host else self._events(task, step)

    def _interleaved(self, tasks: Sequence[Task]) -> list[Sample]:
        def measurement(prepared: Prepared) -> Callable[[int], float]:
            def once(turn: int) -> float:
                for tensor in prepared.fresh:
                    tensor.neg_()
                return self.watch.time(lambda: prepared.step(turn))

            return once

        taken = interleaved(
            [measurement(task.make()) for task in tasks],
            warmup=1,
            repeats=self.repeats,
            budget_s=self.budget_s,
            least=LEAST,
            shuffled=True,
        )
        return [_sample(task, samples, self.watch) for task, samples in zip(tasks, taken, strict=True)]

    def _host(self, task: Task, step: Step) -> Sample:
        """What the host spends on queueing the task's runs: the queue is drained between samples."""
        watch = Stopwatch(self.device, host=True)
        once = _repeated(step, task.runs)
        (taken,) = interleaved([lambda _: watch.time(once) / task.runs], warmup=1, repeats=self.repeats)
        return _sample(task, taken, watch)

    def _events(self, task: Task, step: Step) -> Sample:
        """Device time: the runs of a sample are recorded as one graph, so that no launch gap counts."""
        for turn in range(3):
            step(turn)
        # called one by one, an operation of several kernels takes what the host takes to queue them
        replay = self._graph(step, 1)
        self.watch.time(replay)
        once = self.watch.time(replay)
        runs = max(1, min(CUDA_MAX_RUNS, math.ceil(CUDA_SPAN_S / max(once, 1e-6))))
        if runs > 1:
            replay = self._graph(step, runs)
        (taken,) = interleaved(
            [lambda _: self.watch.time(replay)], warmup=1, repeats=self.repeats, budget_s=self.budget_s, least=LEAST
        )
        return _sample(task, [seconds / runs for seconds in taken], self.watch)

    def _graph(self, step: Step, runs: int) -> Callable[[], None]:
        plain = _repeated(step, runs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            plain()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                plain()
        except RuntimeError:  # an operation that synchronises cannot be recorded
            torch.cuda.synchronize()
            return plain
        return graph.replay

    def free(self) -> None:
        """Give cached device memory back, after running out of it."""
        if self.cuda:
            torch.cuda.empty_cache()

    def randn(self, *shape: int, dtype: str) -> torch.Tensor:
        """Normal numbers. Zeros would flatter a GPU: they draw less power."""
        return torch.randn(*shape, device=self.device).to(DTYPES[dtype])


class WeightPool:
    """Weights of any shape out of one block several times the last-level cache, another part each time.

    Allocated on first use, so that listing tasks costs nothing.
    """

    def __init__(self, bench: Bench, *, elements: int, dtype: str) -> None:
        self._bench, self._elements, self._dtype = bench, elements, dtype
        self._block: torch.Tensor | None = None

    def views(self, rows: int, columns: int) -> list[torch.Tensor]:
        """Disjoint (rows, columns) weights that together fill the pool; at least one."""
        size = rows * columns
        block = self._room(size)
        count = max(1, min(MAX_WEIGHTS, block.numel() // size))
        return [block[i * size : (i + 1) * size].view(rows, columns) for i in range(count)]

    def _room(self, size: int) -> torch.Tensor:
        if self._block is None or self._block.numel() < size:
            elements = max(self._elements, size)
            chunk = self._bench.randn(min(elements, 1 << 20), dtype=self._dtype)
            self._block = chunk.repeat(math.ceil(elements / chunk.numel()))[:elements].contiguous()
        return self._block


def rotating(tensors: list[torch.Tensor], use: Callable[[torch.Tensor], object]) -> Step:
    """A step that uses the next tensor each time."""
    return lambda turn: use(tensors[turn % len(tensors)])


def _repeated(step: Step, runs: int) -> Callable[[], None]:
    def call() -> None:
        for turn in range(runs):
            step(turn)

    return call


def _sample(task: Task, samples: Sequence[float], watch: Stopwatch) -> Sample:
    return Sample(
        op=task.op,
        name=task.name,
        dims=dict(task.dims),
        dtype=task.dtype,
        samples_s=tuple(samples),
        clock=watch.clock,
        labels=dict(task.labels),
    )
