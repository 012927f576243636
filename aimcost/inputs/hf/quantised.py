"""``quantization_config`` of a config.json → QuantisationSpec.

Keys follow transformers' quantisation configurations (5.x) and compressed-tensors' schema; which modules a method
leaves as they are follows its loader: AWQ and GPTQ quantise the decoder's layers alone, the others every linear layer
that is not listed, lm_head only where compressed-tensors does not ignore it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import InvalidValueError
from ...types import QuantisationSpec

__all__ = ["quantisation"]

# Linear layers of each part, as checkpoints name them; a pattern that matches one of them leaves the part alone.
_MODULES: Mapping[str, tuple[str, ...]] = {
    "decoder": (
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.experts.0.up_proj",
    ),
    "lm_head": ("lm_head",),
    "tower": (
        "visual.blocks.0.attn.qkv",
        "model.visual.blocks.0.mlp.up_proj",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "vision_model.transformer.layers.0.self_attn.q_proj",
    ),
    "projector": ("visual.merger.mlp.0", "model.visual.merger.mlp.0", "multi_modal_projector.linear_1"),
}
# QLoRA (Dettmers et al. 2023, arXiv 2305.14314, section 3): a 32-bit constant a block of 64 weights; quantised
# again, 8 bits a block and a 32-bit constant a block of 256 of those.
_NF4_BYTES, _NF4_DOUBLE_BYTES = 4.0 / 64.0, 1.0 / 64.0 + 4.0 / (64.0 * 256.0)
_SCALE_BYTES = 2.0


def quantisation(config: Mapping[str, Any], where: str) -> tuple[QuantisationSpec | None, tuple[str, ...]]:
    """How the weights of a checkpoint are stored, and notes on what is not read of it.

    Raises
    ------
    InvalidValueError
        Bits that no format here has.
    """
    inner = config.get("text_config")
    given = config.get("quantization_config") or (inner.get("quantization_config") if isinstance(inner, dict) else None)
    if not given:
        return None, ()
    if not isinstance(given, Mapping):
        raise InvalidValueError("quantization_config", "a mapping", given, where=where)
    method = str(given.get("quant_method", "bitsandbytes" if "load_in_4bit" in given else "not given"))
    read = _METHODS.get(method)
    if read is None:
        return None, (f"quantization_config ({method}) is not read: set precision.weights",)
    return read(_Config(given, where), method)


class _Config:
    """Typed access to a ``quantization_config``."""

    def __init__(self, data: Mapping[str, Any], where: str, prefix: str = "quantization_config.") -> None:
        self.data, self.where, self.prefix = data, where, prefix

    def fail(self, key: str, expected: str) -> InvalidValueError:
        return InvalidValueError(self.prefix + key, expected, self.data.get(key), where=self.where)

    def format(self, key: str, *, floating: bool = False) -> str:
        """The number format of so many bits."""
        bits = self.data.get(key)
        names = {4: "fp4", 8: "fp8", 16: "bf16"} if floating else {4: "int4", 8: "int8", 16: "bf16"}
        if isinstance(bits, bool) or not isinstance(bits, int) or bits not in names:
            raise self.fail(key, "4 or 8")
        return names[bits]

    def group_size(self, default: int | None = None) -> int | None:
        """Weights that share a scale; None: a channel or a tensor."""
        size = self.data.get("group_size", default)
        if size is None or size == -1:
            return None
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1_000_000:
            raise self.fail("group_size", "a whole number above zero, or -1")
        return size

    def section(self, key: str) -> _Config | None:
        value = self.data.get(key)
        return _Config(value, self.where, f"{self.prefix}{key}.") if isinstance(value, Mapping) else None

    def patterns(self, *keys: str) -> list[str]:
        return [str(each) for key in keys if isinstance(self.data.get(key), list) for each in self.data[key]]


def _awq(config: _Config, method: str) -> tuple[QuantisationSpec, tuple[str, ...]]:
    """Also GPTQ: groups of weights with a 16-bit scale and a packed zero point, which GPTQ always stores."""
    weights = config.format("bits")
    group = config.group_size(128)
    has_zeros = method == "gptq" or config.data.get("zero_point", True) is not False
    zero_bytes = config.data["bits"] / 8.0 if has_zeros else 0.0
    head = weights if method == "gptq" and config.data.get("lm_head") is True else None
    each = (_SCALE_BYTES + zero_bytes) / group if group is not None else 0.0
    spec = QuantisationSpec(method=method, weights=weights, lm_head=head, scale_bytes=each)
    return spec, _left_alone(config.patterns("modules_to_not_convert"))


def _fp8(config: _Config, method: str) -> tuple[QuantisationSpec, tuple[str, ...]]:
    """Inputs of products are quantised as well, on the fly or by stored scales. Scales of blocks are left out."""
    patterns = config.patterns("modules_to_not_convert", "ignored_layers")
    tower, projector = _others("fp8", patterns)
    spec = QuantisationSpec(method=method, weights="fp8", activations="fp8", tower=tower, projector=projector)
    return spec, _left_alone(patterns)


def _bitsandbytes(config: _Config, method: str) -> tuple[QuantisationSpec, tuple[str, ...]]:
    patterns = config.patterns("llm_int8_skip_modules")
    narrow = config.data.get("load_in_4bit") is True
    if not narrow and config.data.get("load_in_8bit") is not True:
        raise config.fail("load_in_4bit", "true, or load_in_8bit true")
    weights = "int4" if narrow else "int8"
    each = _NF4_DOUBLE_BYTES if config.data.get("bnb_4bit_use_double_quant") is True else _NF4_BYTES
    tower, projector = _others(weights, patterns)
    spec = QuantisationSpec(
        method=method, weights=weights, tower=tower, projector=projector, scale_bytes=each if narrow else 0.0
    )
    return spec, _left_alone(patterns)


def _mxfp4(config: _Config, method: str) -> tuple[QuantisationSpec, tuple[str, ...]]:
    """Experts in blocks of 32 with an 8-bit scale (OCP Microscaling formats 1.0)."""
    spec = QuantisationSpec(method=method, weights="fp4", scale_bytes=1.0 / 32.0)
    return spec, _left_alone(config.patterns("modules_to_not_convert"))


def _compressed(config: _Config, method: str) -> tuple[QuantisationSpec | None, tuple[str, ...]]:
    groups = config.section("config_groups")
    named = [groups.section(key) for key in groups.data] if groups is not None else []
    sections = [group for group in named if group is not None]
    stored = [group for group in sections if group.section("weights") is not None]
    if not stored:
        return None, ("quantization_config (compressed-tensors) quantises no weights: set precision",)
    patterns = config.patterns("ignore")
    weights = stored[0].section("weights")
    assert weights is not None
    name = weights.format("num_bits", floating=weights.data.get("type") == "float")
    group = weights.group_size()
    each = 0.0
    if group is not None:
        # NVFP4 has 8-bit scales, the others 16-bit ones
        zero = 0.0 if weights.data.get("symmetric", True) is not False else weights.data["num_bits"] / 8.0
        each = ((1.0 if name == "fp4" else _SCALE_BYTES) + zero) / group
    inputs, cache = stored[0].section("input_activations"), config.section("kv_cache_scheme")
    tower, projector = _others(name, patterns)
    spec = QuantisationSpec(
        method=method,
        weights=name,
        tower=tower,
        projector=projector,
        lm_head=None if _matched("lm_head", patterns) else name,
        scale_bytes=each,
        activations=_number(inputs),
        kv=_number(cache),
    )
    notes = _left_alone(patterns)
    if len(stored) > 1:
        notes += (f"quantization_config: the first of {len(stored)} config_groups is taken for all linear layers",)
    return spec, notes


def _number(section: _Config | None) -> str | None:
    if section is None:
        return None
    name = section.format("num_bits", floating=section.data.get("type") == "float")
    return None if name == "bf16" else name


_METHODS = {
    "awq": _awq,
    "gptq": _awq,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "compressed-tensors": _compressed,
}


def _others(weights: str, patterns: list[str]) -> tuple[str | None, str | None]:
    """Tower and projector, which loaders of all linear layers quantise unless they are listed."""
    tower, projector = (None if _matched(part, patterns) else weights for part in ("tower", "projector"))
    return tower, projector


def _matched(part: str, patterns: Iterable[str]) -> bool:
    return any(_matches(pattern, module) for pattern in patterns for module in _MODULES[part])


def _matches(pattern: str, module: str) -> bool:
    """As compressed-tensors reads ``re:``, and as transformers reads the rest: a name, or a part of the path."""
    if pattern.startswith("re:"):
        try:
            return re.match(pattern.removeprefix("re:"), module) is not None
        except re.error:
            return False
    named = re.escape(pattern).replace(r"\*", r"[^.]+")
    return re.search(rf"(^|\.){named}(\.|$)", module) is not None


def _left_alone(patterns: Iterable[str]) -> tuple[str, ...]:
    """A note on layers of the decoder that stay in 16 bit, which are priced as the others."""
    some = [pattern for pattern in patterns if _is_decoder(pattern)]
    if not some:
        return ()
    named = ", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "")
    return (f"quantization_config leaves {named} in 16 bit: priced as the decoder's other linear layers",)


def _is_decoder(pattern: str) -> bool:
    return any(_matches(pattern, module) for module in _MODULES["decoder"]) or (
        re.match(r"model\.(language_model\.)?layers\.", pattern) is not None
        # routers, gates and norms are never quantised here either
        and re.search(r"(router|\.gate|norm)$", pattern) is None
    )
