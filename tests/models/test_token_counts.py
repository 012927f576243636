"""Visual tokens from the size of an image or video: as transformers' own processors count them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import aimcost
from aimcost.errors import InvalidValueError
from aimcost.inputs import discover
from aimcost.inputs.model import load_model, model_config
from aimcost.inputs.run import load_run

HARDWARE = "nvidia_a100_sxm_80gb"
TOO_BIG = "exceeds the model's"
# Odd, square, long, tiny, huge, on a boundary of rounding: (width, height).
SIZES = (
    (640, 480),
    (1, 1),
    (333, 777),
    (1920, 1080),
    (4000, 250),
    (97, 1033),
    (672, 672),
    (42, 70),
    (9000, 7000),
    (350, 350),
)


def _run(model, **workload):
    return load_run({"model": model, "workload": {"text_tokens": 10, **workload}})


def _workload(model, **workload):
    return _run(model, **workload).workload


def _named(families):
    return [name for name in discover.names("model") if load_model(name).family in families]


def _bare(kind, **attributes):
    """A processor without its tokenizer, for the methods that count."""
    processor = object.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(processor, name, value)
    return processor


class _Grids:
    def __init__(self, grids):
        self.image_grid_pinpoints = grids


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
def test_llava_next(size):
    processing = pytest.importorskip("transformers.models.llava_next.processing_llava_next")
    modeling = pytest.importorskip("transformers.models.llava_next.modeling_llava_next")
    grids = model_config("llava-next-vicuna-7b")["image_grid_pinpoints"]
    counter = _bare(
        processing.LlavaNextProcessor,
        image_processor=_Grids(grids),
        patch_size=14,
        num_additional_image_tokens=1,
    )
    width, height = size
    # the class token that it adds is dropped by the strategy "default"
    expected = counter._get_number_of_features(height, width, 336, 336) - 1
    workload = _workload("llava-next-vicuna-7b", images=2, image_size=list(size))
    assert (workload.groups, workload.tokens_per_group) == (2, expected)
    tiles = modeling.image_size_to_num_patches([height, width], grids, 336)
    assert workload.tower.sequences == 2 * tiles


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
def test_llava_onevision(size):
    processing = pytest.importorskip("transformers.models.llava_onevision.processing_llava_onevision")
    configuration = pytest.importorskip("transformers").LlavaOnevisionConfig()
    counter = _bare(
        processing.LlavaOnevisionProcessor,
        image_processor=_Grids(configuration.image_grid_pinpoints),
        num_image_tokens=729,
        vision_aspect_ratio="anyres_max_9",
    )
    width, height = size
    expected = counter._get_number_of_features(height, width, 384, 384)
    workload = _workload("llava-onevision-qwen2-7b", images=1, image_size=list(size))
    assert workload.visual_tokens == expected
    # several images: each at its base resolution, with a newline
    assert _workload("llava-onevision-qwen2-7b", images=3, image_size=list(size)).visual_tokens == 3 * 730


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", _named(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")))
def test_qwen_images(name, size, oracle):
    counting = oracle.counting_functions("qwen2_vl/image_processing_qwen2_vl.py")
    config = model_config(name)
    limits, patch = config["preprocessor"], config["vision_config"]["patch_size"]
    width, height = size
    high, wide = counting.smart_resize(height, width, 2 * patch, limits["min_pixels"], limits["max_pixels"])
    workload = _workload(name, images=2, image_size=list(size))
    assert (workload.tower.rows, workload.tower.columns) == (high // patch, wide // patch)
    assert workload.visual_tokens == 2 * (high // patch) * (wide // patch) // 4


@pytest.mark.torch
@pytest.mark.parametrize("frames", [2, 7, 64, 301])
@pytest.mark.parametrize("size", [(640, 360), (1920, 1080), (97, 1033), (20, 30)])
@pytest.mark.parametrize("name", ["qwen2-vl-7b", "qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_qwen_video(name, size, frames, oracle):
    config = model_config(name)
    limits, patch = config["preprocessor"], config["vision_config"]["patch_size"]
    family = "qwen3_vl" if name.startswith("qwen3") else "qwen2_vl"
    counting = oracle.counting_functions(f"{family}/video_processing_{family}.py")
    processor = SimpleNamespace(
        size={"shortest_edge": limits["min_video_pixels"], "longest_edge": limits["max_video_pixels"]},
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        cap_pixels_per_frame=None,
    )
    width, height = size
    patches = counting.get_num_of_video_patches(processor, frames, height, width, {})
    workload = _workload(name, frames=frames, image_size=list(size))
    assert workload.visual_tokens == patches // 4
    assert workload.groups == -(-frames // 2)


@pytest.mark.torch
@pytest.mark.parametrize("size", SIZES)
def test_internvl(size, oracle):
    counting = oracle.counting_functions("got_ocr2/image_processing_got_ocr2.py")
    processor = SimpleNamespace(min_patches=1, max_patches=12, size={"height": 448, "width": 448}, crop_to_patches=True)
    tiles = counting.get_number_of_image_patches(processor, size[1], size[0])
    workload = _workload("internvl3-8b", images=2, image_size=list(size))
    assert (workload.visual_tokens, workload.tower.sequences) == (2 * 256 * tiles, 2 * tiles)


def test_figures_of_the_papers():
    # LLaVA-1.5: 576. LLaVA-NeXT at 672 x 672: 576 + 48 · 49 = 2928. LLaVA-OneVision: 196 a frame, one
    # newline; LLaVA-Video with a newline a row: 14 · 15. LongVA: 144. InternVL: 256 a tile.
    for name, work, tokens in (
        ("llava-1.5-7b", {"images": 1, "image_size": 336}, 576),
        ("llava-next-vicuna-7b", {"images": 1, "image_size": 672}, 2928),
        ("llava-onevision-qwen2-7b", {"frames": 32}, 6273),
        ("llava-video-7b-qwen2", {"frames": 64}, 64 * 210),
        ("longva-7b", {"frames": 128}, 128 * 144),
        ("internvl3-8b", {"frames": 8}, 8 * 256),
        # arXiv 2409.12191, section 2.1: 224 x 224 pixels make 64 tokens, without the two around them
        ("qwen2-vl-7b", {"images": 1, "image_size": 224}, 64),
    ):
        assert _workload(name, **work).visual_tokens == tokens


def test_the_tower_of_32_frames_outweighs_a_pruned_language_model():
    run = {"hardware": HARDWARE, "model": "llava-onevision-qwen2-7b", "workload": {"frames": 32}}
    estimate = aimcost.estimate(run)
    assert estimate.matrix_flops(["vision"], full_square=True) / 1e12 == pytest.approx(20.54, abs=0.005)


def test_frames_follow_from_seconds():
    assert _workload("llava-onevision-qwen2-7b", seconds=16.0, fps=2.0).frames == 32
    # Qwen2.5-VL's processor takes 7.6 frames down to a multiple of the two that make a patch: 6, in 3 patches
    assert _workload("qwen2.5-vl-7b", seconds=7.6, fps=1.0, image_size=[640, 360]).groups == 3


def test_newlines_a_row_can_come_with_the_checkpoint():
    config = {**model_config("llava-video-7b-qwen2"), "mm_newline_position": "grid"}
    assert _workload(config, frames=4).visual_tokens == 4 * 210
    assert _workload(config, frames=4, newline=False).visual_tokens == 4 * 196
    assert _workload(config, frames=4, newline=True).visual_tokens == 4 * 196 + 1
    priced = [
        aimcost.estimate({"hardware": HARDWARE, "model": config, "workload": {"frames": 4, "newline": n}})
        for n in ("row", False)
    ]
    assert priced[0].stages["vision"] == priced[1].stages["vision"]
    assert priced[0].stages["projector"] == priced[1].stages["projector"]


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        (
            "llava-1.5-7b",
            [1000, 400],
            f"an image of 1000 x 400 {TOO_BIG} input size: resized to 336 x 336",
        ),
        ("qwen2-vl-2b", [8000, 4000], f"{TOO_BIG} limit (12845056 pixels): resized to 5068 x 2520"),
        (
            "llava-next-vicuna-7b",
            [3000, 3000],
            f"{TOO_BIG} limit (451584 pixels): resized to 672 x 672",
        ),
        ("internvl3-8b", [9000, 9000], TOO_BIG),
        ("llama-3.2-11b-vision", [3000, 3000], "resized to at most 4 tiles of 560 x 560"),
    ],
)
def test_images_bigger_than_the_model_takes_are_noted(name, size, said):
    assert any(said in note for note in _run(name, images=1, image_size=size).notes)
    small = _run(name, images=1, image_size=[300, 300])
    assert not any(TOO_BIG in note for note in small.notes)


@pytest.mark.parametrize("name", _named(("qwen2_vl", "qwen3_vl", "llava_next", "llava_onevision", "internvl")))
def test_one_size_is_assumed_in_every_family_and_noted(name):
    run = _run(name, images=1)
    assert "workload.image_size not given: assuming images of 1280 x 720" in run.notes
    assert run.workload == _workload(name, images=1, image_size=[1280, 720])


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ({"images": 1, "image_size": [100, 30000]}, "'workload.image_size' must be sides at most 200:1"),
        ({"images": 1, "image_size": [100]}, "workload.image_size"),
        ({"images": 1, "image_size": 0}, "workload.image_size"),
        ({"image_size": 100}, "'workload.image_size' must be omitted"),
        ({"visual_tokens": 100, "image_size": 100}, "'workload.image_size' must be omitted"),
        ({"seconds": 5.0}, "'workload.fps' must be given"),
        ({"frames": 5, "fps": 1.0}, "'workload.fps' must be omitted"),
        (
            {"frames": 5, "seconds": 5.0, "fps": 1.0},
            "'workload.seconds' must be omitted when frames",
        ),
        ({"seconds": 0.5, "fps": 1.0}, "'workload.fps' must be high enough for one frame"),
        ({"frames": 5, "newline": "row"}, "its frames have no fixed rows"),
        ({"images": 1, "newline": "row"}, "'workload.newline' must be true or false"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(workload, said):
    with pytest.raises(InvalidValueError) as caught:
        _run("qwen2.5-vl-7b", **workload)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_video_is_refused_where_a_model_takes_none():
    with pytest.raises(InvalidValueError, match="takes images only"):
        _run("llama-3.2-11b-vision", frames=4)
