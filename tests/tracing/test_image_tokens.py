"""Image and video tokens of traced families: those of transformers' processors, at random sizes; no trace is needed.

Video processors need torchvision: their counts are in the files of `make processors` (tests/golden/processors).
"""

from __future__ import annotations

import importlib.util
import itertools
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from aimcost.errors import AimcostError, InvalidValueError
from aimcost.inputs.discover import method_names
from aimcost.inputs.schema import WorkloadFile, validate
from aimcost.inputs.traced_images import (
    WITHOUT_TOWER,
    projector_of,
    resolution_of,
    with_images_alone,
    with_video_processor,
)
from aimcost.inputs.workload import resolve_workload
from aimcost.methods.registry import plan_module
from aimcost.models.visual_tokens import images_layout
from aimcost.types import DecoderSpec, ModelSpec, VisionSpec
from aimcost.types.expression import Expression
from aimcost.types.traced import TracedTower

SIZES = 1000
TEXT = {"hidden": 64, "intermediate": 64, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 64, "vocab": 8}


def _model(family, *, patch, side=0, merge=1, tokens="0.0", edge=0, preprocessor=None, vision="siglip"):
    """A family's tower by the sizes that its processor's rule needs."""
    tower = TracedTower(kinds=(), order=(), before=(), after=(), parameters=0.0, tokens=Expression(tokens))
    spec = VisionSpec(
        hidden=64,
        intermediate=64,
        layers=1,
        stored_layers=1,
        heads=1,
        image_size=side * patch,
        patch_size=patch,
        traced=tower,
    )
    config = {"vision_config": {"model_type": vision}, "preprocessor": preprocessor or {}}
    model = ModelSpec(
        name=family,
        family=family,
        decoder=DecoderSpec(**TEXT),
        vision=spec,
        projector=projector_of(spec, merge),
        resolution=resolution_of(family, config, spec, edge, "config"),
    )
    return with_video_processor(model, config, merge, "config")


def _counted(model, width, height, images=1):
    """(visual tokens, tokens of text around them) of images of one size."""
    layout = images_layout(model, [((width, height), images)], newline=None)
    return sum(count * tokens for count, tokens in layout.sizes), layout.template_tokens


def _sizes(seed, least=8):
    draw = random.Random(f"traced {seed}")
    for _ in range(SIZES):
        most = draw.choice((100, 700, 2000, 5000))
        yield draw.randint(least, most), draw.randint(least, most)


