"""A prompt whose first tokens are in the cache: queries are the rest, keys are all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.api import plan
from aimcost.errors import InvalidValueError
from aimcost.inputs.run import load_run
from aimcost.pricing.pricing import estimate_run
from aimcost.search.bulk import layer_table

H100, TEXT, QWEN = "nvidia_h100_sxm", "qwen2-0.5b", "qwen2.5-vl-7b"
# sides of whole 28-pixel blocks, which stay as they are: 8 x 10 tokens twice, then 22 x 17
IMAGES = {"images": 3, "image_size": [[224, 280], [224, 280], [616, 476]]}
SMALL, LARGE = 8 * 10, 22 * 17
SPLIT = {"system": 50, "question": 30}


def estimate(model: Any, method: dict[str, Any] | None = None, **workload: Any) -> dict[str, Any]:
    run = {"model": model, "hardware": H100, "estimator": "roofline", "workload": workload}
    return aimcost.estimate(run, method=method or {"name": "none"}).to_dict()


def ops(found: dict[str, Any], name: str, key: str = "flops") -> list[float]:
    return [op[key] for op in found["ops"] if op["name"] == name and op["stage"] == "prefill"]


@pytest.mark.parametrize(("prompt", "cached"), [(2000, 1), (2000, 500), (2000, 1999), (7, 3), (33_000, 32_768)])
@pytest.mark.parametrize("model", [TEXT, "qwen3-30b-a3b"])
def test_the_rest_costs_the_whole_less_the_prefix(model: str, prompt: int, cached: int) -> None:
    """Products go by token, and of the causal pairs n(n + 1)/2 the first c queries have c(c + 1)/2: FLOPs of a prompt
    are those of its prefix and of the rest. The logits of the prefix's last token are nobody's."""
    whole = estimate(model, text_tokens=prompt)
    prefix = estimate(model, text_tokens=cached)
    rest = estimate(model, text_tokens=prompt, cached_tokens=cached)
    head = sum(ops(whole, "final_norm") + ops(whole, "lm_head"))
    expected = whole["stages"]["prefill"]["flops"] - prefix["stages"]["prefill"]["flops"] + head
    assert rest["stages"]["prefill"]["flops"] == pytest.approx(expected, rel=1e-12)
    assert rest["memory"]["kv_bytes"] == whole["memory"]["kv_bytes"]


def test_keys_are_read_and_the_rest_is_written() -> None:
    """Qwen2-0.5B: 2 KV heads of 64. Of 3,000 tokens 2,900 are cached: 100 rows of k and v are written, and the keys and
    values of all 3,000 read, 2 · 3000 · 128 · 2 bytes; 100 queries of 14 heads fit on the chip."""
    found = estimate(TEXT, text_tokens=3000, cached_tokens=2900)
    layer = {op["name"]: op for op in found["ops"] if op["stage"] == "prefill" and op["layer"] == 7}
    q, n, heads = 100, 3000, 14 * 64
    assert layer["fused_attention"]["bytes"] == 2 * n * 128 * 2 + 2 * q * heads * 2
    assert layer["fused_attention"]["flops"] == 4 * heads * (q * (n - q) + q * (q + 1) / 2)
    assert layer["fused_attention"]["flops_full_square"] == 4 * heads * q * n
    assert layer["gate_proj"]["flops"] == 2 * q * 896 * 4864
    assert found["layers"][7]["tokens"] == n


def test_a_window_bounds_the_cached_keys() -> None:
    """Window 128: every one of the 40 queries after 500 cached tokens attends to 128 keys."""
    model = {"model_type": "mistral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    model |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "sliding_window": 128}
    found = estimate(model, text_tokens=540, cached_tokens=500)
    assert ops(found, "fused_attention") == [4 * 64 * 40 * 128.0] * 2


def test_memory_holds_the_prefix_from_the_start() -> None:
    """Each layer has 100 rows of activations instead of 3,000, and the cache of the prefix is there throughout: 2,900
    of 3,000 tokens in all 24 layers while layer 0 runs, whose own 100 come on top."""
    run = {"model": TEXT, "hardware": H100, "workload": {"text_tokens": 3000, "cached_tokens": 2900}}
    memory = aimcost.estimate(run).memory
    token = 2 * 128 * 2
    first, last = memory.stages[0], memory.stages[23]
    assert first.kv_bytes == 24 * 2900 * token + 100 * token
    assert last.kv_bytes == 24 * 3000 * token == memory.kv_bytes
    assert memory.cached_bytes == 24 * 2900 * token
    short = aimcost.estimate(run, workload={"text_tokens": 100, "cached_tokens": 0}).memory
    assert first.activation_bytes == short.stages[0].activation_bytes


@pytest.mark.parametrize(
    ("cached", "images", "encoded"),
    [
        (50, 0, [(2, SMALL), (1, LARGE)]),  # the text before them
        (50 + SMALL - 1, 0, [(2, SMALL), (1, LARGE)]),  # a token short: the tower runs on the whole image
        (50 + SMALL, 1, [(1, SMALL), (1, LARGE)]),
        (50 + 2 * SMALL + 5, 2, [(1, LARGE)]),
        (50 + 2 * SMALL + LARGE, 3, []),
        (50 + 2 * SMALL + LARGE + 29, 3, []),  # all but the last token
    ],
)
def test_images_in_the_prefix_are_not_encoded(cached: int, images: int, encoded: list[tuple[int, int]]) -> None:
    """The tower runs on images that the prefix does not hold as a whole: as on a request of those alone."""
    found = estimate(QWEN, **IMAGES, text_tokens=SPLIT, cached_tokens=cached)
    assert found["workload"]["cached_images"] == images
    sizes = [size for count, tokens in encoded for size in count * [IMAGES["image_size"][0 if tokens == SMALL else 2]]]
    alone = estimate(QWEN, images=len(sizes), image_size=sizes, text_tokens=1) if sizes else None
    for stage in ("vision", "projector"):
        assert found["stages"][stage]["flops"] == (alone["stages"][stage]["flops"] if alone else 0)
    assert any(f"{images} of 3 images among them are not encoded" in note for note in found["notes"]) == bool(images)


@pytest.mark.parametrize(
    "model", [QWEN, "qwen3-vl-8b", "llava-onevision-qwen2-7b", "internvl3-8b", "llava-video-7b-qwen2"]
)
def test_a_video_in_the_prefix_is_not_encoded(model: str) -> None:
    """As a whole, or not at all: with its last token left out the tower runs on all frames."""
    workload = {"frames": 8, "image_size": [448, 448], "text_tokens": SPLIT}
    plain = estimate(model, **workload)
    behind = plain["workload"]["prompt_tokens"] - 30
    for cached, runs in ((behind, False), (behind - 1, True)):
        found = estimate(model, **workload, cached_tokens=cached)
        assert found["stages"]["vision"]["flops"] == (plain["stages"]["vision"]["flops"] if runs else 0)


def test_features_that_are_added_are_those_of_the_rest() -> None:
    """Qwen3-VL adds deepstack features to the visual tokens of three layers: with two of three images cached, to those
    of the third. In 32-pixel blocks 616 x 476 is 19 x 15 tokens, and 224 x 280, enlarged to 64 blocks, 8 x 9."""
    found = estimate("qwen3-vl-8b", **IMAGES, text_tokens=SPLIT)
    rest = estimate("qwen3-vl-8b", **IMAGES, text_tokens=SPLIT, cached_tokens=50 + 2 * 8 * 9)
    whole, left = ops(found, "deepstack_add", "flops"), ops(rest, "deepstack_add", "flops")
    assert whole[0] / left[0] == (2 * 8 * 9 + 19 * 15) / (19 * 15)


def test_a_method_reduces_what_comes_after_cached_text() -> None:
    """Every layer has the 40 cached tokens as keys and the rest of its own count as queries; FastV's row reads all
    keys, and gathers what it leaves of the computed tokens."""
    method, text = {"name": "fastv", "k": 2, "ratio": 0.5}, {"system": 50, "question": 30}
    found = estimate("llava-1.5-7b", method, images=1, text_tokens=text, cached_tokens=40)
    tokens = [layer["tokens"] for layer in found["layers"]]
    assert tokens == [656] * 2 + [368] * 30
    assert ops(found, "q_proj") == [2.0 * (n - 40) * 4096 * 4096 for n in tokens]
    # 32 heads: 2 · 128 a pair, 5 of the softmax, 1 of the mean
    assert ops(found, "score") == [32 * 656 * (2 * 128 + 6.0)]
    whole = estimate("llava-1.5-7b", method, images=1, text_tokens=text)
    read = 2 * (4096 * 2) + 8
    assert ops(whole, "gather", "bytes")[0] - ops(found, "gather", "bytes")[0] == 40 * read


def test_a_reduced_image_in_the_cache_is_not_selected_again() -> None:
    """VisionZip leaves 64 of 576 tokens: the cache holds 50 + 64, and only the question's 30 are computed, as after a
    prompt of 114 cached text tokens."""
    method = {"name": "visionzip", "dominant": 54, "contextual": 10}
    found = estimate("llava-1.5-7b", method, images=1, text_tokens=SPLIT, cached_tokens=50 + 576)
    assert {layer["tokens"] for layer in found["layers"]} == {50 + 64 + 30}
    assert found["stages"]["merge"]["flops"] == found["stages"]["vision"]["flops"] == 0
    text = estimate("llava-1.5-7b", text_tokens=144, cached_tokens=114)
    assert found["stages"]["prefill"]["flops"] == text["stages"]["prefill"]["flops"]


def test_layers_keep_what_a_method_left_of_cached_images() -> None:
    """VTW withdraws all visual tokens from layer 16 on without asking the question: its later layers cache the 50 text
    tokens before the image, and compute the 30 after it as every layer does."""
    found = estimate("llava-1.5-7b", {"name": "vtw", "k": 16}, images=1, text_tokens=SPLIT, cached_tokens=626)
    assert [layer["tokens"] for layer in found["layers"]] == [656] * 16 + [80] * 16
    assert set(ops(found, "q_proj")) == {2.0 * 30 * 4096 * 4096}
    pairs = {n: 30 * (n - 30) + 30 * 31 / 2 for n in (656, 80)}
    assert ops(found, "fused_attention") == [4 * 4096 * pairs[n] for n in [656] * 16 + [80] * 16]


@pytest.mark.parametrize(
    ("model", "method", "workload", "says"),
    [
        (TEXT, None, {"text_tokens": 10, "cached_tokens": 10}, "at most 9"),
        (TEXT, None, {"text_tokens": 10, "cached_tokens": -1}, "at least 0"),
        (TEXT, None, {"text_tokens": 10, "cached_tokens": 2.5}, "a whole number"),
        ("llava-1.5-7b", "fastv", {"images": 1, "text_tokens": SPLIT, "cached_tokens": 626}, "each question"),
        ("llava-1.5-7b", "aim", {"images": 1, "text_tokens": SPLIT, "cached_tokens": 626}, "each question"),
        ("llava-1.5-7b", "visionzip", {"images": 1, "text_tokens": SPLIT, "cached_tokens": 300}, "at least 626"),
        ("llava-1.5-7b", "divprune", {"images": 1, "text_tokens": 20, "cached_tokens": 3}, "at most 0"),
        ("llama-3.2-11b-vision", None, {"images": 1, "text_tokens": 50, "cached_tokens": 3}, "outside its sequence"),
    ],
)
def test_what_no_cache_can_hold_is_refused(model: str, method: str | None, workload: dict, says: str) -> None:
    with pytest.raises(InvalidValueError, match=r"workload\.cached_tokens") as error:
        estimate(model, {"name": method} if method else None, **workload)
    assert says in str(error.value)


def test_schedules_shorter_than_the_cache_are_refused() -> None:
    method = {"name": "explicit", "tokens_per_layer": [[100, 12], [40, 12]]}
    with pytest.raises(InvalidValueError, match="less than the 40 tokens of layer 12"):
        estimate(TEXT, method, visual_tokens=60, text_tokens=SPLIT, cached_tokens=45)


def test_estimators_and_formulas_without_a_cache_say_so() -> None:
    workload = {"text_tokens": 100, "cached_tokens": 50}
    with pytest.raises(InvalidValueError, match="LLM-Viewer's prefill has no cache"):
        aimcost.estimate({"model": TEXT, "hardware": H100, "estimator": "llm_viewer", "workload": workload})


def test_the_command_shows_it(cli: Any) -> None:
    flags = [
        "estimate",
        "--model",
        TEXT,
        "--text-tokens",
        "100",
        "--hardware",
        H100,
        "--set",
        "workload.cached_tokens=50",
    ]
    shown = cli(*flags)
    assert "0 visual + 100 text tokens, 50 of them cached" in shown.stdout
    refused = cli(*flags, "--flops-formula", "fastv")
    assert refused.returncode == 2
    assert "counts whole prompts" in refused.stderr


def test_many_schedules_are_priced_as_one_by_one() -> None:
    """The bulk table of a run with 40 cached text tokens: a layer's count from 41 on."""
    run = {
        "model": TEXT,
        "hardware": H100,
        "workload": {"visual_tokens": 60, "text_tokens": SPLIT, "cached_tokens": 40},
        "method": {"name": "explicit", "tokens_per_layer": [[140, 8], [90, 8], [60, 8]], "select": "aim"},
    }
    resolved = load_run(run)
    table = layer_table(resolved)
    counts = np.array([resolved.schedule.tokens])
    assert np.isnan(table.seconds[1:41]).all()
    assert np.isfinite(table.seconds[41:]).all()
    alone = estimate_run(replace(resolved, host_time=False))
    assert table.prefill_seconds(counts)[0] == pytest.approx(alone.stages["prefill"].time_s, rel=1e-9)


def test_a_plan_has_nothing_to_choose_of_cached_images() -> None:
    run = {"model": "llava-1.5-7b", "hardware": H100, "budgets": {"max_ttft_ms": 20}}
    workload = {"images": 1, "text_tokens": SPLIT, "cached_tokens": 51}
    with pytest.raises(InvalidValueError, match="at most 50 to plan"):
        plan({**run, "workload": workload})
