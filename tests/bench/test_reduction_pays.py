"""Dropping tokens saves what it saves in FLOPs: dense against reduced prefills of Qwen2-0.5B's shape, one CPU thread.

    pytest tests/bench/test_reduction_pays.py -m check_all -s

Prefills are interleaved and their medians compared, in this thread's CPU time. What selection costs is the difference
to a prefill of the same token counts that selects by position.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

import aimcost
from aimcost.runtime import build_model
from aimcost.runtime.timing import single_thread, time_alternately
from aimcost.types import runs_of

# Eight of the 24 layers: a method's layers are scaled alike.
MODEL = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 8,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 32768,
}
WORKLOAD = {"visual_tokens": 980, "text_tokens": {"system": 14, "question": 46}}
FP32 = {"weights": "fp32", "activations": "fp32", "kv": "fp32"}
METHODS = {
    "AIM 25 %": {"name": "aim", "merge_ratio": 0.25, "l1": 4, "l2": 6},
    "AIM, pruning alone": {"name": "aim", "merge_ratio": 1.0, "l1": 3, "l2": 6},
    "FastV": {"name": "fastv", "k": 2, "ratio": 0.75},
}
REPEATS = 7
SHORTFALL, SELECTION = 0.04, 0.02


@pytest.mark.check_all
@pytest.mark.parametrize("label", METHODS)
def test_the_speed_up_is_that_of_the_flops(label: str) -> None:
    runs = {
        "dense": {"name": "none"},
        "reduced": METHODS[label],
        "by position": _by_position(METHODS[label]),
    }
    with single_thread():
        model = build_model(MODEL)
        embeds = torch.randn(1, 1040, MODEL["hidden_size"])

        def prefill(method: dict[str, Any]) -> Any:
            schedule = aimcost.schedule(_run(method))
            boundaries = (14, 980, 46)

            def call() -> None:
                if method["name"] == "none":
                    model(inputs_embeds=embeds, logits_to_keep=1)
                    return
                with aimcost.apply(model, schedule, boundaries=boundaries):
                    model(inputs_embeds=embeds, logits_to_keep=1)

            return call

        timings = time_alternately([prefill(method) for method in runs.values()], repeats=REPEATS)
    dense, reduced, plain = (timing.median for timing in timings)
    flops = [_flops(runs[name]) for name in ("dense", "reduced")]
    speedup, ratio = dense / reduced, flops[0] / flops[1]
    selection = max(0.0, reduced - plain) / reduced
    print(f"{label}: {speedup:.2f}x of {ratio:.2f}x FLOPs; selection {selection:.1%} of the reduced prefill")
    assert speedup >= (1 - SHORTFALL) * ratio
    assert selection <= SELECTION


def _run(method: dict[str, Any]) -> dict[str, Any]:
    return {"model": MODEL, "workload": WORKLOAD, "method": method, "precision": FP32}


def _flops(method: dict[str, Any]) -> float:
    """Of the prefill and what reduces it, causal attention as CPU kernels execute it."""
    estimate = aimcost.estimate(_run(method), estimator="roofline", hardware="nvidia_a100_sxm_80gb").to_dict()
    return float(sum(estimate["stages"][stage]["flops"] for stage in ("merge", "prefill")))


def _by_position(method: dict[str, Any]) -> dict[str, Any]:
    """The same counts in every layer, chosen by position."""
    tokens = aimcost.schedule(_run(method)).tokens
    return {"name": "explicit", "tokens_per_layer": [list(run) for run in runs_of(tokens)], "select": "uniform"}
