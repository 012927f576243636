"""Bytes on the card: weights, KV cache of each layer's own live tokens, peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .models import decoder as decoder_ops
from .models import projector as projector_ops
from .models import vit
from .ops import Widths
from .types import HardwareSpec, ModelSpec, Precision, Schedule, Workload

__all__ = ["Memory", "memory_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a request keeps on the card.

    Attributes
    ----------
    peak_bytes
        Weights, the whole KV cache, and the largest set of activations alive together: in
        prefill the residual stream, a layer's input to the MLP and its gate and up results.
    usable_bytes
        What the card can allocate; None without hardware.
    """

    weights_bytes: float
    kv_bytes: float
    activation_bytes: float
    usable_bytes: float | None

    @property
    def peak_bytes(self) -> float:
        """Weights, KV cache and activations together."""
        return self.weights_bytes + self.kv_bytes + self.activation_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the peak fits the card, if there is one."""
        return None if self.usable_bytes is None else self.peak_bytes <= self.usable_bytes

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "weights_bytes": self.weights_bytes,
            "kv_bytes": self.kv_bytes,
            "activation_bytes": self.activation_bytes,
            "peak_bytes": self.peak_bytes,
            "usable_bytes": self.usable_bytes,
            "fits": self.fits,
        }


def memory_of(
    model: ModelSpec,
    workload: Workload,
    schedule: Schedule,
    precision: Precision,
    hardware: HardwareSpec | None,
    *,
    attention: str = "flash",
) -> Memory:
    """Memory of a request. Fragmentation and library workspaces are not counted."""
    widths = Widths.of(precision)
    parameters = decoder_ops.parameters(model.decoder) + projector_ops.parameters(model)
    if model.vision is not None:
        parameters += vit.parameters(model.vision)
    return Memory(
        weights_bytes=parameters * widths.weights,
        kv_bytes=_kv_bytes(model, workload, schedule, widths),
        activation_bytes=_activations(model, workload, schedule, widths, attention),
        usable_bytes=hardware.usable_memory_bytes if hardware else None,
    )


def _kv_bytes(model: ModelSpec, workload: Workload, schedule: Schedule, widths: Widths) -> float:
    """K and V of each layer's live tokens and of every generated token but the last."""
    generated = max(0, workload.new_tokens - 1)
    entries = sum(schedule.tokens) + generated * len(schedule.tokens)
    decoder = model.decoder
    return 2.0 * workload.batch * entries * decoder.kv_heads * decoder.head_dim * widths.kv


def _activations(model: ModelSpec, workload: Workload, schedule: Schedule, widths: Widths, attention: str) -> float:
    """The larger of the MLP's and attention's live set in the widest layer, or the tower's."""
    decoder, rows = model.decoder, float(workload.batch * max(schedule.tokens))
    heads_width = decoder.heads * decoder.head_dim
    stream = rows * decoder.hidden
    mlp = stream * 2 + rows * decoder.intermediate * (2 if decoder.gated_mlp else 1)
    attend = stream * 2 + rows * (2 * heads_width + 2 * decoder.kv_heads * decoder.head_dim)
    if attention == "eager":
        attend += 2 * workload.batch * decoder.heads * float(max(schedule.tokens)) ** 2
    peak = max(mlp, attend)
    images = workload.batch * (workload.frames or workload.images)
    if model.vision is not None and images:
        vision, patches = model.vision, float(images * model.vision.tokens)
        peak = max(peak, patches * (2 * vision.hidden + max(vision.intermediate, 3 * vision.hidden)))
    return peak * widths.activations
