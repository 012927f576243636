"""What a processor does to images and videos: its files, a run's own limits, several inputs in one request.

Counts on the Qwen-VL grid: a block is 2 x 2 patches of 14 pixels (28; 32 in Qwen3-VL), one token.
"""

from __future__ import annotations

import json

import pytest

import aimcost
from aimcost.errors import AimcostError, FileFormatError, InvalidValueError
from aimcost.inputs.model import model_config
from aimcost.inputs.processors import processor_keys
from aimcost.inputs.run import load_run

A100 = "nvidia_a100_sxm_80gb"


def _run(model, *, method=None, **workload):
    return load_run({"model": model, "workload": {"text_tokens": 20, **workload}, "method": method or {"name": "none"}})


def _count(model, **workload):
    return _run(model, **workload).workload.visual_tokens


@pytest.fixture
def folder(tmp_path):
    """Writes a checkpoint's folder: the config of a bundled model, and processor files beside it."""

    def write(model, **files):
        config = {key: value for key, value in model_config(model).items() if key != "preprocessor"}
        for name, content in {"config": config, **files}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return str(tmp_path)

    return write


# sqrt(1920 · 1080 / 1003520) = 1.4375: 1080 and 1920 shrink to 26.8 and 47.7 blocks, 26 x 47 whole ones
LIMITED = 26 * 47


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": {"min_pixels": 3136, "max_pixels": 1003520}},
        {"preprocessor_config": {"size": {"shortest_edge": 3136, "longest_edge": 1003520}}},
        # the key wins over the size, the nested section over the file of its own
        {"preprocessor_config": {"max_pixels": 1003520, "size": {"shortest_edge": 3136, "longest_edge": 9999999}}},
        {
            "preprocessor_config": {"max_pixels": 9999999},
            "processor_config": {"image_processor": {"size": {"shortest_edge": 3136, "longest_edge": 1003520}}},
        },
        {
            "preprocessor_config": {"max_pixels": 1003520},
            "processor_config": {"processor_class": "Qwen2_5_VLProcessor"},
        },
    ],
)
def test_limits_of_a_folder(folder, files):
    given = folder("qwen2.5-vl-7b", **files)
    assert _count(given, images=1, image_size=[1920, 1080]) == LIMITED
    # 38.6 x 68.6 blocks, rounded: below the limit of the run
    assert _count(given, images=1, image_size=[1920, 1080], max_pixels=12845056) == 39 * 69


@pytest.mark.parametrize("kind", ["qwen3_vl", "glm4v_moe", "qwen3_5", "qwen2_5_omni", "qwen3_omni_moe"])
def test_limits_of_a_folder_are_those_of_its_family(kind, tmp_path):
    """Of the omni models the folder's config.json is of thinker and talker."""
    size = {"shortest_edge": 50176, "longest_edge": 1003520}
    for name in ("preprocessor_config", "video_preprocessor_config"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"size": size}))
    keys = {f"{end}_{what}pixels": size[edge] for end, edge in EDGES.items() for what in ("", "video_")}
    assert processor_keys(tmp_path, kind) == keys


EDGES = {"min": "shortest_edge", "max": "longest_edge"}


