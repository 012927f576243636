"""What an aten op is: a product, a look-up, a reduction, arithmetic by element, or memory moved.

FLOPs of products are those of `torch.utils.flop_counter`; an addition or multiplication by element is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["activation_flops", "describe"]

aten = torch.ops.aten

Described = tuple[str, str, dict[str, float], float]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of aten overload packets. One operation an element of the result:
_ARITHMETIC = _names(
    """abs add add_ addcmul addcdiv bitwise_and bitwise_or bitwise_not clamp clamp_ clamp_min clamp_max cos div div_ eq
    erf exp exp_ expm1 floor floor_divide ge gt le leaky_relu log log1p logical_and logical_not logical_or lt
    masked_fill masked_fill_ maximum minimum mul mul_ ne neg neg_ pow reciprocal remainder round rsqrt
    rsub sigmoid_ sign sin softplus sqrt square sub sub_ tanh tanh_ trunc where xlogy lerp sqrt_
    rsqrt_ pow_ hardtanh elu celu selu threshold log_sigmoid_forward"""
)
_ACTIVATIONS = _names("silu silu_ gelu relu relu_ hardswish mish sigmoid")
# One operation an element of the input:
_REDUCTIONS = _names(
    """sum mean amax amin max min var var_mean std prod any all argmax argmin cumsum cumsum_ cumprod norm
    linalg_vector_norm logsumexp logcumsumexp"""
)
# Memory moved:
_MOVES = _names(
    """clone copy_ _to_copy cat stack constant_pad_nd repeat repeat_interleave roll flip fill_ zero_ tril triu
    tril_ triu_ masked_select slice_scatter select_scatter contiguous one_hot pixel_shuffle pixel_unshuffle
    zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty im2col unfold_copy permute_copy
    upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d upsample_nearest2d avg_pool2d _adaptive_avg_pool2d
    max_pool2d_with_indices adaptive_avg_pool1d avg_pool1d reflection_pad1d reflection_pad2d replication_pad2d"""
)
_LOOKUPS = _names(
    """index index_select gather scatter scatter_ scatter_add scatter_add_ index_put index_put_ index_add index_add_
    index_copy index_copy_ take_along_dim scatter_reduce_ masked_scatter masked_scatter_ _unsafe_index
    _index_put_impl_"""
)
_RANKINGS = _names("topk sort argsort kthvalue bincount histc unique_consecutive")
_EMPTY = _names(
    """empty empty_strided empty_permuted zeros ones full arange scalar_tensor eye linspace new_empty empty_like
    new_empty_strided rand randn detach lift_fresh alias resize_ set_"""
)


def describe(
    func: Any, args: Any, kwargs: Any, made: list[torch.Tensor], *, is_weight: Callable[[torch.Tensor], bool]
) -> Described | None:
    """(name, kind, sizes, FLOPs) of a call; None where nothing moves."""
    name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)
    namespace = func.namespace if hasattr(func, "namespace") else "aten"
    if namespace != "aten":
        return name, "unknown", {"elements": _entries(made)}, 0.0
    product = _product(func.overloadpacket, args, made, is_weight)
    if product is not None:
        return product
    elements = _entries(made)
    if name in _EMPTY:
        return None
    if name in ("_softmax", "_safe_softmax", "_log_softmax"):
        width = made[0].shape[args[1]] if made[0].ndim else 1
        return "softmax", "softmax", {"rows": made[0].numel() / max(1, width), "width": width}, 0.0
    if name == "embedding":
        return "embed", "embed", {"rows": made[0].numel() / made[0].shape[-1], "width": made[0].shape[-1]}, 0.0
    if name in ("native_layer_norm", "_fused_rms_norm"):
        kind = "layer_norm" if name == "native_layer_norm" else "rms_norm"
        width = math.prod(args[1])
        return "norm", kind, {"rows": made[0].numel() / width, "width": width}, 0.0
    if name in _ACTIVATIONS:
        return name, "activation", {"elements": elements}, activation_flops(name) * elements
    if name in _ARITHMETIC:
        return name, "pointwise", {"elements": elements}, elements
    if name in _REDUCTIONS:
        given = args[0].numel()
        return name, "pointwise", {"elements": float(given)}, float(given)
    if name in _LOOKUPS:
        return name, "gather", {"elements": elements}, 0.0
    if name in _RANKINGS:
        return name, "ranking", {"elements": elements}, 0.0
    if name in _MOVES:
        return name, "move", {"elements": elements}, 0.0
    return name, "unknown", {"elements": elements}, 0.0


def activation_flops(name: str) -> float:
    """FLOPs an element: SiLU is a negation, an exponential, an addition, a division; GELU by its tanh form is 8."""
    lower = name.lower()
    if "gelu" in lower:
        return 8.0
    if "relu" in lower:
        return 2.0 if "square" in lower or "relu2" in lower else 1.0
    return 4.0


def _entries(made: list[torch.Tensor]) -> float:
    return float(sum(t.numel() for t in made))


def _product(
    packet: Any, args: Any, made: list[torch.Tensor], is_weight: Callable[[torch.Tensor], bool]
) -> Described | None:
    """Products by the shapes that `torch.utils.flop_counter` reads."""
    if packet in (aten.mm, aten.addmm):
        a, b = args[-2:] if packet is aten.mm else args[1:3]
        (m, k), n = a.shape, b.shape[1]
        if is_weight(b):
            return "linear", "gemm", {"m": m, "n": n, "k": k}, 2.0 * m * n * k
        if is_weight(a):
            return "linear", "gemm", {"m": n, "n": m, "k": k}, 2.0 * m * n * k
        return "matmul", "bmm", {"groups": 1, "m": m, "n": n, "k": k}, 2.0 * m * n * k
    if packet in (aten.bmm, aten.baddbmm):
        a, b = args[:2] if packet is aten.bmm else args[1:3]
        groups, m, k = a.shape
        n = b.shape[2]
        return "matmul", "bmm", {"groups": groups, "m": m, "n": n, "k": k}, 2.0 * groups * m * n * k
    if packet in (aten.mv, aten.dot, aten.addmv):
        return packet.__name__, "unknown", {"elements": _entries(made)}, 0.0
    if packet in (aten.convolution, aten._convolution):
        return _convolution(args, made[0])
    if packet.__name__.startswith("_scaled_dot_product"):
        query, key, value = args[:3]
        batch, heads, q_len, width = query.shape
        kv_heads, kv_len, value_width = key.shape[1], key.shape[2], value.shape[-1]
        causal = bool(args[5]) if len(args) > 5 and isinstance(args[5], bool) else False
        pairs = q_len * (q_len + 1) / 2 if causal and q_len > 1 else float(q_len * kv_len)
        dims = {
            "batch": batch,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": (width + value_width) / 2,
            "q_len": q_len,
            "kv_len": kv_len,
            "pairs": pairs,
        }
        return "fused_attention", "attention", dims, 0.0
    return None


def _convolution(args: Any, made: torch.Tensor) -> Described:
    """A convolution as a product of its patches; one by channel as many small ones."""
    weight, transposed, groups = args[1], args[6], args[8]
    kernel = math.prod(weight.shape[2:])
    if transposed:
        positions = args[0].shape[0] * math.prod(args[0].shape[2:])
        n, k = weight.shape[1] * kernel, weight.shape[0] / groups
    else:
        positions = made.shape[0] * math.prod(made.shape[2:])
        n, k = weight.shape[0] / groups, weight.shape[1] * kernel
    flops = 2.0 * groups * positions * n * k
    if groups == 1:
        return "conv", "gemm", {"m": positions, "n": n, "k": k}, flops
    return "conv", "bmm", {"groups": groups, "m": positions, "n": n, "k": k}, flops
