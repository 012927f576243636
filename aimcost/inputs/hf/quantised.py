"""``quantization_config`` of a config.json → QuantisationSpec.

Keys follow transformers' quantisation configurations (5.x) and compressed-tensors' schema; which modules a method
leaves as they are follows its loader: AWQ and GPTQ quantise the decoder's layers alone, the others every linear layer
that is not listed, lm_head only where compressed-tensors does not ignore it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ...errors import InvalidValueError
from ...frozen import dataclass
from ...models import decoder as decoder_ops
from ...types import DecoderSpec, QuantisationSpec
from ...types.formats import BITS, Part, bytes_per_element
from ...units import format_bytes

__all__ = ["by_layer", "quantisation"]

# Linear layers of each part, a line for each way that checkpoints name them: a pattern that matches one of them leaves
# the part alone, targets that match all of a line take the part whole.
_DECODER = (
    ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"),
    ("self_attn.q_proj", "self_attn.o_proj", "mlp.experts.0.up_proj", "mlp.experts.0.down_proj"),
    ("attention.wqkv", "attention.wo", "feed_forward.w1", "feed_forward.w2"),
)
_VISION = ("visual.blocks.0.attn.qkv", "visual.blocks.0.attn.proj")
_CLIP = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.mlp.fc1")
_TOWER = (
    (*_VISION, "visual.blocks.0.mlp.up_proj"),
    (*_VISION, "visual.blocks.0.mlp.fc1"),
    (*_VISION, "visual.blocks.0.mlp.linear_fc1"),
    *(tuple(f"{prefix}.{name}" for name in _CLIP) for prefix in ("vision_tower.vision_model", "vision_model")),
    tuple(f"vision_tower.vision_tower.vision_model.{name}" for name in _CLIP),
    ("vision_tower.encoder.layer.0.attention.q_proj", "vision_tower.encoder.layer.0.mlp.fc1"),
    ("vision_tower.transformer.layers.0.attention.q_proj", "vision_tower.transformer.layers.0.feed_forward.up_proj"),
    ("vision_model.encoder.layers.0.attn.qkv", "vision_model.encoder.layers.0.mlp.fc1"),
    ("vision_model.transformer.layers.0.self_attn.q_proj", "vision_model.transformer.layers.0.mlp.fc1"),
    ("vision_model.model.layers.0.self_attn.q_proj", "vision_model.model.layers.0.mlp.fc1"),
)
_PROJECTOR = (
    ("multi_modal_projector.linear_1",),
    ("multi_modal_projector",),
    ("visual.merger.mlp.0",),
    ("visual.merger.linear_fc1",),
    ("connector.modality_projection.proj",),
    ("mm_projector.0",),
    ("mlp1.1",),
)


def _named(prefixes: Iterable[str], lines: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Each line below each of the prefixes."""
    return tuple(tuple(prefix + name for name in line) for line in lines for prefix in prefixes)