def test_sampling_of_smolvlm_lies_in_either_file(tmp_path):
    sampling = {"video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sampling))
    assert processor_keys(tmp_path, "smolvlm") == {"fps": 1.0, "max_frames": 64}


def test_a_run_limits_what_the_model_does_not():
    assert _count("qwen2.5-vl-7b", images=1, image_size=[1920, 1080]) == 39 * 69
    assert _count("qwen2.5-vl-7b", images=1, image_size=[1920, 1080], max_pixels=1003520) == LIMITED
    # 100 x 100 pixels grow by sqrt(200704 / 10000) = 4.48 to 448, 16 blocks
    assert _count("qwen2.5-vl-7b", images=1, image_size=100, min_pixels=448 * 448) == 16 * 16


def test_a_changed_processor_file_is_read_again(folder, tmp_path):
    given = folder("qwen2.5-vl-7b", preprocessor_config={"max_pixels": 1003520})
    assert _count(given, images=1, image_size=[1920, 1080]) == LIMITED
    (tmp_path / "preprocessor_config.json").unlink()
    assert _count(given, images=1, image_size=[1920, 1080]) == 39 * 69


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"max_pixels": "many"}, "preprocessor_config.json: 'max_pixels' must be a whole number"),
        ({"size": {"longest_edge": -1}}, "preprocessor_config.json: 'size.longest_edge' must be a whole number"),
        ({"size": 448}, "preprocessor_config.json: 'size' must be given (a mapping)"),
        ({"min_pixels": 5000, "max_pixels": 4000}, "'preprocessor.min_pixels' must be at most max_pixels (4000)"),
    ],
)
def test_a_bad_processor_file_is_named(folder, content, said):
    given = folder("qwen2.5-vl-7b", preprocessor_config=content)
    with pytest.raises(InvalidValueError) as caught:
        _count(given, images=1)
    assert said in str(caught.value)


def test_a_processor_file_that_is_no_mapping_is_named(folder):
    with pytest.raises(FileFormatError, match=r"processor_config\.json: must hold a mapping"):
        _count(folder("qwen2.5-vl-7b", processor_config=[]), images=1)


# 768 frames share 128000 · 28² · 0.9 pixels: 90316800 · 2 / 768 = 235200 each. 1280 x 720 shrinks by
# sqrt(921600 / 235200) = 1.979 to 12.99 x 23.09 blocks: 12 x 23 in each of 384 pairs.
CAPPED = 12 * 23 * 384


@pytest.mark.parametrize("name", ["qwen2-vl-7b", "qwen2.5-vl-7b"])
def test_all_frames_share_one_budget(name):
    assert _count(name, frames=768, image_size=[1280, 720]) == CAPPED
    # 2000 frames at 2 a second are more than the 768 that its processor takes
    run = _run(name, seconds=1000, fps=2, image_size=[1280, 720])
    assert (run.workload.frames, run.workload.visual_tokens) == (768, CAPPED)
    assert "768 frames instead of 2000: the processor takes 4 to 768, in multiples of 2" in run.notes
    # half of the budget: 117600 pixels a frame, 9.2 x 16.3 blocks
    assert _count(name, frames=768, image_size=[1280, 720], total_pixels=45158400) == 9 * 16 * 384
    # a frame never falls below 1.05 times its least: 105369 pixels, 8.7 x 15.5 blocks
    assert _count(name, frames=768, image_size=[1280, 720], total_pixels=1000000) == 8 * 15 * 384


def test_limits_of_a_video_file(folder):
    size = {"shortest_edge": 128 * 784, "longest_edge": 768 * 784}
    uncapped = {"size": size, "cap_pixels_per_frame": False}
    # 602112 pixels: shrunk by 1.237 to 20.8 x 36.95 blocks
    given = folder("qwen2.5-vl-7b", video_preprocessor_config=uncapped)
    assert _count(given, frames=768, image_size=[1280, 720]) == 20 * 36 * 384
    given = folder("qwen2.5-vl-7b", video_preprocessor_config={"size": size, "max_frames": 64, "fps": 1})
    run = _run(given, seconds=1000, image_size=[1280, 720])
    assert run.workload.frames == 64
    assert "workload.fps not given: the processor's 1 a second" in run.notes
    assert _run(given, seconds=1000, fps=2, max_frames=100).workload.frames == 100
    # images keep to a file of their own
    assert _count(given, images=1, image_size=[1920, 1080]) == 39 * 69


