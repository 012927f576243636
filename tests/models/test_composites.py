"""Phi-3.5-V, Kimi-VL and DeepSeek-VL2, whose classes are not in transformers: the released processors' counts, towers
against transformers' CLIP, SigLIP and Kimi K2.5, language models against its classes of the same layers.

Configurations are those of the checkpoints, with the sizes that cost nothing left out.
"""

from __future__ import annotations

import math
import random
from functools import partial
from types import SimpleNamespace

import pytest

import aimcost
from aimcost.errors import InvalidValueError, MissingExtraError, UnsupportedModelError
from aimcost.inputs import model as models
from aimcost.inputs.hf.composites import language, with_tower
from aimcost.inputs.schema import WorkloadFile
from aimcost.inputs.workload import resolve_workload
from aimcost.models.visual_tokens import images_layout
from aimcost.types import DecoderSpec, ModelSpec

PHI = {
    "model_type": "phi3_v",
    "embd_layer": {"use_hd_transform": True, "with_learnable_separator": True, "hd_transform_order": "sub_glb"},
    "img_processor": {"image_dim_out": 1024, "model_name": "openai/clip-vit-large-patch14-336", "num_img_tokens": 144},
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rope_scaling": {"type": "su", "long_factor": [1.0] * 48, "short_factor": [1.0] * 48},
    "sliding_window": 262144,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
KIMI = {
    "model_type": "kimi_vl",
    "vision_config": {"model_type": "moonvit", "merge_kernel_size": [2, 2]},
    "text_config": {
        "model_type": "deepseek_v3",
        "hidden_size": 2048,
        "intermediate_size": 11264,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "first_k_dense_replace": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "max_position_embeddings": 131072,
        "vocab_size": 163840,
    },
}
_TALL = [[384, 384 * n] for n in range(2, 10)] + [[768, 1152], [768, 1536]]
DEEPSEEK = {
    "model_type": "deepseek_vl_v2",
    "architectures": ["DeepseekVLV2ForCausalLM"],
    "candidate_resolutions": [[384, 384], *_TALL, *([b, a] for a, b in _TALL), [768, 768], [1152, 1152]],
    "tile_tag": "2D",
    "vision_config": {"layers": 27, "mlp_ratio": 3.7362, "patch_size": 14, "width": 1152},
}
EXPERTS = {
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 4096,
    "q_lora_rank": None,
}
TINY = {
    **DEEPSEEK,
    "projector_config": {"n_embed": 1280},
    "language_config": {
        **EXPERTS,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "moe_intermediate_size": 896,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "kv_lora_rank": None,
        "v_head_dim": 0,
        "qk_nope_head_dim": 0,
        "qk_rope_head_dim": 0,
        "use_mla": False,
        "vocab_size": 129280,
    },
}
SMALL = {
    **DEEPSEEK,
    "projector_config": {"n_embed": 2048},
    "language_config": {
        **EXPERTS,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
}
LARGE = {
    **DEEPSEEK,
    "projector_config": {"n_embed": 2560},
    "language_config": {
        **EXPERTS,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "n_routed_experts": 72,
        "vocab_size": 129280,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
}
# In billions, as the model cards of the checkpoints say.
CARDS = ((PHI, 4.15), (KIMI, 16.4), (TINY, 3.37), (SMALL, 16.1), (LARGE, 27.5))
SIZES = [
    (width, height)
    for draw in [random.Random("composites")]
    for width, height in [(draw.randint(60, 4000), draw.randint(60, 4000)) for _ in range(300)]
]


def _seeing(config, hidden, **preprocessor):
    """Tower and projector beside a language model of that width, which counts of tokens need none of."""
    sizes = {"intermediate": 64, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 64, "vocab": 8}
    bare = ModelSpec(name="it", family="text", decoder=DecoderSpec(hidden=hidden, **sizes))
    return with_tower(bare, {**config, "preprocessor": preprocessor}, "config")


def _counted(model, size, images=1):
    layout = images_layout(model, [(size, images)], newline=None)
    return layout.visual_tokens, layout.load


@pytest.mark.parametrize("crops", [1, 4, 16])
def test_images_of_phi(crops):
    """calc_num_image_tokens: (h/336 · w/336 + 1) · 144 + 1 + (h/336 + 1) · 12, of the image as HD_transform pads it."""
    model = _seeing(PHI, 3072, num_crops=crops)
    for width, height in SIZES:
        long, short = max(width, height), min(width, height)
        # the most tiles along the longer side, of which the shorter one needs a share
        across = max(n for n in range(1, crops + 1) if n * math.ceil(n / (long / short)) <= crops)
        down = math.ceil(int(across * 336 / (long / short)) / 336)
        high = down if width >= height else across
        tokens, load = _counted(model, (width, height))
        assert tokens == (across * down + 1) * 144 + 1 + (high + 1) * 12, (width, height)
        # the tower runs on a fixed number of inputs; separators pass the projector too
        assert (load.sequences, load.rows, load.columns, load.projected) == (crops + 1, 24, 24, tokens)


def test_images_of_phi_by_hand():
    # 1920 x 1080 in 5 x 3 of 16 tiles: 5 · ceil(5 / 1.78) = 15; 6 · ceil(6 / 1.78) = 24
    assert _counted(_seeing(PHI, 3072), (1920, 1080), 2)[0] == 2 * (16 * 144 + 1 + 4 * 12)
    with pytest.raises(InvalidValueError, match=r"sides at most 5376:1 \(got \[6000, 1\]\)"):
        _counted(_seeing(PHI, 3072), (6000, 1))


@pytest.mark.parametrize(("limit", "padded"), [(4096, True), (16384, True), (4096, False)])
def test_images_of_kimi(limit, padded):
    """A quarter of the patches of the image, shrunk above the limit, in whole squares of 28 pixels."""
    model = _seeing(KIMI, 2048, in_token_limit=limit, pad_input=padded)
    for width, height in SIZES:
        patches, (wide, high) = (width // 14) * (height // 14), (width, height)
        if patches > limit:
            wide, high = (int(side * math.sqrt(limit / patches)) for side in (width, height))
        columns, rows = ((side + 27 if padded else side) // 28 for side in (wide, high))
        tokens, load = _counted(model, (width, height))
        assert tokens == columns * rows
        assert (load.rows, load.columns) == (2 * rows, 2 * columns)
    # 1920 x 1080 has 137 x 77 patches, above 4,096: 1183 x 665 are left, of 43 x 24 squares
    assert _counted(_seeing(KIMI, 2048), (1920, 1080))[0] == 43 * 24
    with pytest.raises(InvalidValueError, match="less than 512 patches"):
        _counted(_seeing(KIMI, 2048), (7200, 28))


def test_images_of_deepseek():
    """14 x 14 squares of 27 x 27 patches a tile: 14 · 15 of the whole image, a separator, and the tiles' rows."""
    model = _seeing(TINY, 1280)
    allowed = [tuple(pair) for pair in DEEPSEEK["candidate_resolutions"]]
    for width, height in SIZES:

        def shown(pair, width=width, height=height):
            scale = min(pair[0] / width, pair[1] / height)
            return min(int(width * scale) * int(height * scale), width * height)

        # the most pixels of the image, then the fewest of the canvas; of two alike the first
        best = max(allowed, key=lambda pair: (shown(pair), -pair[0] * pair[1]))
        columns, rows = best[0] // 384, best[1] // 384
        tokens, load = _counted(model, (width, height), 2)
        assert tokens == 2 * (14 * 15 + 1 + rows * 14 * (columns * 14 + 1))
        assert (load.sequences, load.rows) == (2 * (1 + rows * columns), 27)
        assert load.projected == load.sequences * 14 * 14
    assert _counted(model, (3000, 900), 3)[0] == 3 * (14 * 15 + 1 + 14 * 15)


@pytest.mark.torch
def test_images_of_phi4(oracle):
    """transformers' `dynamic_preprocess` on images without pixels, and the sum that `_preprocess` makes of its mask."""
    torch = pytest.importorskip("torch")
    functions = oracle.counting_functions(
        "phi4_multimodal/image_processing_phi4_multimodal.py", ("dynamic_preprocess", "find_closest_aspect_ratio")
    )
    bare = SimpleNamespace(resize=lambda image, _: image, pad=lambda image, *_, **__: image)
    functions.dynamic_preprocess.__globals__.update(torch=torch, tvF=bare)
    processor = SimpleNamespace(find_closest_aspect_ratio=partial(functions.find_closest_aspect_ratio, None))
    for most in (36, 5):
        model = _seeing({"model_type": "phi4_multimodal"}, 3072, dynamic_hd=most)
        for width, height in SIZES[:150]:
            image = torch.empty(3, height, width, device="meta")
            image = SimpleNamespace(shape=image.shape, device="cpu")
            _, mask = functions.dynamic_preprocess(processor, image, 448, 14, 32, max_num=most)
            tiles = mask.numel() // 32**2
            kept = mask[0::2, 0::2]
            tokens, load = _counted(model, (width, height))
            assert tokens == 256 + 1 + int(kept.sum()) + int(kept[:, 0].sum()) + 16, (width, height)
            assert (load.sequences, load.pooled_out, load.projected) == (1 + tiles, 256 * (1 + tiles), tokens)
    # images of a request are one batch: 2 x 1 tiles and 1 x 1, each padded to three inputs of the tower
    layout = images_layout(model, [((800, 400), 1), ((400, 400), 2)], newline=None)
    assert layout.load.inputs == 3 * 3
    with pytest.raises(InvalidValueError, match="less extreme aspect ratio"):
        _counted(model, (9000, 5))


@pytest.mark.parametrize(("config", "hidden"), [(PHI, 3072), (KIMI, 2048), (TINY, 1280)])
def test_their_processors_take_no_videos(config, hidden):
    with pytest.raises(InvalidValueError, match=f"{config['model_type']}'s processor takes images only"):
        resolve_workload(WorkloadFile(text_tokens=1, frames=4), _seeing(config, hidden))


def test_absent_keys_are_those_of_the_released_classes():
    # VL2-Small states neither its vocabulary nor its latent attention
    text = language(SMALL, "config")
    assert (text["model_type"], text["vocab_size"], text["kv_lora_rank"]) == ("deepseek_v2", 102400, 512)
    assert language(LARGE, "config")["model_type"] == "deepseek_v3"
    notes = _seeing(SMALL, 2048).notes
    assert any("image_size 384" in note and "its class's defaults" in note for note in notes)
    (words,) = (note for note in notes if note.startswith("language_config not in config.json"))
    assert "vocab_size 102400" in words
    assert "hidden_size" not in words
    with pytest.raises(InvalidValueError, match="use_mla' must be true or false"):
        language({**SMALL, "language_config": {"use_mla": "no"}}, "config")
    # a window beyond the positions never binds
    assert "sliding_window" not in language(PHI, "config")


@pytest.mark.parametrize(
    ("config", "change", "expected"),
    [
        (TINY, {"tile_tag": "1D"}, "tile_tag' must be 2D"),
        (TINY, {"candidate_resolutions": [[384, 500]]}, "whole tiles of 384 pixels"),
        (TINY, {"projector_config": {"n_embed": 2048}}, "projector_config.n_embed' must be 1280"),
        (PHI, {"embd_layer": {"use_hd_transform": False}}, "use_hd_transform' must be true"),
        (KIMI, {"vision_config": {"merge_kernel_size": [2, 1]}}, "two equal whole numbers"),
        (KIMI, {"vision_config": {"merge_kernel_size": [{}, {}]}}, "two equal whole numbers"),
        (PHI, {"img_processor": {**PHI["img_processor"], "layer_idx": "last"}}, "layer_idx' must be a whole number"),
    ],
)
def test_what_no_checkpoint_has_is_refused(config, change, expected):
    hidden = {"phi3_v": 3072, "kimi_vl": 2048}.get(config["model_type"], 1280)
    with pytest.raises(InvalidValueError, match=expected):
        _seeing({**config, **change}, hidden)


def test_deepseek_ocr_goes_by_the_same_name():
    config = {**TINY, "architectures": ["DeepseekOCRForCausalLM"]}
    with pytest.raises(UnsupportedModelError, match="DeepSeek-OCR under this model_type"):
        models.load_model(config)


def test_without_torch_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(models, "transformers_knows", lambda kind: False)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    said = r"phi3_v, whose language model \(phi3\) is traced, needs transformers: pip install 'aimcost\[torch\]'"
    with pytest.raises(MissingExtraError, match=said):
        models.load_model(PHI)


def _short(config):
    """Two layers each, one of them with experts."""
    if config["model_type"] == "phi3_v":
        return {**config, "num_hidden_layers": 2}
    key = "text_config" if config["model_type"] == "kimi_vl" else "language_config"
    layers = {"num_hidden_layers": 2} if config["model_type"] == "kimi_vl" else {"layers": 2}
    return {
        **config,
        key: {**config[key], "num_hidden_layers": 2},
        "vision_config": {**config["vision_config"], **layers},
    }


def _estimated(config, **work):
    return aimcost.estimate(
        {"model": config, "hardware": "nvidia_a100_sxm_80gb", "workload": {"text_tokens": 20, **work}}
    )


def _counter():
    return pytest.importorskip("torch.utils.flop_counter").FlopCounterMode(display=False)


def _siglip(torch, layers, size=384):
    siglip = pytest.importorskip("transformers.models.siglip.modeling_siglip")
    sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": layers}
    config = siglip.SiglipVisionConfig(
        **sizes, image_size=size, patch_size=14, vision_use_head=True, attn_implementation="sdpa"
    )
    with torch.device("meta"):
        return siglip.SiglipVisionModel(config).bfloat16().eval()


@pytest.mark.torch
@pytest.mark.check
def test_deepseek_tiny_is_transformers_layers():
    """Language model: DeepSeek-OCR 2's, which is the same. Tower: SigLIP with its head, which does not run."""
    torch, ocr = (pytest.importorskip(name) for name in ("torch", "transformers.models.deepseek_ocr2"))
    from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2TextModel

    config = _short(TINY)
    work = {"images": 1, "image_size": [700, 300]}
    estimate, tokens = _estimated(config, **work), _counted(_seeing(TINY, 1280), (700, 300))[0]
    given = config["language_config"]
    kinds = {"mlp_layer_types": ["dense", "sparse"]}
    text = ocr.DeepseekOcr2TextConfig(
        **{key: given[key] for key in given if key.startswith(("n", "h", "i", "m", "v"))},
        **kinds,
        attn_implementation="sdpa",
    )
    text._experts_implementation = "batched_mm"
    with torch.device("meta"):
        decoder = DeepseekOcr2TextModel(text).bfloat16().eval()
        head = torch.nn.Linear(1280, 129280, bias=False)
        projector = torch.nn.Sequential(torch.nn.Linear(4608, 1280), torch.nn.GELU(), torch.nn.Linear(1280, 1280))
    tower = _siglip(torch, 2)
    stored = sum(p.numel() for module in (decoder, head, projector, tower) for p in module.parameters())
    # a newline and what parts the tiles from the whole image
    assert estimate.to_dict()["summary"]["parameters"] == stored + 2 * 1280
    with torch.no_grad(), _counter() as counter:
        decoder(inputs_embeds=torch.empty(1, tokens + 20, 1280, dtype=torch.bfloat16, device="meta"))
    rotary = sum(sum(c.values()) for n, c in counter.get_flop_counts().items() if "rotary" in n.rpartition(".")[2])
    expected = counter.get_total_flops() - rotary + 2 * 1280 * 129280
    assert estimate.matrix_flops(["prefill"], full_square=True) == expected
    # 700 x 300 in 2 x 1 tiles, and whole
    with torch.no_grad(), _counter() as counter:
        tower.use_head = False
        tower(torch.empty(3, 3, 384, 384, dtype=torch.bfloat16, device="meta"), interpolate_pos_encoding=False)
        projector(torch.empty(3 * 14 * 14, 4608, device="meta"))
    assert estimate.matrix_flops(["vision", "projector"]) == counter.get_total_flops()


@pytest.mark.torch
@pytest.mark.check_all
def test_kimi_is_kimi_k25_but_for_its_processor():
    """Parameters, FLOPs of tower, projector and prefill equal those of transformers' Kimi K2.5 of the same sizes."""
    pytest.importorskip("transformers.models.kimi_k25")
    ours = _short(KIMI)
    vision = {"model_type": "kimi_k25_vision", "num_hidden_layers": 2}
    theirs = {
        "model_type": "kimi_k25",
        "text_config": ours["text_config"],
        "vision_config": vision,
        "tie_word_embeddings": False,
    }
    # in whole squares and below every limit, both take the image as it is
    mine, other = (_estimated(config, images=2, image_size=[560, 336]) for config in (ours, theirs))
    assert mine.to_dict()["summary"]["parameters"] == other.to_dict()["summary"]["parameters"]
    assert mine.matrix_flops(["vision", "projector"]) == other.matrix_flops(["vision", "projector"])
    longer = _estimated(theirs, images=2, image_size=[560, 336], text_tokens=28)
    # "image" and three markers around each image
    assert mine.matrix_flops(["prefill"]) == longer.matrix_flops(["prefill"])


@pytest.mark.torch
@pytest.mark.check
def test_phi_is_clip_and_phi3():
    torch, clip = (pytest.importorskip(name) for name in ("torch", "transformers.models.clip.modeling_clip"))
    config = _short(PHI)
    estimate = _estimated(config, images=1, image_size=[700, 300])
    text = aimcost.estimate({"model": language(config, "it"), "hardware": "nvidia_l4", "workload": {"text_tokens": 9}})
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    tower_config = clip.CLIPVisionConfig(**sizes, image_size=336, patch_size=14, attn_implementation="sdpa")
    with torch.device("meta"):
        tower = clip.CLIPVisionModel(tower_config).bfloat16().eval()
        projector = torch.nn.Sequential(torch.nn.Linear(4096, 3072), torch.nn.GELU(), torch.nn.Linear(3072, 3072))
    stored = sum(p.numel() for module in (projector, tower) for p in module.parameters()) + 2 * 4096
    assert estimate.to_dict()["summary"]["parameters"] == text.to_dict()["summary"]["parameters"] + stored
    tokens = _counted(_seeing(PHI, 3072), (700, 300))[0]
    with torch.no_grad(), _counter() as counter:
        tower(torch.empty(17, 3, 336, 336, dtype=torch.bfloat16, device="meta"))
        projector(torch.empty(tokens, 4096, device="meta"))
    assert estimate.matrix_flops(["vision", "projector"]) == counter.get_total_flops()


@pytest.mark.torch
@pytest.mark.check
def test_phi4_is_siglip_and_its_own_decoder():
    """The trace holds the tower's parameters: those of the whole model are its. The checkpoint's layout is the same."""
    torch = pytest.importorskip("torch")
    config = {"model_type": "phi4_multimodal", "num_hidden_layers": 2}
    own = {"model_type": "phi4mm", "num_hidden_layers": 2, "sliding_window": 262144, "max_position_embeddings": 131072}
    assert language(own, "config") == {**config, "max_position_embeddings": 131072}
    estimate = _estimated(config, images=2, image_size=[700, 300])
    auto = pytest.importorskip("transformers")
    with torch.device("meta"):
        whole = auto.AutoModelForCausalLM.from_config(auto.AutoConfig.for_model(**config))
        projector = torch.nn.Sequential(torch.nn.Linear(1152, 3072), torch.nn.GELU(), torch.nn.Linear(3072, 3072))
    assert estimate.to_dict()["summary"]["parameters"] == sum(p.numel() for p in whole.parameters())
    tokens = _counted(_seeing(config, 3072), (700, 300), 2)[0]
    tower = _siglip(torch, 27, size=448)
    tower.use_head = False
    with torch.no_grad(), _counter() as counter:
        # 700 x 300 in 2 x 1 tiles, and whole
        tower(torch.empty(6, 3, 448, 448, dtype=torch.bfloat16, device="meta"))
        projector(torch.empty(tokens, 1152, device="meta"))
    assert estimate.matrix_flops(["vision", "projector"]) == counter.get_total_flops()


@pytest.mark.torch
@pytest.mark.check_all
@pytest.mark.parametrize(("config", "billions"), CARDS, ids=["phi", "kimi", "tiny", "small", "large"])
def test_parameters_are_those_of_the_model_cards(config, billions):
    parameters = _estimated(config).to_dict()["summary"]["parameters"]
    assert f"{parameters / 1e9:.3g}" == f"{billions:.3g}"
