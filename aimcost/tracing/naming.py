"""Names and groups of traced ops: those of the hand-written layers where the op is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["group_of", "label"]

_ATTENTION = ("attn", "attention", "mixer", "mamba", "linear_attn", "conv", "recurrent", "temporal", "ssm", "kda")
_MLP = ("mlp", "feed_forward", "ffn", "moe", "expert", "fc1", "fc2", "block_sparse")
_OUT = ("o_proj", "out_proj", "c_proj", "wo", "dense", "out")
_NORMS = {"input_layernorm": "attn_norm", "pre_feedforward_layernorm": "mlp_norm"}
_AT_LAYER = ("add", "add_")


def _first(path: str) -> str:
    return path.split(".")[0].lower()


def _is_attention(path: str) -> bool:
    return any(word in _first(path) for word in _ATTENTION)


def _is_mlp(path: str) -> bool:
    return any(word in _first(path) for word in _MLP)


def group_of(op: dict[str, Any]) -> str:
    """Where reports file an op of a layer."""
    path, kind = op["path"], op["kind"]
    if kind in ("rms_norm", "layer_norm") and "." not in path:
        return "norms"
    if kind == "embed":
        return "embedding"
    if "lm_head" in path or "embed_out" in path:
        return "head"
    if _is_attention(path):
        return "projections" if kind == "gemm" and op["name"] == "linear" else "attention"
    if _is_mlp(path):
        return "mlp"
    return "rest"


def label(op: dict[str, Any], adds: Sequence[dict[str, Any]], ops: Sequence[dict[str, Any]]) -> str:
    """The name of an op: its module's, or what it does there."""
    path, kind, name = str(op["path"]), str(op["kind"]), str(op["name"])
    last = path.split(".")[-1]
    if kind in ("rms_norm", "layer_norm"):
        pre_norm = any(other["path"] == "pre_feedforward_layernorm" for other in ops)
        if path == "post_attention_layernorm" and not pre_norm:
            return "mlp_norm"
        return _NORMS.get(
            path, "final_norm" if path.endswith(("model.norm", "ln_f", "final_layernorm")) else last or "norm"
        )
    if kind == "gemm" and name == "linear":
        if _is_attention(path) and last in _OUT:
            return "out_proj"
        return "router" if _is_mlp(path) and last in ("gate", "router") else last or "linear"
    if name in ("dispatch",) or kind in ("experts", "attention", "rope", "embed", "weighted_sum"):
        return {"experts_up": "gate_up_proj", "experts_down": "down_proj"}.get(name, name)
    if kind == "gated_act":
        return "mlp_act" if _is_mlp(path) else f"{last or 'layer'}_act"
    if kind == "activation":
        return "mlp_act" if _is_mlp(path) else f"{last}"
    if op in adds:
        position = next(i for i, other in enumerate(adds) if other is op)
        if len(adds) == 2 and position < 2:
            return ("attn_add", "mlp_add")[position]
    name = name.strip("_")
    return f"{last}_{name}" if last else name