@pytest.mark.parametrize(
    ("workload", "frames"),
    [
        ({"seconds": 1, "fps": 1}, 4),
        ({"seconds": 0.9, "fps": 1, "min_frames": 2}, 2),
        ({"seconds": 9.9, "fps": 1}, 8),
        ({"seconds": 9.9, "fps": 1, "max_frames": 7}, 6),
        ({"frames": 1000, "max_frames": 500}, 500),
        ({"frames": 3}, 3),
    ],
)
def test_frames_of_qwen(workload, frames):
    assert _run("qwen2.5-vl-7b", **workload).workload.frames == frames


@pytest.mark.parametrize("model", ["llava-onevision-qwen2-7b", "longva-7b", "internvl3-8b", "qwen3-vl-8b"])
@pytest.mark.parametrize(("seconds", "fps"), [(100, 0.29), (1.1, 10), (0.7, 10), (4.35, 100)])
def test_a_product_of_floats_is_no_count(model, seconds, fps):
    # as written: 29, 11, 7 and 435, while the products of floats are 28.999…, 11.000000000000002, 7 and 434.999…
    exact = {0.29: 29, 10: round(seconds * 10), 100: 435}[fps]
    assert _run(model, seconds=seconds, fps=fps).workload.frames == exact


def test_a_third_of_a_second_at_three_frames_a_second_is_a_frame():
    assert _run("longva-7b", seconds=1 / 3, fps=3).workload.frames == 1


# Qwen3-VL writes `<0.2 seconds>` between <|vision_start|> and <|vision_end|> before each pair of frames: "<", digits,
# ".", digit, " seconds", ">" and two markers, 7 and the digits before the point. 384 pairs a second apart: 10 with one
# digit, 90 with two, 284 with three.
TIMES_768 = 384 * 7 + 10 + 90 * 2 + 284 * 3


def test_times_between_frames_are_prompt_text():
    run = _run("qwen3-vl-8b", frames=768, image_size=[1280, 720])
    # 25165824 pixels of 768 frames: shrunk by 5.303 to 4.2 x 7.5 blocks of 32
    assert run.workload.visual_tokens == 4 * 7 * 384
    assert run.workload.template_tokens == TIMES_768
    assert run.workload.prompt_tokens == 10752 + 3730 + 20 == 14502
    assert run.schedule.tokens[0] == 14502
    assert any(
        f"{TIMES_768} tokens of text between the frames: the time of each 2 frames" in note for note in run.notes
    )
    # one frame a second is twice as long: 5 pairs with one digit, 45 with two, 334 with three
    slow = _run("qwen3-vl-8b", frames=768, fps=1, image_size=[1280, 720])
    assert slow.workload.template_tokens == 384 * 7 + 5 + 45 * 2 + 334 * 3
    assert slow.workload.visual_tokens == run.workload.visual_tokens
    priced = aimcost.estimate({"hardware": A100, "model": "qwen3-vl-8b", "workload": {"frames": 4, "text_tokens": 20}})
    assert priced.to_dict()["layers"][0]["tokens"] == priced.run.workload.visual_tokens + 20 + 2 * 8


def test_reduction_leaves_the_times():
    method = {"name": "pre_llm", "ratio": 0.5, "scorer": "uniform"}
    run = _run("qwen3-vl-8b", frames=768, image_size=[1280, 720], method=method)
    assert run.schedule.tokens[0] == 10752 // 2 + TIMES_768 + 20
    assert run.schedule.text_tokens == TIMES_768 + 20


def test_numbers_of_frames_are_prompt_text():
    # InternVL: `Frame7: <img>` … `</img>`, "Frame", digit, ":", " " and two markers; 11 line breaks between 12 frames
    run = _run("internvl3-8b", frames=12)
    assert run.workload.visual_tokens == 12 * 256
    assert run.workload.template_tokens == 9 * 6 + 3 * 7 + 11
    assert _run("internvl3-8b", images=3).workload.template_tokens == 3 * 2


