"""`aimcost demo`: a small LLaVA-OneVision-shaped model, dense and reduced, timed on this machine.

Random weights: times do not need trained ones. The decoder has Qwen2-0.5B's layer; the tower is a
small SigLIP on the real 384 x 384 grid, so that a frame is 196 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..api import estimate
from ..errors import InvalidValueError
from ..extras import require_device, torch_module
from ..inputs.run import load_run
from ..types import Schedule

__all__ = ["Demonstration", "demonstrate"]


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What ran, how long it took, and what FLOPs alone would give.

    Attributes
    ----------
    measured
        An `aimcost.measure.demo_torch.Measured`: tokens by layer and timings.
    flop_ratio
        FLOPs of the dense prefill over the reduced one: matrix products, with the full square of
        attention on a CPU, whose kernel computes most of it, and its causal half on CUDA.
    """

    frames: int
    schedule: Schedule
    measured: Any
    flop_ratio: float

    @property
    def speedup(self) -> float:
        """Median dense over median reduced."""
        return float(self.measured.dense.median / self.measured.reduced.median)


def demo_run(frames: int, layers: int) -> dict[str, Any]:
    """The run that the demonstration prices and executes."""
    # token ids inside the vocabulary, as the runtime's inputs use them
    text = {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": layers,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    model = {
        "model_type": "llava_onevision",
        "text_config": text,
        "vision_config": vision,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_grid_pinpoints": [[384, 384]],
        "image_token_index": 991,
        "video_token_index": 990,
        "image_token_id": 991,
        "video_token_id": 990,
        "tie_word_embeddings": False,
    }
    workload = {"frames": frames, "text_tokens": {"system": 20, "question": 40}}
    return {"model": model, "workload": workload, "method": {"name": "aim", "merge_ratio": 0.5}}


def demonstrate(
    device: str = "cpu",
    *,
    frames: int = 6,
    layers: int = 8,
    repeats: int = 3,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> Demonstration:
    """Run the demonstration; needs the torch extra.

    Raises
    ------
    InvalidValueError
        Fewer than one frame, two layers or one repeat.
        No such device, or it is not there.
    MissingExtraError
        torch is not installed.
    """
    if frames < 1 or layers < 2 or repeats < 1:
        raise InvalidValueError("frames, layers, repeats", "at least 1, 2 and 1", (frames, layers, repeats))
    require_device(device, "aimcost demo")
    given = demo_run(frames, layers)
    schedule = load_run(given).schedule
    measure = torch_module("aimcost.measure.demo_torch", "aimcost demo").measure
    measured = measure(given["model"], schedule, frames=frames, device=device, repeats=repeats, progress=progress)
    priced = {**given, "hardware": "nvidia_a100_sxm_80gb", "estimator": "roofline"}
    square = device == "cpu"
    dense, reduced = (
        estimate(priced, method=method).matrix_flops(("prefill",), full_square=square)
        for method in ("none", given["method"])
    )
    return Demonstration(frames=frames, schedule=schedule, measured=measured, flop_ratio=dense / reduced)
