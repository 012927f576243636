"""KV bytes of an estimate equal those of the cache that a real model fills while generating."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytest.importorskip("aimcost.runtime.executor", exc_type=ImportError)

import aimcost
from aimcost.runtime import build_model
from aimcost.runtime.compat import cache_of

pytestmark = [pytest.mark.torch, pytest.mark.versions("cache bytes")]

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
BYTES = {"fp32": 4, "bf16": 2}


def cache_bytes(cache: object) -> list[int]:
    """Bytes of keys and values, layer by layer."""
    return [
        layer.keys.numel() * layer.keys.element_size() + layer.values.numel() * layer.values.element_size()
        for layer in cache.layers
    ]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("new_tokens", [1, 7])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "none"},
        {"name": "vtw", "k": 2},
        {"name": "fastv", "k": 2, "ratio": 0.5},
        {"name": "aim", "merge_ratio": 1.0, "l1": 1, "l2": 5},
    ],
    ids=lambda method: method["name"],
)
def test_kv_bytes_equal_a_real_cache(method: dict, dtype: str, new_tokens: int, batch: int) -> None:
    run = {
        "model": CONFIG,
        "workload": {
            "visual_tokens": 40,
            "text_tokens": {"system": 3, "question": 9},
            "new_tokens": new_tokens,
            "batch": batch,
        },
        "method": method,
        "precision": {"weights": dtype, "activations": dtype, "kv": dtype},
        "hardware": "nvidia_a100_sxm_80gb",
    }
    memory = aimcost.estimate(run).memory
    torch.manual_seed(0)
    model = build_model(CONFIG, dtype=dtype, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    ids = torch.randint(1, CONFIG["vocab_size"], (batch, 52))
    with aimcost.apply(model, aimcost.schedule(run)):
        result = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
    held = cache_bytes(cache_of(result))
    assert list(memory.kv_by_layer) == held
    assert memory.kv_bytes == sum(held)
    if method["name"] != "none":
        assert len(set(held)) > 1  # the cache is ragged


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "qwen2",
        "qwen3",
        "mistral",
        "llava-image",
        "llava_next-image",
        "llava_onevision-video",
        "qwen2_vl-image",
        "qwen2_5_vl-video",
        "qwen3_vl-image",
        "internvl-image",
    ],
)
def test_a_generation_fills_the_cache_of_live_tokens_alone(name, toolbox):
    """Layer by layer 2 (keys, values) x 2 heads x 16 numbers x 4 bytes, for the live tokens and 3 of the 4 new ones."""
    case = toolbox.build_case(name, 3, True)
    schedule = case.schedule([(1, 10), (2, 4)])
    with aimcost.apply(case.model, schedule):
        result = case.model.generate(
            **case.inputs,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            pad_token_id=0,
            eos_token_id=None,
        )
    assert cache_bytes(cache_of(result)) == [3 * 256 * (tokens + 3) for tokens in schedule.tokens]
