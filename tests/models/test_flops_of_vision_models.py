"""Every multi-modal model of configs/models: tower, projector and prefill against torch, exactly."""

from __future__ import annotations

import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs import discover
from aimcost.inputs.model import load_model, model_config
from aimcost.inputs.run import load_run
from aimcost.models import decoder, projector, vit
from aimcost.pricing.pricing import estimate_run
from aimcost.search.bulk import layer_table

from ..properties.grids import one_of_each

HARDWARE = "nvidia_a100_sxm_80gb"
# Qwen-VL is not in transformers: test_resampler.py counts it by hand
VISION = [
    name
    for name in discover.names("model")
    if load_model(name).vision is not None and load_model(name).family != "qwen"
]
FIXED = ("llava", "llava_next", "llava_onevision", "internvl")
DYNAMIC = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
# Odd sizes: windows cut off at one edge, at both, at none; an image that is enlarged.
DYNAMIC_WORK = (
    {"images": 1, "image_size": [500, 333]},
    {"images": 2, "image_size": [448, 224], "batch": 2},
    {"frames": 5, "image_size": [640, 360]},
    {"images": 1, "image_size": [20, 90]},
)
FIXED_WORK = (
    {"images": 1},
    {"images": 1, "image_size": [1700, 500]},
    {"frames": 3, "batch": 2},
)


# The layers of a decoder or tower are alike: two of each kind for every size of image, and whole models
# of each family's smallest for one.
WHOLE = ("llava-1.5-7b", "llava-next-mistral-7b", "llava-onevision-qwen2-0.5b", "internvl3-8b", "qwen2-vl-2b")
SHORT_TOWERS = {
    "qwen2_vl": {"depth": 2},
    "qwen2_5_vl": {"depth": 3, "fullatt_block_indexes": [1]},
    "qwen3_vl": {"depth": 4, "deepstack_visual_indexes": [0, 1, 2]},
    "qwen3_vl_moe": {"depth": 4, "deepstack_visual_indexes": [0, 1, 2]},
}


def _short(config):
    # features are taken one layer below the last: of three, two run
    tower = SHORT_TOWERS.get(config["model_type"], {"num_hidden_layers": 3})
    return {
        **config,
        "text_config": {**config["text_config"], "num_hidden_layers": 2},
        "vision_config": {**config["vision_config"], **tower},
    }


def _names(families):
    return [name for name in VISION if load_model(name).family in families]


def _one_of_each(families):
    return one_of_each(_names(families), lambda name: load_model(name).family)


def _estimate(model, work):
    run = {"hardware": HARDWARE, "model": model, "workload": {"text_tokens": 20, **work}}
    return aimcost.estimate(run)


def _seen(estimate):
    return estimate.matrix_flops(["vision", "projector"], full_square=True)


@pytest.mark.torch
@pytest.mark.parametrize("name", VISION)
def test_parameters(name, oracle):
    spec = load_model(name)
    stored = decoder.parameters(spec.decoder) + vit.parameters(spec.vision) + projector.parameters(spec)
    assert stored == oracle.parameter_count(oracle.build(model_config(name), image_text=True))


def _check_fixed(config, work, oracle):
    model = oracle.build(config, image_text=True)
    for one in work:
        estimate = _estimate(config, one)
        workload = estimate.run.workload
        size = estimate.run.model.vision.image_size
        inputs = workload.tower.sequences if workload.tower else workload.frames or workload.images
        seen = oracle.fixed_tower_flops(model, inputs=inputs, size=size)
        assert _seen(estimate) == workload.batch * seen
        _check_prefill(estimate, model, oracle)


def _check_dynamic(config, work, oracle):
    model = oracle.build(config, image_text=True)
    for one in work:
        estimate = _estimate(config, one)
        load = estimate.run.workload.tower
        seen = oracle.dynamic_tower_flops(model, steps=load.sequences, rows=load.rows, columns=load.columns)
        assert _seen(estimate) == estimate.run.workload.batch * seen
        _check_prefill(estimate, model, oracle)


def _check_prefill(estimate, model, oracle):
    workload = estimate.run.workload
    tokens = workload.visual_tokens + workload.text_tokens
    priced = estimate.matrix_flops(["prefill"], full_square=True)
    assert priced == oracle.text_flops(model, batch=workload.batch, tokens=tokens)


@pytest.mark.torch
@pytest.mark.parametrize("name", _one_of_each(FIXED))
def test_towers_of_one_size(name, oracle):
    _check_fixed(_short(model_config(name)), FIXED_WORK, oracle)


