"""What a measurement runs: a run's model with random weights, its prompt, and its schedule in force."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from ..errors import InvalidValueError, UnsupportedModelError
from ..extras import require_device
from ..inputs.stack import DEFAULT_STACK, EXECUTIONS
from ..methods.registry import require_runnable
from ..runtime.build import build_model
from ..runtime.executor import apply
from ..runtime.layout import Boundaries
from ..runtime.masked import apply_masked
from ..types.formats import PARTS, part_format

if TYPE_CHECKING:
    from ..inputs.run import Run

__all__ = ["Prompt", "build", "check_run", "executing", "prompt_of", "rehearse", "runnable_stacks", "sees_pixels"]

_DTYPES = ("fp32", "bf16", "fp16")
_STACKS = {name: EXECUTIONS[name] for name in ("eager", "cuda_graph")}
_IMAGE_MODELS, _VIDEO_MODELS = ("llava",), ("llava_onevision",)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model is called with, and which of it is visual (None: the placeholders tell)."""

    inputs: Mapping[str, torch.Tensor]
    boundaries: Boundaries | None


def check_run(run: Run, device: str) -> None:
    """Refuse what cannot be executed, before anything is built.

    Raises
    ------
    InvalidValueError, UnsupportedModelError
        Naming the key and what is possible.
    """
    require_device(device)
    precision = run.precision
    formats = {precision.activations, precision.kv, *(part_format(precision, part) for part in PARTS)}
    formats |= {precision.experts} - {None}
    if len(formats) > 1 or not formats <= set(_DTYPES):
        raise InvalidValueError("precision", f"one of {', '.join(_DTYPES)} throughout, to be run", sorted(formats))
    if run.parallel.devices > 1:
        raise InvalidValueError("parallel", "one device, to be run", run.parallel.devices)
    if run.implementation == "eager" or (run.attention != "flash" and run.implementation != "masked"):
        raise InvalidValueError("attention", "flash, with implementation fused or masked, to be run", run.attention)
    if run.stack.name not in runnable_stacks(device):
        names = " or ".join(f"{name} (execution: {old})" for old, name in _STACKS.items())
        raise InvalidValueError("stack", f"{names}, the latter on CUDA alone, to be run", run.stack.name)
    require_runnable(run.schedule)


def runnable_stacks(device: str) -> tuple[str, ...]:
    """Stacks that runs can be executed under here: as called, and on CUDA as one graph."""
    return tuple(_STACKS.values()) if torch.device(device).type == "cuda" else (DEFAULT_STACK,)


def sees_pixels(run: Run) -> bool:
    """Whether the tower runs: there are images or frames, and ``include`` does not leave it out."""
    return bool(run.workload.frames or run.workload.images) and (run.include is None or "vision" in run.include)


def rehearse(run: Run) -> None:
    """Refuse what the model itself shows to be impossible, on one without weights.

    Raises
    ------
    UnsupportedModelError, ScheduleError, InvalidValueError, UnknownNameError
        A family, a scorer or a prompt that cannot be run.
    """
    model = build(run, "meta")
    executing(run, model, prompt_of(run, model), "reduced" if run.schedule.events else "dense")


def build(run: Run, device: str) -> PreTrainedModel:
    """The run's model with random weights, in its number format."""
    config = {key: value for key, value in run.hf_config().items() if key != "name"}
    return build_model(config, device=device, dtype=run.precision.weights)


def prompt_of(run: Run, model: PreTrainedModel, *, embedded: bool = False) -> Prompt:
    """A prompt of random tokens, and random pixels where the run's tower sees any.

    Parameters
    ----------
    embedded
        Random embeddings in place of both: nothing depends on a token's value then, as a CUDA graph needs.
        So is a run whose ``include`` leaves out the tower.

    Raises
    ------
    UnsupportedModelError
        Pixels for a family whose input form is not known here; ``visual_tokens`` runs the decoder alone.
    InvalidValueError
        The run has a cached prefix.
    """
    if run.workload.cached_tokens:
        what = "omitted: what is measured starts with an empty cache"
        raise InvalidValueError("workload.cached_tokens", what, run.workload.cached_tokens)
    workload, schedule = run.workload, run.schedule
    text, visual = workload.text_tokens, workload.visual_tokens
    triple = (schedule.text_before, visual, schedule.text_tokens - schedule.text_before)
    if embedded or not (sees_pixels(run) or run.include is None):
        size = (workload.batch, text + visual, model.config.get_text_config().hidden_size)
        embeds = torch.randn(*size, device=model.device).to(model.dtype)
        return Prompt(inputs={"inputs_embeds": embeds}, boundaries=triple)
    generator = torch.Generator().manual_seed(0)
    kind = model.config.model_type
    vocabulary = model.config.get_text_config().vocab_size
    special = [getattr(model.config, f"{name}_token_id", None) for name in ("image", "video")]
    known = [token for token in special if token is not None]
    highest = min([vocabulary, *known])
    ids = torch.randint(1, max(2, highest), (workload.batch, text + visual), generator=generator)
    if not sees_pixels(run):
        # no placeholders: say what is visual
        return Prompt(inputs={"input_ids": ids.to(model.device)}, boundaries=triple)
    before = schedule.text_before
    count: tuple[int, ...]
    if workload.sizes or (workload.frames and workload.images):
        raise UnsupportedModelError("validate feeds a tower images or frames of one size")
    if workload.frames and kind in _VIDEO_MODELS:
        key, token, count = "pixel_values_videos", special[1], (workload.batch, workload.frames)
    elif workload.images and kind in _IMAGE_MODELS:
        key, token, count = "pixel_values", special[0], (workload.batch * workload.images,)
    else:
        raise UnsupportedModelError(
            f"validate feeds frames to {', '.join(_VIDEO_MODELS)} and images to {', '.join(_IMAGE_MODELS)} "
            f"(got {kind}): with workload.visual_tokens its decoder alone is measured"
        )
    ids[:, before : before + visual] = token
    side = model.config.vision_config.image_size
    pixels = torch.randn((*count, 3, side, side), generator=generator).to(model.device, model.dtype)
    return Prompt(inputs={"input_ids": ids.to(model.device), key: pixels}, boundaries=None)


def executing(run: Run, model: PreTrainedModel, prompt: Prompt, variant: str) -> AbstractContextManager[Any]:
    """The schedule in force on the model, for the reduced variant; nothing for the dense one."""
    if variant == "dense":
        return nullcontext()
    execute = apply_masked if run.implementation == "masked" else apply
    return execute(model, run.schedule, boundaries=prompt.boundaries)