@pytest.mark.torch
@pytest.mark.parametrize(("family", "side"), [("idefics3", 364), ("smolvlm", 384)])
def test_tiles_of_idefics3(family, side):
    module = pytest.importorskip(f"transformers.models.{family}.image_processing_pil_{family}")
    edge = {"longest_edge": 4 * side}
    name = "Idefics3ImageProcessorPil" if family == "idefics3" else "SmolVLMImageProcessorPil"
    processor = getattr(module, name)(size=edge, max_image_size={"longest_edge": side})
    model = _model(family, patch=side // 26, side=26, tokens="169*images")
    for width, height in _sizes(family):
        patches, rows, columns = processor.get_number_of_image_patches(height, width)
        # `_get_num_multimodal_tokens`: an image and three markers; two markers more a tile, one more a row
        expected = max(1, patches) * 169 + 3 + rows * (2 * columns + 1)
        assert sum(_counted(model, width, height)) == expected, (width, height)


@pytest.mark.torch
@pytest.mark.parametrize(("patch", "merge", "edge"), [(16, 1, 1024), (14, 2, 1540)])
def test_rows_of_pixtral(patch, merge, edge):
    module = pytest.importorskip("transformers.models.pixtral.image_processing_pil_pixtral")
    np = pytest.importorskip("numpy")
    block = patch * merge
    for family, vision in (("mistral3", "pixtral"), ("llava", "pixtral")):
        model = _model(family, patch=patch, merge=merge, edge=edge, vision=vision)
        for width, height in _sizes(f"pixtral {patch}"):
            image = np.broadcast_to(np.zeros((), dtype=np.uint8), (height, width, 3))
            high, wide = module.get_resize_output_image_size(image, size=edge, patch_size=block)
            rows, columns = high // block, wide // block
            # a break ends each row, the last one with the image's end
            assert _counted(model, width, height) == (rows * columns, rows), (width, height)


@pytest.mark.torch
@pytest.mark.parametrize(("width", "height"), [(1541, 1), (1, 100_000), (5000, 2), (2048, 2), (2049, 2), (1024, 1)])
def test_what_pixtral_leaves_no_pixel_of_is_refused(width, height):
    """transformers makes a side of 0 pixels of it."""
    module = pytest.importorskip("transformers.models.pixtral.image_processing_pil_pixtral")
    np = pytest.importorskip("numpy")
    image = np.broadcast_to(np.zeros((), dtype=np.uint8), (3, height, width))
    left = module.get_resize_output_image_size(image, size=1024, patch_size=16)
    model = _model("mistral3", patch=16, edge=1024, vision="pixtral")
    if min(left):
        assert _counted(model, width, height)[0] == left[0] * left[1] // 16**2
    else:
        with pytest.raises(InvalidValueError, match=rf"image_size.* at most 1024:1 \(got \[{width}, {height}\]\)"):
            _counted(model, width, height)
    assert (min(left) == 0) == (max(width, height) > 1024 * min(width, height))


def test_a_refused_size_is_printed_as_given():
    with pytest.raises(InvalidValueError, match=r"sides at most 200:1 \(got \[1, 400\]\)"):
        _counted(_model("glm4v", patch=14, merge=2), 1, 400)


@pytest.mark.torch
@pytest.mark.parametrize("family", ["glm4v", "glm4v_moe", "glm46v"])
def test_patches_of_glm(family):
    module = pytest.importorskip("transformers.models.glm4v.image_processing_pil_glm4v")
    processor = module.Glm4vImageProcessorPil()
    model = _model(family, patch=14, merge=2)
    for width, height in _sizes(family):
        if max(width, height) <= 200 * min(width, height):
            assert _counted(model, width, height) == (processor.get_number_of_image_patches(height, width) // 4, 2)


@pytest.mark.torch
def test_patches_of_qwen3_5():
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    # limits of Qwen3-VL's checkpoints
    processor = module.Qwen2VLImageProcessorPil(min_pixels=256 * 256, max_pixels=4096 * 4096, patch_size=16)
    model = _model("qwen3_5", patch=16, merge=2)
    for width, height in _sizes("qwen3_5", least=32):
        assert _counted(model, width, height)[0] == processor.get_number_of_image_patches(height, width) // 4


@pytest.mark.torch
@pytest.mark.parametrize(("family", "patch"), [("qwen2_5_omni_thinker", 14), ("qwen3_omni_moe_thinker", 16)])
def test_patches_of_qwen_omni(family, patch):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    # limits of the checkpoints
    processor = module.Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056, patch_size=patch)
    model = _model(family, patch=patch, merge=2)
    for width, height in _sizes("omni", least=28):
        assert _counted(model, width, height)[0] == processor.get_number_of_image_patches(height, width) // 4


@pytest.mark.torch
def test_tiles_of_llava_next_video():
    """Tiles without their padding, and a newline a row."""
    processing = pytest.importorskip("transformers.models.llava_next_video.processing_llava_next_video")
    processor = processing.LlavaNextVideoProcessor.__new__(processing.LlavaNextVideoProcessor)
    grids = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    processor.patch_size, processor.num_additional_image_tokens = 14, 1
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=grids)
    model = _model("llava_next_video", patch=14, side=24, tokens="576*images")
    for width, height in _sizes("next video"):
        expected = processor._get_number_of_features(height, width, 336, 336) - 1
        assert _counted(model, width, height) == (expected, 0), (width, height)


def _functions(path, *methods):
    """Functions of a processor's file that needs torchvision."""
    place = Path(__file__).parent.parent / "models" / "flop_oracle.py"
    spec = importlib.util.spec_from_file_location("flop_oracle", place)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    return oracle.counting_functions(path, methods)


