"""`roofline` counts what torch counts: `FlopCounterMode` over real transformers models on meta.

Every comparison is exact: matrix products with weights, and both products of attention over the full
square. Some releases of transformers build RoPE's angles with a matrix product, [d/2, 1] @ [1, n], once
a forward pass: 2·(d/2)·n FLOPs that depend on no weight. Others multiply element by element, which
is not counted. Those FLOPs are taken out by module, and must be the one or the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode

import aimcost
from aimcost.inputs.model import load_model, model_config
from aimcost.runtime.compat import cache_argument

pytestmark = pytest.mark.torch

DECODERS = [
    "llama-3.1-8b",
    "llama-2-7b",
    "vicuna-13b",
    "qwen2-0.5b",
    "qwen2.5-7b",
    "qwen3-4b",
    "qwen3-8b",
    "mistral-7b-v0.3",
    "mistral-nemo-12b",
]
WORKLOADS = [(1, 257), (3, 1024)]  # batch, tokens
MACHINE = {"name": "any", "memory_gb_per_s": 1000, "dense_tflops": {"bf16": 100}}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counted(call: Any) -> tuple[int, int]:
    """Total FLOPs that torch counts, and those of rotary embeddings."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    by_module = counter.get_flop_counts()
    rotary = sum(sum(ops.values()) for name, ops in by_module.items() if name.endswith("rotary_emb"))
    return counter.get_total_flops(), rotary


def priced(run: dict[str, Any], *stages: str) -> float:
    """The same from the table of operations: products with weights, and attention's full square."""
    estimate = aimcost.estimate({"hardware": MACHINE, "estimator": "roofline", **run})
    table, total = estimate.table, 0.0
    full_square = {"fused_attention", "qk_matmul", "sv_matmul"}
    for segment in table.segments:
        rows = slice(segment.start, segment.stop)
        if segment.stage not in stages:
            continue
        if segment.kind == "gemm":
            total += float(table.flops[rows] @ table.count[rows])
    for op in estimate.ops():
        if op["stage"] in stages and op["name"] in full_square:
            total += op["flops_full_square"]
    return total


@lru_cache(maxsize=2)
def decoder_on_meta(name: str, kernel: str = "sdpa", layers: int | None = None) -> Any:
    """The transformers class of a configuration's language model, without weights; with fewer layers where asked."""
    config = model_config(name)
    text = dict(config.get("text_config", config))
    if layers is not None:
        text["num_hidden_layers"] = layers
    built = transformers.AutoConfig.for_model(text.pop("model_type"), **text)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(built, attn_implementation=kernel).eval()