def test_a_pixel_shuffle_is_no_pooling():
    # InternVL's projector makes 256 tokens of 1024 patches by itself; LLaVA-OneVision's 729 are pooled to 196
    for model, pooled in (("internvl3-8b", False), ("llava-onevision-qwen2-7b", True)):
        priced = aimcost.estimate({"hardware": A100, "model": model, "workload": {"frames": 4}}).to_dict()
        assert any(op["name"] == "pool" for op in priced["ops"]) == pooled


def test_newlines_of_images_can_be_left_out():
    # 576 and 4 x 576 patches; with newlines one more a row of 48
    assert _count("llava-next-vicuna-7b", images=1, image_size=672, newline=False) == 2880
    assert _count("llava-next-vicuna-7b", images=1, image_size=672, newline=True) == 2928
    assert _count("llava-onevision-qwen2-7b", images=3, image_size=672, newline=False) == 3 * 729
    # LLaVA-1.5 has none of its own, so that one is added
    assert _count("llava-1.5-7b", images=1, newline=True) == 577


def test_images_of_several_sizes():
    sizes = [[640, 480], [1920, 1080], [1920, 1080], [300, 900]]
    run = _run("qwen2.5-vl-7b", images=4, image_size=sizes)
    each = [_count("qwen2.5-vl-7b", images=1, image_size=size) for size in sizes]
    assert run.workload.visual_tokens == sum(each)
    assert run.workload.sizes == ((1, each[0]), (2, each[1]), (1, each[3]))
    # the list says how many images there are
    assert _run("qwen2.5-vl-7b", image_size=sizes).workload == run.workload
    alike = _run("qwen2.5-vl-7b", image_size=[[640, 480]] * 3).workload
    assert alike == _run("qwen2.5-vl-7b", images=3, image_size=[640, 480]).workload


@pytest.mark.parametrize("model", ["qwen2.5-vl-7b", "qwen3-vl-8b", "llava-next-vicuna-7b", "internvl3-8b"])
def test_flops_of_several_images_add_up(model):
    def flops(size):
        run = {"hardware": A100, "model": model, "workload": {"image_size": size, "text_tokens": 20}}
        return aimcost.estimate(run).matrix_flops(["vision", "projector"], full_square=True)

    sizes = [[640, 480], [1920, 1080], [300, 900]]
    assert flops(sizes) == pytest.approx(sum(flops([size]) for size in sizes), rel=1e-12)


def test_flops_of_images_beside_a_video_add_up():
    model = "qwen2.5-vl-7b"

    def flops(**workload):
        run = {"hardware": A100, "model": model, "workload": {"text_tokens": 20, **workload}}
        return aimcost.estimate(run).matrix_flops(["vision", "projector"], full_square=True)

    both = flops(images=2, frames=8, image_size=[[640, 480], [640, 480], [1280, 720]])
    alone = flops(images=2, image_size=[640, 480]) + flops(frames=8, image_size=[1280, 720])
    assert both == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "extra"),
    # OneVision's video ends in a newline; an image beside a video is still cut into tiles
    [("qwen2.5-vl-7b", 0), ("llava-onevision-qwen2-7b", 1), ("llava-next-vicuna-7b", 1), ("internvl3-8b", 0)],
)
def test_images_beside_a_video(model, extra):
    run = _run(model, images=1, frames=16, image_size=[1280, 720])
    image = _run(model, images=1, image_size=[1280, 720]).workload
    video = _run(model, frames=16, image_size=[1280, 720]).workload
    assert run.workload.visual_tokens == image.visual_tokens + video.visual_tokens
    assert run.workload.newline_tokens == video.newline_tokens == extra
    assert run.workload.template_tokens == image.template_tokens + video.template_tokens
    assert (run.workload.images, run.workload.frames) == (1, 16)
    aimcost.estimate({"hardware": A100, "model": model, "workload": {"images": 1, "frames": 16}}).to_dict()


