"""Towers and projectors, traced and priced: parameters and FLOPs are those of the real model, at images not traced."""

from __future__ import annotations

import pytest

import aimcost

pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# Pooling behind the tower; tiles, with a tower of any grid in check-all.
SAMPLE = ("smolvlm",)
MORE = (
    *("gemma3", "paligemma", "idefics3", "pixtral", "mistral3", "llama4", "glm4v", "glm4v_moe", "aria", "ovis2"),
    *("internvl", "qwen3_5", "cohere2_vision", "aya_vision", "llava_next_video", "lfm2_vl", "qwen2_5_omni_thinker"),
    "kimi_k25",
)


@pytest.mark.parametrize("kind", [*SAMPLE, *(pytest.param(kind, marks=pytest.mark.check_all) for kind in MORE)])
def test_figures_are_those_of_the_real_tower(kind, comparison):
    found = comparison.compared_tower(kind)
    for ours, theirs in (*found.parameters, *found.flops):
        assert ours == theirs


def test_every_configuration_is_compared(comparison):
    assert {*SAMPLE, *MORE} == {*comparison.TOWERS}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seconds", 4, "workload.fps.*given together with seconds"),
        ("max_pixels", 10**6, "workload.max_pixels"),
    ],
)
def test_what_a_trace_does_not_say_is_refused(key, value, message, comparison):
    workload = {"images": 1, key: value} if key == "max_pixels" else {key: value}
    config = comparison.TOWERS["smolvlm"]
    config = {**config, "text_config": {**config["text_config"], "num_hidden_layers": 2}}
    with pytest.raises(aimcost.errors.InvalidValueError, match=message):
        aimcost.estimate({"model": config, "hardware": "nvidia_a100_sxm_80gb", "workload": workload})