def prefill(model: Any, batch: int, tokens: int) -> int:
    """FLOPs that torch counts in one prefill that yields the last token's logits, RoPE's angles left out."""
    ids = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    total, rotary = counted(lambda: model(input_ids=ids, logits_to_keep=1))
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert rotary in (0, 2 * (head_dim // 2) * tokens)
    return total - rotary


def prefill_of_all_layers(name: str, batch: int, tokens: int, kernel: str = "sdpa") -> int:
    """`prefill` of as many layers as the model has, all of them alike, from torch's counts of one and of two."""
    spec = load_model(name).decoder
    assert spec.alike
    one, two = (prefill(decoder_on_meta(name, kernel, layers), batch, tokens) for layers in (1, 2))
    return one + (spec.layers - 1) * (two - one)


@pytest.mark.parametrize("name", DECODERS)
def test_decoder_prefill(name: str) -> None:
    for batch, tokens in WORKLOADS:
        run = {"model": name, "workload": {"batch": batch, "text_tokens": tokens}}
        assert prefill_of_all_layers(name, batch, tokens) == priced(run, "prefill")


def test_all_layers_are_as_the_first_two() -> None:
    assert prefill_of_all_layers("qwen2-0.5b", 3, 257) == prefill(decoder_on_meta("qwen2-0.5b"), 3, 257)


@pytest.mark.parametrize(("prompt", "cached"), [(300, 200), (64, 63), (129, 1)])
@pytest.mark.parametrize(
    "family", [{"model_type": "qwen3", "head_dim": 32}, {"model_type": "mistral", "sliding_window": 48}]
)
def test_prefill_behind_a_cached_prefix(family: dict[str, Any], prompt: int, cached: int) -> None:
    """transformers' own cache holds the prefix, of a window its last 47 keys; torch counts the rest's forward."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**family, **shape, "num_key_value_heads": 2, "vocab_size": 128}
    kind = text["model_type"]
    config = transformers.AutoConfig.for_model(kind, **{k: v for k, v in text.items() if k != "model_type"})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    cache, name = transformers.DynamicCache(config=config), cache_argument(model)
    ids = torch.zeros(2, prompt, dtype=torch.long, device="meta")
    with torch.no_grad():
        model(input_ids=ids[:, :cached], use_cache=True, logits_to_keep=1, **{name: cache})
    assert cache.get_seq_length() == cached
    total, rotary = counted(lambda: model(input_ids=ids[:, cached:], logits_to_keep=1, **{name: cache}))
    run = {"model": text, "workload": {"batch": 2, "text_tokens": prompt, "cached_tokens": cached}}
    assert total - rotary == priced(run, "prefill")
    assert cache.get_seq_length() == prompt


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-4b"])
def test_eager_kernels_count_the_same(name: str) -> None:
    run = {"model": name, "workload": {"batch": 2, "text_tokens": 300}}
    counted_flops = prefill_of_all_layers(name, 2, 300, "eager")
    assert counted_flops == priced({**run, "attention": "eager"}, "prefill") == priced(run, "prefill")


def dropped(model: Any, tokens: Sequence[int], batch: int) -> int:
    """FLOPs of each decoder layer on as many tokens as its schedule says, and of the last token's logits.

    Layers are alike: each number of tokens goes through the first.
    """
    inner, config = model.model, model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def layer(count: int) -> None:
        states = torch.empty(batch, count, config.hidden_size, device="meta")
        angles = torch.empty(1, count, head_dim, device="meta")
        inner.layers[0](states, attention_mask=None, position_embeddings=(angles, angles))

    def head() -> None:
        model.lm_head(inner.norm(torch.empty(batch, 1, config.hidden_size, device="meta")))

    assert len(tokens) == model.config.num_hidden_layers
    total, _ = counted(head)
    for count, times in Counter(tokens).items():
        total += times * counted(lambda count=count: layer(count))[0]
    return total


METHODS = [
    {"name": "aim"},
    {"name": "aim", "convention": "paper", "merge_ratio": 0.125, "l1": 2},
    {"name": "fastv", "k": 3},
    {"name": "pyramiddrop"},
    {"name": "vtw"},
    {"name": "prumerge"},
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))
def test_schedules_with_real_drops(method: dict[str, Any], batch: int) -> None:
    name = "llava-onevision-qwen2-7b"
    run = {
        "model": name,
        "workload": {"frames": 8, "text_tokens": 100, "batch": batch},
        "method": method,
    }
    tokens = aimcost.schedule(run).tokens
    assert (tokens[-1] < tokens[0]) == (method["name"] != "prumerge")
    assert dropped(decoder_on_meta(name), tokens, batch) == priced(run, "prefill")


@pytest.mark.parametrize("name", ["mistral-nemo-12b", "qwen3-4b", "llama-3.1-8b"])
def test_explicit_drops_in_other_families(name: str) -> None:
    layers = load_model(name).decoder.layers
    run = {
        "model": name,
        "workload": {"visual_tokens": 800, "text_tokens": 100},
        "method": {"name": "explicit", "tokens_per_layer": [[900, 3], [451, layers - 5], [33, 1], [1, 1]]},
    }
    assert dropped(decoder_on_meta(name), aimcost.schedule(run).tokens, 1) == priced(run, "prefill")


def test_a_priced_schedule_is_what_apply_runs() -> None:
    run = {
        "model": "qwen2-0.5b",
        "workload": {"visual_tokens": 1200, "text_tokens": {"system": 14, "question": 86}},
        "method": {"name": "explicit", "tokens_per_layer": [[1300, 8], [700, 8], [250, 8]]},
    }
    model = decoder_on_meta("qwen2-0.5b")
    with aimcost.apply(model, aimcost.schedule(run)):
        assert prefill(model, 1, 1300) == priced(run, "prefill")


def tower_on_meta(name: str, layers: int | None = None) -> Any:
    """The vision tower with so many layers: those up to the one whose features are taken, where it is not said."""
    config = dict(model_config(name)["vision_config"])
    kind = config.pop("model_type")
    config["num_hidden_layers"] = load_model(name).vision.layers if layers is None else layers
    classes = {
        "siglip_vision_model": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
        "clip_vision_model": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
    }
    config_class, model_class = classes[kind]
    with torch.device("meta"):
        return model_class(config_class(**config)).eval()


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("name", ["llava-onevision-qwen2-7b", "llava-1.5-7b", "longva-7b"])
def test_tower(name: str, images: int) -> None:
    size = load_model(name).vision.image_size
    pixels = torch.empty(images, 3, size, size, device="meta")
    tower = tower_on_meta(name)
    total, _ = counted(lambda: tower(pixel_values=pixels))
    # one view each: an image that OneVision is given alone it also cuts into tiles
    shown = "frames" if "onevision" in name else "images"
    one = {"model": name, "workload": {shown: images}}
    many = {"model": name, "workload": {shown: 1, "batch": images}}
    assert total == priced(one, "vision") == priced(many, "vision")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("llava-1.5-7b", 24),
        pytest.param("longva-7b", 24, marks=pytest.mark.check),
        pytest.param("llava-onevision-qwen2-0.5b", 26, marks=pytest.mark.check),
    ],
)
def test_tower_as_transformers_runs_it(name: str, layers: int) -> None:
    """All 24 layers of a CLIP tower, whose features leave after the 23rd: a stack that builds it up to there runs one
    less, of 2 · (4 h² + 2 h i) FLOPs a token and 4 h a pair. Of a SigLIP tower all 26 are of use."""
    spec = load_model(name).vision
    assert spec.stored_layers == layers
    pixels = torch.empty(1, 3, spec.image_size, spec.image_size, device="meta")
    tower = tower_on_meta(name, layers)
    total, _ = counted(lambda: tower(pixel_values=pixels))
    shown = "frames" if "onevision" in name else "images"
    run = {"model": name, "estimator": "calibrated", "workload": {shown: 1}}
    executed, used = (priced({**run, "stack": stack}, "vision") for stack in ("transformers", "vllm"))
    tokens, h, i = spec.tokens, spec.hidden, spec.intermediate
    one_layer = tokens * 2 * (4 * h * h + 2 * h * i) + 4 * tokens**2 * h
    assert total == executed == used + (one_layer if layers == 24 else 0)


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("llava-onevision-qwen2-7b", "llava_onevision.modeling_llava_onevision.LlavaOnevision"),
        ("llava-onevision-qwen2-0.5b", "llava_onevision.modeling_llava_onevision.LlavaOnevision"),
        ("llava-1.5-7b", "llava.modeling_llava.Llava"),
        ("llava-1.5-13b", "llava.modeling_llava.Llava"),
    ],
)
def test_projector(name: str, module: str, frames: int) -> None:
    path, _, prefix = module.rpartition(".")
    source = __import__(f"transformers.models.{path}", fromlist=["models"])
    config = model_config(name)
    vision, text = dict(config["vision_config"]), dict(config["text_config"])
    built_config = getattr(transformers, f"{prefix}Config")(
        vision_config=transformers.AutoConfig.for_model(vision.pop("model_type"), **vision),
        text_config=transformers.AutoConfig.for_model(text.pop("model_type"), **text),
    )
    with torch.device("meta"):
        projector = getattr(source, f"{prefix}MultiModalProjector")(built_config)
    shape = load_model(name).vision
    features = torch.empty(frames, shape.patches, shape.hidden, device="meta")
    total, _ = counted(lambda: projector(features))
    assert total == priced({"model": name, "workload": {"frames": frames}}, "projector")


def test_published_figures() -> None:
    """LLaVA-OneVision-7B: the language model on 32·196 + 100 tokens, the tower on 32 frames.

    Per layer and token 2·(3584·(3584 + 2·512) + 3584² + 3·3584·18944) and 4·6372·3584 for attention,
    28 layers, and 2·3584·152064 for the last token's logits: 99.457 TFLOP.
    """
    run = {
        "model": "llava-onevision-qwen2-7b",
        "workload": {"frames": 32, "text_tokens": 100, "newline": False},
    }
    weights = 3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944
    decoder = 28 * (2 * 6372 * weights + 4 * 6372**2 * 3584) + 2 * 3584 * 152064
    assert priced(run, "prefill") == decoder
    assert decoder / 1e12 == pytest.approx(99.457, abs=5e-4)

    assert prefill(decoder_on_meta(run["model"]), 1, 6372) == decoder

    pixels = torch.empty(32, 3, 384, 384, device="meta")
    tower = tower_on_meta(run["model"])
    total, _ = counted(lambda: tower(pixel_values=pixels))
    assert total == priced(run, "vision")
    assert total / 1e12 == pytest.approx(20.5376, abs=5e-5)
