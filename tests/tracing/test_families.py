"""Every hand-written text family is its own trace: op for op, parameters, cache."""

from __future__ import annotations

import pytest

import aimcost
from aimcost.inputs.model import model_config

pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# One of each family that is a text model; two layers say what all do.
FAMILIES = ("llama-3.2-1b", "mistral-7b-v0.3", "mixtral-8x7b", "qwen2-0.5b", "qwen3-0.6b", "qwen3-30b-a3b")
WORKLOADS = ({"batch": 3, "text_tokens": 77, "new_tokens": 5}, {"batch": 1, "text_tokens": 1000, "new_tokens": 2})
# transformers normalises every token, of which lm_head needs the last.
ALL_TOKENS = "final_norm"


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    """A configuration of two layers, and its trace."""
    from aimcost.tracing.trace import trace

    config = {**model_config(request.param), "num_hidden_layers": 2}
    return config, trace(config)


@pytest.fixture(params=range(len(WORKLOADS)))
def estimates(request, pair):
    return [
        aimcost.estimate({"model": model, "hardware": "nvidia_a100_sxm_80gb", "workload": WORKLOADS[request.param]})
        for model in pair
    ]


def test_parameters_and_memory(estimates, pair):
    ours, theirs = (estimate.to_dict() for estimate in estimates)
    for key in ("parameters", "active_parameters"):
        assert ours["summary"][key] == theirs["summary"][key]
    assert ours["memory"]["weights_bytes"] == theirs["memory"]["weights_bytes"]
    assert ours["memory"]["kv_by_layer"] == theirs["memory"]["kv_by_layer"]
    if "experts" not in str(pair[1]):  # copies of every token for each of its experts are in the trace alone
        # a trace holds positions, angles and ids too
        assert theirs["memory"]["peak_bytes"] == pytest.approx(ours["memory"]["peak_bytes"], rel=0.005)


def test_flops_of_products(estimates):
    ours, theirs = estimates
    for stage in ("prefill", "decode"):
        for full_square in (False, True):
            square = {"full_square": full_square}
            assert ours.matrix_flops([stage], **square) == theirs.matrix_flops([stage], **square)


def test_ops_of_the_same_name_are_the_same(estimates, pair):
    ours, theirs = ({(op["stage"], op["layer"], op["name"]): op for op in estimate.ops()} for estimate in estimates)
    shared = [key for key in ours if key in theirs and key[2] != ALL_TOKENS]
    for key in shared:
        for figure in (
            "flops",
            "bytes",
            "read_weights_bytes",
            "read_activations_bytes",
            "read_kv_bytes",
            "write_kv_bytes",
        ):
            assert ours[key][figure] == pytest.approx(theirs[key][figure], rel=1e-12), (key, figure)
    # experts: gate and up are one tensor in transformers, and the choice of experts is several ops
    apart = {key[2] for key in {*ours, *theirs} - {*shared}} - {ALL_TOKENS}
    experts = {"gate_proj", "up_proj", "gate_up_proj", "route", "mlp_act"}
    assert all(name in experts or name.startswith("gate_") for name in apart)