_LAYERS = ("model.layers.0.", "language_model.model.layers.0.", "model.language_model.layers.0.")
_MODULES: Mapping[Part, tuple[tuple[str, ...], ...]] = {
    "decoder": _named(_LAYERS, _DECODER),
    "lm_head": _named(("", "language_model."), (("lm_head",), ("output",))),
    "tower": _named(("", "model."), _TOWER),
    "projector": _named(("", "model."), _PROJECTOR),
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
        Values that no quantisation can have.
    """
    inner = config.get("text_config")
    given = config.get("quantization_config") or (inner.get("quantization_config") if isinstance(inner, dict) else None)
    if not given:
        return None, ()
    if not isinstance(given, Mapping):
        raise InvalidValueError("quantization_config", "a mapping", given, where=where)
    is_bitsandbytes = "load_in_4bit" in given or "load_in_8bit" in given
    method = str(given.get("quant_method") or ("bitsandbytes" if is_bitsandbytes else "no quant_method"))
    read = _METHODS.get(method)
    if read is None:
        return None, (f"quantization_config ({method}) is not read: set precision.weights",)
    try:
        return read(_Config(given, where), method)
    except _NoFormatError as error:
        return None, (f"quantization_config ({method}, {error}) is not read: priced in 16 bit; set precision.weights",)


class _NoFormatError(Exception):
    """Bits that no number format here has."""


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
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 32:
            raise self.fail(key, "4 or 8")
        if bits not in names:
            raise _NoFormatError(f"{key} {bits}")
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

    def sections(self, key: str) -> list[_Config]:
        """The mappings of a list, or of a mapping of mappings."""
        value = self.data.get(key)
        entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        prefix = f"{self.prefix}{key}."
        return [_Config(each, self.where, f"{prefix}{name}.") for name, each in entries if isinstance(each, Mapping)]

    def patterns(self, *keys: str) -> list[str]:
        """Entries of lists of names; text is a list of one."""
        lists = (self.data.get(key) for key in keys)
        given = ([each] if isinstance(each, str) else each for each in lists if isinstance(each, str | list))
        return [str(name) for names in given for name in names]


def _awq(config: _Config, method: str) -> tuple[QuantisationSpec | None, tuple[str, ...]]:
    """Also GPTQ and AutoRound, which packs as these: groups of weights with a 16-bit scale and a packed zero point,
    which GPTQ always stores."""
    weights = config.format("bits")
    if BITS[weights] >= 16:
        return None, _nothing(method)
    group = config.group_size(128)
    has_zeros = method == "gptq" or config.data.get("zero_point", True) is not False
    zero_bytes = config.data["bits"] / 8.0 if has_zeros else 0.0
    head = weights if method == "gptq" and config.data.get("lm_head") is True else None
    each = (_SCALE_BYTES + zero_bytes) / group if group is not None else 0.0
    left = tuple(config.patterns("modules_to_not_convert"))
    return QuantisationSpec(method=method, weights=weights, lm_head=head, scale_bytes=each, left=left), ()


def _fp8(config: _Config, method: str) -> tuple[QuantisationSpec, tuple[str, ...]]:
    """Inputs of products are quantised as well, on the fly or by stored scales. Scales of blocks are left out."""
    patterns = config.patterns("modules_to_not_convert", "ignored_layers", "exclude_modules", "ignore")
    tower, projector = _others("fp8", patterns)
    left = tuple(patterns)
    return QuantisationSpec(method=method, weights="fp8", inputs="fp8", tower=tower, projector=projector, left=left), ()


def _bitsandbytes(config: _Config, method: str) -> tuple[QuantisationSpec, tuple[str, ...]]:
    patterns = config.patterns("llm_int8_skip_modules")
    narrow = config.data.get("load_in_4bit") is True
    if not narrow and config.data.get("load_in_8bit") is not True:
        raise config.fail("load_in_4bit", "true, or load_in_8bit true")
    weights = "int4" if narrow else "int8"
    each = _NF4_DOUBLE_BYTES if config.data.get("bnb_4bit_use_double_quant") is True else _NF4_BYTES
    tower, projector = _others(weights, patterns)
    # LLM.int8 multiplies in int8, all but the outliers (Dettmers et al. 2022, arXiv 2208.07339)
    spec = QuantisationSpec(
        method=method,
        weights=weights,
        tower=tower,
        projector=projector,
        scale_bytes=each if narrow else 0.0,
        inputs=None if narrow else "int8",
        left=tuple(patterns),
    )
    return spec, ()


def _mxfp4(config: _Config, method: str) -> tuple[QuantisationSpec, tuple[str, ...]]:
    """Experts alone, in blocks of 32 with an 8-bit scale (OCP Microscaling formats 1.0), the usual one of fp4."""
    return QuantisationSpec(method=method, weights="bf16", experts="fp4"), ()


def _compressed(config: _Config, method: str) -> tuple[QuantisationSpec | None, tuple[str, ...]]:
    patterns, cache = config.patterns("ignore"), _number(config.section("kv_cache_scheme"))
    groups = [_Group.of(group) for group in config.sections("config_groups") if group.section("weights") is not None]
    stored = [group for group in groups if BITS[group.weights] < 16]
    taken: dict[Part, _Group] = {}
    notes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    for part in _MODULES:
        if part != "decoder" and _matched(part, patterns):
            continue
        among = [group for group in stored if _targeted(part, group.targets)]
        if not among:
            continue
        targets = [target for group in among for target in group.targets]
        if part != "decoder" and _targeted(part, targets) == "some":
            what = ", ".join(among[0].targets[:3])
            named = _NAMES.get(part, part)
            notes += (f"quantization_config targets {what} alone: {named} has no format by layer, priced in 16 bit",)
            continue
        if part == "decoder" and _targeted(part, targets) == "some":
            only = tuple(targets)
        taken[part] = next((group for group in among if _targeted(part, group.targets) == "all"), among[0])
        if len(among) > 1 and part == "decoder":
            notes += (
                f"quantization_config: one of {len(among)} config_groups is taken for all of the decoder's linear "
                f"layers, with weights in {taken[part].weights}",
            )
    if not taken and cache is None:
        return None, notes or _nothing(method)
    first = next(iter(taken.values()), None)
    others: dict[str, Any] = {part: group.weights for part, group in taken.items() if part != "decoder"}
    spec = QuantisationSpec(
        method=method,
        weights=taken["decoder"].weights if "decoder" in taken else "bf16",
        scale_bytes=taken["decoder"].scale_bytes if "decoder" in taken else 0.0,
        inputs=first.inputs if first is not None else None,
        kv=cache,
        left=tuple(patterns) if "decoder" in taken else (),
        only=only,
        **others,
    )
    return spec, notes


@dataclass(frozen=True, slots=True)
class _Group:
    """One of the ``config_groups`` of compressed-tensors."""

    targets: list[str]
    weights: str
    scale_bytes: float
    inputs: str | None

    @classmethod
    def of(cls, config: _Config) -> _Group:
        weights = config.section("weights")
        assert weights is not None
        name = weights.format("num_bits", floating=weights.data.get("type") == "float")
        group, each = weights.group_size(), 0.0
        if group is not None and BITS[name] < 16:
            # NVFP4 has 8-bit scales, the others 16-bit ones
            zero = 0.0 if weights.data.get("symmetric", True) is not False else weights.data["num_bits"] / 8.0
            each = ((1.0 if name == "fp4" else _SCALE_BYTES) + zero) / group
        targets = config.patterns("targets") or ["Linear"]
        return cls(targets, name, each, _number(config.section("input_activations")))


def _targeted(part: Part, targets: list[str]) -> str:
    """Whether targets take a part's linear layers: ``all``, ``some``, or empty for none of them."""
    if "Linear" in targets:
        return "all"
    lines = [[any(_matches(target, module) for target in targets) for module in line] for line in _MODULES[part]]
    if part == "decoder" and any(map(_names_a_layer, targets)):
        return "some"  # which ones is counted where the model is known
    if any(all(line) for line in lines):
        return "all"
    return "some" if any(any(line) for line in lines) else ""


def _names_a_layer(pattern: str) -> bool:
    """Whether a pattern of the decoder's modules holds a layer's number."""
    return re.search(r"layers\\?\.(\(|\[|\d)", pattern) is not None


def _number(section: _Config | None) -> str | None:
    if section is None:
        return None
    name = section.format("num_bits", floating=section.data.get("type") == "float")
    return None if name == "bf16" else name


def _nothing(method: str) -> tuple[str, ...]:
    return (f"quantization_config ({method}) quantises nothing: the weights are priced in 16 bit",)


def _modelopt(config: _Config, method: str) -> tuple[QuantisationSpec | None, tuple[str, ...]]:
    """TensorRT Model Optimizer: compressed-tensors' groups, or the name of an algorithm and what it leaves."""
    if config.data.get("config_groups"):
        return _compressed(config, method)
    algorithm = str(config.data.get("quant_algo"))
    if algorithm != "FP8":
        raise _NoFormatError(f"quant_algo {algorithm} without config_groups")
    spec, notes = _fp8(config, method)
    return replace(spec, kv="fp8" if config.data.get("kv_cache_quant_algo") == "FP8" else None), notes


_NAMES: Mapping[str, str] = {"decoder": "the decoder", "tower": "the tower", "projector": "the projector"}
_METHODS = {
    "awq": _awq,
    "gptq": _awq,
    "auto-round": _awq,
    "modelopt": _modelopt,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "compressed-tensors": _compressed,
}


def _others(weights: str, patterns: list[str]) -> tuple[str | None, str | None]:
    """Tower and projector, which loaders of all linear layers quantise unless they are listed."""
    tower = None if _matched("tower", patterns) else weights
    return tower, None if _matched("projector", patterns) else weights


def _matched(part: Part, patterns: Iterable[str]) -> bool:
    return any(_matches(pattern, module) for pattern in patterns for line in _MODULES[part] for module in line)


def _matches(pattern: str, module: str) -> bool:
    """As compressed-tensors reads ``re:``, and as transformers reads the rest: a name, or a part of the path."""
    if pattern.startswith("re:"):
        try:
            return _compiled(pattern.removeprefix("re:")).match(module) is not None
        except re.error:
            return False
    if "*" not in pattern and pattern.strip(".") not in module:
        return False
    named = re.escape(pattern.strip(".")).replace(r"\*", r"[^.]*")
    return _compiled(rf"(^|\.){named}(\.|$)").search(module) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _is_decoder(pattern: str) -> bool:
    return _matched("decoder", [pattern]) or (
        re.match(r"(language_model\.)?model\.(language_model\.)?layers\.", pattern) is not None
        # routers, gates and norms are never quantised here either
        and re.search(r"(router|\.gate|norm)$", pattern) is None
    )


# Where a decoder's layers lie, in the layouts that checkpoints have.
_PREFIXES = ("model.layers.{}.", "language_model.model.layers.{}.", "model.language_model.layers.{}.")


def by_layer(spec: QuantisationSpec, decoder: DecoderSpec) -> tuple[QuantisationSpec, tuple[str, ...]]:
    """The formats with what a checkpoint leaves in 16 bit of the decoder, and the note that says how much it is."""
    weights = {} if decoder.traced is not None else decoder_ops.layer_weights(decoder)
    modules = {
        (layer, op): [prefix.format(layer) + path for prefix in _PREFIXES for path in paths]
        for layer in sorted(set(range(decoder.layers)) - set(decoder.cross_layers))
        for op, (paths, _) in weights.items()
    }

    def matched(pattern: str) -> set[tuple[int, str]]:
        return {each for each, names in modules.items() if any(_matches(pattern, name) for name in names)}

    by_pattern = {pattern: matched(pattern) for pattern in spec.left}
    left = set().union(*by_pattern.values())
    if spec.only:
        left |= modules.keys() - set().union(*map(matched, spec.only))
    named = tuple(pattern for pattern in spec.left if by_pattern[pattern] or _is_decoder(pattern))
    if not named and not spec.only:
        return spec, ()
    what = f"leaves {_listed(named)} in 16 bit" if named else f"quantises {_listed(spec.only)} alone"
    if not left:
        return spec, (f"quantization_config {what}: priced as the decoder's other linear layers",)
    if len(left) == len(modules):
        note = f"quantization_config {what}: all of the decoder is priced in 16 bit"
        return replace(spec, weights="bf16", scale_bytes=0.0, inputs=None), (note,)
    wide = tuple((layer, op, weights[op][1]) for layer, op in sorted(left))
    elements, total = sum(each for _, _, each in wide), sum(weights[op][1] for _, op in modules)
    more = elements * (bytes_per_element("bf16") - bytes_per_element(spec.weights) - spec.scale_bytes)
    share = f"{elements / total:.1%} of the decoder's linear weights, {format_bytes(more)} more than quantised"
    return replace(spec, wide=wide), (f"quantization_config {what}: {share}",)


def _listed(patterns: tuple[str, ...]) -> str:
    return ", ".join(patterns[:3]) + (f" and {len(patterns) - 3} more" if len(patterns) > 3 else "")
