"""The parts of a request around its prefill: the tower, decoding, the whole, and memory."""

from __future__ import annotations

from typing import Any

import torch

from ...runtime.compat import cache_argument, cache_of, video_features
from ...runtime.graph import capture, shallow
from ..records import Sample
from .torch_rig import Prefill, Rig

__all__ = ["decode", "peak_memory", "time_to_first_token", "tower"]


def _pixels(rig: Rig, frames: int) -> torch.Tensor:
    side = rig.model.config.vision_config.image_size
    return torch.randn(1, frames, 3, side, side, device=rig.device).to(rig.model.dtype)


def tower(rig: Rig, case: Prefill, frames: int) -> list[Sample]:
    """The vision tower with projector and pooling on a video, as one graph and eager."""
    pixels = _pixels(rig, frames)

    def features(pixel_values: torch.Tensor) -> Any:
        return video_features(rig.model.model, pixel_values)

    samples = []
    captured = capture(features, {"pixel_values": pixels})
    if captured.captured:
        seconds = rig.timed(captured, fresh=lambda: _redraw(captured.buffers["pixel_values"]))
        samples.append(rig.sample("vision", case, seconds, path="graph", frames=float(frames)))
        captured.free()
    with torch.inference_mode():
        seconds = rig.timed(lambda: features(pixels), fresh=lambda: _redraw(pixels))
    return [*samples, rig.sample("vision", case, seconds, path="eager", frames=float(frames))]


def decode(rig: Rig, case: Prefill) -> tuple[list[Sample], list[str]]:
    """The first decode step after a prefill, with the cache that its schedule leaves."""
    samples, notes, name = [], [], cache_argument(rig.model)
    with torch.inference_mode(False), torch.no_grad(), rig.around(case)():
        cache = cache_of(rig.model(**rig.inputs(case.prompt)))
        token = rig.inputs(1)

        def step(**inputs: Any) -> Any:
            return rig.model(**inputs, **{name: shallow(cache)})

        captured = capture(step, token)
        if captured.captured:
            seconds = rig.timed(captured, fresh=lambda: _redraw(captured.buffers["inputs_embeds"]))
            samples.append(rig.sample("decode", case, seconds, path="graph"))
            captured.free()
        elif rig.cuda:
            notes.append(f"{case.name}: {captured.reason}")
        seconds = rig.timed(lambda: step(**token), fresh=lambda: _redraw(token["inputs_embeds"]))
        samples.append(rig.sample("decode", case, seconds, path="eager"))
    rig.release()
    return samples, notes


def time_to_first_token(rig: Rig, case: Prefill, frames: int) -> tuple[list[Sample], list[str]]:
    """Pixels and token ids in, logits of the last token out, eager: tower, projector, merging, prefill."""
    pixels = _pixels(rig, frames)
    ids = torch.randint(1, 100, (1, case.prompt), device=rig.device)
    schedule = case.schedule
    before = schedule.text_before if schedule is not None else int(case.labels["text_before"])
    visual = int(case.labels["visual_tokens"])
    ids[:, before : before + visual] = rig.model.config.video_token_id
    inputs = {"input_ids": ids, "pixel_values_videos": pixels, "use_cache": True, "logits_to_keep": 1}
    with torch.inference_mode(), rig.around(case)():
        seconds = rig.timed(lambda: rig.model(**inputs), fresh=lambda: _redraw(pixels))
    return [rig.sample("ttft", case, seconds, path="eager", frames=float(frames))], []


def peak_memory(rig: Rig, case: Prefill) -> dict[str, Any]:
    """Bytes of the weights, and the most that one prefill holds beside them (0 on a CPU: not told)."""
    weights = sum(p.numel() * p.element_size() for p in rig.model.parameters())
    peak = held = 0
    if rig.cuda:
        rig.release()
        torch.cuda.reset_peak_memory_stats(rig.device)
        before = torch.cuda.memory_allocated(rig.device)
    inputs = rig.inputs(case.prompt)
    with torch.inference_mode(), rig.around(case)():
        output = rig.model(**inputs)
    if rig.cuda:
        rig.drain()
        peak = torch.cuda.max_memory_allocated(rig.device) - before
        held = torch.cuda.memory_allocated(rig.device) - before
    layers = cache_of(output).layers
    kv = sum(part.numel() * part.element_size() for layer in layers for part in (layer.keys, layer.values))
    return {"memory": case.name, "weights_bytes": weights, "kv_bytes": kv, "peak_bytes": peak, "held_bytes": held}


def _redraw(tensor: torch.Tensor) -> None:
    tensor.normal_()