def test_a_video_may_have_a_size_of_its_own():
    model = "qwen2.5-vl-7b"
    run = _run(model, images=1, frames=8, image_size=[[640, 480], [320, 240]])
    expected = _count(model, images=1, image_size=[640, 480]) + _count(model, frames=8, image_size=[320, 240])
    assert run.workload.visual_tokens == expected
    run = _run(model, images=1, frames=8, image_size=[[640, 480]])
    assert "workload.image_size not given: assuming frames of 1280 x 720" in run.notes


def test_visionzip_reduces_each_tile():
    # 672 x 672: the whole image and four tiles of 576 patches, no newlines between what stays
    split = {"name": "visionzip", "dominant": 135, "contextual": 25}
    run = _run("llava-next-vicuna-7b", images=1, image_size=672, method=split)
    assert run.schedule.visual_tokens == 5 * 160
    assert run.schedule.tokens[0] == 5 * 160 + 20
    (event,) = run.schedule.pre_llm_events
    assert (event.groups, event.tokens_in, event.tokens_out) == (5, 576, 160)
    # two images, one of 672 x 336 (three inputs of the tower)
    run = _run("llava-next-vicuna-7b", image_size=[[672, 672], [672, 336]], method=split)
    assert run.schedule.visual_tokens == 8 * 160
    # published totals of LLaVA-NeXT are of five tiles
    run = _run("llava-next-vicuna-7b", images=1, image_size=672, method={"name": "visionzip", "keep_tokens": 640})
    assert run.schedule.pre_llm_events[0].tokens_out == 128
    # InternVL's tiles, 256 tokens each: 2 x 4 and a thumbnail
    run = _run("internvl3-8b", images=1, image_size=[1280, 720], method={**split, "dominant": 90, "contextual": 10})
    assert run.schedule.visual_tokens == 9 * 100


def test_prumerge_reduces_each_tile():
    run = _run("llava-next-vicuna-7b", images=1, image_size=672, method={"name": "prumerge", "ratio": 0.1})
    assert run.schedule.visual_tokens == 5 * (57 + 1)


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        # 640 x 480: 17 x 23 = 391 tokens; 4 pairs of 1280 x 720: 20 x 36 = 720 each
        ({"name": "visionzip", "dominant": 100, "contextual": 20}, 5 * 120),
        ({"name": "pre_llm", "ratio": 0.5, "scorer": "uniform"}, 195 + 4 * 360),
        ({"name": "aim", "merge_ratio": 0.5, "l1": 28, "l2": 29}, 196 + 4 * 360),
        # EVS compares frames: the image stays
        ({"name": "evs", "q": 0.5}, 391 + 2 * 720),
        ({"name": "divprune", "ratio": 0.5}, round((391 + 4 * 720) * 0.5)),
        ({"name": "fastv", "k": 2, "ratio": 0.5}, 391 + 4 * 720),
    ],
)
def test_methods_on_groups_of_several_sizes(method, kept):
    workload = {"images": 1, "frames": 8, "image_size": [[640, 480], [1280, 720]], "text_tokens": 20}
    run = load_run({"model": "qwen2.5-vl-7b", "workload": workload, "method": method})
    assert run.schedule.visual_tokens == kept
    assert run.schedule.prompt_tokens == 391 + 4 * 720 + 20
    estimate = aimcost.estimate({"hardware": A100, "model": "qwen2.5-vl-7b", "workload": workload, "method": method})
    assert estimate.to_dict()["layers"][0]["tokens"] == kept + 20


def test_tiles_follow_the_limits_of_a_folder(folder):
    # one tile at most: no grid, and no thumbnail beside it; InternVLProcessor cuts whatever crop_to_patches says
    given = folder("internvl3-8b", preprocessor_config={"min_patches": 1, "max_patches": 1, "crop_to_patches": False})
    assert _count(given, images=1, image_size=[1280, 720]) == 256
    given = folder("internvl3-8b", preprocessor_config={"min_patches": 9, "max_patches": 9})
    # of 1 x 9, 3 x 3 and 9 x 1 tiles the square is nearest; a thumbnail comes with them
    assert _count(given, images=1, image_size=[1280, 720]) == 10 * 256


