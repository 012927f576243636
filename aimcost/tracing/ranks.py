"""One of several tensor-parallel ranks: the model with a share of its heads and widths, beside the whole one.

A rank computes what the same model computes with fewer heads and narrower MLPs (Megatron-LM, arXiv 1909.08053), so its
ops are traced, not derived: each size of an op is divided, partly divided or whole. Where partial sums have to be
reduced follows from what reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from ..errors import UnsupportedModelError
from .recorder import Event

__all__ = ["Divided", "exchanges", "keys_of", "over", "partners"]

_KV_HEADS = ("num_key_value_heads", "num_global_key_value_heads", "swa_num_key_value_heads", "num_kv_heads")
# Heads, and widths of MLPs and states.
_DIVIDED = (
    "num_attention_heads",
    "num_swa_attention_heads",
    "swa_num_attention_heads",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "mamba_n_heads",
    "mamba_num_heads",
    "num_heads",
    "mamba_n_groups",
    "n_groups",
    "intermediate_size",
    "intermediate_size_mlp",
    "moe_intermediate_size",
    "expert_intermediate_size",
    "shared_intermediate_size",
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "dense_intermediate_size",
    "ffn_dim",
    "ffn_hidden_size",
    "expert_ffn_hidden_size",
    "mamba_d_ssm",
)
# Widths as multiples of the hidden size: divided with the others, and by any number that divides these.
_MULTIPLES = ("mamba_expand", "expand")
# One of these is on every rank.
_UNDIVIDED = 1
_FACTORS = (2, 3, 5, 7)
# Ops whose result is a partial sum where what they add up is divided, and those that may run on partial sums.
_SUMS = ("sum", "mean", "norm", "linalg_vector_norm", "var_mean", "var")
_LINEAR = ("clone", "copy_", "_to_copy", "contiguous", "index", "index_select", "gather", "sum", "mean", "neg")
_SCALINGS = ("mul", "mul_", "div", "div_")
_ADDITIONS = ("add", "add_", "sub", "sub_")


@dataclass(frozen=True, slots=True)
class Divided:
    """Sizes of a configuration that ranks divide, KV heads apart; the number of ranks that the trace stands for."""

    sizes: Mapping[str, int]
    kv_sizes: Mapping[str, int]
    multiples: Mapping[str, int]
    factor: int

    @property
    def apart(self) -> bool:
        """Whether there may be more ranks than KV heads, so that these are divided less often than the rest."""
        most = max(self.sizes.values(), default=1)
        return any(_UNDIVIDED < heads < most for heads in self.kv_sizes.values())


def keys_of(text: PreTrainedConfig) -> Divided:
    """What ranks divide of a language model's configuration.

    Raises
    ------
    UnsupportedModelError
        It names no heads, or no number of ranks divides all of its sizes.
    """
    sizes, kv_sizes, multiples = (_sizes(text, names) for names in (_DIVIDED, _KV_HEADS, _MULTIPLES))
    if not sizes:
        raise UnsupportedModelError("its configuration names no heads")
    stated = {**sizes, **kv_sizes, **multiples}
    every = [count for name in stated for count in _counts(getattr(text, name)) if count > _UNDIVIDED]
    factor = next((factor for factor in _FACTORS if all(count % factor == 0 for count in every)), 0)
    if not factor:
        raise UnsupportedModelError(f"no number of ranks divides {', '.join(f'{k} {v}' for k, v in stated.items())}")
    return Divided(sizes, kv_sizes, multiples, factor)


def _sizes(text: PreTrainedConfig, names: Sequence[str]) -> dict[str, int]:
    """Those that a configuration has, by its own names; of one for each layer, what divides all."""
    found = {}
    for name in names:
        real = text.attribute_map.get(name, name)
        counts = [count for count in _counts(_attribute(text, real)) if count > _UNDIVIDED]
        if counts:
            found[real] = math.gcd(*counts)
    return found


def over(text: PreTrainedConfig, divided: Divided, *, kv_alone: bool) -> None:
    """Leave a configuration one rank's share of what is divided; of KV heads alone where asked."""
    heads = _attribute(text, "num_attention_heads")
    if _attribute(text, "head_dim") is None and isinstance(heads, int):
        text.head_dim = text.hidden_size // heads
    for name in divided.kv_sizes if kv_alone else {**divided.sizes, **divided.kv_sizes, **divided.multiples}:
        value = getattr(text, name)
        shares = [count // divided.factor if count > _UNDIVIDED else count for count in _counts(value)]
        setattr(
            text, name, shares if isinstance(value, list) else tuple(shares) if isinstance(value, tuple) else shares[0]
        )


def _attribute(text: PreTrainedConfig, name: str) -> Any:
    """A size; None where it is absent.

    Raises
    ------
    UnsupportedModelError
        It differs by layer, in a configuration that has one for each.
    """
    try:
        return getattr(text, name, None)
    except Exception as error:  # Gemma 4's class raises its own
        raise UnsupportedModelError(f"{name} differs by layer") from error


def _counts(value: Any) -> list[int]:
    """A size, or one for each layer."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(each, int) and not isinstance(each, bool) for each in values)
    return values if whole else []


def partners(whole: Sequence[Event], share: Sequence[Event]) -> list[tuple[Event, Event]]:
    """Each op with the same op of a rank.

    Raises
    ------
    UnsupportedModelError
        A rank runs others.
    """
    names = [[(event.site, event.name, event.kind) for event in events] for events in (whole, share)]
    if names[0] != names[1]:
        differs = next((a[1] for a, b in zip(*names, strict=False) if a != b), "the last")
        raise UnsupportedModelError(f"with fewer heads it runs other ops ({differs})")
    return list(zip(whole, share, strict=True))


def exchanges(pairs: Iterable[tuple[Event, Event]]) -> dict[int, str]:
    """The collective behind each op that has one, by the identity of the whole model's op.

    ``all_reduce``: its output is a partial sum on every rank, which the next op wants whole. ``statistics``: it
    normalises over what is divided, so that two sums a row are reduced.

    Raises
    ------
    UnsupportedModelError
        An op for which there is no rule reads what is divided.
    """
    found: dict[int, str] = {}
    partial: dict[int, Event] = {}  # storages, and the op that wrote them last
    for whole, rank in pairs:
        reads = [number for number in whole.reads if number in partial]
        others = len(set(whole.reads)) - len(set(reads))
        linear = (
            whole.name in _LINEAR
            or whole.kind in ("weighted_sum", "move")
            or (whole.name in _ADDITIONS and not others)
            or (whole.name in _SCALINGS and len(reads) == 1)
        )
        carries = bool(reads) and linear
        for number in reads:
            source = partial.pop(number)
            if not linear:
                found[id(source)] = "all_reduce"
        less = {name for name, size in whole.dims.items() if rank.dims[name] < size}
        if any(rank.dims[name] > size for name, size in whole.dims.items()) or "head_dim" in less:
            raise UnsupportedModelError(f"{_named(whole)} is wider where heads are fewer")
        if whole.kind in ("rms_norm", "layer_norm"):
            if "width" in less:
                found[id(whole)] = "statistics"
        elif whole.kind in ("gemm", "experts", "bmm"):
            carries = carries or ("k" in less and not less & {"n", "m", "groups"})
        elif rank.read + rank.read_kv < whole.read + whole.read_kv and _written(rank) == _written(whole):
            if whole.name in _SUMS:
                carries = True
            elif whole.kind in ("softmax", "ranking", "unknown", "activation", "gated_act"):
                raise UnsupportedModelError(f"{_named(whole)} reads what ranks divide, and leaves it whole")
        for number in whole.writes:
            if carries:
                partial[number] = whole
            else:
                partial.pop(number, None)
    for event in partial.values():
        found[id(event)] = "all_reduce"
    return found


def _written(event: Event) -> float:
    return event.write + event.write_kv


def _named(event: Event) -> str:
    return f"{event.site[0] or 'layer'}: {event.name}"
