"""A tiny decoder, a profile of made-up grids, and records of both: nothing here is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aimcost.measure.records import Environment, Record, Sample

BAND = {"source": "made up for a test", "date": "2026-01-01", "band": [0.9, 1.2]}
M, N, K = [1.0, 30.0, 300.0], [10.0, 500.0], [20.0, 700.0]


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """Four layers, 60 tokens, 20 of them dropped after the second."""
    return {
        "model": {
            "name": "tiny",
            "model_type": "qwen2",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 128,
        },
        "workload": {"visual_tokens": 40, "text_tokens": {"system": 8, "question": 12}},
        "method": {"name": "explicit", "tokens_per_layer": [60, 60, 40, 40], "select": "aim"},
        "precision": {"weights": "fp32", "activations": "fp32", "kv": "fp32"},
    }


@pytest.fixture(scope="session")
def profile() -> dict[str, Any]:
    """A machine of one core on which every product costs alike."""
    rows = [[1e12 * (4e-10 + m * 2e-11) for _ in N for _ in K] for m in M]
    curve = {"element_bytes": 4.0, "q_len": [2.0, 50.0, 500.0], "ns_per_pair": [9.0, 3.0, 2.0]}
    decode = {"element_bytes": 4.0, "kv_len": [2.0, 500.0], "ns_per_pair": [40.0, 10.0]}
    moved = {"flops_per_byte": 0.1, "bytes": [100.0, 1e6], "us": [4.0, 300.0]}
    return {
        "name": "made_up",
        "architecture": "cpu",
        "sm_count": 1,
        "memory_gb_per_s": 10.0,
        "dense_tflops": {"fp32": 10.0},
        "calibration": {
            "source": "made up for a test",
            "gemm": {"fp32": {"form": "grid", "m": M, "n": N, "k": K, "ns_per_1000_weights": rows, **BAND}},
            "attention": {
                "default": "sdpa",
                "sdpa": {"16": {"form": "grid", "along": "q_len", "curves": [curve], **BAND}},
            },
            "decode_attention": {
                "default": "sdpa",
                "sdpa": {"16": {"form": "grid", "along": "kv_len", "curves": [decode], **BAND}},
            },
            "bandwidth": {"pointwise": {"form": "grid", "along": "bytes", "curves": [moved], **BAND}},
        },
    }


@pytest.fixture(scope="session")
def make_record(document: dict[str, Any], profile: dict[str, Any]) -> Callable[..., Record]:
    """A validation record that holds the given samples."""

    def make(*samples: Sample, **changes: Any) -> Record:
        values: dict[str, Any] = {
            "kind": "validation",
            "environment": Environment(device="cpu", device_name="Test CPU", packages={"torch": "2.6.0"}),
            "seed": 0,
            "started": "2026-01-02T03:04:05+00:00",
            "finished": "2026-01-02T03:05:00+00:00",
            "settings": {"runs": {"tiny": document}, "profile": profile, "profile_from": "a test"},
            "samples": samples,
        }
        return Record(**{**values, **changes})

    return make
