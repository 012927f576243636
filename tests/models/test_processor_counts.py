"""Our counts against transformers' own processors on random inputs.

Images against the PIL backends of the installed release, on sizes alone. Videos, and images again, against the files
that `make processors` writes where torchvision is (tests/golden/processors).
"""

from __future__ import annotations

import random

import pytest

from aimcost.inputs.model import load_model, model_config
from aimcost.inputs.schema import WorkloadFile
from aimcost.inputs.workload import resolve_workload

BY_PATCH = {14: "qwen2.5-vl-7b", 16: "qwen3-vl-8b"}
SIZES = 500


def _workload(model, **workload):
    return resolve_workload(WorkloadFile(text_tokens=1, **workload), load_model(model))[0]


def _tokens(model, width, height, **workload):
    return _workload(model, images=1, image_size=[width, height], **workload).visual_tokens


def _tiled(least, most):
    return {**model_config("internvl3-8b"), "preprocessor": {"min_patches": least, "max_patches": most}}


def _sizes(seed):
    """(width, height), small, odd and huge alike."""
    draw = random.Random(seed)
    for _ in range(SIZES):
        yield draw, int(2 ** draw.uniform(4, 12)), int(2 ** draw.uniform(4, 12))


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
@pytest.mark.parametrize("patch", [14, 16])
def test_images_of_qwen(patch):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    block = (2 * patch) ** 2
    for draw, width, height in _sizes(patch):
        if max(width, height) > 200 * min(width, height):
            continue
        least, most = draw.choice((4, 64)) * block, draw.choice((128, 1280, 16384)) * block
        processor = module.Qwen2VLImageProcessorPil(min_pixels=least, max_pixels=most, patch_size=patch)
        expected = processor.get_number_of_image_patches(height, width) // 4
        found = _tokens(BY_PATCH[patch], width, height, min_pixels=least, max_pixels=most)
        assert found == expected, (width, height, least, most)


@pytest.mark.torch
def test_images_of_internvl():
    module = pytest.importorskip("transformers.models.got_ocr2.image_processing_pil_got_ocr2")
    processing = pytest.importorskip("transformers.models.internvl.processing_internvl")
    for draw, width, height in _sizes("internvl"):
        least = draw.choice((1, 1, 2, 4))
        most = least + draw.randrange(12)
        processor = module.GotOcr2ImageProcessorPil(
            size={"height": 448, "width": 448}, min_patches=least, max_patches=most
        )
        tiles = processor.get_number_of_image_patches(height, width, dict(processing.InternVLProcessor.images_kwargs))
        assert _tokens(_tiled(least, most), width, height) == 256 * tiles, (width, height, least, most)


@pytest.mark.torch
def test_images_of_llava_next():
    processing = pytest.importorskip("transformers.models.llava_next.processing_llava_next")
    grids = model_config("llava-next-vicuna-7b")["image_grid_pinpoints"]
    counter = _bare(
        processing.LlavaNextProcessor, image_processor=_Grids(grids), patch_size=14, num_additional_image_tokens=1
    )
    for _, width, height in _sizes("llava_next"):
        # the class token that it counts is dropped by the strategy "default"
        expected = counter._get_number_of_features(height, width, 336, 336) - 1
        assert _tokens("llava-next-vicuna-7b", width, height) == expected, (width, height)


@pytest.mark.torch
def test_images_of_llava_onevision():
    processing = pytest.importorskip("transformers.models.llava_onevision.processing_llava_onevision")
    grids = pytest.importorskip("transformers").LlavaOnevisionConfig().image_grid_pinpoints
    for draw, width, height in _sizes("llava_onevision"):
        most = f"anyres_max_{draw.choice((4, 9))}"
        counter = _bare(
            processing.LlavaOnevisionProcessor,
            image_processor=_Grids(grids),
            num_image_tokens=729,
            vision_aspect_ratio=most,
        )
        config = {**model_config("llava-onevision-qwen2-7b"), "vision_aspect_ratio": most}
        expected = counter._get_number_of_features(height, width, 384, 384)
        assert _tokens(config, width, height) == expected, (width, height, most)