@pytest.mark.torch
def test_patches_of_kimi():
    pytest.importorskip("transformers.models.kimi_k25")
    functions = _functions("kimi_k25/image_processing_kimi_k25.py")
    model = _model("kimi_k25", patch=14, merge=2)
    for width, height in _sizes("kimi"):
        _, (high, wide) = functions.navit_resize(height, width, 14, 2, 16384, 512)
        assert _counted(model, width, height) == (high * wide // 28**2, 0), (width, height)


@pytest.mark.torch
def test_tiles_of_lfm2():
    pytest.importorskip("transformers.models.lfm2_vl")
    sizing = _functions(
        "lfm2_vl/image_processing_lfm2_vl.py",
        "smart_resize",
        "_is_image_too_large",
        "_target_ratios",
        "_get_grid_layout",
    )
    processing = pytest.importorskip("transformers.models.lfm2_vl.processing_lfm2_vl")
    markup = processing.Lfm2VlProcessor.__new__(processing.Lfm2VlProcessor)
    markup.image_token, markup.image_start_token, markup.image_end_token = "<image>", "<start>", "<end>"
    markup.image_thumbnail_token = "<thumbnail>"
    given = {"downsample_factor": 2, "max_image_tokens": 256, "encoder_patch_size": 16}
    processor = SimpleNamespace(_target_ratios=lambda least, most: sizing._target_ratios(None, least, most))
    model = _model("lfm2_vl", patch=16, side=32, merge=2, tokens="256*images")
    for width, height in _sizes("lfm2"):
        wide, high = sizing.smart_resize(None, height, width, min_image_tokens=64, **given)
        rows = columns = 1
        if sizing._is_image_too_large(None, height, width, max_pixels_tolerance=2.0, **given):
            columns, rows, *_ = sizing._get_grid_layout(processor, height, width, 2, 10, 512)
        tile = markup._compute_tokens_per_tile(512, 16, 2)
        text = markup._build_image_tokens(
            rows, columns, tile, markup._compute_tokens_for_image([high, wide], 16, 2), True, True
        )
        visual = text.count("<image>")
        assert _counted(model, width, height) == (visual, text.count("<") - visual), (width, height)


@pytest.mark.torch
def test_tiles_of_ovis2():
    module = pytest.importorskip("transformers.models.ovis2.image_processing_pil_ovis2")
    processing = pytest.importorskip("transformers.models.ovis2.processing_ovis2")
    markup = processing.Ovis2Processor.__new__(processing.Ovis2Processor)
    markup.image_seq_length = 256
    model = _model(
        "ovis2", patch=14, side=32, tokens="256*images", preprocessor={"crop_to_patches": True, "max_patches": 9}
    )
    for width, height in list(_sizes("ovis2", least=30))[:200]:
        columns, rows = module.get_min_tile_covering_grid((height, width), target_patch_size=448, max_image_tiles=9)

        class Grid(list):
            def tolist(self):
                return list(self)

        text = markup.replace_image_token({"grids": [Grid((rows, columns))]}, 0)
        visual = text.count("<IMG_ATOM>")
        assert _counted(model, width, height) == (visual, text.count("<") - visual), (width, height)
    assert _counted(_model("ovis2", patch=14, side=32, tokens="256*images"), 2000, 900) == (256, 3)


@pytest.mark.torch
def test_tiles_of_cohere_and_aya():
    module = pytest.importorskip("transformers.models.got_ocr2.image_processing_pil_got_ocr2")
    processor = module.GotOcr2ImageProcessorPil(size={"height": 364, "width": 364}, min_patches=1, max_patches=12)
    models = [_model(family, patch=14, side=26, tokens="169*images") for family in ("aya_vision", "cohere2_vision")]
    for width, height in _sizes("aya"):
        tiles = processor.get_number_of_image_patches(height, width, {"crop_to_patches": True})
        for model in models:
            # `_get_num_multimodal_tokens` of both processors: two markers an image, one a tile
            assert _counted(model, width, height) == (169 * tiles, 2 + tiles), (width, height)


@pytest.mark.torch
def test_tiles_of_llama4():
    """Its image processor needs torchvision; `get_best_fit` is repeated here in the same single precision."""
    torch = pytest.importorskip("torch")
    processing = pytest.importorskip("transformers.models.llama4.processing_llama4")
    markup = processing.Llama4Processor.__new__(processing.Llama4Processor)
    model = _model("llama4", patch=14, side=24, tokens="144*images")
    canvases = torch.tensor(
        [[336 * rows, 336 * columns] for rows in range(1, 17) for columns in range(1, 16 // rows + 1)]
    )
    for width, height in _sizes("llama4"):
        scales = torch.minimum(canvases[:, 0] / height, canvases[:, 1] / width)
        larger = scales[scales >= 1]
        chosen = canvases[scales == (larger.min() if len(larger) else scales.max())]
        best = chosen[chosen.prod(dim=1).argmin()] // 336
        text = markup._prompt_split_image(best.tolist(), 144)
        visual = text.count("<|patch|>")
        assert _counted(model, width, height) == (visual, text.count("<|") - visual), (width, height)


def test_images_that_are_one_input():
    # mm_tokens_per_image 256 and "\n\n<start_of_image>…<end_of_image>\n\n"; 256 of Aria's 980 pixels; (448 / 14)²
    for family, side, tokens, text in (("gemma3", 64, 256, 4), ("aria", 70, 256, 0), ("paligemma", 32, 1024, 0)):
        model = _model(family, patch=14, side=side, tokens=f"{tokens}*images")
        for width, height in ((60, 2000), (3000, 3000)):
            assert _counted(model, width, height, images=3) == (3 * tokens, 3 * text)


def test_a_processor_that_is_not_known_is_said_so():
    model = _model("newcomer", patch=14, side=10, tokens="100*images")
    with pytest.raises(InvalidValueError, match="how newcomer's processor sizes and cuts images is not known here"):
        _counted(model, 100, 100)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("newcomer", "timm's, which is not installed), which the parameters leave out too"),
        ("other", "it has no get_image_features)"),
    ],
)
@pytest.mark.parametrize("shown", [{"images": 1}, {"frames": 4}])
def test_images_of_a_model_traced_without_its_tower_are_refused_with_a_remedy(family, reason, shown):
    """The notes are those that a trace writes; a stated count is priced."""
    note = f"{WITHOUT_TOWER} ({reason}: workload.visual_tokens says how many tokens images are"
    model = ModelSpec(name=family, family=family, decoder=DecoderSpec(**TEXT), notes=(note,))
    with pytest.raises(InvalidValueError) as refused:
        resolve_workload(WorkloadFile(text_tokens=1, **shown), model)
    assert f"{family} is traced without its tower ({reason}" in str(refused.value)
    assert "(use visual_tokens)" in str(refused.value)
    assert resolve_workload(WorkloadFile(text_tokens=1, visual_tokens=300), model)[0].visual_tokens == 300


def test_images_of_gemma3n_cost_the_language_model_alone():
    """256 tokens, two markers and two blank lines each; timm's tower is named as not priced."""
    note = (
        f"{WITHOUT_TOWER} (timm's, which is not installed), which the parameters leave out too: workload.visual_tokens"
    )
    bare = ModelSpec(name="gemma3n", family="gemma3n", decoder=DecoderSpec(**TEXT), notes=(note,))
    model = with_images_alone(bare, {"vision_soft_tokens_per_image": 256}, "config")
    workload, _ = resolve_workload(WorkloadFile(text_tokens=1, images=3, image_size=[3000, 70]), model)
    assert (workload.visual_tokens, workload.template_tokens, workload.tower) == (768, 12, None)
    assert "its time and memory are not priced, images cost the language model alone" in model.notes[0]
    with pytest.raises(InvalidValueError, match="gemma3n's processor takes images only"):
        resolve_workload(WorkloadFile(text_tokens=1, frames=4), model)


# One tower of each family, by what its trace says: `merge` is 1 where the projector pools.
POOLED = {
    "gemma3": {"side": 64, "tokens": "256*images"},
    "aria": {"side": 35, "tokens": "128*images"},
    "paligemma": {"side": 32, "tokens": "1024*images"},
    "idefics3": {"side": 26, "tokens": "169*images"},
    "smolvlm": {"side": 27, "tokens": "81*images"},
    "llama4": {"side": 24, "tokens": "144*images"},
    "internvl": {"side": 32, "tokens": "256*images"},
    "ovis2": {"side": 32, "tokens": "256*images"},
    "aya_vision": {"side": 26, "tokens": "169*images"},
    "cohere2_vision": {"side": 32, "tokens": "256*images"},
    "mistral3": {"merge": 2, "tokens": "1/4*images*patches", "edge": 1540, "vision": "pixtral"},
    "glm4v": {"merge": 2, "tokens": "1/4*images*patches"},
    "qwen3_5": {"merge": 2, "tokens": "1/4*images*patches"},
    "kimi_k25": {"merge": 2, "tokens": "1/4*images*patches"},
    "lfm2_vl": {"side": 32, "merge": 2, "tokens": "256*images"},
}
SHARES = ({}, {"ratio": 0.9}, {"ratio": 1.0}, *({"scorer": s, "ratio": 0.9} for s in ("cls_attention", "uniform")))


def _planned(model, method, params, images=1, size=(1280, 720)):
    """(visual tokens without the method, its schedule); None where it does not take these parameters."""
    module = plan_module(method)
    file = validate(WorkloadFile, {"images": images, "image_size": list(size), "text_tokens": 50}, where="run")
    workload, _ = resolve_workload(file, model)
    try:
        return workload, module.plan(model, workload, validate(module.Params, {"name": method, **params}, where="run"))
    except AimcostError:
        return workload, None


@pytest.mark.parametrize("family", POOLED)
def test_no_method_leaves_more_tokens_than_there_were(family):
    model = _model(family, patch=16 if family == "lfm2_vl" else 14, **POOLED[family])
    decoder = replace(model.decoder, layers=24)
    model, planned = replace(model, decoder=decoder), set()
    for method, params, images in itertools.product(method_names(), SHARES, (1, 3)):
        workload, schedule = _planned(model, method, params, images)
        if schedule is not None:
            planned.add(method)
            before = (workload.visual_tokens, *[workload.visual_tokens + workload.text_tokens] * 24)
            assert all(a <= b for a, b in zip((schedule.visual_tokens, *schedule.tokens), before, strict=True)), method
            assert all(
                e.groups * e.tokens_in <= workload.visual_tokens for e in schedule.events if e.after_layer is None
            )
    assert {"visionzip", "fastervlm", "vispruner", "cdpruner", "prumerge", "prumerge_plus", "pre_llm"} <= planned


@pytest.mark.parametrize(
    ("family", "method", "views", "kept"),
    [
        # 191 and 30 of 576: 85 and 13 of 256; 56 and 9 of 169, of twelve tiles and the whole image
        ("gemma3", "visionzip", 1, 85 + 13),
        ("idefics3", "visionzip", 13, 56 + 9),
        # int(256 · 0.0694) + 1
        ("gemma3", "prumerge", 1, 18),
    ],
)
def test_a_crop_method_counts_the_tokens_that_a_pooling_projector_leaves(family, method, views, kept):
    _, schedule = _planned(_model(family, patch=14, **POOLED[family]), method, {})
    assert schedule.visual_tokens == views * kept
    assert [event.groups for event in schedule.events] == [views]


def _resolved(family, **workload):
    file = validate(WorkloadFile, {"text_tokens": 50, **workload}, where="run")
    return resolve_workload(file, _model(family, patch=14, **POOLED[family]))


@pytest.mark.parametrize("shown", [{"images": 1}, {"visual_tokens": 100}])
def test_a_newline_that_a_traced_family_has_not_is_refused(shown):
    for newline in (True, "row"):
        with pytest.raises(
            InvalidValueError, match=r"workload\.newline' must be omitted: idefics3 has no newline tokens"
        ):
            _resolved("idefics3", **shown, newline=newline)
    assert _resolved("idefics3", **shown, newline=False) == _resolved("idefics3", **shown)


GLM = {"merge": 2, "tokens": "1/4*images*patches"}
SMOLVLM = {"patch": 16, "side": 32, "tokens": "64*images"}


def _video(model, row, **workload):
    seconds = {"seconds": row["total"] / row["source_fps"], **({"fps": row["fps"]} if row["fps"] else {})}
    return resolve_workload(WorkloadFile(text_tokens=1, **seconds, **workload), model)[0]


@pytest.mark.parametrize(("name", "family"), [("glm4v", "glm4v_moe"), ("glm46v", "glm46v")])
def test_videos_of_glm(name, family, golden):
    rows, off = golden(f"{name}_videos"), 0
    models = {
        most: _model(family, patch=14, **GLM, preprocessor={"max_video_pixels": most})
        for most in {row["max_pixels"] for row in rows}
    }
    for row in rows:
        found = _video(models[row["max_pixels"]], row, image_size=[row["width"], row["height"]])
        assert (found.frames, found.visual_tokens) == (row["frames"], row["tokens"]), row
        # which frame of the source is nearest decides whether one is before 1000 s or after
        assert abs(found.template_tokens - row["text"]) <= 1, row
        off += found.template_tokens != row["text"]
    assert off <= len(rows) // 50


def test_videos_of_smolvlm(golden):
    rows = golden("smolvlm_videos")
    model = _model("smolvlm", **SMOLVLM)
    for row in rows:
        found = _video(model, row, max_frames=row["max_frames"])
        assert (found.frames, found.visual_tokens) == (row["frames"], 64 * row["frames"]), row
        assert found.template_tokens == row["text"], row
        assert (found.tower.sequences, found.tower.rows) == (row["frames"], 32)


def test_a_checkpoint_names_its_video_processor():
    """GLM-4.6V is a glm4v_moe with the processor of glm46v: 100 s at 2 a second for a time of four tokens."""
    later = {"video_processor_type": "Glm46VVideoProcessor"}
    model = _model("glm4v_moe", patch=14, **GLM, preprocessor=later)
    found = resolve_workload(WorkloadFile(text_tokens=1, seconds=100, image_size=280), model)[0]
    # a marker before and after each pair of frames and all, "12", ".", "3", " seconds"
    assert (found.frames, found.template_tokens) == (200, 100 * 6 + 2)
    with pytest.raises(InvalidValueError, match=r"workload\.fps' must be omitted: the processor chooses the rate"):
        resolve_workload(WorkloadFile(text_tokens=1, seconds=100, fps=1), model)


def test_a_video_of_internvl_is_frames_of_one_tile():
    model = _model("internvl", patch=14, side=32, tokens="256*images")
    found = resolve_workload(WorkloadFile(text_tokens=1, seconds=12, fps=1), model)[0]
    # "Frame", the digits of 1 … 12, ":", " ", two markers; a break between two
    assert (found.visual_tokens, found.template_tokens) == (12 * 256, 9 + 2 * 3 + 12 * 5 + 11)
    assert found.tower.sequences == 12


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("idefics3", "idefics3's processor takes images only"),
        ("llava_next_video", "llava_next_video pools frames before its projector"),
        ("kimi_k25", "what kimi_k25's processor makes of a video is not known here"),
    ],
)
def test_videos_that_are_not_known_are_refused(family, message):
    model = _model(family, patch=14, side=26, tokens="169*images")
    with pytest.raises(InvalidValueError, match=f"workload.frames' must be omitted: {message}"):
        resolve_workload(WorkloadFile(text_tokens=1, frames=8), model)


def test_text_around_images_of_several_sizes_is_one_note():
    sizes = [[1280, 720], [640, 480], [3000, 200]]
    workload, notes = _resolved("idefics3", images=3, image_size=sizes)
    each = [_resolved("idefics3", images=1, image_size=size)[0].template_tokens for size in sizes]
    noted = [note for note in notes if "tokens of text" in note]
    assert workload.template_tokens == sum(each)
    assert noted == [f"{sum(each)} tokens of text around and in the images: markers, by the processor"]