def test_tiles_of_the_original_repository():
    # OpenGVLab's config.json: 2 x 4 tiles, with or without the whole image
    config = model_config("internvl3-8b")
    vision = {**config["vision_config"], "image_size": 448, "patch_size": 14, "qkv_bias": True}
    stated = {"dynamic_image_size": True, "use_thumbnail": True, "max_dynamic_patch": 12}
    chat = {"model_type": "internvl_chat", "llm_config": config["text_config"], "vision_config": vision, **stated}
    for keys, tiles in (
        ({}, 9),
        ({"use_thumbnail": False}, 8),
        ({"max_dynamic_patch": 4}, 3),
        ({"min_dynamic_patch": 9, "max_dynamic_patch": 9}, 10),
        ({"dynamic_image_size": False}, 1),
    ):
        assert _count({**chat, **keys}, images=1, image_size=[1280, 720]) == tiles * 256


def test_grids_of_a_folder(folder):
    given = folder("llava-next-vicuna-7b", preprocessor_config={"image_grid_pinpoints": [[336, 672]]})
    # one row of two tiles, 24 x 48 patches: a square image fills the middle 24 of 48 columns, and 24 newlines
    assert _count(given, images=1, image_size=672) == 576 + 24 * (24 + 1)


@pytest.mark.parametrize(
    ("model", "workload", "said"),
    [
        ("llava-1.5-7b", {"images": 1, "max_pixels": 10}, "'workload.max_pixels' must be omitted: llava-1.5-7b has no"),
        ("qwen2.5-vl-7b", {"max_pixels": 10}, "'workload.max_pixels' must be omitted without images"),
        (
            "qwen2.5-vl-7b",
            {"images": 1, "total_pixels": 10},
            "'workload.total_pixels' must be omitted without a video",
        ),
        (
            "qwen2.5-vl-7b",
            {"images": 1, "max_frames": 10},
            "'workload.max_frames' must be omitted without a video",
        ),
        ("qwen2.5-vl-7b", {"images": 1, "max_pixels": 100}, "'workload.max_pixels' must be at least min_pixels (3136)"),
        ("qwen2.5-vl-7b", {"frames": 4, "min_pixels": 10**9}, "'workload.min_pixels' must be at most max_pixels"),
        (
            "qwen2.5-vl-7b",
            {"seconds": 9, "fps": 1, "max_frames": 3},
            "'workload.max_frames' must be at least min_frames",
        ),
        (
            "qwen2.5-vl-7b",
            {"images": 2, "image_size": [[9, 9]] * 3},
            "'workload.image_size' must be 2 pairs, one an image",
        ),
        *(
            (
                "qwen2.5-vl-7b",
                {"images": 1, "image_size": size},
                "'workload.image_size' must be [width, height], the side",
            )
            for size in ([[9, 9, 9]], [[9, 9], 3], [3, [9, 9]], [9], [1, 2, 3], [], "large", 0, True, [[1, 200000]])
        ),
        ("qwen2.5-vl-7b", {"images": 1, "frames": 2, "visual_tokens": 3}, "'workload.visual_tokens' must be omitted"),
        ("qwen2.5-vl-7b", {"seconds": 1e9, "fps": 1e9, "max_frames": 10**9}, "workload.max_frames"),
        ("llava-onevision-qwen2-7b", {"seconds": 1e9, "fps": 1e9}, "at most 100000000 frames in the given seconds"),
        ("llama-3.2-11b-vision", {"images": 1, "frames": 4}, "takes images only"),
    ],
)
def test_limits_that_make_no_sense_are_refused(model, workload, said):
    with pytest.raises(AimcostError) as caught:
        _run(model, **workload)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