@pytest.mark.torch
def test_images_of_llava_and_mllama_are_of_one_size():
    # pixels through the whole of the processors: LLaVA-1.5 crops to 336 x 336, Llama-3.2-Vision fills four tiles
    np = pytest.importorskip("numpy")
    llava = pytest.importorskip("transformers.models.llava.image_processing_pil_llava").LlavaImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    mllama = pytest.importorskip("transformers.models.mllama.image_processing_pil_mllama").MllamaImageProcessorPil(
        size={"height": 56, "width": 56}, max_image_tiles=4
    )
    for width, height in ((40, 30), (333, 97), (20, 180)):
        image = np.zeros((height, width, 3), dtype=np.uint8)
        *_, rows, columns = llava(image, return_tensors="np")["pixel_values"].shape
        assert _tokens("llava-1.5-7b", width, height) == rows // 14 * (columns // 14)
        _, _, tiles, *_ = mllama(image, return_tensors="np")["pixel_values"].shape
        # a tile is 1600 patches and a class token
        workload = _workload("llama-3.2-11b-vision", images=1, image_size=[width, height])
        assert workload.cross_tokens == tiles * 1601


def _pick(row, *keys):
    return {key: row[key] for key in keys if row[key]}


def test_golden_images_of_qwen(golden):
    for row in golden("qwen_images"):
        limits = _pick(row, "min_pixels", "max_pixels")
        assert _tokens(BY_PATCH[row["patch"]], row["width"], row["height"], **limits) == row["tokens"], row


def test_golden_images_of_internvl(golden):
    for row in golden("internvl_images"):
        config = _tiled(row["min_patches"], row["max_patches"])
        assert _tokens(config, row["width"], row["height"]) == 256 * row["tiles"], row


def test_golden_images_of_llava_next(golden):
    for row in golden("llava_next_images"):
        assert _tokens("llava-next-vicuna-7b", row["width"], row["height"]) == row["tokens"], row


def test_golden_images_of_llava_onevision(golden):
    for row in golden("llava_onevision_images"):
        config = {**model_config("llava-onevision-qwen2-7b"), "vision_aspect_ratio": f"anyres_max_{row['max_tiles']}"}
        assert _tokens(config, row["width"], row["height"]) == row["tokens"], row


def _sampling(row):
    """The clip of a row as a run states it."""
    return {"seconds": row["total"] / row["source_fps"], "fps": row["fps"]}


def test_golden_videos_of_qwen2(golden):
    keys = ("min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels")
    whole = model_config("qwen2.5-vl-7b")
    uncapped = {**whole, "preprocessor": {**whole["preprocessor"], "cap_pixels_per_frame": False}}
    for row in golden("qwen2_videos"):
        model = "qwen2.5-vl-7b" if row["total_pixels"] else uncapped
        size = [row["width"], row["height"]]
        found = _workload(model, **_sampling(row), image_size=size, **_pick(row, *keys))
        assert (found.frames, found.visual_tokens) == (row["frames"], row["tokens"]), row


def test_golden_videos_of_qwen3(golden):
    keys = ("min_frames", "max_frames", "total_pixels", "max_pixels")
    rows = golden("qwen3_videos")
    off = 0
    for row in rows:
        size = [row["width"], row["height"]]
        found = _workload("qwen3-vl-8b", **_sampling(row), image_size=size, **_pick(row, *keys))
        assert (found.frames, found.visual_tokens) == (row["frames"], row["tokens"]), row
        # a run does not say which frames of the source are nearest: a pair at 9.95 s may have one digit or two
        assert abs(found.template_tokens - row["text"]) <= 1, row
        off += found.template_tokens != row["text"]
    assert off <= len(rows) // 100


def test_golden_videos_of_internvl(golden):
    for row in golden("internvl_videos"):
        found = _workload("internvl3-8b", **_sampling(row))
        assert (found.frames, found.template_tokens) == (row["frames"], row["text"]), row
