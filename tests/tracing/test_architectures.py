"""Types of transformers, traced and priced: parameters, FLOPs and cache are those of the real model.

Default configurations with four layers, at counts that were not traced, below and above every window and block. What
is not exact is in `REFUSED`, with the reason in its message.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import aimcost
from aimcost.errors import UnsupportedModelError
from aimcost.inputs.autotrace import transformers_knows

pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# Windows, compressed caches, experts behind dense layers, sinks, linear attention, a hybrid of two mixers.
SAMPLE = ("gemma3_text", "deepseek_v3", "gpt_oss", "qwen3_next", "falcon_h1", "phi3")
EXACT = Path(__file__).with_name("architectures.txt").read_text(encoding="utf-8").split()
# What a default configuration leaves out, or sizes that put a boundary among the counts below.
KEYS: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 100},
    "gemma3_text": {"sliding_window": 100, "layer_types": [*3 * ["sliding_attention"], "full_attention"]},
    "gpt_oss": {"sliding_window": 100},
    "llama4_text": {"attention_chunk_size": 100},
    "mistral": {"sliding_window": 100},
}
REFUSED = {
    "bart": "encoder-decoder",
    "bert": "its layers are not causal",
    "longcat_flash": "not one list",
    "nemotron_h": "masked_fill: .* follows no expression",
}
COUNTS = ((2, 57), (1, 333))


@pytest.fixture(scope="module")
def real_model():
    """transformers' own figures (real_model.py beside this file)."""
    spec = importlib.util.spec_from_file_location("real_model", Path(__file__).with_name("real_model.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RealModel


def _config(kind):
    return {"model_type": kind, "num_hidden_layers": 4, **KEYS.get(kind, {})}


def _priced(traced, batch, tokens, new_tokens=0):
    workload = {"batch": batch, "text_tokens": tokens, "new_tokens": new_tokens}
    return aimcost.estimate({"model": traced, "hardware": "nvidia_a100_sxm_80gb", "workload": workload})


@pytest.mark.parametrize(
    "kind", [*SAMPLE, *(pytest.param(k, marks=pytest.mark.check_all) for k in EXACT if k not in SAMPLE)]
)
def test_figures_are_those_of_the_real_model(kind, real_model):
    from aimcost.tracing.trace import trace

    if not transformers_knows(kind):
        pytest.skip("not in this release of transformers")
    traced = trace(_config(kind))
    real = real_model(_config(kind))
    assert _priced(traced, 1, 1).to_dict()["summary"]["parameters"] == traced["parameters"] == real.parameters
    for batch, tokens in COUNTS:
        flops, _ = real.flops(batch, tokens)
        assert _priced(traced, batch, tokens).matrix_flops(["prefill"], full_square=True) == flops
        flops, cache = real.flops(batch, tokens, step=True)
        step = _priced(traced, batch, tokens, 2)
        assert step.matrix_flops(["decode"], full_square=True) == flops
        assert step.memory.kv_by_layer == cache
        assert 0 < step.totals.time_s < 1
        assert not any("nan" in str(op) for op in step.ops())


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.check_all) for kind in REFUSED])
def test_what_cannot_be_traced_is_refused_in_one_line(kind):
    from aimcost.tracing.trace import trace

    if not transformers_knows(kind):
        pytest.skip("not in this release of transformers")
    with pytest.raises(UnsupportedModelError, match=REFUSED[kind]):
        trace(_config(kind))
