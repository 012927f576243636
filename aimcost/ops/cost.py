"""What one operation costs, before any machine is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from ..frozen import dataclass

__all__ = ["Array", "Cost"]

# Dimensions may be scalars or arrays that broadcast (one entry a layer, or a decode step).
# float64 throughout: the products of large attention shapes overflow int64.
Array = float | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """FLOPs and unavoidable memory traffic of one operation, by tensor class.

    Attributes
    ----------
    kind
        What runs: gemm, bmm, attention, softmax, rms_norm, layer_norm, rope, pointwise, interpolate,
        embed, score, select, gather, merge, collective. Calibrated time models are keyed by it.
    dims
        The dimensions that a time model needs (gemm: m, n, k; attention: batch, heads, …).
    flops
        One multiply-add is 2. Attention is causal unless stated otherwise.
    flops_full_square
        Matrix-product FLOPs over the full q x kv square, masked half included: what
        `torch.utils.flop_counter` counts. None where it equals `flops`.
    launches
        Kernels that run one after another, each launched by itself. None: as many as the software stack
        takes for an operation of this kind.
    syncs
        Points after its launches at which the host waits for the device.
    read_weights, read_activations, read_kv, write_activations, write_kv
        Bytes between DRAM and the chip if every operand is moved once.
    parameters
        Stored weights (elements), whether read or not: of all experts, of a whole embedding table.
    packed
        Those of `parameters` that quantisation packs: matrices of linear layers, and tables.
    weights_format
        Number format of a product's matrix; empty where it has none of its own.
    """

    kind: str
    dims: Mapping[str, Array] = field(default_factory=dict)
    flops: Array = 0.0
    flops_full_square: Array | None = None
    read_weights: Array = 0.0
    read_activations: Array = 0.0
    read_kv: Array = 0.0
    write_activations: Array = 0.0
    write_kv: Array = 0.0
    launches: Array | None = None
    syncs: Array = 0.0
    parameters: Array = 0.0
    packed: Array = 0.0
    weights_format: str = ""

    @property
    def bytes(self) -> Array:
        """All traffic, read and written."""
        return self.read_weights + self.read_activations + self.read_kv + self.write_activations + self.write_kv
