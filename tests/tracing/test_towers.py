"""Towers and projectors, traced and priced: parameters and FLOPs are those of the real model, at images not traced."""

from __future__ import annotations

import pytest

import aimcost
from aimcost.inputs.traced_file import traced_model
from aimcost.models.visual_tokens import tower_load

pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# Of one size with pooling behind it, tiles, any grid of patches.
SAMPLE = ("gemma3", "smolvlm", "mistral3")
MORE = (
    *("paligemma", "idefics3", "pixtral", "llama4", "glm4v", "glm4v_moe", "aria", "ovis2", "internvl", "qwen3_5"),
    *("cohere2_vision", "aya_vision"),
)
# Those whose masks meta tensors cannot pass: the real one runs on the CPU, with a small tower.
RUN = ("glm4v", "glm4v_moe", "aria", "qwen3_5")
# Text layers that a trace of a tower has to pass.
LAYERS = 2
# (images a request, requests, width, height)
SIZES = ((3, 1, 1000, 700), (1, 4, 1000, 300), (2, 3, 420, 900))


@pytest.fixture(scope="module", params=[*SAMPLE, *(pytest.param(kind, marks=pytest.mark.check_all) for kind in MORE)])
def traced(request, configs):
    from aimcost.tracing.trace import trace

    config = configs[request.param]
    if request.param != "qwen3_5":
        config = {**config, "text_config": {**config["text_config"], "num_hidden_layers": LAYERS}}
    return trace(config)


@pytest.fixture(scope="module")
def real(traced, real_models):
    device = "cpu" if traced["architecture"] in RUN else "meta"
    return real_models.RealTower(traced["config"], device)


def test_parameters(traced, real):
    assert traced["parts"]["tower"]["parameters"] == real.parameters
    assert traced["parts"]["decoder"]["outer_parameters"] >= 0


@pytest.mark.parametrize("size", SIZES)
def test_flops(traced, real, size):
    images, batch, width, height = size
    run = {
        "model": traced,
        "hardware": "nvidia_a100_sxm_80gb",
        "workload": {"batch": batch, "images": images, "image_size": [width, height], "text_tokens": 20},
    }
    estimate = aimcost.estimate(run)
    load = tower_load(estimate.run.model, estimate.run.workload)
    patch = estimate.run.model.vision.patch_size
    pixels = (load.rows * patch, load.columns * patch)
    side = estimate.run.model.vision.image_size
    if side:
        pixels = (side, side)
    expected = real.flops(batch * load.inputs, *pixels)
    assert estimate.matrix_flops(["vision", "projector"], full_square=True) == expected


def test_a_tower_takes_no_run_beside_its_rule(traced):
    model = traced_model(traced, name="x", where="x")
    assert model.vision.traced is not None
    run = {"model": traced, "hardware": "nvidia_a100_sxm_80gb", "workload": {"frames": 4}}
    with pytest.raises(aimcost.errors.InvalidValueError, match="processor makes of a video is not known"):
        aimcost.estimate(run)
