"""A run's headline figures as one flat mapping; None where a figure has no meaning."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from ..inputs.run import Run
from ..models import decoder as decoder_ops
from ..models import projector as projector_ops
from ..models import traced, vit
from ..types import ModelSpec
from .estimator import estimator_of
from .result import Estimate

__all__ = ["mean_visual_tokens", "model_parameters", "summary_of", "workload_of"]


def summary_of(estimate: Estimate) -> dict[str, Any]:
    """Stack, times with their bands, tokens, parameters, and the gain over the same run unreduced.

    A reduction that saves nothing has a speed-up below 1 and no time saved.
    """
    run = estimate.run
    first = estimate.ttft_s > 0.0
    low, high = estimate.ttft_band_s
    total = estimate.totals.time_s
    decodes = "decode" in estimate.included and run.workload.new_tokens > 0
    ratio = saved = None
    if estimate.gain is not None and first:
        ratio, saved = estimate.gain.speedup, estimate.gain.saved
    stored, active = model_parameters(run.model)
    return {
        "stack": run.stack.name if estimator_of(estimate.estimator).uses_stack else None,
        "method": run.schedule.method,
        "ttft_s": estimate.ttft_s if first else None,
        "ttft_low_s": low if first else None,
        "ttft_high_s": high if first else None,
        **estimate.decode_step(),
        "request_s": total or None,
        "tokens_per_s": run.workload.batch * run.workload.new_tokens / total if decodes and total else None,
        "visual_tokens": run.workload.visual_tokens,
        "mean_visual_tokens": mean_visual_tokens(run),
        "parameters": stored,
        "active_parameters": active,
        "context_limit": run.model.decoder.context_limit,
        "concurrent_requests": estimate.memory.concurrent_requests,
        "ttft_saved_s": saved.value if saved is not None and saved.value >= 0 else None,
        "ttft_speedup": ratio.value if ratio is not None else None,
        "ttft_speedup_low": ratio.low if ratio is not None and ratio.high is not None else None,
        "ttft_speedup_high": ratio.high if ratio is not None else None,
    }


def mean_visual_tokens(run: Run) -> float:
    """Visual tokens of a request, the mean over layers: papers name their settings by it."""
    tokens = run.schedule.tokens
    return sum(tokens) / len(tokens) - run.schedule.text_tokens


def workload_of(run: Run) -> dict[str, Any]:
    """The workload as it was resolved against the model."""
    workload = run.workload
    return {
        **asdict(workload),
        "visual_tokens": workload.visual_tokens,
        "text_tokens": workload.text_tokens,
        "prompt_tokens": workload.prompt_tokens,
    }


def model_parameters(model: ModelSpec) -> tuple[float, float]:
    """Stored parameters of the whole model, and those that one token passes through."""
    decoder, moe = model.decoder, model.decoder.moe
    outside = projector_ops.parameters(model) if model.projector is not None else 0.0
    outside += vit.parameters(model.vision) if model.vision is not None else 0.0
    stored = decoder_ops.parameters(decoder)
    if decoder.traced is not None:
        return stored + outside, stored + outside - traced.idle_parameters(decoder.traced)
    if moe is None:
        return stored + outside, stored + outside
    chosen = decoder_ops.parameters(replace(decoder, moe=replace(moe, experts=moe.active)))
    # the router scores all experts
    router = decoder.layers * decoder.hidden * (moe.experts - moe.active)
    return stored + outside, chosen + router + outside