@pytest.mark.torch
def test_frames_that_are_pooled_before_the_projector(oracle):
    """LLaVA-NeXT-Video: 24 x 24 patches of a frame become 12 x 12, of which the projector computes."""
    config = _short({**model_config("llava-next-vicuna-7b"), "model_type": "llava_next_video"})
    model = oracle.build(config, image_text=True)
    estimate = _estimate(config, {"frames": 5, "batch": 2})
    assert estimate.run.workload.visual_tokens == 5 * 144
    assert estimate.run.workload.newline_tokens == 0
    seen, shape = oracle.video_flops(model, frames=5, size=336)
    assert shape[-2] == 5 * 144
    assert _seen(estimate) == 2 * seen
    spec = load_model(config)
    stored = decoder.parameters(spec.decoder) + vit.parameters(spec.vision) + projector.parameters(spec)
    assert stored == oracle.parameter_count(model)
    # beside an image of one tile and itself, whose patches are not pooled
    both = _estimate(config, {"frames": 5, "images": 1, "image_size": [336, 336]})
    alone = _estimate(config, {"images": 1, "image_size": [336, 336]})
    assert _seen(both) == seen + _seen(alone)
    for wrong in ({"spatial_pool_mode": "conv"}, {"spatial_pool_stride": 3}):
        with pytest.raises(InvalidValueError, match=next(iter(wrong))):
            load_model({**config, **wrong})


@pytest.mark.torch
@pytest.mark.parametrize("name", _one_of_each(DYNAMIC))
def test_towers_of_any_grid(name, oracle):
    _check_dynamic(_short(model_config(name)), DYNAMIC_WORK, oracle)


@pytest.mark.torch
@pytest.mark.check
@pytest.mark.parametrize("name", WHOLE)
def test_whole_models(name, oracle):
    check = _check_dynamic if load_model(name).family in DYNAMIC else _check_fixed
    check(model_config(name), [{"images": 1}], oracle)


@pytest.mark.torch
@pytest.mark.parametrize("images", [1, pytest.param(2, marks=pytest.mark.check)])
def test_cross_attention(images, oracle):
    model = oracle.build(model_config("llama-3.2-11b-vision"), image_text=True)
    estimate = _estimate("llama-3.2-11b-vision", {"images": images, "image_size": [900, 700]})
    seen, prefill = oracle.crossing_flops(model, images=images, tokens=20)
    assert _seen(estimate) == seen
    assert estimate.matrix_flops(["prefill"], full_square=True) == prefill


def test_cross_attention_layers_cost_nothing_without_images():
    run = {"hardware": HARDWARE, "workload": {"text_tokens": 50}}
    vision = aimcost.estimate(run, model="llama-3.2-11b-vision").matrix_flops(["prefill"])
    assert vision == aimcost.estimate(run, model="llama-3.1-8b").matrix_flops(["prefill"])


def test_the_cache_of_cross_attention_layers_is_the_towers():
    run = {
        "hardware": HARDWARE,
        "model": "llama-3.2-11b-vision",
        "workload": {"images": 1, "text_tokens": 50},
    }
    tokens = 32 * 50 + 8 * 4 * 1601
    assert aimcost.estimate(run).memory.kv_bytes == 2 * tokens * 8 * 128 * 2


def test_a_stated_count_feeds_the_cross_attention_layers_too():
    """6,404 = 4 tiles of 1,601, which is what one image gives; no tower is priced for a count."""
    run = {"model": "llama-3.2-11b-vision", "hardware": HARDWARE, "estimator": "roofline"}
    stated, shown = (
        aimcost.estimate({**run, "workload": {**visual, "text_tokens": 100}})
        for visual in ({"visual_tokens": 6404}, {"images": 1})
    )
    assert stated.stages["prefill"].flops == shown.stages["prefill"].flops
    assert stated.stages["vision"].flops == 0
    assert stated.memory.kv_bytes == shown.memory.kv_bytes


def test_reduction_inside_a_cross_attending_model_is_refused():
    run = {"model": "llama-3.2-11b-vision", "workload": {"images": 1}, "method": {"name": "fastv"}}
    with pytest.raises(aimcost.errors.InvalidValueError, match="do not enter its sequence"):
        aimcost.schedule(run)


@pytest.mark.parametrize("name", ["llama-3.2-11b-vision", "mixtral-8x7b"])
def test_llm_viewer_refuses_layers_that_it_does_not_know(name):
    run = {"hardware": HARDWARE, "model": name, "estimator": "llm_viewer", "workload": {"text_tokens": 9}}
    with pytest.raises(aimcost.errors.InvalidValueError, match="LLM-Viewer does not know"):
        aimcost.estimate(run)


def test_a_bulk_table_equals_the_estimate_of_a_mixture_with_deepstack():
    run = load_run(
        {
            "hardware": HARDWARE,
            "model": "qwen3-vl-30b-a3b",
            "workload": {"images": 1, "image_size": 320, "text_tokens": 20},
            "method": {"name": "fastv"},
            "estimator": "roofline",
        }
    )
    seconds = layer_table(run).prefill_seconds([run.schedule.tokens])[0]
    assert seconds == pytest.approx(estimate_run(run).stages["prefill"].time_s, rel=1e-12)


def test_bulk_tables_need_layers_that_are_alike():
    run = load_run({"hardware": HARDWARE, "model": "llama-3.2-11b-vision", "workload": {"images": 1}})
    with pytest.raises(aimcost.errors.ScheduleError, match="uniform decoder layers"):
        layer_table(run)
