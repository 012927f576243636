"""A model with random weights on a device, and how its calls are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...kernels._dispatch import path_name
from ...runtime.build import build_model
from ...runtime.executor import apply
from ...runtime.graph import Captured, capture
from ...runtime.masked import apply_masked
from ...runtime.timing import single_thread, time_call
from ...types import Schedule, runs_of
from ..records import Clock, Sample

__all__ = ["ATTENTION_BACKENDS", "Prefill", "Rig", "Tick", "attending", "computing", "token_runs", "weight_bytes"]

Tick = Callable[[], None]
ATTENTION_BACKENDS = {
    "flash": "FLASH_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
}
Around = Callable[[], AbstractContextManager[Any]]
LEAST, WARMUP = 3, 2


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """One prefill to time.

    Attributes
    ----------
    name
        Which one it is.
    prompt
        Tokens of the prompt before anything is reduced.
    schedule
        What is executed; None: every token in every layer.
    implementation
        ``fused`` (dropped tokens are gone) or ``masked`` (hidden, as the released AIM does).
    run
        The run as JSON text: what a prediction is made from.
    labels
        Further labels of the samples; ``sdpa`` also says which backend of PyTorch's attention must run.
    """

    name: str
    prompt: int
    schedule: Schedule | None
    implementation: str
    run: str
    labels: Mapping[str, str]


class Rig:
    """One model, and samples of what is called on it.

    Parameters
    ----------
    config
        A Hugging Face configuration.
    repeats, budget_s
        Samples of a timing; fewer, at least `LEAST`, once `budget_s` seconds have gone.
    tick
        Asked before every sample.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        device: str,
        dtype: str,
        repeats: int,
        budget_s: float,
        tick: Tick,
        seed: int = 0,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self.repeats, self.budget_s, self.tick = repeats, budget_s, tick
        torch.manual_seed(seed)
        self.model = build_model(config, device=device, dtype=dtype, seed=seed)
        text = getattr(self.model.config, "text_config", None) or self.model.config
        self.hidden: int = text.hidden_size
        self.layers: int = text.num_hidden_layers

    @property
    def cuda(self) -> bool:
        """Whether the model is on a GPU."""
        return self.device.type == "cuda"

    def inputs(self, tokens: int, batch: int = 1) -> dict[str, Any]:
        """Random embeddings of a prompt; only the last token's logits are asked for, as in generation."""
        embeds = torch.randn(batch, tokens, self.hidden, device=self.device, dtype=self.model.dtype)
        return {"inputs_embeds": embeds, "use_cache": True, "logits_to_keep": 1}

    def around(self, case: Prefill) -> Around:
        """What makes the context in which a prefill is executed as its schedule says."""
        schedule = case.schedule
        if schedule is None or not schedule.events:
            return partial(attending, case.labels.get("sdpa"))
        chosen = apply_masked if case.implementation == "masked" else apply
        return lambda: chosen(self.model, schedule)

    def prefill(self, case: Prefill, paths: tuple[str, ...] = ("graph", "eager")) -> tuple[list[Sample], list[str]]:
        """Samples of a prefill by path, and notes; where no graph is possible, eager alone.

        Every repeat computes on fresh random embeddings.
        """
        inputs, around = self.inputs(case.prompt), self.around(case)
        samples, notes = [], []
        if "graph" in paths:
            captured = capture(self.model, inputs, around=around)
            if captured.captured:
                samples.append(self._graphed(case, captured))
                captured.free()
            elif self.cuda:
                notes.append(f"{case.name}: {captured.reason}")
            del captured
        if "eager" in paths or not samples:
            with torch.inference_mode(), around():
                timed = self.timed(lambda: self.model(**inputs), fresh=lambda: _redraw(inputs["inputs_embeds"]))
            samples.append(self.sample("prefill", case, timed, path="eager"))
        self.release()
        return samples, notes

    def _graphed(self, case: Prefill, captured: Captured) -> Sample:
        embeds = captured.buffers["inputs_embeds"]
        timed = self.timed(captured, fresh=lambda: _redraw(embeds))
        return self.sample("prefill", case, timed, path="graph")

    def timed(self, call: Callable[[], object], *, fresh: Tick = lambda: None) -> tuple[float, ...]:
        """Seconds of `call`, repeated within the budget; `fresh` runs before each, untimed."""
        taken: list[float] = []
        began = time.perf_counter()
        while len(taken) < self.repeats:
            self.tick()
            fresh()
            taken += time_call(call, device=self.device, warmup=0 if taken else WARMUP, repeats=1).samples
            if len(taken) >= LEAST and time.perf_counter() - began > self.budget_s:
                break
        return tuple(taken)

    def sample(
        self,
        op: str,
        case: Prefill,
        seconds: tuple[float, ...],
        *,
        path: str,
        name: str | None = None,
        tokens: int | None = None,
        **dims: float,
    ) -> Sample:
        """A record's sample, with all that a prediction of it needs."""
        schedule = case.schedule
        counts = (case.prompt,) * self.layers if schedule is None else schedule.tokens
        clock: Clock = "cuda_event" if self.cuda else "thread_cpu"
        sizes = {"batch": 1.0, "prompt": float(case.prompt), "layers": float(self.layers), "hidden": float(self.hidden)}
        if tokens is not None:
            sizes["tokens"] = float(tokens)
        return Sample(
            op=op,
            name=case.name if name is None else name,
            dims={**sizes, **dims},
            dtype=self.dtype,
            samples_s=seconds,
            clock=clock,
            labels={
                "path": path,
                "implementation": case.implementation,
                "method": "none" if schedule is None else schedule.method,
                "tokens": token_runs(counts),
                "kernels": path_name(self.device),
                "run": case.run,
                **case.labels,
            },
        )

    def drain(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def release(self) -> None:
        """Give cached memory back, so that the next prompt finds it in one piece."""
        if self.cuda:
            torch.cuda.empty_cache()


def weight_bytes(config: Mapping[str, Any], dtype: str) -> float:
    """Bytes of a model's weights, without building it."""
    model = build_model(config, device="meta", dtype=dtype)
    return float(sum(p.numel() * p.element_size() for p in model.parameters()))


def attending(backend: str | None) -> AbstractContextManager[Any]:
    """Attention by one backend alone, by name; by whichever PyTorch prefers when None."""
    if backend is None:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    found: AbstractContextManager[Any] = sdpa_kernel(getattr(SDPBackend, ATTENTION_BACKENDS[backend]))
    return found


@contextmanager
def computing(device: str) -> Iterator[None]:
    """One CPU thread, whose time is what is measured there; given back afterwards."""
    with single_thread(device):
        yield


def token_runs(tokens: tuple[int, ...]) -> str:
    """Tokens layer by layer in runs: ``1668x15,1472,1276``."""
    return ",".join(f"{count}x{layers}" if layers > 1 else str(count) for count, layers in runs_of(tokens))


def _redraw(embeds: torch.Tensor) -> None:
    embeds.normal_()
