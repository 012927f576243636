"""How much a campaign measures: the published shapes, or a tiny dry run of the same steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...inputs import discover
from ...inputs.files import read_mapping
from ...inputs.run import merge_overrides

__all__ = ["FULL", "TINY", "Sizes", "config_of"]

MODEL = "llava-onevision-qwen2-7b"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Shapes, counts and repeats of a campaign.

    Attributes
    ----------
    model
        What every step but the image rows runs: a model's name, or its configuration.
    dtype
        Number format of weights and activations on a GPU; a CPU computes in fp32.
    frames, text_tokens
        Of the video request that the tower and the end-to-end step run.
    cuts, kernel_heads
        (tokens in, tokens out) of the drop events whose kernels are timed, the first of them checked
        against its reference; (query heads, kv heads, head_dim).
    merges
        (groups, tokens, kept, width) of the merging steps.
    dense, backends_at
        Prompt lengths of the dense prefill, and the one at which attention kernels are compared.
    rows
        Rows of the paper's tables to run, by id; all when None.
    overrides
        Laid over each row's run: a smaller model, fewer frames.
    depth
        Layers of the model where `overrides` replace it: layer numbers of methods shrink in proportion.
    repeats, budget_s
        Samples of a timing, and the seconds after which fewer must do.
    profile
        Sizes of the profile in place of the device's own, as keyword arguments; it measures one format.
    """

    model: str | Mapping[str, Any] = MODEL
    dtype: str = "bf16"
    frames: int = 32
    text_tokens: int = 100
    cuts: tuple[tuple[int, int], ...] = (
        (1668, 1472),
        (1472, 1276),
        (1276, 1080),
        (1080, 884),
        (884, 688),
        (688, 492),
        (492, 296),
        (296, 100),
    )
    kernel_heads: tuple[int, int, int] = (28, 4, 128)
    merges: tuple[tuple[int, int, int, int], ...] = ((32, 196, 98, 3584), (32, 98, 49, 3584))
    dense: tuple[int, ...] = (100, 150, 250, 400, 650, 1000, 1668, 2500, 4000, 6372, 9500, 14000, 18532)
    backends_at: int = 6372
    rows: tuple[str, ...] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    depth: int | None = None
    repeats: int = 20
    budget_s: float = 12.0
    profile: Mapping[str, Any] = field(default_factory=dict)


def config_of(model: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The Hugging Face configuration of a model given by name or as a mapping."""
    if not isinstance(model, str):
        return model
    data = read_mapping(discover.find("model", model))
    config: Mapping[str, Any] = data["config"]
    return config


_TEXT = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
# The real grid of 27 x 27 patches, so that a frame is 196 tokens and the paper's ratios are possible.
_TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
_IDS = {"image_token_index": 126, "video_token_index": 127, "image_token_id": 126, "video_token_id": 127}
_TINY_MODEL = {
    "model_type": "llava_onevision",
    "text_config": _TEXT,
    "vision_config": _TOWER,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
    "image_grid_pinpoints": [[384, 384]],
    "tie_word_embeddings": False,
    **_IDS,
}
_TINY_PROFILE = {
    "rows": (1, 4, 16),
    "outs": (24, 72),
    "ins": (40, 88),
    "ceiling": (64, 64, 64),
    "probes": ((2, 40, 60), (8, 30, 50)),
    "tokens": (1, 5, 17, 40),
    "probe_tokens": (9,),
    "heads": ((4, 2, 16, True), (2, 2, 16, False)),
    "widths": (48,),
    "elementwise_rows": (1, 6, 24),
    "reduction_tokens": (20, 60),
    "copy_bytes": 400_000,
    "pool_bytes": 100_000,
    "passes": 1,
    "repeats": 2,
    "budget_s": 0.05,
}

FULL = Sizes()
TINY = Sizes(
    model=_TINY_MODEL,
    frames=2,
    text_tokens=10,
    cuts=((60, 40), (40, 20)),
    kernel_heads=(4, 2, 16),
    merges=((2, 196, 98, 64),),
    dense=(20, 60, 120),
    backends_at=60,
    rows=("video_vtw", "video_pdrop", "video_fastv", "video_aim_32f", "retention_50", "exp_8", "llava_ov_7b"),
    overrides=merge_overrides({}, {"model": _TINY_MODEL, "workload": {"frames": 2, "text_tokens": 10}}),
    depth=4,
    repeats=3,
    budget_s=0.3,
    profile=_TINY_PROFILE,
)
