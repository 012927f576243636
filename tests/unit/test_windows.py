"""Sliding-window attention: pairs, cache and the layers that have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aimcost
from aimcost.inputs.model import load_model
from aimcost.ops.attention import visible_pairs

MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "sliding_window": 4096,
}
QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}


def _estimate(model: dict[str, Any], **workload: int) -> aimcost.Estimate:
    run = {"model": model, "workload": workload, "hardware": "nvidia_h100_sxm"}
    return aimcost.estimate(run)


@pytest.mark.parametrize(("queries", "keys", "window"), [(9, 9, 4), (3, 9, 4), (1, 9, 4), (9, 9, 20), (5, 12, 1)])
def test_pairs_are_those_of_the_mask(queries: int, keys: int, window: int) -> None:
    """A mask row by row: the query at position p sees positions p − w + 1 … p."""
    position = np.arange(keys - queries, keys)[:, None]
    key = np.arange(keys)[None, :]
    mask = (key <= position) & (key > position - window)
    assert visible_pairs(queries, keys, True, float(window)) == mask.sum()


def test_a_window_bounds_the_cache_and_the_pairs_of_mixtral() -> None:
    """32,768 tokens behind a window of 4,096: 2 · 8 · 128 · 2 bytes a token and layer, 4,095 tokens held for the next.

    Pairs: 32,768 · 32,769 / 2 less T(28,672), T(x) = x(x + 1) / 2.
    """
    windowed = _estimate(MIXTRAL, text_tokens=32768)
    full = _estimate({**MIXTRAL, "sliding_window": None}, text_tokens=32768)
    assert windowed.memory.kv_bytes == 4095 * 4096 * 32
    assert full.memory.kv_bytes == 32768 * 4096 * 32
    pairs = 32768 * 32769 / 2 - 28672 * 28673 / 2
    less = 4 * 128 * 32 * 32 * (32768 * 32769 / 2 - pairs)
    assert full.totals.flops - windowed.totals.flops == pytest.approx(less, rel=1e-12)
    assert windowed.totals.time_s < full.totals.time_s


def test_a_decode_step_reads_no_more_than_the_window() -> None:
    """Beyond it every step costs the same."""
    short, long = (_estimate(MIXTRAL, text_tokens=n, new_tokens=5) for n in (8192, 32768))
    assert long.stages["decode"].bytes == short.stages["decode"].bytes
    assert long.stages["decode"].flops == short.stages["decode"].flops


@pytest.mark.parametrize(
    ("change", "window", "layers"),
    [
        ({}, 0, None),
        ({"sliding_window": 8}, 0, None),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4}, 8, (4, 5)),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 6}, 0, None),
        ({"use_sliding_window": True}, 0, None),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", *["full_attention"] * 4, "sliding_attention"],
            },
            8,
            (0, 5),
        ),
        ({"model_type": "mistral"}, 4096, None),
        ({"model_type": "mistral", "sliding_window": None}, 0, None),
        ({"model_type": "qwen3_moe", "use_sliding_window": True}, 4096, None),
    ],
    ids=str,
)
def test_which_layers_have_a_window(change: dict[str, Any], window: int, layers: tuple[int, ...] | None) -> None:
    decoder = load_model({**QWEN2, **change}).decoder
    assert (decoder.window, decoder.window_layers) == (window, layers)


def test_layers_differ_where_some_have_a_window() -> None:
    model = {**QWEN2, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4}
    layers = _estimate(model, text_tokens=100, new_tokens=3).to_dict()["layers"]
    assert layers[0]["flops"] == layers[3]["flops"] > layers[4]["flops"] == layers[5]["flops"]
    held = _estimate(model, text_tokens=100).memory.kv_by_layer
    assert held == (100 * 128.0,) * 4 + (7 * 128.0,) * 2


def test_tokens_beyond_the_context_limit_are_a_warning() -> None:
    """Llama-2-7B was made for 4,096 positions; the last token generated is one of them."""
    run = {"model": "llama-2-7b", "workload": {"text_tokens": 4090, "new_tokens": 6}, "hardware": "nvidia_h100_sxm"}
    assert not [note for note in aimcost.estimate(run).notes if "context limit" in note]
    beyond = aimcost.estimate(run, workload={"new_tokens": 7})
    assert "warning: 4,097 tokens exceed the context limit of llama-2-7b, 4,096" in beyond.notes
    assert beyond.to_dict()["summary"]["context_limit"] == 4096
